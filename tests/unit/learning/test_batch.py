"""One-step pairs beside n-step returns, from every replay buffer of Stable-Baselines3."""

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer

from sb3_dai.learning.batch import MAX_ROWS, sample_transitions

OBSERVATIONS = spaces.Box(-1e6, 1e6, (1,), np.float32)
ACTIONS = spaces.Discrete(3)


def fill(buffer, n_envs=1, episode=7, steps=40, timeout=False):
    """Environment e counts up from 1000 e; an episode ends every few steps and the next begins at ten times that."""
    for t in range(steps):
        start = 1000.0 * np.arange(n_envs).reshape(-1, 1) + 10 * episode * (t // episode)
        obs, end = start + t % episode, (t + 1) % episode == 0
        infos = [{"TimeLimit.truncated": end and timeout}] * n_envs
        buffer.add(obs, obs + 1, np.full((n_envs, 1), t % 3), np.ones(n_envs), np.full(n_envs, end), infos)
    return buffer


@pytest.mark.parametrize("n_envs", [1, 2])
def test_n_step_returns_keep_one_step_pairs(n_envs):
    """The world model would learn three-step jumps from what NStepReplayBuffer calls the next observation."""
    buffer = fill(NStepReplayBuffer(100 * n_envs, OBSERVATIONS, ACTIONS, n_envs=n_envs, n_steps=3, gamma=0.9), n_envs)
    (batch,) = sample_transitions(buffer, 256)
    change = batch.one_step.next_observations - batch.one_step.observations
    assert (change == 1.0).all()
    assert (batch.one_step.observations == batch.n_step.observations).all()
    assert (batch.one_step.actions == batch.n_step.actions).all()
    assert (batch.n_step.next_observations - batch.n_step.observations).max() == 3.0
    assert batch.n_step.rewards.max().item() == pytest.approx(1 + 0.9 + 0.81)
    assert (batch.one_step.rewards == 1.0).all()


def test_timeouts_are_not_terminal():
    for timeout in (False, True):
        (batch,) = sample_transitions(fill(ReplayBuffer(100, OBSERVATIONS, ACTIONS), timeout=timeout), 256)
        assert bool(batch.one_step.dones.any()) != timeout
        assert batch.n_step is batch.one_step


def test_memory_efficient_buffer_marks_rows_without_successor():
    buffer = ReplayBuffer(100, OBSERVATIONS, ACTIONS, optimize_memory_usage=True, handle_timeout_termination=False)
    (batch,) = sample_transitions(fill(buffer), 256)
    change = batch.one_step.next_observations - batch.one_step.observations
    assert (change[batch.has_successor == 1] == 1.0).all()
    assert (change[batch.has_successor == 0] > 1.0).all() and (batch.has_successor == 0).any()


def test_many_batches_are_independent_draws_of_the_right_size():
    buffer = fill(ReplayBuffer(100, OBSERVATIONS, ACTIONS))
    n_batches = MAX_ROWS // 64 + 3
    batches = list(sample_transitions(buffer, 64, n_batches))
    assert len(batches) == n_batches
    assert all(batch.one_step.observations.shape == (64, 1) and batch.one_step.rewards.shape == (64, 1) for batch in batches)
    assert not (batches[0].one_step.observations == batches[1].one_step.observations).all()


def test_dictionaries_of_observations():
    space = spaces.Dict({"a": OBSERVATIONS, "b": OBSERVATIONS})
    buffer = DictReplayBuffer(20, space, ACTIONS)
    for t in range(20):
        obs = {"a": np.array([[t]]), "b": np.array([[-t]])}
        next_obs = {key: value + 1 for key, value in obs.items()}
        buffer.add(obs, next_obs, np.array([[0]]), np.array([1.0]), np.array([False]), [{}])
    first, second = sample_transitions(buffer, 8, 2)
    for batch in (first, second):
        assert (batch.one_step.observations["a"] == -batch.one_step.observations["b"]).all()
        assert (batch.one_step.next_observations["a"] - batch.one_step.observations["a"] == 1).all()


def test_an_n_step_buffer_of_another_class_is_refused():
    class Foreign(ReplayBuffer):
        def _get_samples(self, batch_inds, env=None):
            samples = super()._get_samples(batch_inds, env)
            return samples._replace(discounts=samples.rewards)

    with pytest.raises(TypeError, match="Foreign returns n-step samples"):
        next(sample_transitions(fill(Foreign(100, OBSERVATIONS, ACTIONS)), 8))
