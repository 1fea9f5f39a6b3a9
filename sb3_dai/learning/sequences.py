"""Sequences of episodes out of a replay buffer: what a belief is learned from."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, PyTorchObs, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from sb3_dai.learning.batch import Samples, TransitionBatch, sample_transitions


class Windows(NamedTuple):
    """
    Sequences of episodes of different lengths, one after the other in rows without padding. A sequence of n transitions has
    n + 1 rows: its observations, and the one after its last action.
    """

    observations: PyTorchObs
    """Shape (n_rows, ...)."""
    actions: th.Tensor
    """Before each observation, as the replay buffer holds them, shape (n_rows, action_dim)."""
    has_action: th.Tensor
    """0 where there is none before an observation, because an episode starts there or it is left out, shape (n_rows, 1)."""
    time: th.Tensor
    """Steps since the sequence began, shape (n_rows,)."""
    window: th.Tensor
    """Number of the sequence, shape (n_rows,)."""
    rows: th.Tensor
    """Those of s in each transition to learn from, shape (n_transitions,). That of s' follows it."""
    memory: th.Tensor | None
    """What was carried to the first observation of each sequence, as it was then, shape (n_windows, size), if it was kept."""


class Sequences(NamedTuple):
    """Where the sequences lie in the replay buffer. Ages count from the oldest transition, and each has shape (n,)."""

    env: np.ndarray
    """Number of the environment."""
    start: np.ndarray
    """Age of the first transition."""
    length: np.ndarray
    """Number of transitions."""
    is_whole: np.ndarray
    """Whether it starts where an episode does, so that the belief there is the initial one."""


def draw_sequences(buffer: ReplayBuffer, n: int, length: int) -> Sequences:
    """
    Draw a transition, and a later one that is the last, uniformly among the next ``length``, or where the episode ends. If the
    last one were drawn itself, ends of episodes would be learned from ``length`` times less than what comes before them.

    :param buffer: a replay buffer of Stable-Baselines3
    :param n: number of sequences
    :param length: of a sequence at most
    :return: sequences of single episodes: none crosses an end, a timeout or the place where the buffer is written next
    """
    count = buffer.size()
    env = np.random.randint(0, buffer.n_envs, size=n)
    drawn, later = np.random.randint(0, count, size=n), np.random.randint(0, length, size=n)
    ahead, behind = np.arange(length), np.arange(1, length + 1)
    # The transition that is written last has no successor yet
    ends = _ends(buffer, drawn[:, None] + ahead, env[:, None], count)
    last = np.minimum(drawn + later, drawn + _first(ends))
    starts = _ends(buffer, last[:, None] - behind, env[:, None], count)
    steps = np.minimum(_first(starts) + 1, length)
    start = last - steps + 1
    # The oldest transition of a full buffer may be of any part of an episode
    is_whole = np.where(start > 0, _ends(buffer, start - 1, env, count), not buffer.full)
    return Sequences(env, start, steps, is_whole)


def _first(flags: np.ndarray) -> np.ndarray:
    """
    :param flags: shape (n, length)
    :return: index of the first that is set, ``length`` where none is, shape (n,)
    """
    return np.where(flags.any(axis=1), flags.argmax(axis=1), flags.shape[1])


def _row(buffer: ReplayBuffer, age: np.ndarray) -> np.ndarray:
    """
    :param buffer: a replay buffer
    :param age: of transitions, from 0 for the oldest
    :return: rows of the buffer, same shape
    """
    return (age + buffer.pos) % buffer.buffer_size if buffer.full else age


def _ends(buffer: ReplayBuffer, age: np.ndarray, env: np.ndarray, count: int) -> np.ndarray:
    """
    :param buffer: a replay buffer
    :param age: of transitions, also of such that are not in the buffer
    :param env: numbers of their environments
    :param count: number of transitions of an environment in the buffer
    :return: whether what comes next belongs to something else: at an end, a timeout, the last transition, and before the first
    """
    inside = (age >= 0) & (age < count)
    return ~inside | (age == count - 1) | (buffer.dones[_row(buffer, np.where(inside, age, 0)), env] > 0)


