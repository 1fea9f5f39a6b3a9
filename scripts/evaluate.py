"""
Train agents from hyperparameter files and score their final checkpoints.

One run is one (agent, seed): it is trained through RL Zoo's own experiment manager, so peers get exactly the Zoo's
wrappers, schedules and hyperparameters, then plays deterministic episodes on a fresh environment. The raw results
(training returns, final scores, seconds), each with its origin, go to a JSON file. A sweep that was stopped goes on where it
was: what the file has is not run again.

    python scripts/evaluate.py --env CartPole-v1 --agents dai dqn --steps 5000 --seeds 100-109 --out docs/results/x.json

    python scripts/evaluate.py --env MountainCar-v0 --agents dai --variants scripts/ablation.yml --steps 20000 ...
    python scripts/evaluate.py --env sb3_dai/DeepSea-v0 --env-kwargs size=15 --agents dai dqn --steps 15000 ...

An agent is ALGO, or ALGO:CONF with CONF a hyperparameter file (a path, or the name of a packaged one such as
``himst``), or ALGO:default for the constructor's own defaults. Peers that RL Zoo has no entry for have one in
scripts/peers.yml. The package's own worlds are also measured by more than the return: scripts/measures.py.
"""

import argparse
import contextlib
import io
import json
import pkgutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
import yaml
from measures import Clock, measure_of, shorten, steps_to_threshold
from provenance import finished, provenance
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import load_results

from sb3_dai.saving import write_json
from sb3_dai.zoo import evaluated, hyperparams_file, hyperparams_module, read_hyperparams, register

PEERS = Path(__file__).parent / "peers.yml"


def find_entry(path: Path, algo: str, env_id: str) -> dict[str, Any] | None:
    """
    :param path: a hyperparameter file, with environments at its top or below the names of algorithms
    :param algo: the algorithm
    :param env_id: the environment
    :return: the entry of the environment, else of another version of it, else ``default`` for DAI, else None
    """
    entries = read_hyperparams(path)
    entries = entries.get(algo, entries)
    if env_id in entries:
        return entries[env_id]
    # The Zoo's files lag behind: HalfCheetah-v5 gets the entry of HalfCheetah-v4
    name = env_id.rpartition("-v")[0]
    versions = [entry for key, entry in entries.items() if key.rpartition("-v")[0] == name]
    if versions:
        return versions[-1]
    return entries.get("default") if algo == "dai" else None


def hyperparameters(agent: str, env_id: str) -> dict[str, Any]:
    """
    :param agent: ALGO, ALGO:CONF or ALGO:default
    :param env_id: the environment
    :return: the entry of the hyperparameter file
    :raises ValueError: if there is none
    """
    import rl_zoo3

    algo, _, conf = agent.partition(":")
    if conf == "default":
        return {"policy": "MlpPolicy", "n_timesteps": 1}
    if conf.endswith(".yml"):
        paths = [Path(conf)]
    elif algo == "dai":
        paths = [hyperparams_file(conf or "dai")]
    else:
        paths = [Path(rl_zoo3.__file__).parent / "hyperparams" / f"{algo}.yml", PEERS]
    for path in paths:
        entry = find_entry(path, algo, env_id)
        if entry is not None:
            return entry
    raise ValueError(f"no entry of {algo} for --env {env_id} in {' or '.join(map(str, paths))}")


