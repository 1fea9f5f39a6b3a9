"""Environment wrappers that scripts/peers.yml names."""

from typing import Any, SupportsFloat

import gymnasium as gym


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
