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
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from measures import steps_to_threshold
from provenance import finished, provenance
from runs import run
from seeds import seeds_of

from sb3_dai.saving import write_json


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

    seeds = seeds_of(args.seeds)
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
