"""The expected return of an agent in a known world whose state is hidden, without sampling error."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

IMPOSSIBLE = 1e-12
"""Courses of events that are less probable are left out."""
DECIMALS = 6
"""An agent whose memories agree so far does the same."""

Act = Callable[[np.ndarray, Any], tuple[np.ndarray, Any]]
"""From observations and what is remembered of each, None at the start, to actions and what is remembered then."""


@dataclass(frozen=True)
class Expected:
    """What comes of acting in a world, on average."""

    total: float
    """Sum of rewards of an episode."""
    length: float
    """Its number of steps."""
    success: float
    """Probability that it ends where the world says so, after the first action that was asked for."""


def expected_outcome(act: Act, world: Any, horizon: int, first_action: int | None = None) -> Expected:
    """
    Follow all courses of events at once. Those after which the agent remembers and sees the same are one: the agent does the
    same in all, and only the probability of each hidden state matters.

    :param act: a deterministic agent
    :param world: a :class:`sb3_dai.envs.HiddenTabularEnv`
    :param horizon: time limit of an episode
    :param first_action: that a success must begin with, None for any
    :return: what comes of it
    """
    matrices = world.observation_matrix
    matrices = [matrices] if isinstance(matrices, np.ndarray) else matrices
    outcomes = np.stack(np.meshgrid(*(np.arange(len(m)) for m in matrices), indexing="ij"), -1).reshape(-1, len(matrices))
    likelihood = np.prod([m[outcomes[:, i]] for i, m in enumerate(matrices)], axis=0)
    seen = np.array([outcome[0] if len(matrices) == 1 else outcome for outcome in outcomes])
    transition, ends = world.transition_matrix, world.termination_matrix
    reward = (transition * world.reward_matrix).sum(axis=0)
    succeeds = np.zeros(world.n_states)
    for state in range(world.n_states):
        world.state = state
        succeeds[state] = bool(world.succeeded())
    total = length = success = 0.0
    states, memory = world.initial_distribution[None], None
    counts = np.zeros(1, dtype=bool)
    for t in range(horizon):
        joint = states[:, None] * likelihood
        rows, numbers = np.nonzero(joint.sum(axis=2) > IMPOSSIBLE)
        if len(rows) == 0:
            break  # All episodes have ended
        parts = [] if memory is None else [part[rows].reshape(len(rows), -1) for part in memory]
        keys = np.concatenate([numbers[:, None], counts[rows, None], *(np.round(part, DECIMALS) for part in parts)], axis=1)
        _, first, same = np.unique(keys + 0.0, axis=0, return_index=True, return_inverse=True)
        states = np.zeros((len(first), world.n_states))
        np.add.at(states, same.ravel(), joint[rows, numbers])
        memory = None if memory is None else tuple(part[rows[first]] for part in memory)
        counts = counts[rows[first]]
        actions, memory = act(seen[numbers[first]], memory)
        actions = actions.astype(int)
        if t == 0:
            counts = np.ones(len(actions), dtype=bool) if first_action is None else actions == first_action
        total += float((states * reward.T[actions]).sum())
        length += float(states.sum())
        after = np.einsum("psn,ns->np", transition[:, :, actions], states)
        over = np.einsum("psn,ns->np", (transition * ends)[:, :, actions], states)
        success += float((over[counts] * succeeds).sum())
        states = after - over
        if t == horizon - 1:
            success += float((states[counts] * succeeds).sum())
    return Expected(total, length, success)
