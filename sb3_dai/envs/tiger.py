"""The tiger problem."""

import numpy as np

from sb3_dai.checks import check_number
from sb3_dai.envs.hidden import HiddenTabularEnv


class Tiger(HiddenTabularEnv):
    """
    Behind one of two doors is a tiger. Opening the other door pays 10, opening the tiger's -100. Listening costs 1 and is
    right with probability 0.85. Once a door is opened the tiger is placed anew (Kaelbling et al. 1998, "Planning and acting in
    partially observable stochastic domains", section 5.1).

    Actions: 0 Listen, 1 Open left, 2 Open right. Observations: 0 nothing (at the start, and after a door is opened), 1 and 2 a
    growl from the left and the right. (In the paper one of the growls is drawn by chance where there is nothing to hear.
    Beliefs and optimum are the same.) The hidden state is ``side + 2 * listened``: side 0 has the tiger on the left.

    :param accuracy: probability that the growl comes from the tiger's side
    :param ends: whether opening a door ends the episode, with ``is_success`` in the info, instead of placing the tiger anew
    :param render_mode: None, "ansi" or "rgb_array"; the tiger's door is red (X), the other green (G), the agent is between
        them or in the door that it has opened. The picture shows where the tiger is after the step
    :raises ValueError: if an argument cannot be used
    """

    def __init__(self, accuracy: float = 0.85, ends: bool = False, render_mode: str | None = None) -> None:
        check_number("accuracy", accuracy, 0.0, 1.0)
        self.accuracy, self.ends = float(accuracy), bool(ends)
        transitions, rewards, ended = np.zeros((4, 4, 3)), np.zeros((4, 3)), np.zeros((4, 4, 3))
        for state in range(4):
            side = state % 2
            transitions[2 + side, state, 0] = 1.0
            # Where the episode ends, the tiger stays for the picture
            transitions[:2, state, 1:] = np.eye(2)[side][:, None] if ends else 0.5
            rewards[state] = -1.0, *np.where(np.arange(2) == side, -100.0, 10.0)
        ended[:2, :, 1:] = float(ends)
        heard = np.array([[accuracy, 1.0 - accuracy], [1.0 - accuracy, accuracy]])
        observations = np.zeros((3, 4))
        observations[0, :2] = 1.0
        observations[1:, 2:] = heard
        super().__init__(
            transitions,
            observations,
            np.array([0.5, 0.5, 0.0, 0.0]),
            rewards=rewards,
            terminated=ended,
            action_names=("Listen", "Open left", "Open right"),
            render_mode=render_mode,
        )

    def succeeded(self) -> bool | None:
        if not self.ends:
            return None
        return self.last_action in (1, 2) and self.last_action != 1 + self.state % 2

    def glyphs(self) -> np.ndarray:
        return np.array([["X", ".", "G"] if self.state % 2 == 0 else ["G", ".", "X"]])

    def agent_cell(self) -> tuple[int, int]:
        return 0, {1: 0, 2: 2}.get(self.last_action or 0, 1)
