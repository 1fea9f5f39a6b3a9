r"""
What DAI costs, beside its peers in SB3 and sb3-contrib: DQN and QR-DQN, or SAC and TQC where actions are continuous, and
beside SBX's DQN or SAC where that is installed (extra ``sbx``).

    python scripts/benchmark_speed.py steps --out docs/results/speed.json
    python scripts/benchmark_speed.py steps --env Pendulum-v1 --net-arch 256 256 --batch-size 256 \
        --out docs/results/speed_box.json
    python scripts/benchmark_speed.py steps --env sb3_dai_benchmark/Images-v0 --net-arch --batch-size 32 \
        --out docs/results/speed_images.json
    python scripts/benchmark_speed.py compile --out docs/results/speed_compile.json
    python scripts/benchmark_speed.py environments --out docs/results/speed_environments.json
    python scripts/benchmark_speed.py scale --out docs/results/speed_scale.json --figure docs/figures/speed.png
    python scripts/benchmark_speed.py memory --out docs/results/speed_memory.json
    python scripts/benchmark_speed.py recurrent --out docs/results/speed_recurrent.json

``steps`` times a gradient step and one ``predict`` of one observation, the first one after gradient steps by itself. All
models have the same layers and batch and take turns, so that what else the machine does hits all of them; the ratio is the
median over the turns. Where DQN is the peer, there are also rows for agents that observe numbered states or choose several
actions at once: their ratio is to DQN on --env. ``compile`` says what the first compiled gradient steps cost,
``environments`` how many steps a second a training run takes, ``scale`` how the cost of a gradient step grows, ``memory`` the
largest that a process gets, and ``recurrent`` what policies with a memory cost. A backend that the machine or the agent does
not allow has no row. Read the ratios: absolute times differ from machine to machine and from run to run.
"""

import argparse
import importlib.util
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from provenance import provenance
from runs import resolved_hyperparameters
from sb3_contrib import QRDQN, TQC
from speed_of_memory import recurrent
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from wrappers import ManyChoices

import sb3_dai.envs  # noqa: F401  registers them
from sb3_dai import DAI
from sb3_dai.saving import write_json

N_RANDOM = 1000
"""Random transitions in the buffer."""

BACKENDS = ("eager", "native", "compile")

for name, choices in {"MultiDiscrete": spaces.MultiDiscrete([3] * 5), "MultiBinary": spaces.MultiBinary(8)}.items():
    gym.register(f"sb3_dai_benchmark/{name}-v0", ManyChoices, max_episode_steps=200, kwargs=dict(action_space=choices))

OTHER_SPACES = {
    "49 numbered states": "sb3_dai/GridWorld-v0",
    "5 choices of 3": "sb3_dai_benchmark/MultiDiscrete-v0",
    "8 choices of 2": "sb3_dai_benchmark/MultiBinary-v0",
}
"""Environments with other spaces than vectors and one choice."""

# Three stacked frames of 64 by 64 without a game
gym.register("sb3_dai_benchmark/Images-v0", "stable_baselines3.common.envs:FakeImageEnv", kwargs=dict(
    screen_height=64, screen_width=64, n_channels=3, channel_first=True))  # fmt: skip


def is_continuous(env_id: str) -> bool:
    """
    :param env_id: the environment
    :return: whether SAC is the peer and not DQN
    """
    return isinstance(gym.make(env_id).action_space, spaces.Box)


def peers_of(env_id: str) -> dict[str, type[BaseAlgorithm]]:
    """
    :param env_id: the environment
    :return: the peers by name, the one of the ratios first
    """
    continuous = is_continuous(env_id)
    peers: dict[str, type[BaseAlgorithm]] = {"SAC": SAC, "TQC": TQC} if continuous else {"DQN": DQN, "QR-DQN": QRDQN}
    images = len(gym.make(env_id).observation_space.shape or ()) == 3
    if importlib.util.find_spec("sbx") and not images:  # SBX reads images with another net
        import sbx

        name = "SAC" if continuous else "DQN"
        peers[f"SBX {name}"] = getattr(sbx, name)
    return peers


