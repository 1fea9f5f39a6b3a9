"""
What policies with a memory cost: ``python scripts/benchmark_speed.py recurrent``. DAI with ``MlpLstmPolicy`` beside its
memoryless policy, DQN or SAC, and sb3-contrib's RecurrentPPO with an LSTM and nets of the same size.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from runs import resolved_hyperparameters
from sb3_contrib import RecurrentPPO
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.logger import configure

from sb3_dai import DAI
from sb3_dai.zoo import evaluated, hyperparams_file, load_entries

LSTM_SIZE = 64
EXACT = "sb3_dai/TMaze-v0"
N_STEPS = 128
"""Of the environment in a turn: a rollout of RecurrentPPO."""


def cpu_microseconds(function: Callable[[], Any], n_calls: int) -> float:
    """
    :param function: what to time, in one thread
    :param n_calls: how often to call it
    :return: processor time of a call, which other work on the machine changes less than the clock's
    """
    start = time.process_time()
    for _ in range(n_calls):
        function()
    return (time.process_time() - start) / n_calls * 1e6


def agents_of(args: argparse.Namespace) -> dict[str, tuple[Any, int]]:
    """
    :param args: names the environment, the layers and the batch of those without a memory
    :return: models that have not learned yet, and the number of transitions in a gradient step of each, by name, the peer of
        the ratios first
    """
    env, size = args.env, args.batch_size
    nets, lstm = {"net_arch": args.net_arch}, {"net_arch": args.net_arch, "lstm_hidden_size": LSTM_SIZE}
    common = dict(seed=0, device=args.device)
    in_buffer = dict(buffer_size=10_000, learning_starts=N_STEPS, **common)
    peer: Any = SAC if isinstance(gym.make(env).action_space, spaces.Box) else DQN
    found: dict[str, tuple[Any, int]] = {
        # SB3 writes into policy_kwargs
        peer.__name__: (peer("MlpPolicy", env, policy_kwargs={**nets}, batch_size=size, **in_buffer), size)
    }
    for name, backend in (("DAI, no memory", "auto"), ("DAI, no memory, eager", "eager")):
        found[name] = DAI("MlpPolicy", env, policy_kwargs=nets, batch_size=size, backend=backend, **in_buffer), size
    for length, backend in ((32, "auto"), (32, "eager"), (64, "auto"), (64, "eager")):
        model = DAI("MlpLstmPolicy", env, policy_kwargs={**lstm, "sequence_length": length}, backend=backend, **in_buffer)
        name = f"DAI, {model.batch_size} sequences of {length} steps" + ", eager" * (backend == "eager")
        found[name] = model, model.batch_size * length
    found["RecurrentPPO"] = (
        RecurrentPPO("MlpLstmPolicy", env, n_steps=N_STEPS, batch_size=N_STEPS, policy_kwargs=lstm, **common),
        N_STEPS,
    )
    entry = evaluated(load_entries(str(hyperparams_file("dai")))[EXACT])
    del entry["n_timesteps"]
    model = DAI(env=EXACT, **{**entry, "policy_kwargs": eval(entry["policy_kwargs"])}, **common)
    found["DAI, exact beliefs in the T-maze"] = model, model.batch_size
    return found


def gradient_steps(model: Any, n_steps: int) -> Callable[[], Any]:
    """
    :param model: that has learned a little
    :param n_steps: number of gradient steps; one for RecurrentPPO
    :return: a function that takes them
    """
    if isinstance(model, RecurrentPPO):

        def epoch() -> None:
            with mock.patch.object(model, "n_epochs", 1):  # Its rollout is one batch
                model.train()

        return epoch
    return lambda: model.train(gradient_steps=n_steps, batch_size=model.batch_size)


def acting(model: Any) -> Callable[[], Any]:
    """
    :param model: to act
    :return: a function that predicts the action of one step of one environment, with the state that it carries
    """
    observation, carried = model.get_env().reset(), [None]

    def act() -> None:
        _, carried[0] = model.predict(observation, carried[0], np.zeros(1, dtype=bool), deterministic=True)

    return act


def recurrent(args: argparse.Namespace) -> dict[str, Any]:
    """
    :param args: of the command line
    :return: processor time in microseconds of a gradient step, of a prediction, and of an environment step of training with
        the default schedule of each, every turn's, and their medians and ratios, by model
    """
    found = agents_of(args)
    for model, _ in found.values():
        model.learn(2 * N_STEPS)
        model.set_logger(configure(None, []))
    times: dict[str, dict[str, list[float]]] = {name: {"step": [], "predict": [], "learn": []} for name in found}
    for turn in range(args.repeats + 1):
        for name, (model, _) in found.items():
            is_on_policy = isinstance(model, RecurrentPPO)
            learned = cpu_microseconds(lambda model=model: model.learn(N_STEPS, reset_num_timesteps=False), 1) / N_STEPS
            per_call = 1 if is_on_policy else 4
            taken = cpu_microseconds(gradient_steps(model, per_call), args.gradient_steps // per_call) / per_call
            predicted = cpu_microseconds(acting(model), args.gradient_steps)
            if turn > 0:  # The first is to warm up
                for kind, value in (("step", taken), ("predict", predicted), ("learn", learned)):
                    times[name][kind].append(round(value, 1))
    base, results = next(iter(times.values())), dict[str, Any]()
    for name, its_times in times.items():
        model, transitions = found[name]
        row = results[name] = {"transitions": transitions, "hyperparameters": resolved_hyperparameters(model), **its_times}
        for what, values in its_times.items():
            row[f"median_{what}"] = round(float(np.median(values)), 1)
            row[f"ratio_{what}"] = round(float(np.median(np.array(values) / np.array(base[what]))), 3)
        print(f"{name:52s} {row['transitions']:5d} transitions", end="")
        for what in its_times:
            print(f", {what} {row[f'median_{what}']:7.0f} us ({row[f'ratio_{what}']:.2f})", end="")
        print()
    return results
