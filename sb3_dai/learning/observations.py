"""What the environment returned of a step, read as Stable-Baselines3 reads it."""

from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_dai.checks import check_finite


def in_space(space: spaces.Space, observation: Any) -> Any:
    """
    :param space: Observation space
    :param observation: one, as an environment returns it
    :return: what the replay buffer keeps of it: the space's keys alone, in the space's type
    """
    if isinstance(space, spaces.Dict):
        return {key: in_space(part, observation[key]) for key, part in space.spaces.items()}
    return np.asarray(observation).astype(space.dtype)


def last_observations(space: spaces.Space, new_obs: Any, dones: np.ndarray, infos: list[dict[str, Any]]) -> np.ndarray:
    """
    :param space: Observation space, not a dictionary
    :param new_obs: after the step, those of the next episode where one ended, shape (n_envs, ...)
    :param dones: whether an episode ended or was cut off, shape (n_envs,)
    :param infos: of each environment. ``terminal_observation`` belongs to steps that are done: some environments use one
        dictionary again and again, with a stale entry.
    :return: after the step, the last of the old episode where one ended, shape (n_envs, ...)
    """
    observations = np.array(new_obs)
    for i, (done, info) in enumerate(zip(dones, infos, strict=True)):
        if done and info.get("terminal_observation") is not None:
            observations[i] = in_space(space, info["terminal_observation"])
    return observations


def check_step(
    space: spaces.Space,
    new_obs: Any,
    rewards: np.ndarray | None = None,
    dones: np.ndarray | None = None,
    infos: list[dict[str, Any]] | None = None,
) -> None:
    """
    :param space: Observation space
    :param new_obs: observations after a step of each environment, or after a reset
    :param rewards: of the step, shape (n_envs,)
    :param dones: whether an episode ended or was cut off, shape (n_envs,)
    :param infos: of each environment
    :raises ValueError: if something is not finite
    """
    if rewards is None or dones is None or infos is None:
        check_finite("observation at reset", new_obs)
        return
    check_finite("observation", new_obs)
    check_finite("reward", rewards)
    for done, info in zip(dones, infos, strict=True):
        if done and info.get("terminal_observation") is not None:
            check_finite("terminal observation", in_space(space, info["terminal_observation"]))