def make(algo: Any, args: argparse.Namespace, n_envs: int = 1, policy_kwargs: dict[str, Any] | None = None, **kwargs) -> Any:
    """
    :param algo: the algorithm's class
    :param args: names the environment, the layers and the batch
    :param n_envs: number of environments
    :param policy_kwargs: of the policy, beside its layers
    :param kwargs: of the algorithm
    :return: a model with a buffer of random transitions that has taken a few gradient steps
    """
    kwargs = {"batch_size": args.batch_size, "buffer_size": 10_000, "learning_starts": N_RANDOM, **kwargs}
    policy_kwargs = {"net_arch": args.net_arch, **(policy_kwargs or {})}
    env = make_vec_env(args.env, n_envs)
    policy = "CnnPolicy" if len(env.observation_space.shape or ()) == 3 else "MlpPolicy"
    model = algo(policy, env, policy_kwargs=policy_kwargs, seed=0, device=args.device, **kwargs)
    model.learn(N_RANDOM)
    model.set_logger(configure(None, []))
    model.train(gradient_steps=4, batch_size=model.batch_size)
    return model


def by_backend(args: argparse.Namespace, *given: Any, **kwargs: Any) -> dict[str, Any]:
    """
    :param args: names the environment, the layers and the batch
    :param given: for ``make``
    :param kwargs: for ``make``
    :return: DAI of each backend that takes its gradient steps here, by name
    """
    models = {}
    for backend in BACKENDS:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = make(DAI, args, *given, backend=backend, **kwargs)
            model.train(gradient_steps=1, batch_size=model.batch_size)  # After the first one that may have failed
        if model.backend == backend:
            models[backend] = model
        else:
            print(*{str(warning.message) for warning in caught if backend in str(warning.message)}, sep="\n")
    return models


def microseconds(function: Callable[[], Any], n_calls: int) -> float:
    """
    :param function: what to time
    :param n_calls: how often to call it
    :return: time of a call
    """
    start = time.perf_counter()
    for _ in range(n_calls):
        function()
    return (time.perf_counter() - start) / n_calls * 1e6


