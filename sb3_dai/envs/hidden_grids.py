"""Grids in which the agent does not see all it needs: aliased cells, and a chain of cues."""

from collections.abc import Iterable, Sequence

import numpy as np

from sb3_dai.checks import check_choice, check_number
from sb3_dai.envs.grids import MOVES, GridWorld, check_cell
from sb3_dai.envs.hidden import HiddenTabularEnv


class AliasedGrid(HiddenTabularEnv):
    """
    A grid in which the agent sees only the walls around it, as many cells do alike, and starts anywhere. It has to find out
    where it is to find the goal, which ends the episode. The border counts as wall. Actions are Up, Right, Down, Left; a move
    into a wall leaves the agent where it is.

    What can be known: each cell of the default grid can be told from each other by moves alone (six steps up are the top row),
    and from what the moves let one see. Rotations and reflections are no other explanations, since the moves have names.

    The hidden state is the number of the cell, row * n_columns + column from the top left. Walls have states too, in which no
    episode is ever.

    :param shape: number of rows and columns
    :param walls: cells that cannot be entered, as (row, column)
    :param goal: row and column of the goal
    :param sees: "number" of walls around (0 to 4), or their "pattern" (1 for up + 2 right + 4 down + 8 left, 0 to 15)
    :param slip: probability that another move happens, each of the others equally likely
    :param step_cost: subtracted from the reward of every step; the goal pays 1
    :param render_mode: None, "ansi" or "rgb_array"
    :raises ValueError: if an argument cannot be used
    """

    def __init__(
        self,
        shape: tuple[int, int] = (7, 7),
        walls: Iterable[tuple[int, int]] = (),
        goal: tuple[int, int] = (2, 4),
        sees: str = "number",
        slip: float = 0.0,
        step_cost: float = 0.02,
        render_mode: str | None = None,
    ) -> None:
        check_choice("sees", sees, "number", "pattern")
        GridWorld(shape, (0, 0))  # Checks the shape
        walls = {check_cell("walls", wall, shape) for wall in walls}
        free = [cell for cell in np.ndindex(*shape) if cell not in walls and cell != check_cell("goal", goal, shape)]
        if not free:
            raise ValueError(f"shape={shape!r}: walls and goal leave no free cell, give a larger grid or fewer walls")
        self.world = GridWorld(shape, free[0], walls, slip=slip, goal=goal, step_cost=step_cost)
        n_columns, n_states = shape[1], self.world.n_states
        observations, initial = np.zeros((5 if sees == "number" else 16, n_states)), np.zeros(n_states)
        for state in range(n_states):
            cell = divmod(state, n_columns)
            blocks = [self._is_wall((cell[0] + MOVES[name][0], cell[1] + MOVES[name][1])) for name in self.world.action_names]
            observations[sum(blocks) if sees == "number" else int(np.dot(blocks, (1, 2, 4, 8))), state] = 1.0
            initial[state] = not self._is_wall(cell) and cell != self.world.goal
        super().__init__(
            self.world.transition_matrix,
            observations,
            initial / initial.sum(),
            rewards=self.world.reward_matrix,
            terminated=self.world.termination_matrix,
            action_names=self.world.action_names,
            render_mode=render_mode,
        )

    def _is_wall(self, cell: tuple[int, int]) -> bool:
        """
        :param cell: row and column, also off the grid
        :return: whether it cannot be entered
        """
        inside = 0 <= cell[0] < self.world.shape[0] and 0 <= cell[1] < self.world.shape[1]
        return not inside or cell in self.world.walls

    def succeeded(self) -> bool:
        return self.agent_cell() == self.world.goal

    def glyphs(self) -> np.ndarray:
        return self.world.glyphs()

    def agent_cell(self) -> tuple[int, int]:
        return divmod(self.state, self.world.shape[1])


