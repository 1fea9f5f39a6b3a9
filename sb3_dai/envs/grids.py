"""A grid to explore without reward, and one with treacherous rewards."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from sb3_dai.checks import check_number
from sb3_dai.envs.tabular import Outcome, TabularEnv

#: Change of row and column
MOVES = {"Up": (-1, 0), "Right": (0, 1), "Down": (1, 0), "Left": (0, -1), "Stay": (0, 0)}


def check_cell(name: str, cell: Any, shape: tuple[int, int]) -> tuple[int, int]:
    """
    :param name: the argument
    :param cell: what it got
    :param shape: number of rows and columns
    :return: row and column
    :raises ValueError: if this is no cell of the grid
    """
    if isinstance(cell, Sequence | np.ndarray) and len(cell) == 2 and all(isinstance(i, int | np.integer) for i in cell):
        row, column = int(cell[0]), int(cell[1])
        if 0 <= row < shape[0] and 0 <= column < shape[1]:
            return row, column
    raise ValueError(f"{name}={cell!r}: give (row, column) within a grid of {shape[0]} rows and {shape[1]} columns")


class GridWorld(TabularEnv):
    """
    pymdp's GridWorld of 7 by 7 cells, entered in the middle, without "stay" and without
    reward. The observation is row * n_columns + column, counted from the top left. Actions are Up, Right, Down, Left (and
    Stay), as in pymdp. A move off the grid or into a wall leaves the agent where it is.

    Two things are not pymdp's: ``slip`` makes another action happen (there, a move that fails stays in place), and there can
    be a goal.

    :param shape: number of rows and columns
    :param start: row and column in which every episode starts
    :param walls: cells that cannot be entered, as (row, column)
    :param stay: whether there is a fifth action that does nothing
    :param slip: probability that another action happens, each of the others equally likely
    :param goal: row and column that end the episode when entered, None for no goal
    :param goal_reward: reward for entering the goal
    :param step_cost: subtracted from the reward of every step, the one into the goal included
    :param render_mode: None, "ansi" or "rgb_array"
    :raises ValueError: if an argument cannot be used
    """

    def __init__(
        self,
        shape: tuple[int, int] = (7, 7),
        start: tuple[int, int] = (3, 3),
        walls: Iterable[tuple[int, int]] = (),
        stay: bool = False,
        slip: float = 0.0,
        goal: tuple[int, int] | None = None,
        goal_reward: float = 1.0,
        step_cost: float = 0.0,
        render_mode: str | None = None,
    ) -> None:
        if not isinstance(shape, Sequence) or len(shape) != 2 or not all(isinstance(n, int) and n >= 1 for n in shape):
            raise ValueError(f"shape={shape!r}: give the number of rows and of columns, whole numbers of at least 1")
        check_number("slip", slip, 0.0, 1.0)
        check_number("goal_reward", goal_reward, -np.inf)
        check_number("step_cost", step_cost, -np.inf)
        self.shape = (shape[0], shape[1])
        first = check_cell("start", start, self.shape)
        self.walls = frozenset(check_cell("walls", wall, self.shape) for wall in walls)
        self.goal = None if goal is None else check_cell("goal", goal, self.shape)
        if first in self.walls:
            raise ValueError(f"start={start!r}: this cell is a wall, give a free one")
        if self.goal is not None and (self.goal == first or self.goal in self.walls):
            raise ValueError(f"goal={goal!r}: this cell is {'the start' if self.goal == first else 'a wall'}, give another")
        self.slip, self.goal_reward, self.step_cost = float(slip), float(goal_reward), float(step_cost)
        super().__init__(shape[0] * shape[1], tuple(MOVES)[: 5 if stay else 4], first[0] * shape[1] + first[1], render_mode)

    def _moved(self, state: int, action: int) -> tuple[int, int]:
        """
        :param state: the state to act in
        :param action: the action that happens
        :return: row and column of the cell it leads to
        """
        row, column = divmod(state, self.shape[1])
        down, right = MOVES[self.action_names[action]]
        cell = row + down, column + right
        free = 0 <= cell[0] < self.shape[0] and 0 <= cell[1] < self.shape[1] and cell not in self.walls
        return cell if free else (row, column)

    def outcomes(self, state: int, action: int) -> list[Outcome]:
        chances = np.full(self.n_actions, self.slip / (self.n_actions - 1))
        chances[action] = 1.0 - self.slip
        outcomes = []
        for happens in np.flatnonzero(chances):
            cell = self._moved(state, int(happens))
            at_goal = cell == self.goal
            reward = self.goal_reward * at_goal - self.step_cost
            outcomes.append(Outcome(float(chances[happens]), cell[0] * self.shape[1] + cell[1], reward, at_goal))
        return outcomes

    def glyphs(self) -> np.ndarray:
        glyphs = np.full(self.shape, ".")
        for wall in self.walls:
            glyphs[wall] = "#"
        if self.goal is not None:
            glyphs[self.goal] = "G"
        return glyphs

    def agent_cell(self) -> tuple[int, int]:
        return divmod(self.state, self.shape[1])


#: Reward of each cell of the treacherous grid
TREACHEROUS_REWARDS = (
    (-1, -1, -1, -10, -1, 1000),
    (-100, -1, -10, -1, -10, -10),
    (-1, -10, -100, -10, -1, -1),
    (-1, -1, -100, -10, -1, -1),
    (-10, -1, -100, -100, -100, -1),
    (-1, -1, -100, -100, -100, -1),
)


class TreacherousGrid(TabularEnv):
    """
    Every cell has a reward, and 1000 is paid for each step that ends in the top right one,
    which does not end the episode. The way there leads past cells of -10 and -100. The observation is
    row * n_columns + column, counted from the top left (the seed's policy reads row and column as two numbers).

    Actions have the seed's numbers and effects: 0 Stay, 1 Up, 2 Down, 3 Right, 4 Left. Corrected here:

    - The seed names the directions wrongly: its comments call 1 "down", 2 "up" and 4 "down", but 1 decreases the row, 2
      increases it and 4 decreases the column.
    - It limits the row by the number of columns and the column by the number of rows. On its square map that makes no
      difference; here, maps of other shapes work.
    - It sets the agent to the start once and not between the trajectories of a batch, so that all but the first start where
      the one before stopped. Here every episode starts at the start.

    The reward of a step is that of the cell the agent is in after it (again that cell's, if it did not move). The seed records
    the reward of the cell before each of its T actions: the start cell counts, the cell after the last action does not. The
    seed's sum over T points of time is thus the start cell's reward plus this world's return over T - 1 steps.

    :param rewards: reward of each cell, shape (n_rows, n_columns)
    :param start: row and column in which every episode starts
    :param render_mode: None, "ansi" or "rgb_array"
    :raises ValueError: if an argument cannot be used
    """

    def __init__(
        self,
        rewards: Sequence[Sequence[float]] | np.ndarray = TREACHEROUS_REWARDS,
        start: tuple[int, int] = (5, 0),
        render_mode: str | None = None,
    ) -> None:
        try:
            self.rewards = np.array(rewards, dtype=float)
        except (TypeError, ValueError):
            self.rewards = np.empty(0)
        if self.rewards.ndim != 2 or self.rewards.size == 0 or not np.isfinite(self.rewards).all():
            raise ValueError(f"rewards={rewards!r}: give rows of finite numbers, all rows of one length")
        n_rows, n_columns = self.rewards.shape
        row, column = check_cell("start", start, (n_rows, n_columns))
        super().__init__(n_rows * n_columns, ("Stay", "Up", "Down", "Right", "Left"), row * n_columns + column, render_mode)

    def outcomes(self, state: int, action: int) -> list[Outcome]:
        n_rows, n_columns = self.rewards.shape
        row, column = divmod(state, n_columns)
        down, right = MOVES[self.action_names[action]]
        row, column = min(max(row + down, 0), n_rows - 1), min(max(column + right, 0), n_columns - 1)
        return [Outcome(1.0, row * n_columns + column, float(self.rewards[row, column]), False)]

    def glyphs(self) -> np.ndarray:
        return np.select([self.rewards > 0, self.rewards <= -100, self.rewards <= -10], ["G", "X", "x"], ".")

    def agent_cell(self) -> tuple[int, int]:
        return divmod(self.state, self.rewards.shape[1])
