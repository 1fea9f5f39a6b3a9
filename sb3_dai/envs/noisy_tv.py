"""A world with a noisy television, the trap of agents that seek surprise."""

from typing import Any

import numpy as np

from sb3_dai.checks import check_number
from sb3_dai.envs.tabular import Outcome, TabularEnv


class NoisyTV(TabularEnv):
    """
    A corridor of rooms, one with a television in it. Actions are Left, Right and Press. In the television's room, Press
    switches it to a channel drawn uniformly from all; everywhere else Press does nothing, and everything else is
    deterministic. Walking out switches the television off. Entering the last room pays 1 and ends the episode.

    An agent that seeks prediction errors, or noise, stays and presses; one that seeks what it can still learn walks on
    (Burda et al. 2019, "Large-scale study of curiosity-driven learning", arXiv:1808.04355, whose agents could switch a
    television's channels in a maze; the corridor is our own).

    Observations: 0 to n_rooms - 1 are the rooms, from left to right and with the television off; n_rooms + k is the
    television's room with channel k on.

    :param n_rooms: number of rooms
    :param tv_room: the television's room, counted from 0 on the left
    :param n_channels: number of channels
    :param start_room: the room in which every episode starts, with the television off
    :param goal: whether the last room pays and ends the episode; False for a world without reward
    :param render_mode: None, "ansi" or "rgb_array"; a switched-on television shows the last digit of its channel
    :raises ValueError: if an argument cannot be used
    """

    def __init__(
        self,
        n_rooms: int = 10,
        tv_room: int = 2,
        n_channels: int = 50,
        start_room: int = 0,
        goal: bool = True,
        render_mode: str | None = None,
    ) -> None:
        check_number("n_rooms", n_rooms, 2, whole=True)
        check_number("n_channels", n_channels, 2, whole=True)
        for name, room in (("tv_room", tv_room), ("start_room", start_room)):
            check_number(name, room, 0, n_rooms - (2 if goal else 1), whole=True)
        self.n_rooms, self.tv_room, self.n_channels, self.goal = int(n_rooms), int(tv_room), int(n_channels), goal
        super().__init__(self.n_rooms + self.n_channels, ("Left", "Right", "Press"), int(start_room), render_mode)

    def room(self, state: int) -> int:
        """
        :param state: number of a state
        :return: number of its room
        """
        return self.tv_room if state >= self.n_rooms else state

    def in_front_of_tv(self, states: Any) -> np.ndarray:
        """
        :param states: a state, or an array of them
        :return: whether each is in the television's room, switched on or off: bool, same shape
        """
        return (np.asarray(states) == self.tv_room) | self.tv_is_on(states)

    def tv_is_on(self, states: Any) -> np.ndarray:
        """
        :param states: a state, or an array of them
        :return: whether the television is switched on in each: bool, same shape
        """
        return np.asarray(states) >= self.n_rooms

    def outcomes(self, state: int, action: int) -> list[Outcome]:
        room = self.room(state)
        if action == 2 and room == self.tv_room:
            return [Outcome(1.0 / self.n_channels, self.n_rooms + k, 0.0, False) for k in range(self.n_channels)]
        # A move into the end of the corridor stays; in front of a switched-on television that changes nothing
        there = min(max(room + (-1, 1, 0)[action], 0), self.n_rooms - 1)
        at_goal = self.goal and there == self.n_rooms - 1
        return [Outcome(1.0, state if there == room else there, float(at_goal), at_goal)]

    def glyphs(self) -> np.ndarray:
        glyphs = np.full((1, self.n_rooms), ".")
        if self.goal:
            glyphs[0, -1] = "G"
        glyphs[0, self.tv_room] = str((self.state - self.n_rooms) % 10) if self.tv_is_on(self.state) else "T"
        return glyphs

    def agent_cell(self) -> tuple[int, int]:
        return 0, self.room(self.state)
