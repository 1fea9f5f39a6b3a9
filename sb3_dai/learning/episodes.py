"""Whole episodes out of a replay buffer: what a model of hidden states learns from by smoothing."""

from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_dai.world_model.tables import Episodes


class LastStep(NamedTuple):
    """The step that a replay buffer was given last, of each environment."""

    outcomes: np.ndarray
    """Number of each modality's outcome before it, shape (n_envs, n_modalities)."""
    next_outcomes: np.ndarray
    """After it, same shape."""
    ended: np.ndarray
    """1 where it truly ended the episode, shape (n_envs,)."""


def last_step(buffer: ReplayBuffer) -> LastStep:
    """
    :param buffer: a replay buffer of numbered observations
    :return: its last step
    """
    row = buffer.pos - 1
    ended = buffer.dones[row] * (1.0 - buffer.timeouts[row])
    return LastStep(_outcomes(buffer, row, buffer.observations), _outcomes(buffer, row, buffer.next_observations), ended)


def _outcomes(buffer: ReplayBuffer, rows: Any, observations: Any) -> np.ndarray:
    """
    :param buffer: a replay buffer
    :param rows: some of its rows
    :param observations: all of its observations
    :return: number of each modality's outcome, shape (..., n_envs, n_modalities)
    """
    parts = list(observations.values()) if isinstance(observations, dict) else [observations]
    chosen = [part[rows].astype(np.int64) for part in parts]
    leading = (*np.shape(buffer.dones[rows])[:-1], buffer.n_envs)
    return np.concatenate([part.reshape(*leading, -1) for part in chosen], axis=-1)


def read_episodes(buffer: ReplayBuffer, log_preference: np.ndarray) -> tuple[Episodes, th.Tensor]:
    """
    All episodes of a buffer that has not been overwritten, those that are still going on included.

    :param buffer: a replay buffer of numbered observations and actions
    :param log_preference: log p~ of the outcome of each transition, shape (n_transitions, n_envs)
    :return: the episodes of all environments, and of each of their steps the log-preference and whether it truly ended the
        episode, shape (n_episodes, time - 1, 2)
    """
    count = buffer.size()
    outcomes, following = (_outcomes(buffer, slice(count), obs) for obs in (buffer.observations, buffer.next_observations))
    actions = buffer.actions[:count].reshape(count, buffer.n_envs).astype(np.int64)
    ends = buffer.dones[:count] > 0
    ends[-1] = True
    spans = []
    for env in range(buffer.n_envs):
        last = np.flatnonzero(ends[:, env])
        spans += [(env, start, end) for start, end in zip(np.r_[0, last[:-1] + 1], last, strict=True)]
    longest = max(end - start + 1 for _, start, end in spans)
    seen = np.zeros((len(spans), longest + 1, outcomes.shape[-1]), dtype=np.int64)
    done = np.zeros((len(spans), longest), dtype=np.int64)
    mask = np.zeros((len(spans), longest + 1), dtype=bool)
    paid = np.zeros((len(spans), longest, 2), dtype=np.float32)
    ended = buffer.dones[:count] * (1.0 - buffer.timeouts[:count])
    for row, (env, start, end) in enumerate(spans):
        n = end - start + 1
        seen[row, :n], seen[row, n] = outcomes[start : end + 1, env], following[end, env]
        done[row, :n] = actions[start : end + 1, env]
        mask[row, : n + 1] = True
        paid[row, :n] = np.stack([log_preference[start : end + 1, env], ended[start : end + 1, env]], axis=1)
    return Episodes(*(th.as_tensor(part) for part in (seen, done, mask))), th.as_tensor(paid)