def sampled(
    policy: Any, buffer: ReplayBuffer, batch_size: int, n_batches: int, env: VecNormalize | None
) -> Iterator[tuple[TransitionBatch, Windows | None]]:
    """
    :param policy: the nets
    :param buffer: a replay buffer
    :param batch_size: number of transitions in a batch, or of sequences if the policy has a memory
    :param n_batches: number of batches
    :param env: the ``VecNormalize`` wrapper of the training environment, if any
    :return: the batches, one after the other: transitions, and the sequences that they lie in
    """
    if policy.memory_dim == 0:
        for batch in sample_transitions(buffer, batch_size, n_batches, env):
            yield batch, None
        return
    yield from sample_windows(
        buffer, batch_size, policy.sequence_length, policy.burn_in, n_batches, env, policy.action_dropout
    )


def sample_windows(
    buffer: ReplayBuffer,
    n_windows: int,
    length: int,
    burn_in: int = 0,
    n_batches: int = 1,
    env: VecNormalize | None = None,
    action_dropout: float = 0.0,
) -> Iterator[tuple[TransitionBatch, Windows]]:
    """
    :param buffer: a replay buffer of Stable-Baselines3, see :func:`check_sequences`
    :param n_windows: number of sequences in a batch
    :param length: number of transitions in a sequence at most
    :param burn_in: number of transitions at the beginning of a sequence that are not learned from, because the belief there is
        not the true one. A sequence that starts with its episode needs none (Kapturowski et al. 2019, "Recurrent experience
        replay in distributed reinforcement learning", section 3).
    :param n_batches: number of batches
    :param env: the ``VecNormalize`` wrapper of the training environment, if any
    :param action_dropout: share of the sequences whose past actions are left out, at random
    :return: the batches, one after the other: transitions, and the sequences that they lie in
    """
    for _ in range(n_batches):
        yield read_windows(buffer, draw_sequences(buffer, n_windows, length), burn_in, env, action_dropout)


def read_windows(
    buffer: ReplayBuffer,
    sequences: Sequences,
    burn_in: int = 0,
    env: VecNormalize | None = None,
    action_dropout: float = 0.0,
) -> tuple[TransitionBatch, Windows]:
    """
    :param buffer: a replay buffer
    :param sequences: where they lie
    :param burn_in: see :func:`sample_windows`
    :param env: the ``VecNormalize`` wrapper of the training environment, if any
    :param action_dropout: share of the sequences whose past actions are left out, at random
    :return: transitions, and the sequences that they lie in
    """
    skipped = np.where(sequences.is_whole, 0, np.minimum(burn_in, sequences.length - 1))
    columns = np.arange(sequences.length.max() + 1)
    window, time = np.nonzero(columns <= sequences.length[:, None])  # Row after row, sequence after sequence
    lengths, envs, starts = sequences.length[window], sequences.env[window], sequences.start[window]
    is_last = time == lengths
    # Where each row's transition lies, for the last observation that which leads to it
    place = _row(buffer, starts + time - is_last), envs
    before = _row(buffer, np.maximum(starts + time - 1, 0)), envs
    rows = np.flatnonzero((time < lengths) & (time >= skipped[window]))

    observations = _observations(buffer, place, is_last, env)
    # The first action of a sequence is none at the start of an episode, and lost where it was overwritten
    has_action = (time > 0) | (~sequences.is_whole & (sequences.start > 0))[window]
    if action_dropout > 0.0:
        has_action &= (np.random.random(len(sequences.length)) >= action_dropout)[window]
    actions = buffer.actions[before]
    actions[~has_action] = 0
    chosen = place[0][rows], envs[rows]
    dones = buffer.dones[chosen] * (1.0 - buffer.timeouts[chosen])
    kind: Any = DictReplayBufferSamples if isinstance(observations, dict) else ReplayBufferSamples
    here = th.as_tensor(rows, device=buffer.device)
    samples: Samples = kind(
        _at(observations, here),
        buffer.to_torch(buffer.actions[chosen]),
        _at(observations, here + 1),
        buffer.to_torch(dones.reshape(-1, 1)),
        buffer.to_torch(buffer._normalize_reward(buffer.rewards[chosen].reshape(-1, 1), env)),
    )
    kept = getattr(buffer, "memories", None)
    first = _row(buffer, sequences.start), sequences.env
    memory = None if kept is None else buffer.to_torch(kept[first])
    parts = actions, has_action.astype(np.float32).reshape(-1, 1), time, window
    acted, acts, times, numbers = map(buffer.to_torch, parts)
    return TransitionBatch(samples, samples, 1.0), Windows(observations, acted, acts, times, numbers, here, memory)


