"""
Time of a gradient step of DAI and of SB3's DQN, with the same layers and batch, interleaved in one run on one thread.

    python scripts/benchmark_speed.py --out docs/results/speed.json

Read the ratios: absolute times differ from machine to machine and from run to run.
"""

import argparse
import time

import numpy as np
import torch as th
from stable_baselines3 import DQN
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import configure

from sb3_dai import DAI
from sb3_dai.saving import write_json


def make(algo: type[BaseAlgorithm], net_arch: list[int], batch_size: int, **policy_kwargs) -> BaseAlgorithm:
    """
    :param algo: the algorithm's class
    :param net_arch: hidden layers of each net
    :param batch_size: of a gradient step
    :return: a model with a thousand random transitions
    """
    model = algo(
        "MlpPolicy", "CartPole-v1", learning_starts=1000, batch_size=batch_size, buffer_size=10_000, seed=0, device="cpu",
        policy_kwargs=dict(net_arch=net_arch, **policy_kwargs),
    )  # fmt: skip
    model.learn(1000)
    model.set_logger(configure(None, []))
    return model


def microseconds(model, n_steps: int) -> float:
    """
    :param model: what to train
    :param n_steps: gradient steps, each in a call of its own
    :return: time of one
    """
    start = time.perf_counter()
    for _ in range(n_steps):
        model.train(gradient_steps=1, batch_size=model.batch_size)
    return (time.perf_counter() - start) / n_steps * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net-arch", type=int, nargs="+", default=[64, 64])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--gradient-steps", type=int, default=100)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()

    th.set_num_threads(1)
    models = {
        "DQN": make(DQN, args.net_arch, args.batch_size),
        "DAI": make(DAI, args.net_arch, args.batch_size),
        "DAI, ensemble_size=1": make(DAI, args.net_arch, args.batch_size, ensemble_size=1),
    }
    for model in models.values():
        microseconds(model, args.gradient_steps)
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(args.repeats):
        for name, model in models.items():
            times[name].append(microseconds(model, args.gradient_steps))

    dqn = np.array(times["DQN"])
    results = {name: {"microseconds": np.round(t, 1).tolist()} for name, t in times.items()}
    for name, t in times.items():
        ratio = float(np.median(np.array(t) / dqn))
        results[name].update(median=round(float(np.median(t)), 1), ratio_to_dqn=round(ratio, 3))
        print(f"{name:22s} {np.median(t):8.0f} us, {ratio:.2f} times DQN")
    write_json(args.out, {"net_arch": args.net_arch, "batch_size": args.batch_size, "torch": th.__version__, **results})


if __name__ == "__main__":
    main()