class CueChaining(HiddenTabularEnv):
    """
    pymdp's grid of 5 by 7 cells with a chain of cues. The first cue tells which of four cells has the second cue, and that one
    tells which of two cells has the reward; the other has a punishment. Entering either ends the episode (in pymdp it does
    not). Actions are Up, Down, Left, Right, Stay; a move off the grid leaves the agent where it is.

    The hidden state is ``(2 * place + reward) * n_cells + cell``: which of ``cue2`` is the place of the second cue, which of
    ``reward_cells`` has the reward (both drawn uniformly), and the agent's cell, row * n_columns + column. Four modalities:

    - the cell;
    - first cue: 0 none, 1 + place in its cell;
    - second cue: 0 none, 1 + reward in the place of the second cue;
    - outcome: 0 none, 1 reward, 2 punishment. The reward of a step is 0, 1 or -1 with it, less ``step_cost``.

    :param shape: number of rows and columns
    :param start: row and column in which every episode starts
    :param cue1: row and column of the first cue
    :param cue2: rows and columns where the second cue may be
    :param reward_cells: the two rows and columns of reward and punishment
    :param step_cost: subtracted from the reward of every step
    :param render_mode: None, "ansi" or "rgb_array"; cues are yellow (C), of the second one that which tells something,
        reward green (G), punishment red (X)
    :raises ValueError: if an argument cannot be used
    """

    def __init__(
        self,
        shape: tuple[int, int] = (5, 7),
        start: tuple[int, int] = (0, 0),
        cue1: tuple[int, int] = (2, 0),
        cue2: Sequence[tuple[int, int]] = ((0, 2), (1, 3), (3, 3), (4, 2)),
        reward_cells: Sequence[tuple[int, int]] = ((1, 5), (3, 5)),
        step_cost: float = 0.0,
        render_mode: str | None = None,
    ) -> None:
        check_number("step_cost", step_cost, -np.inf)
        grid = GridWorld(shape, start, stay=True)  # Checks shape and start
        self.shape, n_cells = grid.shape, grid.n_states
        self.cue1 = check_cell("cue1", cue1, self.shape)
        self.cue2 = [check_cell("cue2", cell, self.shape) for cell in cue2]
        self.reward_cells = [check_cell("reward_cells", cell, self.shape) for cell in reward_cells]
        if not self.cue2 or len(set(self.cue2)) < len(self.cue2):
            raise ValueError(f"cue2={cue2!r}: give one cell or more, all different")
        if len(set(self.reward_cells)) != 2 or len(self.reward_cells) != 2 or tuple(start) in self.reward_cells:
            raise ValueError(f"reward_cells={reward_cells!r}: give two different cells other than the start {start!r}")
        names = ("Up", "Down", "Left", "Right", "Stay")
        moves = grid.transition_matrix[:, :, [grid.action_names.index(name) for name in names]]
        self.n_contexts = 2 * len(self.cue2)
        n_states = self.n_contexts * n_cells
        location = np.tile(np.eye(n_cells), self.n_contexts)
        first, second, outcome = np.zeros((1 + len(self.cue2), n_states)), np.zeros((3, n_states)), np.zeros((3, n_states))
        ends, initial = np.zeros(n_states), np.zeros(n_states)
        for context in range(self.n_contexts):
            place, reward = divmod(context, 2)
            for index in range(n_cells):
                cell, state = divmod(index, self.shape[1]), context * n_cells + index
                first[1 + place if cell == self.cue1 else 0, state] = 1.0
                second[1 + reward if cell == self.cue2[place] else 0, state] = 1.0
                at_end = cell in self.reward_cells
                outcome[(1 if cell == self.reward_cells[reward] else 2) if at_end else 0, state] = 1.0
                ends[state] = at_end
            initial[context * n_cells + grid.start] = 1.0 / self.n_contexts
        # Nothing that the agent does changes where cue and reward are
        transitions = np.einsum("cd,psa->cpdsa", np.eye(self.n_contexts), moves).reshape(n_states, n_states, len(names))
        super().__init__(
            transitions,
            [location, first, second, outcome],
            initial,
            rewards=np.full(n_states, -float(step_cost)),
            terminated=ends,
            observation_rewards=[np.zeros(n_cells), np.zeros(len(first)), np.zeros(3), np.array([0.0, 1.0, -1.0])],
            action_names=names,
            render_mode=render_mode,
        )

    def _context(self) -> tuple[int, int]:
        """
        :return: which place has the second cue, which cell the reward
        """
        return divmod(self.state // (self.shape[0] * self.shape[1]), 2)

    def succeeded(self) -> bool:
        return self.agent_cell() == self.reward_cells[self._context()[1]]

    def glyphs(self) -> np.ndarray:
        place, reward = self._context()
        glyphs = np.full(self.shape, ".")
        glyphs[self.cue1] = glyphs[self.cue2[place]] = "C"
        glyphs[self.reward_cells[reward]], glyphs[self.reward_cells[1 - reward]] = "G", "X"
        return glyphs

    def agent_cell(self) -> tuple[int, int]:
        return divmod(self.state % (self.shape[0] * self.shape[1]), self.shape[1])
