"""Control tasks of gymnasium with their reward made sparse."""

import math
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control import Continuous_MountainCarEnv, PendulumEnv
from gymnasium.utils import RecordConstructorArgs

from sb3_dai.checks import check_number


class SparseMountainCarContinuous(gym.Wrapper, RecordConstructorArgs):
    """
    MountainCarContinuous with 100 for reaching the goal and 0 for every other step: its cost of actions, which pays an agent
    for giving up, is gone. (VIME's sparse mountain car pays 1: Houthooft et al. 2016, arXiv:1605.09674.)

    :param env: MountainCarContinuous-v0, with or without wrappers
    :raises ValueError: if it is another environment
    """

    def __init__(self, env: gym.Env) -> None:
        if not isinstance(env.unwrapped, Continuous_MountainCarEnv):
            raise ValueError(f"env={env}: give gymnasium.make('MountainCarContinuous-v0')")
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = self.env.step(action)
        return observation, 100.0 if terminated else 0.0, terminated, truncated, info


class SparsePendulum(gym.Wrapper, RecordConstructorArgs):
    """
    Pendulum with 1 for each step after which the pole is upright and slow, and 0 for every other. The angle and the speed are
    those of the observation that the step returns.

    :param env: Pendulum-v1, with or without wrappers
    :param max_angle: the pole is upright within this angle of the vertical, in rad
    :param max_speed: the pole is slow up to this speed, in rad/s
    :raises ValueError: if it is another environment, or a bound is negative
    """

    def __init__(self, env: gym.Env, max_angle: float = math.radians(10.0), max_speed: float = 1.0) -> None:
        if not isinstance(env.unwrapped, PendulumEnv):
            raise ValueError(f"env={env}: give gymnasium.make('Pendulum-v1')")
        check_number("max_angle", max_angle, 0.0)
        check_number("max_speed", max_speed, 0.0)
        RecordConstructorArgs.__init__(self, max_angle=max_angle, max_speed=max_speed)
        gym.Wrapper.__init__(self, env)
        self.max_angle, self.max_speed = float(max_angle), float(max_speed)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = self.env.step(action)
        cosine, sine, speed = np.asarray(observation, dtype=float)
        held = abs(math.atan2(sine, cosine)) <= self.max_angle and abs(speed) <= self.max_speed
        return observation, float(held), terminated, truncated, info
