"""How decided samples of the policy are."""

import math

import numpy as np
import pytest
import torch as th
from helpers import action_spaces, make
from worlds import BOX, DISCRETE, VECTOR, SampledEnv

from sb3_dai.actions.categorical import CategoricalActions
from sb3_dai.actions.gaussian import GaussianActions
from sb3_dai.dai import DAI
from sb3_dai.policy import MlpPolicy

N = 40_000


def with_precision(action_precision, env):
    return make(env, policy_kwargs=dict(net_arch=[16], action_precision=action_precision), seed=0)


@pytest.mark.parametrize(
    ("action_precision", "expected"),
    # Q = (1, 2, 4) / 7, whose square root and square are not normalised
    [(1.0, np.array([1, 2, 4]) / 7), (2.0, np.array([1, 4, 16]) / 21), (0.5, np.sqrt([1, 2, 4]) / np.sqrt([1, 2, 4]).sum())],
)
def test_frequencies_are_those_of_the_powers(action_precision, expected):
    th.manual_seed(0)
    logits = th.tensor([[0.0, math.log(2.0), math.log(4.0)]]) + 5.0
    drawn = CategoricalActions([3]).act(logits.expand(N, 3), False, action_precision)
    np.testing.assert_allclose(np.bincount(drawn.ravel(), minlength=3) / N, expected, atol=0.01)


def test_an_option_that_does_not_exist_is_never_drawn():
    th.manual_seed(0)
    drawn = CategoricalActions([2, 3]).act(th.zeros(N, 6), False, 1e-6)
    assert drawn.max(dim=0).values.tolist() == [1, 2]


@pytest.mark.parametrize(("action_precision", "std"), [(1.0, 0.3), (9.0, 0.1), (0.25, 0.6)])
def test_the_gaussian_is_that_of_the_power(action_precision, std):
    th.manual_seed(0)
    outputs = th.tensor([[0.2, math.log(0.3)]]).expand(N, 2)
    raw = th.atanh(GaussianActions(1).act(outputs, False, action_precision))
    assert raw.mean().item() == pytest.approx(0.2, abs=0.02)
    assert raw.std().item() == pytest.approx(std, rel=0.02)


@action_spaces()
def test_one_is_the_policy_itself_and_the_best_action_does_not_depend_on_it(action_space):
    observations = np.random.default_rng(0).uniform(-1, 1, (50, 3)).astype(np.float32)
    models = [with_precision(value, SampledEnv(action_space=action_space)) for value in (1.0, 50.0)]
    plain, decided = [model.predict(observations, deterministic=True)[0] for model in models]
    assert (plain == decided).all()
    # Samples of a decided policy are nearer to the best action
    distances = [np.mean([abs(model.predict(observations)[0] - plain).mean() for _ in range(20)]) for model in models]
    assert distances[1] < 0.9 * distances[0]


@action_spaces("discrete", "box")
def test_a_gradient_step_does_not_depend_on_it(action_space):
    model = make(SampledEnv(action_space=action_space), seed=0).learn(60)
    states = []
    for action_precision in (1.0, 7.0):
        other = with_precision(action_precision, SampledEnv(action_space=action_space))
        other.set_logger(model.logger)
        other.replay_buffer = model.replay_buffer
        np.random.seed(1)
        th.manual_seed(1)
        other.train(gradient_steps=3, batch_size=16)
        states.append(other.policy.state_dict())
    assert all(th.equal(states[0][name], states[1][name]) for name in states[0])


def test_it_is_saved_with_the_model_and_with_the_policy(tmp_path):
    model = with_precision(4.0, SampledEnv(action_space=DISCRETE))
    model.save(tmp_path / "model")
    model.policy.save(tmp_path / "policy")
    assert DAI.load(tmp_path / "model", device="cpu").policy.action_precision == 4.0
    assert MlpPolicy.load(tmp_path / "policy", device="cpu").action_precision == 4.0


@pytest.mark.parametrize("value", [0, -1, math.nan, "high", None])
def test_bad_values_are_named(value):
    with pytest.raises(ValueError, match=rf"action_precision={value!r}: give a finite number"):
        with_precision(value, SampledEnv(action_space=BOX))
    with pytest.raises(ValueError, match=rf"action_precision={value!r}: give a finite number"):
        MlpPolicy(VECTOR, DISCRETE, lambda _: 1e-3, action_precision=value)