def _observations(
    buffer: ReplayBuffer, place: tuple[np.ndarray, np.ndarray], is_last: np.ndarray, env: VecNormalize | None
) -> PyTorchObs:
    """
    :param buffer: a replay buffer
    :param place: rows and environments of transitions
    :param is_last: where the observation after the transition is meant instead of that before it
    :param env: the ``VecNormalize`` wrapper of the training environment, if any
    :return: observations, shape (n_rows, ...)
    """
    last = place[0][is_last], place[1][is_last]

    def read(here: np.ndarray, after: np.ndarray) -> np.ndarray:
        found = here[place]
        found[is_last] = after[last]
        return found

    if isinstance(buffer, DictReplayBuffer):
        parts = {key: read(part, buffer.next_observations[key]) for key, part in buffer.observations.items()}
        normalized: Any = buffer._normalize_obs(parts, env)
        return {key: buffer.to_torch(part) for key, part in normalized.items()}
    return buffer.to_torch(buffer._normalize_obs(read(buffer.observations, buffer.next_observations), env))  # type: ignore[arg-type]


def _at(observations: PyTorchObs, rows: th.Tensor) -> PyTorchObs:
    """
    :param observations: shape (n_rows, ...)
    :param rows: shape (n,)
    :return: shape (n, ...)
    """
    return {key: part[rows] for key, part in observations.items()} if isinstance(observations, dict) else observations[rows]


def keep_memory(buffer: Any, memory: np.ndarray) -> None:
    """
    Keep what is carried beside the transition that is about to be stored. A sequence that starts in the midst of an episode
    starts from it (the "stored state" of Kapturowski et al. 2019, section 3). From nothing, nets would never learn what a
    long episode does to the memory.

    :param buffer: a replay buffer
    :param memory: before the observations, shape (n_envs, size)
    """
    kept = getattr(buffer, "memories", np.zeros((0, *memory.shape), np.float32))
    n_needed = buffer.buffer_size if buffer.full else buffer.pos + 1
    if n_needed > len(kept):  # It grows with what is in the buffer, so that a saved one is not larger than it must be
        n_rows = min(max(2 * n_needed, 1024), buffer.buffer_size)
        kept = np.concatenate([kept, np.zeros((n_rows - len(kept), *memory.shape), np.float32)])
    kept[buffer.pos] = memory
    buffer.memories = kept


def end_sequences(buffer: ReplayBuffer | None) -> None:
    """
    Let no sequence go on from the last transitions, because the environments are about to be reset.

    :param buffer: a replay buffer
    """
    if buffer is not None and buffer.size() > 0:
        last = buffer.pos - 1
        buffer.timeouts[last] = np.maximum(buffer.timeouts[last], 1.0 - buffer.dones[last])
        buffer.dones[last] = 1.0


def check_sequences(buffer: Any, n_steps: int, memory_size: int) -> None:
    """
    :param buffer: the replay buffer
    :param n_steps: length of returns
    :param memory_size: number of numbers that the policy's filter carries
    :raises ValueError: if sequences cannot be read from it
    """
    what = "a recurrent policy learns from sequences"
    if n_steps > 1:
        raise ValueError(f"n_steps={n_steps}: {what}, whose returns have one step. Leave n_steps out")
    if type(buffer) not in (ReplayBuffer, DictReplayBuffer):
        raise ValueError(
            f"replay_buffer_class={type(buffer).__name__}: {what}, which only ReplayBuffer and DictReplayBuffer keep in "
            "order. Leave it out"
        )
    if buffer.optimize_memory_usage:
        raise ValueError(
            f"optimize_memory_usage=True: {what}, and that buffer does not keep the last observation of an episode. "
            "Leave it out"
        )
    kept = getattr(buffer, "memories", None)
    if kept is not None and kept.shape[-1] != memory_size:
        raise ValueError(
            f"The replay buffer has memories of {kept.shape[-1]} numbers, and this policy's are of {memory_size}: load the "
            "buffer into a model with the filter that filled it"
        )
