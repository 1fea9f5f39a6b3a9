"""Batches of transitions that keep one-step pairs for the world model beside n-step returns for the values."""

import warnings
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

Samples = ReplayBufferSamples | DictReplayBufferSamples

MAX_ROWS = 4096
"""Rows that are read from the buffer at once: enough to save most of the overhead, few enough for images."""

KNOWN = (ReplayBuffer, DictReplayBuffer, NStepReplayBuffer, HerReplayBuffer)
"""Classes whose batches may be read many at once. One of the user's may weigh, order or count the rows of each batch."""

NEEDED = ("observations", "actions", "next_observations", "dones", "rewards")
"""Fields that a sample must have. ``discounts`` may be left out, and others are left alone."""


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
    windows: Any = None
    """Of a recurrent policy, the :class:`sb3_dai.learning.sequences.Windows` that the transitions lie in."""


def sample_transitions(
    buffer: ReplayBuffer, batch_size: int, n_batches: int = 1, env: VecNormalize | None = None
) -> Iterator[TransitionBatch]:
    """
    Sample several batches. Buffers of Stable-Baselines3 are read many batches at once; one of the user's is asked for
    each batch when it is due, as DQN does, and decides on its rows and their number.

    :param buffer: any replay buffer that DQN can learn from
    :param batch_size: number of transitions in a batch
    :param n_batches: number of batches
    :param env: the ``VecNormalize`` wrapper of the training environment, if any
    :return: the batches, one after the other
    :raises TypeError: if the samples lack a field, or hide the one-step pairs
    :raises ValueError: if the buffer returns no rows, fields of different lengths or numbers that are not finite
    """
    is_known = type(buffer) in KNOWN and vars(buffer).keys().isdisjoint(("sample", "_get_samples"))
    at_once = max(1, min(n_batches, MAX_ROWS // batch_size)) if is_known else 1
    for first in range(0, n_batches, at_once):
        n_read = min(at_once, n_batches - first)
        rows = _read(buffer, n_read * batch_size, env, is_known)
        if n_read == 1:
            yield rows
            continue
        for i in range(n_read):
            # HerReplayBuffer puts the rows of true goals first: each batch takes one of so many, and so its part of both
            ordered = isinstance(buffer, HerReplayBuffer)
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


def _read(buffer: ReplayBuffer, n_rows: int, env: VecNormalize | None, is_known: bool) -> TransitionBatch:
    """
    Sample a replay buffer once.

    :param buffer: a replay buffer
    :param n_rows: number of transitions to ask for
    :param env: the ``VecNormalize`` wrapper of the training environment, if any
    :param is_known: whether the buffer is one of Stable-Baselines3, whose samples need no checks
    :return: what it returned
    """
    if isinstance(buffer, NStepReplayBuffer):
        watched, actions = _watched(buffer)
        n_step: Samples = watched.sample(n_rows, env=env)
        if not is_known:
            n_step = _checked(buffer, n_step, n_rows)
        return TransitionBatch(_one_step(buffer, n_step, actions, env, is_known), n_step, 1.0)

    samples: Samples = buffer.sample(n_rows, env=env)
    if not is_known:
        samples = _checked(buffer, samples, n_rows)
    # Who says how long the returns are knows better than what a discount is there for
    if getattr(buffer, "n_steps", 1 if samples.discounts is None else None) != 1:
        raise TypeError(
            f"{_name(buffer)} returns n-step samples without being an NStepReplayBuffer: "
            "the transition model needs the one-step pairs. Derive the class from NStepReplayBuffer, or use n_steps. If its "
            "samples are of one step, leave discounts out or give the class n_steps = 1."
        )
    # The memory-efficient buffer holds the reset observation after the end of an episode, timeouts included
    has_successor = 1.0 - samples.dones if getattr(buffer, "optimize_memory_usage", False) else 1.0
    return TransitionBatch(samples, samples, has_successor)


# ----- Samples of the user's -----


def _name(buffer: ReplayBuffer) -> str:
    """What to call a replay buffer in an error."""
    return f"replay_buffer_class={type(buffer).__name__}"


def _checked(buffer: ReplayBuffer, samples: Any, n_asked: int) -> Samples:
    """
    Take from a sample what a gradient step reads, found by name as DQN does.

    :param buffer: a replay buffer of the user's
    :param samples: what its ``sample`` returned, of any type
    :param n_asked: how many rows it was asked for
    :return: the same in the type, the shapes and the precision that the buffers of Stable-Baselines3 return
    :raises TypeError: if a field is missing
    :raises ValueError: if there are no rows, fields are of different lengths, or a number is not finite
    """
    what = f"{_name(buffer)}: sample({n_asked}) returned"
    missing = [field for field in NEEDED if getattr(samples, field, None) is None]
    if missing:
        raise TypeError(
            f"{what} a {type(samples).__name__} without {', '.join(missing)}. Return an object with the fields "
            f"{', '.join(NEEDED)}, such as ReplayBufferSamples; it may have more."
        )
    n_rows = len(samples.actions)
    if n_rows == 0:
        raise ValueError(
            f"{what} no rows. Let it return one or more, or raise learning_starts to the number of transitions that it needs."
        )

    def part(field: str, rows: Any, is_number: bool = False) -> th.Tensor:
        rows = th.as_tensor(rows, device=getattr(buffer, "device", None))
        shape = tuple(rows.shape)
        if is_number:  # (batch,) beside (batch, 1) would be (batch, batch)
            rows = rows.float().reshape(-1, 1)
        if len(rows) != n_rows:
            raise ValueError(f"{what} {field} of shape {shape} for {n_rows} actions. Return as many of each.")
        if rows.is_floating_point() and not rows.isfinite().all():
            raise ValueError(f"{what} {field} that are not finite. Mend what makes them, or leave such rows out.")
        return rows.reshape(n_rows, -1).contiguous() if field == "actions" else rows.contiguous()

    def observations(field: str) -> Any:
        rows = getattr(samples, field)
        if isinstance(rows, dict):
            return {key: part(f"{field}[{key!r}]", value) for key, value in rows.items()}
        return part(field, rows)

    discounts = getattr(samples, "discounts", None)
    if discounts is not None and np.ndim(discounts) == 0:
        discounts = np.full(n_rows, float(discounts))
    kind = DictReplayBufferSamples if isinstance(samples.observations, dict) else ReplayBufferSamples
    return kind(
        observations("observations"),
        part("actions", samples.actions),
        observations("next_observations"),
        part("dones", samples.dones, True),
        part("rewards", samples.rewards, True),
        None if discounts is None else part("discounts", discounts, True),
    )


# ----- One-step pairs beside n-step returns -----


class _WatchedArray(np.ndarray):
    """Array that keeps the indices that it is read at."""

    reads: list[Any]

    def __array_finalize__(self, source: Any) -> None:
        self.reads = []

    def __getitem__(self, index: Any) -> Any:
        self.reads.append(index)
        return np.asarray(self)[index]


@lru_cache(maxsize=16)
def _watched_class(buffer_class: type[NStepReplayBuffer]) -> type[NStepReplayBuffer]:
    """
    :param buffer_class: class of a replay buffer
    :return: the same, with a place for other actions than those among its attributes, which a slot hides
    """
    return type(f"Watched{buffer_class.__name__}", (buffer_class,), {"__slots__": ("actions",)})


def _watched(buffer: NStepReplayBuffer) -> tuple[NStepReplayBuffer, _WatchedArray]:
    """
    Look at a buffer through an object that notes which rows are read. An ``NStepReplayBuffer`` returns s_{t+n} as the next
    observation, from which a transition model would learn n-step jumps, and says neither which rows it drew nor of which
    environment. To draw them again from the same state of numpy's generator would need that no other thread draws.

    :param buffer: the buffer
    :return: an object with its class's methods and with its attributes, which are shared, and the actions that it reads
    :raises TypeError: if the buffer keeps its actions elsewhere
    """
    actions = getattr(buffer, "actions", None)
    if not isinstance(actions, np.ndarray):
        raise TypeError(
            f"{_name(buffer)}: its actions are of type {type(actions).__name__}, where a class derived from NStepReplayBuffer "
            "is to keep an array of numpy. The transition model reads its one-step pairs there."
        )
    watched_class = _watched_class(type(buffer))
    watched = object.__new__(watched_class)
    object.__setattr__(watched, "__dict__", vars(buffer))
    watched_actions = actions.view(_WatchedArray)
    object.__setattr__(watched, "actions", watched_actions)
    return watched, watched_actions


def _one_step(
    buffer: NStepReplayBuffer, n_step: Samples, actions: _WatchedArray, env: VecNormalize | None, is_known: bool
) -> Samples:
    """
    Read the one-step rows of an n-step sample.

    :param buffer: the buffer
    :param n_step: what it returned
    :param actions: its actions, which know where they were read for that
    :param env: the ``VecNormalize`` wrapper of the training environment, if any
    :param is_known: whether the buffer is one of Stable-Baselines3, which returns what it reads
    :return: the one-step pairs, in the same order
    :raises TypeError: if it returns other rows than those that it read
    """
    places = _places(actions.reads)

    def read(array: np.ndarray) -> th.Tensor:
        return buffer.to_torch(buffer._normalize_obs(array[places], env))  # type: ignore[arg-type]

    if places is None or not (
        is_known
        or (
            _same(n_step.actions, buffer.to_torch(buffer.actions[places]))
            and _same(n_step.observations, read(buffer.observations))
        )
    ):
        raise TypeError(
            f"{_name(buffer)} returns other rows than those that it reads from its actions[rows, environments], so that their "
            "one-step pairs, which the transition model needs, cannot be found. Return what NStepReplayBuffer._get_samples "
            "does, in its order; further fields may be added."
        )
    dones = buffer.dones[places] * (1.0 - buffer.timeouts[places])
    rewards = buffer._normalize_reward(buffer.rewards[places].reshape(-1, 1), env)
    return ReplayBufferSamples(
        n_step.observations,  # type: ignore[arg-type]
        n_step.actions,
        read(buffer.next_observations),
        buffer.to_torch(dones.reshape(-1, 1)),
        buffer.to_torch(rewards),
    )


def _places(reads: list[Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """
    :param reads: indices that an array of a replay buffer was read at
    :return: rows and environments, one each for a transition; None if it was read in another way, or never
    """
    found = []
    for index in reads:
        if not isinstance(index, tuple) or len(index) < 2:
            return None
        rows, envs = np.broadcast_arrays(*index[:2])
        if rows.ndim != 1 or rows.dtype.kind not in "iu" or envs.dtype.kind not in "iu":
            return None
        found.append((rows, envs))
    if not found:
        return None
    rows, envs = (np.concatenate(part) for part in zip(*found, strict=True))
    return rows, envs


def _same(returned: Any, read: th.Tensor) -> bool:
    """Whether what a buffer returned is what it read."""
    return not isinstance(returned, dict) and returned.shape == read.shape and bool((returned == read).all())
