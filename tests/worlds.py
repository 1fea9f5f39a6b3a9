"""Small worlds with known solutions."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

N_STATES, N_ACTIONS = 5, 2


class Chain(gym.Env):
    """
    Action 1 moves right, action 0 left (or stays at the left end). Each step costs 0.1; stepping off the right end pays
    1 and ends the episode.

    :param max_steps: the episode is cut (not ended) after so many steps
    """

    def __init__(self, max_steps: int = 20) -> None:
        self.observation_space = spaces.Discrete(N_STATES)
        self.action_space = spaces.Discrete(N_ACTIONS)
        self.max_steps = max_steps

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.state, self.n = 0, 0
        return self.state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.n += 1
        next_state, reward, terminated = transition(self.state, int(action))
        self.state = next_state
        return next_state, reward, terminated, not terminated and self.n >= self.max_steps, {}


def transition(state: int, action: int) -> tuple[int, float, bool]:
    """
    :return: next state, reward, terminated
    """
    if action == 1 and state == N_STATES - 1:
        return state, 1.0, True
    return max(state - 1, 0) if action == 0 else state + 1, -0.1, False


def solve(gamma: float, temperature: float, n_sweeps: int = 500) -> np.ndarray:
    """
    Dynamic programming with the policy softmax(-G / temperature).

    :param gamma: discount factor
    :param temperature: one over the precision
    :return: the soft expected free energy G, shape (N_STATES, N_ACTIONS)
    """
    efe = np.zeros((N_STATES, N_ACTIONS))
    for _ in range(n_sweeps):
        best = efe.min(axis=1, keepdims=True)
        value = (best - temperature * np.log(np.exp((best - efe) / temperature).sum(axis=1, keepdims=True)))[:, 0]
        for state in range(N_STATES):
            for action in range(N_ACTIONS):
                next_state, reward, terminated = transition(state, action)
                efe[state, action] = -reward + gamma * (not terminated) * value[next_state]
    return efe


class Grid(gym.Env):
    """
    A square of 4 by 4 cells, from one corner to the opposite one in six moves at best. Each move costs 0.1, the goal
    pays 1 and ends the episode: a return of 0.5 at best.
    """

    observation_space = spaces.Discrete(16)
    action_space = spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.cell, self.n = np.zeros(2, dtype=int), 0
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.n += 1
        self.cell = np.clip(self.cell + [(0, 1), (0, -1), (1, 0), (-1, 0)][int(action)], 0, 3)
        state = int(4 * self.cell[0] + self.cell[1])
        return state, 1.0 if state == 15 else -0.1, state == 15, self.n >= 50, {}
