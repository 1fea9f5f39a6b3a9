"""Sentences of docs/speed.md with figures, and what these are."""

import inspect
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from sb3_contrib.qrdqn.policies import QRDQNPolicy
from speed_of_memory import LSTM_SIZE

from printed.pages import ROOT
from sb3_dai import DAI
from sb3_dai.acceleration.compiled import PAYS_FROM
from sb3_dai.acceleration.threads import VERY_WIDE
from sb3_dai.dai import DEFAULTS

PAGE = "docs/speed.md"
MEMORY = "speed_recurrent", "speed_recurrent_box"


def result(name: str, folder: str = "results") -> Any:
    """
    :param name: of a result file
    :param folder: in docs
    :return: what is in it
    """
    return json.loads((ROOT / "docs" / folder / f"{name}.json").read_text())


def seconds_of_compiling() -> list[float]:
    """
    :return: the first time, and later
    """
    found = result("speed_compile", "experiments/data")["results"]
    return [found["cold"]["seconds"], found["warm"]["seconds"]]


def passes() -> list[float]:
    """
    :return: nets that learn, their members, critics and target nets; then passes of a step, with a forward pass as 1 and a
        backward pass as 2: of discrete actions, of DQN and SAC, of ``Box`` actions, and of these with their delays
    """
    model = DAI("MlpPolicy", "Pendulum-v1", device="cpu")
    members, critics = model.policy.ensemble_size, model.policy.n_critics
    nets, targets = members + critics + 1, critics + 1
    # With Box actions the policy's loss also goes forward through the critics, and back to the actions
    world_model, values, policy = 3 * members, 3 * critics, 3 + 2 * critics
    sac = 3 * 2 + (2 + 1) + (3 + 2 * 2)
    steps = [*model._coefficients(4)]
    world_model_learns = np.mean([step.learns_world_model for step in steps])
    policy_learns = np.mean([step.learns_policy for step in steps])
    delayed = world_model * world_model_learns + values + targets + policy * policy_learns
    box = world_model + values + targets + policy
    return [nets, members, critics, targets, 1, 2, nets, 3, targets, 3 * nets + targets, 3 + 1, sac, box, delayed]


def delays() -> list[int]:
    """
    :return: gradient steps for each one in which the world model learns, and the policy
    """
    steps = [*DAI("MlpPolicy", "Pendulum-v1", device="cpu")._coefficients(8)]
    return [8 // sum(step.learns_world_model for step in steps), 8 // sum(step.learns_policy for step in steps)]


def settings_with_a_memory() -> list[int]:
    """
    :return: layers, units of the LSTM, batch and turns of both measurements
    """
    keys = "net_arch", "batch_size", "repeats"
    (layers, batch, turns), others = ([result(name)[key] for key in keys] for name in MEMORY)
    assert others == [layers, batch, turns]
    return [*layers, LSTM_SIZE, batch, turns]


def actions_a_second() -> list[float]:
    """
    :return: milliseconds of a prediction with an LSTM on CartPole, and how many there are in a second
    """
    found = result(MEMORY[0])["results"]
    microseconds = np.mean([found[agent]["median_predict"] for agent in found if "sequences" in agent])
    return [microseconds / 1000, round(1e6 / microseconds, -2)]


def default_steps() -> list[int]:
    """
    :return: gradient steps of DAI for each step of the environment, without a memory and with one
    """
    memory = DAI("MlpLstmPolicy", "CartPole-v1", device="cpu")
    assert memory.train_freq.frequency == DEFAULTS["train_freq"] == 1
    return [DEFAULTS["gradient_steps"], memory.gradient_steps]


CLAIMS: dict[str, Callable[[], list[Any]]] = {
    r"from {} gradient steps on a CPU": lambda: [PAYS_FROM],
    r"compiling took {} s the first time, {} s later": seconds_of_compiling,
    r"layers of more than 2\^{} multiplications": lambda: [np.log2(VERY_WIDE)],
    r"\({}x{} with batches of {} are as many": lambda: [256, 256, VERY_WIDE / 256**2],
    r"that of its {} quantiles": lambda: [inspect.signature(QRDQNPolicy).parameters["n_quantiles"].default],
    r"Each call of `train` has {} gradient steps here": lambda: [result("speed")["per_call"]],
    r"differentiates {} nets \({} members, {} critics, a policy\), and its targets {} more\. With a forward pass as {} and a "
    r"backward pass as {}, that is {} · {} \+ {} = {} passes\. DQN has {}, SAC {}\. With `Box` actions it would be {}; with "
    r"their delays it is {} on average": passes,
    r"`Box` actions then has {} passes instead of {},": lambda: passes()[:-3:-1],
    r"nets of {}x{}, LSTMs of {} units, batches of {} without a memory, medians of {} turns": settings_with_a_memory,
    r"by default: {} gradient steps for DAI without a memory, {} with it": default_steps,
    r"`predict` takes {} ms with an LSTM: about {} actions a second": actions_a_second,
    r"DAI takes {} gradient steps for each step of the environment, by default": lambda: [DEFAULTS["gradient_steps"]],
    r"`gradient_steps=1` leaves a {} of the": lambda: [1 / DEFAULTS["gradient_steps"]],
    r"learns in every {} gradient step \(`transition_delay`\)\. .* the policy learns in every {} one": delays,
}