def gradient_step_time(model: Any, n_steps: int, per_call: int = 4) -> float:
    """
    :param model: what to train
    :param n_steps: number of gradient steps
    :param per_call: of them in a call of ``train``
    :return: microseconds of one
    """

    def train() -> None:
        model.train(gradient_steps=per_call, batch_size=model.batch_size)
        if th.device(model.device).type == "cuda":
            th.cuda.synchronize()

    return microseconds(train, max(n_steps // per_call, 1)) / per_call


def steps(args: argparse.Namespace) -> dict[str, Any]:
    """
    :param args: of the command line
    :return: microseconds of a gradient step and of a prediction, each turn's, and their medians and ratios, by model
    """
    peers = peers_of(args.env)
    base_name = next(iter(peers))
    models = {name: make(peer, args) for name, peer in peers.items()}
    agents = {f"DAI, ensemble of {size}": (args.env, {"ensemble_size": size}) for size in (5, 1)}
    if base_name == "DQN" and len(models["DQN"].observation_space.shape) == 1:
        agents |= {f"DAI, {name}": (env_id, {}) for name, env_id in OTHER_SPACES.items()}
    for name, (env_id, policy_kwargs) in agents.items():
        setting = argparse.Namespace(**{**vars(args), "env": env_id})
        found = by_backend(setting, policy_kwargs=policy_kwargs)
        models |= {f"{name}, {backend}": model for backend, model in found.items()}
    observations = {name: model.get_env().reset()[0] for name, model in models.items()}
    kinds = ("step", "first_predict", "predict")
    times: dict[str, dict[str, list[float]]] = {name: {kind: [] for kind in kinds} for name in models}
    for turn in range(args.repeats + 1):
        for name, model in models.items():

            def act(model: Any = model, observation: Any = observations[name]) -> Any:
                return model.predict(observation, deterministic=True)

            step = gradient_step_time(model, args.gradient_steps, args.per_call)
            # The first leaves training mode, and finds another program in the processor's caches
            taken = step, microseconds(act, 1), microseconds(act, args.gradient_steps)
            if turn > 0:  # The first is to warm up
                for kind, value in zip(kinds, taken, strict=True):
                    times[name][kind].append(round(value, 1))
    base = times[base_name]
    results: dict[str, Any] = {}
    for name, its_times in times.items():
        results[name] = {"hyperparameters": resolved_hyperparameters(models[name]), **its_times}
        for what, values in its_times.items():
            ratio = float(np.median(np.array(values) / np.array(base[what])))
            results[name][f"median_{what}"] = round(float(np.median(values)), 1)
            results[name][f"ratio_{what}"] = round(ratio, 3)
        row = results[name]
        print(
            f"{name:36s} step {row['median_step']:8.0f} us, {row['ratio_step']:5.2f} times {base_name}"
            f"   predict {row['median_predict']:6.0f} us, {row['ratio_predict']:5.2f} times"
            f"   the first {row['median_first_predict']:6.0f} us, {row['ratio_first_predict']:5.2f} times"
        )
    return results


def in_a_process(mode: str, args: argparse.Namespace, cache: str) -> dict[str, float]:
    """
    :param mode: name of a peer, or "DAI, " and a backend
    :param args: of the command line
    :param cache: folder of compiled code
    :return: seconds of the second to the ninth gradient step, and the peak memory of the whole process in MiB
    """
    command = [sys.executable, __file__, "first", "--env", args.env, "--batch-size", str(args.batch_size), "--out", os.devnull]
    command += ["--net-arch", *map(str, args.net_arch)]
    environ = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache, "DAI_FIRST": mode}
    output = subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout.split()
    return {"seconds": float(output[-2]), "peak_mib": float(output[-1])}


def compile_times(args: argparse.Namespace) -> dict[str, Any]:
    """
    :param args: of the command line
    :return: seconds of the second to the ninth gradient step, in which all is compiled, with an empty cache and in two later
        processes, and the peak memory of the whole process in MiB
    """
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as cache:
        for name in ("cold", "warm", "warm again"):
            found = results[name] = in_a_process("DAI, compile", args, cache)
            print(f"{name:12s} compiling {found['seconds']:6.1f} s, peak {found['peak_mib']:.0f} MiB", flush=True)
    return results


def memory(args: argparse.Namespace) -> dict[str, Any]:
    """
    :param args: of the command line
    :return: peak memory of a process that takes nine gradient steps, in MiB, by model
    """
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as cache:
        for name in (*peers_of(args.env), *(f"DAI, {backend}" for backend in BACKENDS), "DAI, compile, cached"):
            results[name] = in_a_process(name.removesuffix(", cached"), args, cache)["peak_mib"]
            print(f"{name:22s} {results[name]:6.0f} MiB", flush=True)
    return results


def first(args: argparse.Namespace) -> dict[str, Any]:
    """
    Print the seconds of the second to the ninth gradient step, in which all is compiled, and the peak memory in MiB, for
    ``in_a_process``.

    :param args: of the command line
    """
    name = os.environ["DAI_FIRST"]
    algo: Any = peers_of(args.env).get(name, DAI)
    kwargs = {"backend": name.removeprefix("DAI, ")} if algo is DAI else {}
    with mock.patch.object(algo, "train"):
        model = make(algo, args, **kwargs)
    model.train(gradient_steps=1, batch_size=args.batch_size)
    start = time.perf_counter()
    model.train(gradient_steps=8, batch_size=args.batch_size)  # Each kind of step twice: then it is compiled
    print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return {}


def environments(args: argparse.Namespace) -> dict[str, Any]:
    """
    :param args: of the command line
    :return: environment steps a second, with one gradient step for each step of all environments and with none, by number of
        environments and model
    """
    peer = SAC if is_continuous(args.env) else DQN
    results: dict[str, Any] = {}
    for n_envs in (1, 4, 16, 64):
        models = {peer.__name__: make(peer, args, n_envs, train_freq=1, gradient_steps=1)}
        found = by_backend(args, n_envs, gradient_steps=1)
        models |= {f"DAI, {backend}": model for backend, model in found.items()}
        models["DAI, acting alone"] = make(DAI, args, n_envs, gradient_steps=1)
        models["DAI, acting alone"].train = lambda *given, **named: None
        for name, model in models.items():
            model.learning_starts = 0
            rates = []
            for turn in range(args.repeats + 1):
                n_steps = 200 * n_envs
                start = time.perf_counter()
                model.learn(n_steps, reset_num_timesteps=False)
                if turn > 0:
                    rates.append(round(n_steps / (time.perf_counter() - start), 1))
            results.setdefault(name, {"hyperparameters": resolved_hyperparameters(model)})
            results[name][n_envs] = {"steps_a_second": rates, "median": float(np.median(rates))}
            print(f"{name:18s} {n_envs:3d} environments: {np.median(rates):8.0f} steps a second", flush=True)
    return results


SCALES: dict[str, list[int]] = {
    "batch": [32, 128, 512, 2048, 4096],
    "width": [64, 128, 256, 512, 1024],
    "ensemble": [1, 2, 5, 10, 20],
    "buffer": [10_000, 100_000, 1_000_000],
}


def scale(args: argparse.Namespace) -> dict[str, Any]:
    """
    :param args: of the command line
    :return: microseconds of a gradient step of each backend by batch, width, ensemble and buffer, and the exponent of a power
        law through the upper half of them
    """
    results: dict[str, Any] = {}
    for what, sizes in SCALES.items():
        times: dict[str, list[float]] = {}
        for size in sizes:
            setting = argparse.Namespace(**vars(args))
            kwargs: dict[str, Any] = {}
            if what == "batch":
                setting.batch_size = size
            elif what == "width":
                setting.net_arch = [size, size]
            elif what == "ensemble":
                kwargs["policy_kwargs"] = {"ensemble_size": size}
            else:
                kwargs["buffer_size"] = size
            for backend, model in by_backend(setting, **kwargs).items():
                if what == "buffer":
                    buffer = model.replay_buffer
                    buffer.pos, buffer.full = 0, True  # As if filled: the rows that are zeros cost what others do
                n_steps = 4 if what in ("batch", "width") and size >= 512 else 20
                gradient_step_time(model, 4)
                best = min(gradient_step_time(model, n_steps) for _ in range(args.repeats))
                times.setdefault(backend, []).append(round(best, 1))
        results[what] = {"sizes": sizes, **times}
        upper = slice(len(sizes) // 2, None)
        for backend, values in times.items():
            exponent = np.polyfit(np.log(sizes[upper]), np.log(values[upper]), 1)[0]
            results[what][f"exponent_{backend}"] = round(float(exponent), 2)
            print(f"{what:9s} {backend:9s} {values} us at {sizes}: exponent {exponent:.2f}", flush=True)
    if args.figure:
        draw(results, args.figure)
    return results


def draw(results: dict[str, Any], path: str) -> None:
    """
    :param results: of ``scale``
    :param path: of the figure
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(results), figsize=(3 * len(results), 2.8), layout="constrained", sharey=True)
    for axis, (what, found) in zip(axes, results.items(), strict=True):
        for backend in (name for name in BACKENDS if name in found):
            times = np.array(found[backend]) / 1e3
            axis.loglog(found["sizes"], times, "o-", label=f"{backend}, exponent {found[f'exponent_{backend}']}")
        axis.set_xlabel(what)
        axis.legend(fontsize=7)
    axes[0].set_ylabel("ms a gradient step")
    figure.savefig(path, dpi=120)


COMMANDS = {
    "steps": steps, "compile": compile_times, "first": first, "environments": environments, "scale": scale, "memory": memory,
    "recurrent": recurrent,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--net-arch", type=int, nargs="*", default=[64, 64])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--gradient-steps", type=int, default=100, help="gradient steps in a turn")
    parser.add_argument("--per-call", type=int, default=4, help="gradient steps in a call of train, by default as DAI's")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--figure", help="of scale")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()

    th.set_num_threads(args.threads)
    results = COMMANDS[args.command](args)
    if args.command != "first":
        write_json(args.out, {**vars(args), **provenance(), "results": results})


if __name__ == "__main__":
    main()
