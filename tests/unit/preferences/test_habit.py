"""The habit prior E(a|s) over actions."""

import math
import re

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import ACTIONS, make, policy_for, spy
from stable_baselines3.common.logger import configure
from torch import nn
from worlds import DISCRETE, IMAGE, VECTOR, SampledEnv

from sb3_dai.dai import DAI
from sb3_dai.equations import divergence


class Indifferent(gym.Env):
    """Two states that alternate, whatever is done; nothing is better than anything else. Action 1 may pay."""

    observation_space, action_space = spaces.Discrete(2), spaces.Discrete(2)

    def __init__(self, reward=0.0):
        self.reward = reward

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return 0, {}

    def step(self, action):
        self.t += 1
        return self.t % 2, self.reward * (action == 1), False, self.t == 10, {}


class Cloned(nn.Module):
    """The habit of each of two states, which a net gets as one-hot codes."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2, bias=False)
        self.layer.weight.data = th.tensor([[0.9, 0.2], [0.1, 0.8]]).log()

    def forward(self, observations):
        return self.layer(observations.float()).softmax(dim=1)


def learned(env, **kwargs):
    kwargs = dict(precision=2.0, epistemic_weight=0.0, gamma=0.0, learning_rate=3e-3, seed=0, **kwargs)
    return make(env, **kwargs).learn(800)


def policy_of(model):
    with th.no_grad():
        return model.policy.posterior(model.policy.belief(th.arange(2).reshape(-1, 1))).log_prob.exp().squeeze(1).numpy()


@pytest.mark.parametrize(
    ("habit_prior", "expected"),
    [
        ([0.2, 0.8], [[0.2, 0.8]] * 2),
        (np.array([0.7, 0.3]), [[0.7, 0.3]] * 2),
        (Cloned(), [[0.9, 0.1], [0.2, 0.8]]),
    ],
    ids=["list", "array", "module"],
)
def test_habits_decide_where_the_expected_free_energy_does_not(habit_prior, expected):
    np.testing.assert_allclose(policy_of(learned(Indifferent(), habit_prior=habit_prior)), expected, atol=0.03)


def test_a_reward_is_weighed_against_the_habit():
    # odds of action 1: e^(2 * 0.5) by the EFE, 1 to 4 by habit
    odds = math.e / 4
    prob = policy_of(learned(Indifferent(reward=0.5), habit_prior=[0.8, 0.2]))
    np.testing.assert_allclose(prob[:, 1], odds / (1 + odds), atol=0.05)


@pytest.mark.parametrize("observation_space", [VECTOR, IMAGE, spaces.Dict(vector=VECTOR, number=DISCRETE)], ids=str)
def test_a_function_gets_what_the_features_extractor_gets(monkeypatch, observation_space):
    seen = []

    def habit_prior(observations):
        seen.append(observations)
        n = len(observations["vector"] if isinstance(observations, dict) else observations)
        return th.full((n, 3), 1 / 3)

    policy = policy_for(observation_space)
    model = make(SampledEnv(observation_space, DISCRETE), policy, habit_prior=habit_prior, precision=2.0, seed=0)
    # A vector is its own features
    plain = observation_space == VECTOR
    inputs = spy(monkeypatch, *((model.policy, "extract_features") if plain else (model.policy.features_extractor, "forward")))
    divergences = spy(monkeypatch, divergence, "policy_divergence")
    model.learn(60)
    assert len(seen) > 1
    assert divergences[-1][0][3].shape == (32, 1, 3)
    (extracted, *_), _ = inputs[-1]
    # But for the axis that SB3's buffers add to numbered states
    parts = zip(*(x.values() if isinstance(x, dict) else [x] for x in (extracted, seen[-1])), strict=True)
    assert any(len(theirs) == 32 for theirs in (seen[-1].values() if isinstance(seen[-1], dict) else [seen[-1]]))
    assert all(
        ours.flatten(1).shape[1:] == theirs.flatten(1).shape[1:] and ours.dtype == theirs.dtype for ours, theirs in parts
    )


def test_a_uniform_habit_is_none():
    plain, uniform = (
        make(seed=0, precision=2.0, habit_prior=prior).learn(80).policy.state_dict() for prior in (None, [0.5, 0.5])
    )
    for name in plain:
        th.testing.assert_close(plain[name], uniform[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("habit_prior", [[0.2, 0.8], Cloned()], ids=["list", "module"])
def test_it_is_saved(tmp_path, habit_prior):
    model = make(Indifferent(), precision=2.0, habit_prior=habit_prior)
    model.save(tmp_path / "model")
    loaded = DAI.load(tmp_path / "model", env=Indifferent(), device="cpu")
    observations = th.tensor([[0], [1]])
    assert th.equal(loaded._log_habit_prior(observations), model._log_habit_prior(observations))
    loaded.learn(60)
    with pytest.raises(ValueError, match="habit_prior="):
        DAI.load(tmp_path / "model", device="cpu", habit_prior=[1.0, 1.0])


BAD = {
    "one too many": [0.2, 0.3, 0.5],
    "no distribution": [0.5, 0.6],
    "not quite": [0.5, 0.50001],
    "zero": [0.0, 1.0],
    "negative": [-0.5, 1.5],
    "NaN": [math.nan, 1.0],
    "text": ["much", "little"],
    "a number": 0.5,
    "a word": "uniform",
    "a table": [[0.5, 0.5]],
}


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_bad_probabilities_are_named(value):
    with pytest.raises(ValueError, match=re.escape(f"habit_prior={value!r}")) as caught:
        make(precision=2.0, habit_prior=value)
    assert "give positive probabilities that add up to 1, of shape (2,)" in str(caught.value)


@pytest.mark.parametrize(
    "function",
    [lambda x: th.ones(len(x), 2), lambda x: th.full((2,), 0.5), lambda x: None, lambda x: x.softmax(dim=1)],
    ids=["not normalised", "no batch", "nothing", "another number of actions"],
)
def test_a_bad_function_is_named_at_construction(function):
    with pytest.raises(
        ValueError, match=r"(?s)habit_prior\(observations\)=.*: give positive probabilities.* of shape \(1, 2\)"
    ):
        make(precision=2.0, habit_prior=function)


def test_a_function_that_turns_bad_is_named_in_training():
    model = make(Indifferent(), precision=2.0, habit_prior=lambda x: th.full((len(x), 2), 0.5 if len(x) == 1 else 0.6))
    model.set_logger(configure(None, []))
    with pytest.raises(ValueError, match=r"(?s)habit_prior\(observations\)=.*shape \(32, 2\)"):
        model.learn(60)


@pytest.mark.parametrize("name", ["multi-discrete", "multi-binary", "box"])
def test_other_actions_have_none(name):
    with pytest.raises(ValueError, match=r"habit_prior=\[0.5, 0.5\]: only Discrete actions .*Leave it out"):
        make(SampledEnv(action_space=ACTIONS[name]), habit_prior=[0.5, 0.5])


def test_an_automatic_precision_has_none():
    with pytest.raises(ValueError, match=r'habit_prior=\[0.5, 0.5\] with precision="auto".*Give a number'):
        make(precision="auto", habit_prior=[0.5, 0.5])
