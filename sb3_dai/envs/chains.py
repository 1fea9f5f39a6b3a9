"""A bandit and a chain of three states, small enough to know the best policy."""

from collections.abc import Sequence

import numpy as np

from sb3_dai.checks import check_number
from sb3_dai.envs.tabular import Outcome, TabularEnv


class Bandit(TabularEnv):
    """
    One state, three actions, reward 1 for action 0 and none for the others. It
    never ends by itself.

    :param rewards: reward of each action
    :param render_mode: None, "ansi" or "rgb_array"; the picture shows one cell an action and marks the last one taken
    :raises ValueError: if an argument cannot be used
    """

    def __init__(self, rewards: Sequence[float] = (1.0, 0.0, 0.0), render_mode: str | None = None) -> None:
        if not isinstance(rewards, Sequence | np.ndarray) or isinstance(rewards, str) or len(rewards) == 0:
            raise ValueError(f"rewards={rewards!r}: give one number an action")
        for reward in rewards:
            check_number("rewards", reward, -np.inf)
        self.rewards = tuple(float(reward) for reward in rewards)
        super().__init__(1, tuple(f"Arm {arm}" for arm in range(len(rewards))), 0, render_mode)

    def outcomes(self, state: int, action: int) -> list[Outcome]:
        return [Outcome(1.0, 0, self.rewards[action], False)]

    def glyphs(self) -> np.ndarray:
        return np.array([["G" if reward == max(self.rewards) else "." for reward in self.rewards]])

    def agent_cell(self) -> tuple[int, int] | None:
        return None if self.last_action is None else (0, self.last_action)


class ThreeStateChain(TabularEnv):
    """
    Three states in a row, actions Left, Center and Right. Center in the rightmost
    state pays 1 and ends the episode; every other step pays -0.05. Episodes start in the leftmost state. The observation is 0,
    1 or 2 from left to right (the seed's state is -1, 0 or 1).

    :param render_mode: None, "ansi" or "rgb_array"
    :raises ValueError: if there is no such render mode
    """

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(3, ("Left", "Center", "Right"), 0, render_mode)

    def outcomes(self, state: int, action: int) -> list[Outcome]:
        if state == 2 and action == 1:
            return [Outcome(1.0, 2, 1.0, True)]
        return [Outcome(1.0, min(max(state + action - 1, 0), 2), -0.05, False)]

    def glyphs(self) -> np.ndarray:
        return np.array([[".", ".", "G"]])

    def agent_cell(self) -> tuple[int, int]:
        return 0, self.state
