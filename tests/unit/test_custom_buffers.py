"""Replay buffers of the user's: what DQN learns from, this does, or an error says what is missing."""

import sys
import threading
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import is_finite, make, policy_for
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from worlds import VECTOR, SampledEnv

from sb3_dai.learning.batch import sample_transitions

OBSERVATIONS = spaces.Box(-1e6, 1e6, (1,), np.float32)
ACTIONS = spaces.Discrete(3)


def fill(buffer, episode=7, steps=40):
    """Environment e counts up from 1000 e; an episode ends every few steps and the next begins at ten times that."""
    for t in range(steps):
        start = 1000.0 * np.arange(buffer.n_envs).reshape(-1, 1) + 10 * episode * (t // episode)
        obs, end = start + t % episode, (t + 1) % episode == 0
        action, ones = np.full((buffer.n_envs, 1), t % 3), np.ones(buffer.n_envs)
        buffer.add(obs, obs + 1, action, ones, np.full(buffer.n_envs, end), [{}] * buffer.n_envs)
    return buffer


def filled(buffer_class, n_envs=1, **kwargs):
    return fill(buffer_class(100 * n_envs, OBSERVATIONS, ACTIONS, n_envs=n_envs, **kwargs))


class Weighted(NamedTuple):
    """Fields of a prioritised replay, in an order of its own."""

    indices: np.ndarray
    weights: np.ndarray
    observations: Any
    next_observations: Any
    actions: Any
    rewards: Any
    dones: Any
    discounts: None = None


class Prioritised(ReplayBuffer):
    """Draws the newest rows more often, in the order of their priorities, and counts what it draws."""

    n_calls = 0

    def sample(self, batch_size, env=None):
        self.n_calls += 1
        self.sizes = [*getattr(self, "sizes", []), batch_size]
        indices = np.sort(np.random.randint(self.size(), size=batch_size))[::-1]
        rows = self._get_samples(indices, env)
        weights = np.linspace(0.0, 1.0, batch_size)
        return Weighted(indices, weights, rows.observations, rows.next_observations, rows.actions, rows.rewards, rows.dones)


class WithoutReplacement(ReplayBuffer):
    """All there is, if that is less than a batch."""

    def sample(self, batch_size, env=None):
        return self._get_samples(np.random.permutation(self.size())[:batch_size], env)


@dataclass
class Plain:
    observations: Any
    actions: Any
    next_observations: Any
    dones: Any
    rewards: Any


class Flat(ReplayBuffer):
    """Samples of no tuple type, with numbers in shape (batch,), and flags and numbers of other types."""

    def sample(self, batch_size, env=None):
        obs, actions, next_obs, dones, rewards, _ = super().sample(batch_size, env)
        return Plain(obs, actions[:, 0], next_obs, dones[:, 0].bool(), rewards[:, 0].double().numpy())


class DictWithInfo(DictReplayBuffer):
    def sample(self, batch_size, env=None):
        rows = super().sample(batch_size, env)
        return Weighted(
            np.zeros(3), "anything", rows.observations, rows.next_observations, rows.actions, rows.rewards, rows.dones
        )


class PrioritisedNSteps(NStepReplayBuffer):
    """Draws the first ten rows only, in an order, and keeps count of it; adds a field."""

    def sample(self, batch_size, env=None):
        self.n_calls = getattr(self, "n_calls", 0) + 1
        rows = self._get_samples(np.arange(batch_size) % 10, env)
        return NStepSamples(*rows, np.arange(batch_size))


NStepSamples = NamedTuple("NStepSamples", [(name, Any) for name in (*ReplayBufferSamples._fields, "indices")])


# ----- They work -----


@pytest.mark.parametrize("buffer_class", [Prioritised, WithoutReplacement, Flat, PrioritisedNSteps])
def test_a_model_learns_from_them(buffer_class):
    model = make(replay_buffer_class=buffer_class, learning_starts=3, gradient_steps=8, buffer_size=500, seed=0)
    model.learn(30)
    assert model._n_updates == 8 * 27 and is_finite(model.policy)


def test_dictionaries_of_observations():
    space = spaces.Dict(a=VECTOR, b=VECTOR)
    model = make(SampledEnv(space), policy_for(space), replay_buffer_class=DictWithInfo, learning_starts=3, seed=0)
    assert is_finite(model.learn(20).policy)


def test_each_batch_is_one_call():
    buffer = filled(Prioritised)
    batches = sample_transitions(buffer, 16, 5)
    for n, batch in enumerate(batches, 1):
        assert buffer.n_calls == n, "the batch is drawn when it is due, with the priorities of then"
        newest_first = batch.one_step.observations[:, 0]
        assert (newest_first.diff() <= 0).all() and len(newest_first) == 16
        assert batch.n_step is batch.one_step
    assert buffer.sizes == [16] * 5


def test_calls_are_those_of_dqn():
    sizes = []
    for algorithm in ("DQN", "DAI"):
        kwargs = dict(learning_starts=20, batch_size=32, gradient_steps=3, train_freq=4, buffer_size=200)
        model = (
            DQN("MlpPolicy", "CartPole-v1", replay_buffer_class=Prioritised, device="cpu", **kwargs)
            if algorithm == "DQN"
            else make(replay_buffer_class=Prioritised, **kwargs)
        )
        sizes.append(model.learn(60).replay_buffer.sizes)
    assert sizes[0] == sizes[1] and set(sizes[0]) == {32}


def test_a_method_put_on_a_buffer_is_called():
    buffer, sizes = filled(ReplayBuffer), []
    sample = buffer.sample
    buffer.sample = lambda batch_size, env=None: sizes.append(batch_size) or sample(batch_size, env)
    list(sample_transitions(buffer, 8, 3))
    assert sizes == [8, 8, 8]


def test_fewer_rows_than_asked_for():
    batches = list(sample_transitions(filled(WithoutReplacement), 64, 3))
    for batch in batches:
        assert batch.one_step.observations.shape == (40, 1)
        assert len(batch.one_step.observations.unique()) == 40, "each row once"


def test_types_and_shapes_are_those_of_stable_baselines3():
    ours = next(sample_transitions(filled(Flat), 8)).one_step
    theirs = filled(ReplayBuffer).sample(8)
    assert type(ours) is type(theirs)
    for name, one, other in zip(theirs._fields, ours, theirs, strict=True):
        assert (one is None) == (other is None), name
        assert one is None or (one.shape == other.shape and one.dtype == other.dtype and one.is_contiguous()), name


@pytest.mark.parametrize("n_envs", [1, 3])
def test_n_step_buffers_keep_their_rows_and_get_one_step_pairs(n_envs):
    buffer = filled(PrioritisedNSteps, n_envs, n_steps=3, gamma=0.9)
    for batch in sample_transitions(buffer, 64, 4):
        one, many = batch.one_step, batch.n_step
        assert (one.next_observations - one.observations == 1).all() and (one.rewards == 1).all()
        assert th.equal(one.observations, many.observations) and th.equal(one.actions, many.actions)
        assert (many.next_observations - many.observations).max() == 3 and many.rewards.max() == pytest.approx(2.71)
        times = many.observations[:, 0] % 1000
        assert times.max() <= 72, "rows that the buffer did not choose"
        assert th.equal(one.dones[:, 0] == 1, one.observations[:, 0] % 1000 % 70 == 6)
    assert buffer.n_calls == 4, "what the buffer notes is kept"
    assert type(buffer.actions) is np.ndarray and type(buffer) is PrioritisedNSteps


def test_one_step_pairs_while_another_thread_draws():
    """Numpy's generator is everybody's: another thread may draw from it at any time."""
    buffer = filled(NStepReplayBuffer, 3, n_steps=3)
    stop, interval = threading.Event(), sys.getswitchinterval()

    def draw():
        while not stop.is_set():
            np.random.random()

    thread = threading.Thread(target=draw)
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for _ in range(300):
            (batch,) = sample_transitions(buffer, 256)
            assert (batch.one_step.next_observations - batch.n_step.observations == 1).all()
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)


