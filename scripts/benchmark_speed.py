"""
Time of a gradient step of DAI and of its peer in SB3 (DQN, or SAC where actions are continuous), with the same layers and
batch, interleaved in one run on one thread.

    python scripts/benchmark_speed.py --out docs/results/speed.json
    python scripts/benchmark_speed.py --env Pendulum-v1 --net-arch 256 256 --batch-size 256 --out docs/results/speed_box.json

Read the ratios: absolute times differ from machine to machine and from run to run.
"""

import argparse
import time

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import configure

from sb3_dai import DAI
from sb3_dai.saving import write_json


def make(algo: type[BaseAlgorithm], env_id: str, net_arch: list[int], batch_size: int, **policy_kwargs) -> BaseAlgorithm:
    """
    :param algo: the algorithm's class
    :param env_id: the environment
    :param net_arch: hidden layers of each net
    :param batch_size: of a gradient step
    :return: a model with a thousand random transitions
    """
    model = algo(
        "MlpPolicy", env_id, learning_starts=1000, batch_size=batch_size, buffer_size=10_000, seed=0, device="cpu",
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
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--net-arch", type=int, nargs="+", default=[64, 64])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--gradient-steps", type=int, default=100)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()

    th.set_num_threads(1)
    peer = SAC if isinstance(gym.make(args.env).action_space, spaces.Box) else DQN
    setting = args.env, args.net_arch, args.batch_size
    models = {
        peer.__name__: make(peer, *setting),
        "DAI": make(DAI, *setting),
        "DAI, ensemble_size=1": make(DAI, *setting, ensemble_size=1),
    }
    for model in models.values():
        microseconds(model, args.gradient_steps)
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(args.repeats):
        for name, model in models.items():
            times[name].append(microseconds(model, args.gradient_steps))

    base = np.array(times[peer.__name__])
    results = {name: {"microseconds": np.round(t, 1).tolist()} for name, t in times.items()}
    for name, t in times.items():
        ratio = float(np.median(np.array(t) / base))
        results[name].update({"median": round(float(np.median(t)), 1), f"ratio_to_{peer.__name__.lower()}": round(ratio, 3)})
        print(f"{name:22s} {np.median(t):8.0f} us, {ratio:.2f} times {peer.__name__}")
    write_json(args.out, {**vars(args), "torch": th.__version__, **results})


if __name__ == "__main__":
    main()
