"""T-mazes: a cue tells which of two arms is the right one."""

import numpy as np

from sb3_dai.checks import check_number
from sb3_dai.envs.hidden import HiddenTabularEnv

CENTRE, LEFT_ARM, RIGHT_ARM, CUE = range(4)
"""Locations of the T-maze."""


class TMaze(HiddenTabularEnv):
    """
    pymdp's T-maze. The agent starts in the centre and does not know which arm holds the reward. It may look at the cue first,
    or enter an arm at once, which ends the episode. Every location can be reached from every other in one step.

    The hidden state is ``4 * condition + location``: condition 0 has the reward in the left arm, 1 in the right one; locations
    are 0 centre, 1 left arm, 2 right arm, 3 cue. An action is the location to go to. Three modalities:

    - location (4);
    - outcome (3): 0 none, 1 reward, 2 punishment. The reward of a step is 0, 1 or -1 with it;
    - cue (3): 0 none, 1 "left", 2 "right".

    In pymdp an arm does not end the episode, and the cue is always right. ``is_success`` is whether the right arm was
    entered, whatever came of it.

    :param cue_reliability: probability that the cue names the right arm, drawn anew in each step spent there
    :param reward_reliability: probability of the reward in the right arm and of the punishment in the wrong one
    :param render_mode: None, "ansi" or "rgb_array"; the right arm is green (G), the wrong one red (X), the cue yellow (C)
    :raises ValueError: if an argument cannot be used
    """

    def __init__(self, cue_reliability: float = 1.0, reward_reliability: float = 0.98, render_mode: str | None = None) -> None:
        check_number("cue_reliability", cue_reliability, 0.0, 1.0)
        check_number("reward_reliability", reward_reliability, 0.0, 1.0)
        self.cue_reliability, self.reward_reliability = float(cue_reliability), float(reward_reliability)
        transitions, ends = np.zeros((8, 8, 4)), np.zeros(8)
        location, outcome, cue = np.zeros((4, 8)), np.zeros((3, 8)), np.zeros((3, 8))
        for state in range(8):
            condition, place = divmod(state, 4)
            for action in range(4):
                transitions[4 * condition + action, state, action] = 1.0
            location[place, state] = 1.0
            outcome[0, state] = cue[0, state] = 1.0
            if place == CUE:
                cue[:, state] = 0.0, 1.0 - cue_reliability, 1.0 - cue_reliability
                cue[1 + condition, state] = cue_reliability
            elif place != CENTRE:
                chance = reward_reliability if self._is_right(state) else 1.0 - reward_reliability
                outcome[:, state], ends[state] = (0.0, chance, 1.0 - chance), 1.0
        super().__init__(
            transitions,
            [location, outcome, cue],
            np.array([0.5, 0, 0, 0, 0.5, 0, 0, 0]),
            terminated=ends,
            observation_rewards=[np.zeros(4), np.array([0.0, 1.0, -1.0]), np.zeros(3)],
            action_names=("Centre", "Left arm", "Right arm", "Cue"),
            render_mode=render_mode,
        )

    @staticmethod
    def _is_right(state: int) -> bool:
        """
        :param state: number of a state
        :return: whether it is the arm with the reward
        """
        condition, place = divmod(state, 4)
        return place == (LEFT_ARM, RIGHT_ARM)[condition]

    def succeeded(self) -> bool:
        return self._is_right(self.state)

    def glyphs(self) -> np.ndarray:
        arms = "GX" if self.state < 4 else "XG"
        return np.array([[arms[0], ".", arms[1]], ["#", "C", "#"]])

    def agent_cell(self) -> tuple[int, int]:
        return ((0, 1), (0, 0), (0, 2), (1, 1))[self.state % 4]


class PassiveTMaze(HiddenTabularEnv):
    """
    A test of memory alone: the cue is seen in the first step only, then comes a corridor in which every action goes on, then
    the junction, where the arm that the cue named pays 1 and the other nothing. Both end the episode, after ``length + 1``
    steps. (Ni et al. 2023, "When do transformers shine in RL? Decoupling memory from credit assignment", arXiv:2307.03864.
    There the agent must also walk, with four actions and a penalty for standing still.)

    Observations: 0 and 1 the cue for left and right, 2 corridor, 3 junction, 4 an arm. Actions: 0 Left, 1 Right. The hidden
    state is ``(length + 3) * side + place``: side 0 is left; places are 0 for the cue, up to ``length`` for the junction, then
    the left and the right arm.

    :param length: number of steps from the cue to the junction
    :param render_mode: None, "ansi" or "rgb_array"; the left arm is drawn above the junction
    :raises ValueError: if an argument cannot be used
    """

    def __init__(self, length: int = 10, render_mode: str | None = None) -> None:
        check_number("length", length, 1, whole=True)
        self.length = int(length)
        self._n_places = n_places = self.length + 3
        transitions, observations = np.zeros((2 * n_places, 2 * n_places, 2)), np.zeros((5, 2 * n_places))
        rewards, ends, initial = np.zeros(2 * n_places), np.zeros(2 * n_places), np.zeros(2 * n_places)
        for side in range(2):
            first = side * n_places
            junction = first + self.length
            arms = np.array([junction + 1, junction + 2])
            for state in range(first, junction):
                transitions[state + 1, state] = 1.0
                observations[side if state == first else 2, state] = 1.0
            observations[3, junction] = 1.0
            transitions[arms, junction, (0, 1)] = 1.0
            transitions[arms, arms] = 1.0
            observations[4, arms] = 1.0
            ends[arms], rewards[arms[side]], initial[first] = 1.0, 1.0, 0.5
        super().__init__(
            transitions,
            observations,
            initial,
            rewards=rewards,
            terminated=ends,
            action_names=("Left", "Right"),
            render_mode=render_mode,
        )

    def succeeded(self) -> bool:
        side, place = divmod(self.state, self._n_places)
        return place == self.length + 1 + side

    def glyphs(self) -> np.ndarray:
        glyphs = np.full((3, self.length + 1), "#")
        glyphs[1], glyphs[1, 0] = ".", "C"
        glyphs[0, -1], glyphs[2, -1] = "GX" if self.state < self._n_places else "XG"
        return glyphs

    def agent_cell(self) -> tuple[int, int]:
        place = self.state % self._n_places
        return (1, place) if place <= self.length else (2 * (place - self.length - 1), self.length)
