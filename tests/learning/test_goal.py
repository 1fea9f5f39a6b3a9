"""Learning to reach a goal that no reward speaks of."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_dai import DAI, GaussianPreference


class Field(gym.Env):
    """A square without reward. Reaching (0.4, 0.4) ends the episode, and so does falling off its lower edge."""

    observation_space, action_space = spaces.Box(-1.0, 1.0, (2,), np.float32), spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.t = np.array([-0.4, -0.4]), 0
        return self.place.astype(np.float32), {}

    def step(self, action):
        self.t += 1
        self.place = np.clip(self.place + 0.2 * np.array([(1, 0), (-1, 0), (0, 1), (0, -1)][int(action)]), -1.0, 1.0)
        success, fell = bool(np.abs(self.place - 0.4).max() < 0.1), bool(self.place[1] < -0.7)
        return self.place.astype(np.float32), 0.0, success or fell, self.t >= 40, {"is_success": success}


def ending(model):
    """Whether the goal is reached, and in how many steps."""
    env = Field()
    obs, _ = env.reset()
    while True:
        obs, _, terminated, truncated, info = env.step(model.predict(obs, deterministic=True)[0])
        if terminated or truncated:
            return info["is_success"], env.t


def test_a_goal_is_reached_without_reward():
    model = DAI("MlpPolicy", Field(), preference=GaussianPreference(0.4, 0.5), seed=0, device="cpu").learn(800)
    assert ending(model) == (True, 8)
