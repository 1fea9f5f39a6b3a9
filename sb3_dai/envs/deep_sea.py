"""DeepSea, the exploration test of bsuite."""

from typing import Any

import numpy as np

from sb3_dai.checks import check_number
from sb3_dai.envs.tabular import Outcome, TabularEnv


class DeepSea(TabularEnv):
    """
    A diver sinks through a grid of N by N cells, one row a step, and goes left or right on the way. Only going right N times
    in a row finds the treasure, against a small cost of each step right; a policy that explores by chance needs about 2^N
    episodes (Osband et al. 2019, "Deep exploration via randomized value functions", arXiv:1703.07608; with random action
    meanings in Osband et al. 2020, "Behaviour suite for reinforcement learning", arXiv:1908.03568).

    The rules and numbers are bsuite's:

    - Start top left. The action "right" goes one cell down and right, "left" one down and left; the sides hold.
    - Going right costs ``unscaled_move_cost / size``.
    - Going right in the bottom right cell pays 1. The episode ends after ``size`` steps.
    - Which of the two actions is "right" is drawn for each cell, by the generator that bsuite uses, so that the same
      ``mapping_seed`` gives bsuite's mapping.
    - If not deterministic, a step right stays in its column with probability 1 / size (its cost and the treasure are not
      affected), and a standard normal is added to the reward of steps in the leftmost and the rightmost bottom cell.

    The observation is row * size + column (bsuite's is a one-hot image of size by size). bsuite's is all zero when the episode
    has ended; here it is then the bottom cell of the new column. No value bootstraps from it, the world model predicts it.
    ``step`` adds ``bad_episode`` to the info.

    :param size: number of rows, columns and steps, N
    :param deterministic: False for the stochastic version
    :param unscaled_move_cost: cost of going right all the way
    :param randomize_actions: False makes action 1 "right" everywhere
    :param mapping_seed: what draws the meaning of the actions. It belongs to the world: ``reset(seed=...)`` leaves it, and
        copies of the environment agree
    :param render_mode: None, "ansi" or "rgb_array"; cells that cannot be reached are dark
    :raises ValueError: if an argument cannot be used
    """

    def __init__(
        self,
        size: int = 10,
        deterministic: bool = True,
        unscaled_move_cost: float = 0.01,
        randomize_actions: bool = True,
        mapping_seed: int = 42,
        render_mode: str | None = None,
    ) -> None:
        check_number("size", size, 2, whole=True)
        check_number("unscaled_move_cost", unscaled_move_cost, 0.0)
        check_number("mapping_seed", mapping_seed, 0, 2**32 - 1, whole=True)
        self.size = int(size)
        self.deterministic = deterministic
        self.unscaled_move_cost = float(unscaled_move_cost)
        #: Which action is "right", shape (size, size)
        self.right = np.ones((self.size, self.size), dtype=np.int64)
        if randomize_actions:
            self.right = np.random.RandomState(mapping_seed).binomial(1, 0.5, (self.size, self.size))
        #: Whether the agent left the diagonal of its own accord in this episode (bsuite scores their number)
        self.bad_episode = False
        names = ("Left or right", "Right or left") if randomize_actions else ("Left", "Right")
        super().__init__(self.size**2, names, 0, render_mode)

    @property
    def optimal_return(self) -> float:
        """
        :return: bsuite's expected return of going right at every step. For the stochastic version it is a little below the
            true optimum, which stops paying for steps right once one of them has failed
        """
        found = 1.0 if self.deterministic else (1.0 - 1.0 / self.size) ** (self.size - 1)
        return found - self.unscaled_move_cost

    def outcomes(self, state: int, action: int) -> list[Outcome]:
        row, column = divmod(state, self.size)
        below, terminated = min(row + 1, self.size - 1) * self.size, row == self.size - 1
        if action != self.right[row, column]:
            return [Outcome(1.0, below + max(column - 1, 0), 0.0, terminated)]
        # Rows above the last have no treasure: their rightmost cell cannot be reached from the start
        reward = float(column == self.size - 1) - self.unscaled_move_cost / self.size
        moved = Outcome(1.0, below + min(column + 1, self.size - 1), reward, terminated)
        if self.deterministic:
            return [moved]
        failure = 1.0 / self.size
        return [moved._replace(probability=1.0 - failure), Outcome(failure, below + column, reward, terminated)]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        self.bad_episode = False
        return super().reset(seed=seed, options=options)

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        row, column = divmod(self.state, self.size)
        observation, reward, terminated, truncated, info = super().step(action)
        if row == column and action != self.right[row, column]:
            self.bad_episode = True
        if not self.deterministic and row == self.size - 1 and column in (0, self.size - 1):
            reward += float(self.np_random.standard_normal())
        return observation, reward, terminated, truncated, {**info, "bad_episode": self.bad_episode}

    def glyphs(self) -> np.ndarray:
        row, column = np.indices((self.size, self.size))
        glyphs = np.where(column > row, "#", ".")
        glyphs[-1, -1] = "G"
        return glyphs

    def agent_cell(self) -> tuple[int, int]:
        return divmod(self.state, self.size)
