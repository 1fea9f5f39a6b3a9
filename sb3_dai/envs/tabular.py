"""Worlds with finitely many states: one function gives the steps, the matrices of dynamic programming follow from it."""

from functools import cached_property
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_dai.envs.drawing import draw_image, draw_text


class Outcome(NamedTuple):
    """One of the things that an action can do."""

    probability: float
    next_state: int
    reward: float
    terminated: bool


class TabularEnv(gym.Env):
    """
    A world whose observation is the number of its state. A subclass says what each action does in ``outcomes`` and how
    the world looks in ``glyphs`` and ``agent_cell``.

    :param n_states: number of states
    :param action_names: what each action does, in order
    :param start: state in which every episode starts
    :param render_mode: None, "ansi" (text) or "rgb_array" (uint8 image, shape (height, width, 3))
    :raises ValueError: if there is no such render mode
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(self, n_states: int, action_names: tuple[str, ...], start: int, render_mode: str | None = None) -> None:
        modes = self.metadata["render_modes"]
        if render_mode is not None and render_mode not in modes:
            raise ValueError(f"render_mode={render_mode!r}: give None or one of {', '.join(modes)}")
        self.observation_space = spaces.Discrete(n_states)
        self.action_space = spaces.Discrete(len(action_names))
        self.n_states = n_states
        self.n_actions = len(action_names)
        self.action_names = action_names
        self.start = start
        self.state = start
        self.last_action: int | None = None
        self.render_mode = render_mode

    def outcomes(self, state: int, action: int) -> list[Outcome]:
        """
        :param state: the state to act in
        :param action: the action taken
        :return: what can happen; the probabilities sum to one
        """
        raise NotImplementedError

    def glyphs(self) -> np.ndarray:
        """
        :return: the world at present, one character of ``drawing.PALETTE`` a cell, shape (n_rows, n_columns)
        """
        raise NotImplementedError

    def agent_cell(self) -> tuple[int, int] | None:
        """
        :return: row and column of the agent's cell, None if there is none
        """
        raise NotImplementedError

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = self.start
        self.last_action = None
        return self.state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """
        :param action: number of the action
        :return: next state, reward, terminated, truncated (never: the registered time limit does that), info (empty)
        :raises ValueError: if there is no such action
        """
        if not self.action_space.contains(action):
            raise ValueError(f"action={action!r}: give a whole number from 0 to {self.n_actions - 1}")
        outcomes = self.outcomes(self.state, int(action))
        drawn = 0
        if len(outcomes) > 1:
            drawn = self.np_random.choice(len(outcomes), p=[outcome.probability for outcome in outcomes])
        _, self.state, reward, terminated = outcomes[drawn]
        self.last_action = int(action)
        return self.state, reward, terminated, False, {}

    @cached_property
    def _matrices(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        :return: ``transition_matrix``, ``reward_matrix``, ``termination_matrix``
        """
        shape = (self.n_states, self.n_states, self.n_actions)
        transitions, rewards, terminated = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        for state in range(self.n_states):
            for action in range(self.n_actions):
                for outcome in self.outcomes(state, action):
                    index = outcome.next_state, state, action
                    transitions[index] += outcome.probability
                    rewards[index] += outcome.probability * outcome.reward
                    terminated[index] += outcome.probability * outcome.terminated
        possible = transitions > 0.0
        np.divide(rewards, transitions, out=rewards, where=possible)
        np.divide(terminated, transitions, out=terminated, where=possible)
        for matrix in (transitions, rewards, terminated):
            matrix.setflags(write=False)
        return transitions, rewards, terminated

    @property
    def transition_matrix(self) -> np.ndarray:
        """
        :return: the true B: probability of the next state, shape (n_states, n_states, n_actions) as B[s', s, a]. States that
            no episode acts in, such as walls and goals, have columns too. Read-only
        """
        return self._matrices[0]

    @property
    def reward_matrix(self) -> np.ndarray:
        """
        :return: expected reward of each transition, zero for impossible ones, shape (n_states, n_states, n_actions) as
            R[s', s, a]. Read-only
        """
        return self._matrices[1]

    @property
    def termination_matrix(self) -> np.ndarray:
        """
        :return: probability that each transition ends the episode, zero for impossible ones, shape
            (n_states, n_states, n_actions) as T[s', s, a]. Read-only
        """
        return self._matrices[2]

    def render(self) -> Any:
        """
        :return: text for "ansi", uint8 image of shape (height, width, 3) for "rgb_array", None without a render mode
        """
        if self.render_mode is None:
            gym.logger.warn("render() draws nothing without a render mode: pass render_mode='ansi' or 'rgb_array' to make()")
            return None
        draw = draw_text if self.render_mode == "ansi" else draw_image
        return draw(self.glyphs(), self.agent_cell())
