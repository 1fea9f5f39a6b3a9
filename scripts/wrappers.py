"""Environment wrappers that scripts/peers.yml names, and an environment of scripts/benchmark_speed.py."""

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class ScaledReward(gym.RewardWrapper):
    """
    Rewards times a constant. The Monitor is inside of it, so scores keep their unit. SB3 2.9 cannot unnormalise the last
    observation of a time limit where observations are numbers, which rules out VecNormalize for DQN on such worlds.

    :param env: the environment
    :param factor: the constant
    """

    def __init__(self, env: gym.Env, factor: float) -> None:
        super().__init__(env)
        self.factor = factor

    def reward(self, reward: SupportsFloat) -> Any:
        return self.factor * float(reward)


class ManyChoices(gym.Env):
    """
    Four random numbers, whatever is chosen.

    :param action_space: Action space
    """

    observation_space = spaces.Box(-1.0, 1.0, (4,), np.float32)

    def __init__(self, action_space: spaces.Space) -> None:
        self.action_space = action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, False, {}
