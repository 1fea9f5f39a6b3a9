"""Batches of transitions that keep one-step pairs for the world model beside n-step returns for the values."""

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch as th
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

Samples = ReplayBufferSamples | DictReplayBufferSamples

MAX_ROWS = 4096
"""Rows that are read from the buffer at once: enough to save most of the overhead, few enough for images."""

UNORDERED = (ReplayBuffer, DictReplayBuffer, NStepReplayBuffer)
"""Classes whose rows come in no order. A ``HerReplayBuffer`` puts those of true goals first."""


class TransitionBatch(NamedTuple):
    """One-step pairs (s_t, a_t, s_{t+1}) and, from the same indices, n-step returns."""

    one_step: Samples
    """True one-step transitions: what the transition model may learn from."""
    n_step: Samples
    """Returns, discounts and bootstrap states of the values; the same object as ``one_step`` when n is 1."""
    has_successor: th.Tensor | float
    """(batch, 1), 0 where ``next_observations`` is the reset of the next episode; 1 if no such row can exist."""


class Batch(NamedTuple):
    """What a gradient step learns from: transitions, and what the preference and the habit prior say of them."""

    one_step: Samples
    n_step: Samples
    has_successor: th.Tensor | float
    log_preference: th.Tensor
    """log p~ of the outcome of the n-step transitions, shape (batch, 1)."""
    log_habit_prior: th.Tensor | float = 0.0
    """log E(a|s), shape (1, n_actions) or (batch, 1, n_actions), or 0."""


def sample_transitions(
    buffer: ReplayBuffer, batch_size: int, n_batches: int = 1, env: VecNormalize | None = None
) -> Iterator[TransitionBatch]:
    """
    Sample several batches, reading many of them from the buffer at once.

    :param buffer: any replay buffer of Stable-Baselines3
    :param batch_size: number of transitions in a batch
    :param n_batches: number of batches
    :param env: the ``VecNormalize`` wrapper of the training environment, if any
    :return: the batches, one after the other
    :raises TypeError: if the buffer hides its one-step pairs
    """
    at_once = max(1, min(n_batches, MAX_ROWS // batch_size))
    ordered = type(buffer) not in UNORDERED
    for first in range(0, n_batches, at_once):
        n_read = min(at_once, n_batches - first)
        rows = _read(buffer, n_read * batch_size, env)
        for i in range(n_read):
            # Of rows in an order each batch takes one of so many, and so its part of every kind
            index = slice(i, None, n_read) if ordered else slice(i * batch_size, (i + 1) * batch_size)
            one_step = _rows(rows.one_step, index)
            n_step = one_step if rows.n_step is rows.one_step else _rows(rows.n_step, index)
            mask = rows.has_successor
            yield TransitionBatch(one_step, n_step, mask[index] if isinstance(mask, th.Tensor) else mask)


def end_returns(buffer: ReplayBuffer | None) -> None:
    """
    Let no n-step return, and no goal that is reached later, be of another episode than the one that the environment is in,
    which is about to be reset.

    :param buffer: a replay buffer; one that keeps no order of steps is left alone
    """
    if isinstance(buffer, HerReplayBuffer):
        with warnings.catch_warnings():  # That the last episode will be truncated, which is what is wanted
            warnings.simplefilter("ignore")
            buffer.truncate_last_trajectory()
    if isinstance(buffer, NStepReplayBuffer) and buffer.size() > 0:
        last = buffer.pos - 1
        buffer.timeouts[last] = np.maximum(buffer.timeouts[last], 1.0 - buffer.dones[last])


def _rows(samples: Samples, index: slice) -> Samples:
    """Some rows of a batch, dictionaries of observations included."""

    def of(part: th.Tensor | dict[str, th.Tensor] | None) -> th.Tensor | dict[str, th.Tensor] | None:
        if isinstance(part, dict):
            return {key: rows[index].contiguous() for key, rows in part.items()}
        return None if part is None else part[index].contiguous()

    return type(samples)(*map(of, samples))  # type: ignore[arg-type]


def _read(buffer: ReplayBuffer, n_rows: int, env: VecNormalize | None) -> TransitionBatch:
    """
    Sample a replay buffer once. An ``NStepReplayBuffer`` returns s_{t+n} as the next observation, from which a
    transition model would learn n-step jumps, so its one-step rows are read again at the same indices.
    """
    if isinstance(buffer, NStepReplayBuffer):
        indices = np.random.randint(0, buffer.size(), size=n_rows)
        # Both calls draw the index of the environment first: the same state of the generator, the same rows
        state = np.random.get_state()
        n_step = buffer._get_samples(indices, env=env)
        np.random.set_state(state)
        return TransitionBatch(ReplayBuffer._get_samples(buffer, indices, env=env), n_step, 1.0)

    samples = buffer.sample(n_rows, env=env)
    if samples.discounts is not None:
        raise TypeError(
            f"replay_buffer_class={type(buffer).__name__} returns n-step samples without being an NStepReplayBuffer: "
            "the transition model needs the one-step pairs. Derive the class from NStepReplayBuffer, or use n_steps."
        )
    # The memory-efficient buffer holds the reset observation after the end of an episode, timeouts included
    has_successor = 1.0 - samples.dones if getattr(buffer, "optimize_memory_usage", False) else 1.0
    return TransitionBatch(samples, samples, has_successor)