def replace(entry: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """
    :param entry: of a hyperparameter file
    :param params: hyperparameters that replace those of the entry; ``policy_kwargs`` replaces only what it names
    :return: both together
    """
    merged = {**entry, **params}
    if "policy_kwargs" in entry and "policy_kwargs" in params:
        # The Zoo evaluates a string; files have one where they need a Python expression
        merged["policy_kwargs"] = f"{{**{entry['policy_kwargs']}, **{params['policy_kwargs']}}}"
    return merged


def run(
    agent: str,
    env_id: str,
    steps: int,
    seed: int,
    *,
    n_eval_episodes: int = 20,
    params: dict[str, Any] | None = None,
    variant: str | None = None,
    env_kwargs: dict[str, Any] | None = None,
    register_envs: str | None = None,
    stop_when_solved: bool = False,
    max_points: int | None = None,
    solved: float | None = None,
    look_every: int = 500,
) -> dict[str, Any]:
    """
    Train one agent and score its final checkpoint.

    :param agent: ALGO, ALGO:CONF or ALGO:default
    :param env_id: the environment
    :param steps: environment steps
    :param seed: seed of the run; the evaluation environment has another
    :param n_eval_episodes: deterministic episodes at the end
    :param params: hyperparameters that replace those of the file
    :param variant: name of these parameters
    :param env_kwargs: arguments of the environment
    :param register_envs: function that registers environments, as ``module:function``
    :param stop_when_solved: whether to end the training once the world's measure calls it solved
    :param max_points: numbers of the training record to keep at most
    :param solved: end the training at this mean of deterministic episodes, and note when that was
    :param look_every: environment steps between two looks for it
    :return: the raw results
    """
    from rl_zoo3.exp_manager import ExperimentManager

    import sb3_dai.envs  # noqa: F401  registers them

    register()
    if register_envs is not None:
        pkgutil.resolve_name(register_envs)()
    th.set_num_threads(1)
    algo = agent.partition(":")[0]
    with tempfile.TemporaryDirectory() as folder:
        entry = evaluated(replace(hyperparameters(agent, env_id), params or {}))
        config = hyperparams_module("evaluated_hyperparams", {env_id: entry})
        with contextlib.redirect_stdout(io.StringIO()):
            manager = ExperimentManager(
                argparse.Namespace(), algo, env_id, folder, n_timesteps=steps, eval_freq=-1, seed=seed,
                log_interval=-2, verbose=0, device="cpu", config=config, env_kwargs=env_kwargs,
            )  # fmt: skip
            results = manager.setup_experiment()
            assert results is not None
            model = results[0]
            train_env = model.get_env()
            assert train_env is not None
            measure = measure_of(train_env, steps)
            measure.stop_when_solved = stop_when_solved
            manager.callbacks.append(measure)
            manager.seed = 1_000_000 + seed
            eval_env = manager.create_envs(1, eval_env=True, no_log=True)
            manager.seed = seed

            def score() -> list[float]:
                normalized = model.get_vec_normalize_env()
                if normalized is not None and normalized.norm_obs:
                    eval_env.obs_rms = normalized.obs_rms  # type: ignore[attr-defined]
                return evaluate_policy(model, eval_env, n_eval_episodes, return_episode_rewards=True)[0]  # type: ignore[return-value]

            clock = None
            if solved is not None:
                clock = Clock(lambda: float(np.mean(score())), solved, look_every)
                manager.callbacks.append(clock)
            start = time.perf_counter()
            manager.learn(model)
            seconds = time.perf_counter() - start
            episodes = load_results(manager.save_path)
            scores = score()
    names = {"variant": variant, "env_kwargs": env_kwargs}
    resolved = {name: str(value) if callable(value) else value for name, value in entry.items()}
    return {
        "agent": agent, "env": env_id, "steps": steps, "seed": seed, "seconds": round(seconds, 2),
        "gradient_steps": int(model._n_updates), "params": params or {},
        "hyperparameters": json.loads(json.dumps(resolved, default=str)), "backend": getattr(model, "backend", None),
        **{name: value for name, value in names.items() if value},
        **({"stopped_at": model.num_timesteps} if stop_when_solved and measure.solved else {}),
        **measure.results(), **(clock.results() if clock is not None else {}), "scores": np.round(scores, 4).tolist(),
        **shorten(episodes["r"].tolist(), episodes["l"].tolist(), max_points),
    }  # fmt: skip


def assignments(pairs: list[str]) -> dict[str, Any]:
    """
    :param pairs: ``NAME=VALUE`` from the command line, with the value in YAML
    :return: values by name
    """
    return {name: yaml.safe_load(value) for name, _, value in (pair.partition("=") for pair in pairs)}


def describe(result: dict[str, Any], threshold: float | None, window: int) -> str:
    """
    :param result: one run
    :param threshold: mean training return to look for
    :param window: trailing episodes in that mean
    :return: a line about it
    """
    name = " ".join(filter(None, (result["agent"], result.get("variant"))))
    line = f"{name:12s} seed {result['seed']}: {np.mean(result['scores']):8.1f}  {result['seconds']:6.1f} s"
    if threshold is not None:
        reached = steps_to_threshold(result, threshold, window)
        line += f"  trailing-{window} >= {threshold:g} at {reached} steps"
    measured = ("bad_episodes", "solved_at", "optimal_from", "right_probability", "tv_share", "solved_steps", "solved_seconds")
    return line + "".join(f"  {key} {result[key]}" for key in measured if key in result)


def key_of(result: dict[str, Any]) -> tuple[Any, ...]:
    """
    :param result: one run
    :return: what it is a run of
    """
    return tuple(result.get(name) for name in ("agent", "env", "steps", "seed", "variant"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", required=True)
    parser.add_argument("--env-kwargs", nargs="*", default=[], metavar="NAME=VALUE", help="arguments of the environment")
    parser.add_argument("--agents", nargs="+", required=True)
    parser.add_argument("--params", nargs="*", default=[], metavar="NAME=VALUE", help="replace hyperparameters of all agents")
    parser.add_argument("--variants", metavar="FILE", help="named sets of --params, each of which is run")
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help="run only these of --variants")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seeds", required=True, help="first-last, for example 100-109")
    parser.add_argument("--episodes", type=int, default=20, help="evaluation episodes of each final checkpoint")
    parser.add_argument("--threshold", type=float, help="also print the steps to this mean of trailing training returns")
    parser.add_argument("--window", type=int, default=100, help="episodes in that mean")
    parser.add_argument("--stop-when-solved", action="store_true", help="DeepSea: end a run once it is solved")
    parser.add_argument("--solved", type=float, help="end a run at this mean of deterministic episodes, and note the time")
    parser.add_argument("--look-every", type=int, default=500, help="steps between two looks for --solved")
    parser.add_argument("--max-points", type=int, help="numbers of each training record to keep at most")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--register", metavar="MODULE:FUNCTION", help="call this first, it registers environments")
    parser.add_argument("--fresh", action="store_true", help="replace the results of --out instead of adding to them")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    from joblib import Parallel, delayed

    first, _, last = args.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    variants: dict[str | None, dict[str, Any]] = {None: {}}
    if args.variants is not None:
        variants = yaml.safe_load(Path(args.variants).read_text())
        variants = {name: params or {} for name, params in variants.items() if args.only is None or name in args.only}
    origin = provenance()
    results = [] if args.fresh else finished(Path(args.out), origin)
    known = {key_of(result) for result in results}
    tasks = [
        delayed(run)(
            agent, args.env, args.steps, seed, n_eval_episodes=args.episodes, variant=name,
            params={**params, **assignments(args.params)}, env_kwargs=assignments(args.env_kwargs),
            register_envs=args.register, stop_when_solved=args.stop_when_solved, max_points=args.max_points,
            solved=args.solved, look_every=args.look_every,
        )
        for seed in seeds for agent in args.agents for name, params in variants.items()
        if (agent, args.env, args.steps, seed, name) not in known
    ]  # fmt: skip
    for result in Parallel(n_jobs=args.jobs, return_as="generator")(tasks):
        results.append({**result, **origin})
        print(describe(result, args.threshold, args.window), flush=True)
        write_json(args.out, results)  # after each run: a long sweep that is stopped keeps what it has

    for agent in args.agents:
        for name in variants:
            means = [np.mean(run["scores"]) for run in results if (run["agent"], run.get("variant")) == (agent, name)]
            label = " ".join(filter(None, (agent, name)))
            print(f"{label:12s} {args.steps} steps, {len(means)} seeds: mean {np.mean(means):.1f}, worst {np.min(means):.1f}")


if __name__ == "__main__":
    main()
