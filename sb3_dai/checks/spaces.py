"""Spaces that the nets can read or code."""

import copy
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

SUPPORTED_ACTIONS = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Box)
SUPPORTED_OBSERVATIONS = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def check_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """
    Kinds of action spaces that nobody could use get the standard error of Stable-Baselines3 instead.

    :param observation_space: of the environment
    :param action_space: of the environment
    :raises ValueError: if the nets cannot read the one or code the other
    """
    parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {None: observation_space}
    if not parts:
        raise ValueError(f"observation_space={observation_space}: give it at least one entry")
    for key, space in parts.items():
        where = "observation_space" if key is None else f"observation_space[{key!r}]"
        _check_observation_space(f"{where}={space}", space)

    where = f"action_space={action_space}"
    if isinstance(action_space, SUPPORTED_ACTIONS):
        _check_dtype(where, action_space)
    if np.any(getattr(action_space, "start", 0)):
        raise ValueError(f"{where}: actions must start at 0, wrap the environment to shift them")
    if isinstance(action_space, spaces.MultiDiscrete) and len(action_space.shape) != 1:
        raise ValueError(f"{where}: wrap the environment to flatten its actions")
    # MultiBinary([3]) has the shape of MultiBinary(3), but the buffers of SB3 want the number
    if isinstance(action_space, spaces.MultiBinary) and not isinstance(action_space.n, int):
        raise ValueError(f"{where}: wrap the environment to flatten its actions to MultiBinary(n), n a number")
    if isinstance(action_space, spaces.Box):
        if not np.issubdtype(action_space.dtype, np.floating):
            raise ValueError(f"{where}: Box actions must be of a float type, use MultiDiscrete for whole numbers")
        if not (np.isfinite(action_space.low).all() and np.isfinite(action_space.high).all()):
            raise ValueError(f"{where}: Box actions must have finite bounds, wrap the environment to give it some")
        if action_space.shape == ():
            raise ValueError(f"{where}: wrap the environment to give its actions shape (1,)")
        try:
            with np.errstate(over="ignore"):
                copy.deepcopy(action_space).sample()  # A copy, whose generator may move on
        # Gymnasium cannot draw from bounds that are further apart than the largest number
        except (OverflowError, ValueError) as error:
            raise ValueError(f"{where}: no action can be drawn ({error}), wrap the environment to rescale it") from error
    if 0 in (action_space.shape or ()):
        raise ValueError(f"{where}: there is nothing to choose, give it at least one dimension")


def _check_observation_space(where: str, space: spaces.Space) -> None:
    """
    :param where: what to call the space in an error
    :param space: an observation space, or one entry of a dictionary
    :raises ValueError: if the nets cannot read it
    """
    if not isinstance(space, SUPPORTED_OBSERVATIONS):
        names = ", ".join(cls.__name__ for cls in SUPPORTED_OBSERVATIONS)
        raise ValueError(f"{where} is not supported: wrap the environment to observe {names} or a flat Dict of them")
    if np.any(getattr(space, "start", 0)):
        raise ValueError(f"{where}: observations must start at 0, wrap the environment to shift them")
    if isinstance(space, spaces.Box) and space.shape == ():
        raise ValueError(f"{where}: wrap the environment to give it shape (1,)")
    if isinstance(space, spaces.MultiDiscrete) and len(space.shape) > 1:
        raise ValueError(f"{where}: wrap the environment to flatten it")
    if 0 in (space.shape or ()):
        raise ValueError(f"{where}: there is nothing to observe, give it at least one dimension")
    if isinstance(space, spaces.Box) and not is_single(np.clip(0, space.low, space.high)).all():
        raise ValueError(f"{where}: float32 has no such values, wrap the environment to rescale it")
    _check_dtype(where, space)


def _check_dtype(where: str, space: spaces.Space) -> None:
    """
    :param where: what to call the space in an error
    :param space: of observations or actions
    :raises ValueError: if torch has no such type of numbers
    """
    try:
        th.as_tensor(np.zeros(1, space.dtype))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: torch cannot read its dtype {space.dtype!r}, use float32 for example") from error


def is_single(array: Any) -> np.ndarray:
    """
    :param array: numbers of any type
    :return: which of them are finite in single precision, in which the nets compute
    """
    if getattr(array, "dtype", None) == np.float64:
        return np.abs(array) <= np.finfo(np.float32).max
    return np.isfinite(array)
