"""Worlds with finitely many states: one function gives the steps, the matrices of dynamic programming follow from it."""

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from sb3_dai.envs.drawing import DrawnEnv


class Outcome(NamedTuple):
    """One of the things that an action can do."""

    probability: float
    next_state: int
    reward: float
    terminated: bool


class TabularEnv(DrawnEnv):
    """
    A world whose observation is the number of its state. A subclass says what each action does in ``outcomes`` and how
    the world looks in ``glyphs`` and ``agent_cell``.

    :param n_states: number of states
    :param action_names: what each action does, in order
    :param start: state in which every episode starts
    :param render_mode: None, "ansi" (text) or "rgb_array" (uint8 image, shape (height, width, 3))
    :raises ValueError: if there is no such render mode
    """

    def __init__(self, n_states: int, action_names: tuple[str, ...], start: int, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.observation_space: spaces.Space[Any] = spaces.Discrete(n_states)
        self.action_space = spaces.Discrete(len(action_names))
        self.n_states = n_states
        self.n_actions = len(action_names)
        self.action_names = action_names
        self.start = start
        self.state = start
        self.last_action: int | None = None

    def outcomes(self, state: int, action: int) -> list[Outcome]:
        """
        :param state: the state to act in
        :param action: the action taken
        :return: what can happen; the probabilities sum to one
        """
        raise NotImplementedError

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = self.start
        self.last_action = None
        return self.state, {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
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
    def initial_distribution(self) -> np.ndarray:
        """
        :return: the true D: probability that an episode starts in each state, shape (n_states,)
        """
        return np.eye(self.n_states)[self.start]

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
