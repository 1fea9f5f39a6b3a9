"""
Train agents from hyperparameter files and score their final checkpoints.

One run is one (agent, seed): it is trained through RL Zoo's own experiment manager, so peers get exactly the Zoo's
wrappers, schedules and hyperparameters, then plays deterministic episodes on a fresh environment. The raw results
(training returns, final scores, seconds) go to a JSON file.

    python scripts/evaluate.py --env CartPole-v1 --agents dai dqn --steps 5000 --seeds 100-109 --out docs/results/x.json

An agent is ALGO, or ALGO:CONF with CONF a hyperparameter file (a path, or the name of a packaged one such as
``himst``), or ALGO:default for the constructor's own defaults.
"""

import argparse
import contextlib
import io
import pkgutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
import yaml
from joblib import Parallel, delayed
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import load_results

from sb3_dai.saving import write_json


def hyperparameters(agent: str, env_id: str) -> dict[str, Any]:
    """
    :param agent: ALGO, ALGO:CONF or ALGO:default
    :param env_id: the environment
    :return: the entry of the hyperparameter file
    """
    import rl_zoo3

    from sb3_dai.zoo import hyperparams_file

    algo, _, conf = agent.partition(":")
    if conf == "default":
        return {"policy": "MlpPolicy", "n_timesteps": 1}
    if conf.endswith(".yml"):
        path = Path(conf)
    elif algo == "dai":
        path = hyperparams_file(conf or "dai")
    else:
        path = Path(rl_zoo3.__file__).parent / "hyperparams" / f"{algo}.yml"
    entries = yaml.safe_load(path.read_text())
    if env_id in entries:
        return entries[env_id]
    # The Zoo's files lag behind: HalfCheetah-v5 gets the entry of HalfCheetah-v4
    name = env_id.rpartition("-v")[0]
    versions = [entry for key, entry in entries.items() if key.rpartition("-v")[0] == name]
    if not versions:
        raise ValueError(f"{path} has no entry for --env {env_id}")
    return versions[-1]


def run(
    agent: str, env_id: str, steps: int, seed: int, n_eval_episodes: int, params: dict[str, Any], register_envs: str | None
) -> dict[str, Any]:
    """
    Train one agent and score its final checkpoint.

    :param agent: ALGO, ALGO:CONF or ALGO:default
    :param env_id: the environment
    :param steps: environment steps
    :param seed: seed of the run; the evaluation environment has another
    :param n_eval_episodes: deterministic episodes at the end
    :param params: hyperparameters that replace those of the file
    :param register_envs: function that registers environments, as ``module:function``
    :return: the raw results
    """
    from rl_zoo3.exp_manager import ExperimentManager

    from sb3_dai.zoo import register

    register()
    if register_envs is not None:
        pkgutil.resolve_name(register_envs)()
    th.set_num_threads(1)
    algo = agent.partition(":")[0]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "hyperparams.yml"
        config.write_text(yaml.safe_dump({env_id: {**hyperparameters(agent, env_id), **params}}))
        with contextlib.redirect_stdout(io.StringIO()):
            manager = ExperimentManager(
                argparse.Namespace(), algo, env_id, folder, n_timesteps=steps, eval_freq=-1, seed=seed,
                log_interval=-2, verbose=0, device="cpu", config=str(config),
            )  # fmt: skip
            results = manager.setup_experiment()
            assert results is not None
            model = results[0]
            start = time.perf_counter()
            manager.learn(model)
            seconds = time.perf_counter() - start
            episodes = load_results(manager.save_path)

            manager.seed = 1_000_000 + seed
            eval_env = manager.create_envs(1, eval_env=True, no_log=True)
            train_env = model.get_vec_normalize_env()
            if train_env is not None:
                eval_env.obs_rms = train_env.obs_rms  # type: ignore[attr-defined]
            scores, _ = evaluate_policy(model, eval_env, n_eval_episodes, return_episode_rewards=True)
    return {
        "agent": agent, "env": env_id, "steps": steps, "seed": seed, "seconds": round(seconds, 2),
        "gradient_steps": int(model._n_updates), "params": params, "scores": np.round(scores, 4).tolist(),
        "train_returns": np.round(episodes["r"], 4).tolist(), "train_lengths": episodes["l"].tolist(),
    }  # fmt: skip


def steps_to_threshold(result: dict[str, Any], threshold: float, window: int = 100) -> int | None:
    """
    :param result: one run
    :param threshold: mean training return
    :param window: number of trailing episodes in that mean
    :return: environment steps at which the trailing mean first reaches the threshold, None if it never does
    """
    returns, ends = np.asarray(result["train_returns"]), np.cumsum(result["train_lengths"])
    if len(returns) < window:
        return None
    means = np.convolve(returns, np.ones(window) / window, mode="valid")
    reached = np.flatnonzero(means >= threshold)
    return int(ends[window - 1 + reached[0]]) if len(reached) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", required=True)
    parser.add_argument("--agents", nargs="+", required=True)
    parser.add_argument("--params", nargs="*", default=[], metavar="NAME=VALUE", help="replace hyperparameters of all agents")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seeds", required=True, help="first-last, for example 100-109")
    parser.add_argument("--episodes", type=int, default=20, help="evaluation episodes of each final checkpoint")
    parser.add_argument("--threshold", type=float, help="also print the steps to this trailing-100 training mean")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--register", metavar="MODULE:FUNCTION", help="call this first, it registers environments")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()

    first, _, last = args.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    params = {name: yaml.safe_load(value) for name, _, value in (param.partition("=") for param in args.params)}
    tasks = [
        (agent, args.env, args.steps, seed, args.episodes, params, args.register) for agent in args.agents for seed in seeds
    ]
    results = []
    for result in Parallel(n_jobs=args.jobs, return_as="generator")(delayed(run)(*task) for task in tasks):
        results.append(result)
        line = f"{result['agent']:12s} seed {result['seed']}: {np.mean(result['scores']):8.1f}  {result['seconds']:6.1f} s"
        if args.threshold is not None:
            line += f"  trailing-100 >= {args.threshold:g} at {steps_to_threshold(result, args.threshold)} steps"
        print(line, flush=True)
        write_json(args.out, results)  # after each run: a long sweep that is stopped keeps what it has

    for agent in args.agents:
        means = [np.mean(result["scores"]) for result in results if result["agent"] == agent]
        print(f"{agent:12s} {args.steps} steps, {len(means)} seeds: mean {np.mean(means):.1f}, worst {np.min(means):.1f}")


if __name__ == "__main__":
    main()
