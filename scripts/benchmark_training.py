"""
Seconds of a whole training run from the constructor to its last step, each in a process of its own, beside DQN with as many
gradient steps, batches and layers.

    python scripts/benchmark_training.py --out docs/results/training_seconds.json

DAI has its default arguments. It runs twice: with an empty cache of compiled code, and with what the first run has left.
``--busy`` measures instead what a gradient step of a small agent takes while other processes keep all cores busy: with torch's
default number of threads, and with OMP_NUM_THREADS=1, in turns.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from provenance import provenance
from runs import resolved_hyperparameters
from stable_baselines3 import DQN
from wrappers import ManyChoices

import sb3_dai.envs  # noqa: F401  registers them
from sb3_dai import DAI
from sb3_dai.saving import write_json

gym.register(
    "sb3_dai_benchmark/ThreeChoices-v0",
    ManyChoices,
    max_episode_steps=200,
    kwargs=dict(action_space=spaces.MultiDiscrete([3] * 3)),
)

WORLDS = ("CartPole-v1", "FrozenLake-v1", "sb3_dai_benchmark/ThreeChoices-v0")

DQN_OF_DAI = dict(learning_starts=100, batch_size=64, train_freq=1, gradient_steps=4, tau=0.05, target_update_interval=1)
"""DQN's arguments for the budget of DAI's defaults."""


def train(agent: str, env: str, steps: int) -> None:
    """
    :param agent: "DAI" or "DQN"
    :param env: the environment
    :param steps: of the environment
    """
    start = time.perf_counter()
    if agent == "DAI":
        model: Any = DAI("MlpPolicy", env, seed=0, device="cpu")
    else:
        model = DQN("MlpPolicy", env, seed=0, device="cpu", policy_kwargs=dict(net_arch=[64, 64]), **DQN_OF_DAI)  # type: ignore[arg-type]
    model.learn(steps)
    found = {"seconds": round(time.perf_counter() - start, 1), "gradient_steps": model._n_updates}
    found |= {"backend": getattr(model, "backend", "eager"), "hyperparameters": resolved_hyperparameters(model)}
    print(json.dumps(found))


def in_a_process(agent: str, env: str, steps: int, cache: str) -> dict[str, Any]:
    """
    :param agent: "DAI" or "DQN"
    :param env: the environment
    :param steps: of the environment
    :param cache: folder of compiled code
    :return: seconds, gradient steps, backend and hyperparameters
    """
    command = [sys.executable, __file__, "--train", agent, env, "--steps", str(steps)]
    environ = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
    if agent == "DQN":  # DAI needs no such setting
        environ["OMP_NUM_THREADS"] = "1"
    return {"agent": agent, "env": env, **last_line(command, environ)}


def last_line(command: list[str], environ: dict[str, str]) -> Any:
    """
    :param command: of a process
    :param environ: its environment variables
    :return: what its last line of output says in JSON
    """
    return json.loads(subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def step_time(threads: str | None) -> dict[str, Any]:
    """
    :param threads: value of OMP_NUM_THREADS, or None for torch's default
    :return: milliseconds of a gradient step of a small agent on numbered states, and its hyperparameters
    """
    environ = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environ |= {"OMP_NUM_THREADS": threads} if threads else {}
    command = [sys.executable, __file__, "--step"]
    return last_line(command, environ)


def step() -> None:
    """Print the milliseconds of a gradient step, and the agent's hyperparameters."""
    model = DAI("MlpPolicy", "sb3_dai/GridWorld-v0", seed=0, device="cpu", learning_starts=10**6).learn(300)
    model.train(10, 64)
    start = time.perf_counter()
    model.train(200, 64)
    milliseconds = (time.perf_counter() - start) / 200 * 1e3
    print(json.dumps({"milliseconds": milliseconds, "hyperparameters": resolved_hyperparameters(model)}))


def busy(turns: int = 7) -> list[dict[str, Any]]:
    """
    :param turns: of measurements
    :return: milliseconds of a gradient step, with the default threads and with one, while all cores are busy
    """
    others = [multiprocessing.Process(target=spin, daemon=True) for _ in range(os.cpu_count() or 1)]
    for other in others:
        other.start()
    try:
        pairs = [(step_time(None), step_time("1")) for _ in range(turns)]
    finally:
        for other in others:
            other.kill()
    default, one = ([pair[i]["milliseconds"] for pair in pairs] for i in (0, 1))
    ratio = statistics.median(a / b for a, b in zip(default, one, strict=True))
    hyperparameters = pairs[0][0]["hyperparameters"]
    return [{"default_ms": default, "one_thread_ms": one, "ratio": ratio, "hyperparameters": hyperparameters}]


def spin() -> None:
    """Keep a core busy with pure Python."""
    while True:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--out")
    parser.add_argument("--train", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--step", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        return train(*args.train, args.steps)
    if args.step:
        return step()
    rows = busy() if args.busy else []
    if not args.busy:
        with tempfile.TemporaryDirectory() as cache:
            for env in WORLDS:
                rows.append({**in_a_process("DAI", env, args.steps, cache), "cache": "cold"})
                rows.append({**in_a_process("DAI", env, args.steps, cache), "cache": "warm"})
                if isinstance(gym.make(env).action_space, spaces.Discrete):
                    rows.append(in_a_process("DQN", env, args.steps, cache))
    for row in rows:
        print(row)
    if args.out:
        write_json(args.out, [{**row, **provenance()} for row in rows])


if __name__ == "__main__":
    main()
