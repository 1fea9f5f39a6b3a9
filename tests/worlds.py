"""Small worlds: some with known solutions, others to watch what is done in them."""

import copy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

N_STATES, N_ACTIONS = 5, 2

VECTOR = spaces.Box(-1.0, 1.0, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
DISCRETE, TWO = spaces.Discrete(3), spaces.Discrete(2)
BOX = spaces.Box(np.float32([-2.0, 0.0]), np.float32([1.0, 5.0]))


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


class SampledEnv(gym.Env):
    """
    Observations and rewards at random, so that a seed has much to reproduce. Actions must be of the space. Episodes are
    cut off after ten steps.
    """

    def __init__(self, observation_space=VECTOR, action_space=DISCRETE):
        # Copies: their generators are to be each environment's own
        self.observation_space, self.action_space = copy.deepcopy((observation_space, action_space))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        if seed is not None:
            self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is not of {self.action_space}"
        self.t += 1
        return self.observation_space.sample(), self.np_random.normal(), False, self.t == 10, {}


class CounterEnv(gym.Env):
    """Observes the time since the reset, times ``scale``, which is the reward as well; every other episode is cut off."""

    observation_space = spaces.Box(0.0, np.inf, (1,), np.float32)

    def __init__(self, length=10, scale=1.0, action_space=TWO):
        self.action_space = copy.deepcopy(action_space)
        self.length, self.scale, self.episode = length, scale, 0

    def observe(self):
        return np.full(1, self.t * self.scale, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.episode = 0, self.episode + 1
        return self.observe(), {}

    def step(self, action):
        self.t += 1
        done, cut_off = self.t == self.length, self.episode % 2 == 0
        return self.observe(), self.t * self.scale, done and not cut_off, done and cut_off, {}


class Slope(gym.Env):
    """One step, whose reward is the action in the middle of two; the other has no effect."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), float(action[0]), True, False, {}


class NoisyChoice(gym.Env):
    """Two states, no reward: action 0 leads to a known one, action 1 to a random observation."""

    observation_space = spaces.Box(-5, 5, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        obs = self.np_random.uniform(-5, 5, 2) if action == 1 else np.zeros(2)
        return obs.astype(np.float32), 0.0, True, False, {}


class NoisyWalk(gym.Env):
    """Six states: 0 and 1 follow each other, 2 to 4 are noise that action 1 leads to from 0, and 5 is never seen."""

    observation_space, action_space = spaces.Discrete(6), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state, self.t = 0, 0
        return 0, {}

    def step(self, action):
        self.t += 1
        self.state = int(self.np_random.integers(2, 5)) if (self.state, action) == (0, 1) else int(self.state == 0)
        return self.state, 0.0, False, self.t == 10, {}


class ScriptedEnv(gym.Env):
    """Observes noise and rewards 1, but for the numbered steps of a script; episodes have ten steps. Step 0 is a reset."""

    action_space = TWO

    def __init__(self, observations=None, rewards=None, as_dict=False, cut_off=False):
        self.observations, self.rewards, self.cut_off = observations or {}, rewards or {}, cut_off
        box = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.as_dict = as_dict
        self.observation_space = spaces.Dict(a=VECTOR, b=box) if as_dict else box
        self.count = 0

    def observe(self, step):
        noise = self.np_random.normal(size=3).astype(np.float32)
        if step in self.observations:
            noise[1] = self.observations[step]
        return {"a": np.zeros(3, np.float32), "b": noise} if self.as_dict else noise

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observe(f"reset after {self.count}"), {}

    def step(self, action):
        self.count += 1
        done = self.count % 10 == 0
        reward = self.rewards.get(self.count, 1.0)
        return self.observe(self.count), reward, done and not self.cut_off, done and self.cut_off, {}


class SpaceEnv(gym.Env):
    """Has nothing but its spaces."""

    def __init__(self, observation_space=VECTOR, action_space=TWO):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        raise AssertionError("no model should have come this far")

    step = reset
