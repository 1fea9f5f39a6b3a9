"""Sequences out of a replay buffer: nothing in one of them belongs to something else."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer

from sb3_dai.learning.sequences import (
    check_sequences,
    draw_sequences,
    end_sequences,
    keep_memory,
    read_windows,
    sample_windows,
)

VECTOR = spaces.Box(-1e4, 1e4, (3,), np.float32)
LENGTHS = (4, 1, 7, 12, 3)
"""Of the episodes, of which the first ends, the second is cut off, and so on by turns."""


def action_of(episode, step):
    return 1 + (3 * episode + step) % 6


def fill(buffer, n_steps, lag=2):
    """Observations say of which environment, episode and step they are. Environments are ``lag`` steps apart."""
    n_envs, is_dict = buffer.n_envs, isinstance(buffer, DictReplayBuffer)
    at = [[0, 0] for _ in range(n_envs)]
    for env in range(1, n_envs):
        at[env] = [0, min(lag * env, LENGTHS[0] - 1)]
    for _ in range(n_steps):
        here = np.array([[env, *at[env]] for env in range(n_envs)], np.float32)
        after = here + np.float32([0, 0, 1])
        actions = np.array([[action_of(*at[env])] for env in range(n_envs)])
        rewards = here[:, 1] * 100 + here[:, 2]
        lengths = [LENGTHS[at[env][0] % len(LENGTHS)] for env in range(n_envs)]
        dones = after[:, 2] == lengths
        infos = [{"TimeLimit.truncated": bool(done) and at[env][0] % 2 == 1} for env, done in enumerate(dones)]
        if is_dict:
            here, after = ({"a": part, "b": part[:, :1]} for part in (here, after))
        buffer.add(here, after, actions, rewards, dones, infos)
        for env, done in enumerate(dones):
            at[env] = [at[env][0] + 1, 0] if done else [at[env][0], at[env][1] + 1]
    return buffer


def buffer_of(size=20, n_steps=33, n_envs=2):
    return fill(ReplayBuffer(size * n_envs, VECTOR, spaces.Discrete(7), "cpu", n_envs), n_steps)


def rows_of(windows, number):
    return (windows.window == number).nonzero().flatten().tolist()


@pytest.mark.parametrize(("size", "n_steps"), [(100, 33), (20, 33), (20, 20), (20, 40)])
@pytest.mark.parametrize("length", [1, 5, 30])
def test_a_sequence_is_of_one_episode_of_one_environment(size, n_steps, length):
    buffer = buffer_of(size, n_steps)
    oldest = buffer.observations[buffer.pos if buffer.full else 0].tolist()
    np.random.seed(0)
    for transitions, windows in sample_windows(buffer, 16, length, n_batches=8):
        assert transitions.one_step is transitions.n_step and transitions.has_successor == 1.0
        for number in range(16):
            rows = rows_of(windows, number)
            observations = windows.observations[rows]
            env, episode, first = observations[0].tolist()
            expected = [[env, episode, first + i] for i in range(len(rows))]
            assert observations.tolist() == expected
            assert 2 <= len(rows) <= length + 1
            assert windows.time[rows].tolist() == [*range(len(rows))]
            before = [action_of(int(episode), int(first) + i) for i in range(-1, len(rows) - 1)]
            # What was done before the oldest transition is not in the buffer
            if [env, episode, first] in [*oldest, *([env, e, 0] for e in range(9))]:
                before[0] = 0
            assert windows.has_action[rows].flatten().tolist() == [float(first > 0 and before[0] > 0)] + [1.0] * (
                len(rows) - 1
            )
            assert windows.actions[rows].flatten().tolist() == before


def test_transitions_are_those_of_the_rows():
    buffer = buffer_of()
    np.random.seed(0)
    ended = set()
    for transitions, windows in sample_windows(buffer, 16, 5, n_batches=8):
        samples = transitions.one_step
        assert th.equal(samples.observations, windows.observations[windows.rows])
        assert th.equal(samples.next_observations, windows.observations[windows.rows + 1])
        assert (samples.next_observations - samples.observations).unique(dim=0).tolist() == [[0.0, 0.0, 1.0]]
        for (_, episode, step), action, reward, done in zip(
            samples.observations.int().tolist(),
            samples.actions.flatten().tolist(),
            samples.rewards.flatten().tolist(),
            samples.dones.flatten().tolist(),
            strict=True,
        ):
            assert (action, reward) == (action_of(episode, step), 100 * episode + step)
            is_last = step + 1 == LENGTHS[episode % len(LENGTHS)]
            assert done == float(is_last and episode % 2 == 0), "a timeout is not an end"
            ended.add((is_last, episode % 2))
    assert len(ended) == 4


@pytest.mark.parametrize(("size", "n_steps"), [(100, 33), (20, 33)])
def test_only_a_sequence_that_starts_with_its_episode_is_whole(size, n_steps):
    buffer = buffer_of(size, n_steps, n_envs=1)
    np.random.seed(0)
    found = set()
    for _ in range(8):
        sequences = draw_sequences(buffer, 16, 5)
        _, windows = read_windows(buffer, sequences)
        for number, is_whole in enumerate(sequences.is_whole):
            assert is_whole == (windows.observations[rows_of(windows, number)[0], 2] == 0)
            found.add(bool(is_whole))
    assert found == {True, False}


def test_burn_in_is_not_learned_from_but_at_the_start_of_an_episode():
    buffer = buffer_of(100)
    np.random.seed(0)
    learned = set()
    for transitions, windows in sample_windows(buffer, 16, 5, burn_in=3, n_batches=8):
        taken = set(windows.rows.tolist())
        for number in range(16):
            rows = rows_of(windows, number)
            # Of the second environment the buffer has the first episode from its third step on, as if it were a start
            starts = windows.observations[rows[0], 2] == 0 or windows.observations[rows[0]].tolist() == [1.0, 0.0, 2.0]
            skipped = 0 if starts else min(3, len(rows) - 2)
            assert taken.intersection(rows) == set(rows[skipped:-1])
            learned.add(skipped)
        assert len(transitions.one_step.actions) == len(taken)
    assert learned == {0, 3}


def test_every_transition_is_drawn_and_those_at_the_ends_at_least_half_as_often_as_others():
    buffer = buffer_of(100, n_envs=1, n_steps=60)
    np.random.seed(0)
    counts = {}
    for transitions, _ in sample_windows(buffer, 64, 4, n_batches=100):
        for row in transitions.one_step.observations.int().tolist():
            counts[tuple(row)] = counts.get(tuple(row), 0) + 1
    assert len(counts) == 60
    inner = counts[0, 3, 6]
    assert counts[0, 3, 11] > 0.5 * inner
    assert counts[0, 3, 0] > 0.5 * inner


def test_a_sequence_starts_with_what_was_carried_to_its_first_observation():
    buffer = ReplayBuffer(40, VECTOR, spaces.Discrete(7), "cpu", 2)
    for step in range(33):
        keep_memory(buffer, np.float32([[step, 10.0], [step, 20.0]]))
        fill(buffer, 1)
    ((_, windows),) = sample_windows(buffer, 16, 5)
    first = windows.time == 0
    assert th.equal(windows.memory[:, 1], 10.0 * (1 + windows.observations[first][:, 0]))
    assert len(windows.memory[:, 0].unique()) > 5
    assert windows.memory[:, 0].min() >= 13, "what was overwritten"


@pytest.mark.parametrize("n_before", [0, 30, 3000, 5000])
def test_what_was_carried_takes_no_more_room_than_transitions_do(n_before):
    """A buffer that another agent began has nothing to start with in its first rows."""
    buffer = fill(ReplayBuffer(4000, VECTOR, spaces.Discrete(7), "cpu", 1), n_before)
    for step in range(2000):
        keep_memory(buffer, np.float32([[1 + step]]))
        buffer.pos = (buffer.pos + 1) % 4000
        buffer.full |= buffer.pos == 0
    kept = buffer.memories[:, 0, 0]
    assert len(kept) == {0: 2050, 30: 2050, 3000: 4000, 5000: 4000}[n_before]
    rows = (n_before + np.arange(2000)) % 4000
    assert np.array_equal(kept[rows], 1 + np.arange(2000))
    assert np.count_nonzero(kept) == 2000


def test_dictionaries_of_observations():
    space = spaces.Dict(a=VECTOR, b=spaces.Box(-1e4, 1e4, (1,), np.float32))
    buffer = fill(DictReplayBuffer(40, space, spaces.Discrete(7), "cpu", 2), 33)
    ((transitions, windows),) = sample_windows(buffer, 8, 5)
    assert th.equal(windows.observations["a"][:, :1], windows.observations["b"])
    assert th.equal(transitions.one_step.observations["a"], windows.observations["a"][windows.rows])
    assert (transitions.one_step.next_observations["a"] - transitions.one_step.observations["a"])[:, 2].unique() == 1.0


def test_no_sequence_goes_on_after_a_reset_by_hand():
    buffer = buffer_of(100, n_steps=2, n_envs=1)
    end_sequences(buffer)
    buffer = fill(buffer, 3)
    for transitions, windows in sample_windows(buffer, 16, 5, n_batches=5):
        assert (transitions.one_step.next_observations - transitions.one_step.observations)[:, 2].unique() == 1.0
        assert windows.time.max() <= 3
        assert transitions.one_step.dones.max() == 0.0, "what was cut off has not ended"


def test_an_end_stays_an_end_when_the_environments_are_reset():
    buffer = buffer_of(100, n_steps=LENGTHS[0], n_envs=1)
    end_sequences(buffer)
    assert (buffer.dones[:4, 0].tolist(), buffer.timeouts[:4, 0].tolist()) == ([0, 0, 0, 1], [0, 0, 0, 0])


def test_buffers_without_sequences_are_refused():
    box = spaces.Discrete(7)

    class Own(ReplayBuffer):
        pass

    with pytest.raises(ValueError, match="n_steps=3"):
        check_sequences(NStepReplayBuffer(10, VECTOR, box, "cpu", n_steps=3, gamma=0.9), 3, 4)
    with pytest.raises(ValueError, match="replay_buffer_class=Own"):
        check_sequences(Own(10, VECTOR, box, "cpu"), 1, 4)
    efficient = ReplayBuffer(10, VECTOR, box, "cpu", optimize_memory_usage=True, handle_timeout_termination=False)
    with pytest.raises(ValueError, match="optimize_memory_usage=True"):
        check_sequences(efficient, 1, 4)
    check_sequences(buffer := buffer_of(), 1, 4)
    keep_memory(buffer, np.zeros((2, 6), np.float32))
    check_sequences(buffer, 1, 6)
    with pytest.raises(ValueError, match="memories of 6 numbers, and this policy's are of 4"):
        check_sequences(buffer, 1, 4)
