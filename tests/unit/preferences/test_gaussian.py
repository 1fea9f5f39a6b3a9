"""A goal instead of the reward."""

import math

import pytest
import torch as th
from helpers import close, make, spy
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import DummyVecEnv
from worlds import DISCRETE, VECTOR, SampledEnv

from sb3_dai import DAI, GaussianPreference, RewardPreference
from sb3_dai.equations import targets
from sb3_dai.preferences import Outcome


def samples(next_observations, rewards=0.0, dones=0.0):
    n = len(next_observations)
    column = [th.as_tensor(x, dtype=th.float32).expand(n).reshape(n, 1) for x in (dones, rewards)]
    return ReplayBufferSamples(next_observations, th.zeros(n, 1), next_observations, *column)


@pytest.mark.parametrize("n_envs", [1, 2])
def test_the_target_is_the_preference_for_what_came_next(monkeypatch, n_envs):
    preference = GaussianPreference([0.5, -0.5], 0.3, dims=[0, 2])
    env = DummyVecEnv([lambda: SampledEnv(VECTOR, DISCRETE)] * n_envs)
    model = make(env, preference=preference, preference_weight=2.0, precision=2.0, seed=0).learn(60)
    read = spy(monkeypatch, model.preference, "log_prob")
    targets_made = spy(monkeypatch, targets, "bootstrapped_efe")
    model.train(1, 32)
    (((batch,), _),) = read
    (((cost, *_), _),) = targets_made
    distance = ((batch.next_observations[:, [0, 2]] - th.tensor([0.5, -0.5])) / 0.3).square().sum(1, keepdim=True)
    log_prob = th.log((1 - math.exp(-10)) * th.exp(-distance / 2) + math.exp(-10))
    th.testing.assert_close(cost, -2.0 * log_prob, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("terminal", "factor"), [("absorbing", 100.0), ("end", 1.0)])
def test_what_an_end_is_worth(terminal, factor):
    model = make(SampledEnv(VECTOR, DISCRETE), preference=GaussianPreference(0.0, 1.0, floor=None, terminal=terminal))
    batch = samples(th.ones(2, 3), rewards=5.0, dones=th.tensor([0.0, 1.0]))
    th.testing.assert_close(model.preference.log_prob(batch), th.tensor([[-1.5], [-1.5 * factor]]), rtol=1e-4, atol=0)


BAD_GOALS = {
    "numbered states": (SampledEnv(DISCRETE, DISCRETE), dict(), r"is for Box and MultiBinary observations, not Discrete"),
    "dims": (SampledEnv(VECTOR, DISCRETE), dict(dims=[0, 3]), r"dims=\[0, 3\]: give indices below 3"),
    "goal": (SampledEnv(VECTOR, DISCRETE), dict(goal=[0.0, 1.0]), r"goal=\[0\.0, 1\.0\]: give one number, or 3"),
    "std": (
        SampledEnv(VECTOR, DISCRETE),
        dict(std=[1.0, 2.0, 3.0], dims=[1]),
        r"std=\[1\.0, 2\.0, 3\.0\]: give one number, or 1",
    ),
}


@pytest.mark.parametrize(("env", "kwargs", "message"), BAD_GOALS.values(), ids=BAD_GOALS)
def test_a_goal_that_is_no_observation_is_named(env, kwargs, message):
    with pytest.raises(ValueError, match=f"preference=GaussianPreference.*{message}"):
        make(env, preference=GaussianPreference(**{**dict(goal=0.0, std=1.0), **kwargs}))


def test_a_goal_is_saved(tmp_path):
    model = make(SampledEnv(VECTOR, DISCRETE), preference=GaussianPreference([0.1, 0.2], 0.3, dims=[0, 2]))
    model.save(tmp_path / "model")
    batch = samples(th.rand(5, 3))
    loaded = DAI.load(tmp_path / "model", device="cpu")
    assert th.equal(loaded.preference.log_prob(batch), model.preference.log_prob(batch))
    other = DAI.load(tmp_path / "model", device="cpu", preference=RewardPreference())
    assert th.equal(other.preference.log_prob(batch), batch.rewards)


def test_imagined_outcomes_are_scored_as_those_of_the_replay_buffer():
    model = make(SampledEnv(VECTOR, DISCRETE), preference=GaussianPreference(0.0, 1.0))
    rows = th.rand(2, 3)
    dones = th.tensor([[0.0], [1.0]])
    imagined = Outcome(rows, None, dones)
    close(model.preference.log_prob(imagined), model.preference.log_prob(samples(rows, dones=dones.ravel())))
    with pytest.raises(ValueError, match="an imagined outcome has no reward unless it is predicted"):
        RewardPreference().log_prob(imagined)