def test_the_state_of_the_generator_is_never_set(monkeypatch):
    """It would take back what another thread has drawn."""

    def refuse(*_):
        raise AssertionError("set_state")

    monkeypatch.setattr(np.random, "set_state", refuse)
    buffer = filled(NStepReplayBuffer, 2)
    np.random.seed(0)
    (batch,) = sample_transitions(buffer, 32)
    np.random.seed(0)
    assert th.equal(batch.n_step.observations, buffer.sample(32).observations), "the draws are those of the buffer alone"


def test_discounts_of_one_step():
    class OneStep(ReplayBuffer):
        n_steps = 1

        def sample(self, batch_size, env=None):
            return super().sample(batch_size, env)._replace(discounts=0.5)

    (batch,) = sample_transitions(filled(OneStep), 8)
    assert th.equal(batch.n_step.discounts, th.full((8, 1), 0.5))


# ----- Or an error says what is missing -----


def returning(change, base=ReplayBuffer, **kwargs):
    """A buffer whose samples are changed."""

    class Changed(base):
        def sample(self, batch_size, env=None):
            return change(super().sample(batch_size, env))

    return filled(Changed, **kwargs)


def without(samples, *names):
    return type("Rows", (), {name: value for name, value in samples._asdict().items() if name not in names})()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda rows: without(rows, "dones"), TypeError, r"sample\(8\) returned a Rows without dones\. Return an object with"),
        (lambda rows: rows._replace(next_observations=None), TypeError, "ReplayBufferSamples without next_observations"),
        (tuple, TypeError, "a tuple without observations, actions, next_observations, dones, rewards"),
        (lambda rows: rows._replace(rewards=rows.rewards[:3]), ValueError, r"rewards of shape \(3, 1\) for 8 actions"),
        (lambda rows: rows._replace(dones=th.zeros(8, 2)), ValueError, r"dones of shape \(8, 2\) for 8 actions"),
        (lambda rows: rows._replace(observations=rows.observations / 0), ValueError, "observations that are not finite"),
        (lambda rows: rows._replace(rewards=rows.rewards * np.nan), ValueError, "rewards that are not finite"),
        (lambda rows: type(rows)(*(x[:0] for x in rows[:5])), ValueError, r"returned no rows.*learning_starts"),
        (lambda rows: rows._replace(discounts=rows.rewards), TypeError, "returns n-step samples.*NStepReplayBuffer"),
    ],
)
def test_what_is_missing_is_named(change, error, message):
    with pytest.raises(error, match=f"(?s)replay_buffer_class=Changed.*{message}"):
        next(sample_transitions(returning(change), 8))


