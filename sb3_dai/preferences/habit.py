"""The prior over actions E(a|s): what the agent is used to do before it weighs the expected free energy."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_dai.nets.preprocessing import extractor_inputs

HabitPrior = Sequence[float] | np.ndarray | Callable[[Any], th.Tensor] | None


def check_habit_prior(prior: HabitPrior, action_space: spaces.Space, precision: Any) -> None:
    """
    What a function returns is checked when it is called.

    :param prior: the argument ``habit_prior``
    :param action_space: Action space
    :param precision: the argument ``precision``
    :raises ValueError: if they do not go together, or the prior is no distribution of the actions
    """
    if prior is None:
        return
    if not isinstance(action_space, spaces.Discrete):
        raise ValueError(f"habit_prior={prior!r}: only Discrete actions can have one, not {action_space}. Leave it out")
    if precision == "auto":
        raise ValueError(
            f'habit_prior={prior!r} with precision="auto": the target of the entropy may be more than the prior leaves to the '
            "policy. Give a number or a schedule as precision"
        )
    if not callable(prior):
        _check_probabilities("habit_prior", prior, (int(action_space.n),))


def log_habit_prior(
    prior: HabitPrior,
    n_actions: int,
    observations: PyTorchObs,
    observation_space: spaces.Space,
    normalize_images: bool,
    device: th.device,
) -> th.Tensor | float:
    """
    :param prior: the argument ``habit_prior``
    :param n_actions: number of actions
    :param observations: as the replay buffer returns them
    :param observation_space: Observation space
    :param normalize_images: Whether images are divided by 255
    :param device: where the result is to be
    :return: log E(a|s), shape (1, n_actions) or (batch, 1, n_actions), or 0 where there is no prior
    :raises ValueError: if a function returns something else than distributions of the actions
    """
    if prior is None:
        return 0.0
    if not callable(prior):
        return th.as_tensor(np.log(np.asarray(prior)), dtype=th.float32, device=device).unsqueeze(0)
    inputs = extractor_inputs(observations, observation_space, normalize_images)
    with th.no_grad():
        prob = prior(inputs)
    n_rows = len(next(iter(inputs.values())) if isinstance(inputs, dict) else inputs)
    _check_probabilities("habit_prior(observations)", prob, (n_rows, n_actions))
    return th.as_tensor(prob, dtype=th.float32, device=device).log().unsqueeze(1)


def _check_probabilities(name: str, prob: Any, shape: tuple[int, ...]) -> None:
    """
    :param name: what to call them in an error
    :param prob: what is to be distributions along the last axis
    :param shape: how they are to be
    :raises ValueError: if they are something else than positive numbers that add up to 1
    """
    remedy = f"give positive probabilities that add up to 1, of shape {shape}"
    try:
        array = np.asarray(prob.detach().cpu() if isinstance(prob, th.Tensor) else prob, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}={prob!r}: {remedy}") from error
    # A batch would fill pages
    got = np.array2string(array, threshold=8, edgeitems=2) if isinstance(prob, th.Tensor) else repr(prob)
    if array.shape != shape:
        raise ValueError(f"{name}={got} has shape {array.shape}: {remedy}")
    tolerance = 1e-4 if isinstance(prob, th.Tensor) else 1e-6  # A net computes in single precision
    if not ((array > 0).all() and (abs(array.sum(axis=-1) - 1.0) <= tolerance).all()):
        raise ValueError(f"{name}={got}: {remedy} (a small one, such as 1e-6, for an action that is all but ruled out)")