def test_a_buffer_that_says_it_has_several_steps_is_refused():
    """Its samples need not show it: a reward may be a sum already when it is added."""
    buffer = returning(lambda rows: rows)
    buffer.n_steps = 3
    with pytest.raises(TypeError, match="transition model needs the one-step pairs"):
        next(sample_transitions(buffer, 8))


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: type(rows)(*(x.flip(0) for x in rows)),
        lambda rows: type(rows)(*(x[:5] for x in rows)),
        lambda rows: rows._replace(observations=rows.observations + 1),
    ],
    ids=["order", "number", "observations"],
)
def test_n_step_rows_that_are_changed_are_refused(change):
    """One-step pairs of other rows would be worse than none."""
    buffer = returning(change, NStepReplayBuffer, n_steps=3)
    with pytest.raises(TypeError, match="Changed returns other rows than those that it reads"):
        next(sample_transitions(buffer, 8))


def test_n_step_rows_that_are_read_elsewhere_are_refused():
    class Elsewhere(NStepReplayBuffer):
        def sample(self, batch_size, env=None):
            return ReplayBufferSamples(*(th.zeros(batch_size, 1) for _ in range(6)))

    with pytest.raises(TypeError, match="Elsewhere returns other rows"):
        next(sample_transitions(filled(Elsewhere), 8))
    buffer = filled(NStepReplayBuffer)
    buffer.actions = th.as_tensor(buffer.actions)
    with pytest.raises(TypeError, match="actions are of type Tensor"):
        next(sample_transitions(buffer, 8))


def test_training_stops_before_the_nets_are_harmed():
    class Empty(ReplayBuffer):
        def sample(self, batch_size, env=None):
            return self._get_samples(np.zeros(0, int), env)

    model = make(replay_buffer_class=Empty)
    with pytest.raises(ValueError, match=r"replay_buffer_class=Empty: sample\(32\) returned no rows"):
        model.learn(60)
    assert is_finite(model.policy)
