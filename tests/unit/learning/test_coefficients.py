"""The numbers of a gradient step: schedules, delays and the weights of the terms."""

import dataclasses
import math

import numpy as np
import pytest
from helpers import ACTIONS, action_spaces, make
from stable_baselines3.common.utils import LinearSchedule
from worlds import Chain, SampledEnv

from sb3_dai.dai import DAI
from sb3_dai.efe import PreferenceTerm, Term
from sb3_dai.learning.coefficients import Hyperparameters, coefficients_at, head_weights_at

GIVEN = Hyperparameters(
    gamma=0.9,
    tau=0.05,
    bootstrap_entropy=0.25,
    max_grad_norm=10.0,
    target_update_interval=None,
    policy_delay=None,
    preference_weight=1.0,
    epistemic_weight=0.5,
    prediction_error_weight=0.0,
    precision=2.0,
    target_entropy="auto",
    pessimism=None,
)


def policy_of(name="discrete", env=None, arguments=None, **policy_kwargs):
    env = env or SampledEnv(action_space=ACTIONS[name])
    return make(env, buffer_size=10, policy_kwargs=dict(net_arch=[4], **policy_kwargs), **(arguments or {})).policy


def coefficients(policy, progress=1.0, n_updates=0, gradient_steps=1, **changes):
    given = dataclasses.replace(GIVEN, **changes)
    return [*coefficients_at(progress, given, policy, n_updates, gradient_steps)]


def test_numbers_are_handed_on():
    (step,) = coefficients(policy_of())
    assert (step.gamma, step.tau, step.bootstrap_entropy, step.max_grad_norm) == (0.9, 0.05, 0.25, 10.0)


def test_targets_that_follow_the_steps_of_the_environment_are_left_alone():
    (step,) = coefficients(policy_of(), target_update_interval=100)
    assert step.tau is None


def test_the_average_goes_by_the_number_of_gradient_steps():
    rates = [step.averaging_rate for step in coefficients(policy_of(), n_updates=0, gradient_steps=3)]
    assert rates == pytest.approx([1.0, 20 / 21, 20 / 22])
    (later,) = coefficients(policy_of(), n_updates=981)
    assert later.averaging_rate == pytest.approx(20 / 1001)


# ----- Delays -----


@pytest.mark.parametrize(
    ("policy_delay", "transition_delay", "policy_learns", "world_model_learns"),
    [(1, 1, [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]), (2, 3, [0, 1, 0, 1, 0, 1], [1, 0, 0, 1, 0, 0])],
)
def test_what_is_delayed_learns_once_every_so_many_steps(policy_delay, transition_delay, policy_learns, world_model_learns):
    """Counted from the first step of training, whatever call of ``train`` it is in."""
    policy = policy_of(transition_delay=transition_delay)
    steps = [step for start in (3, 5) for step in coefficients(policy, 1.0, start, 2, policy_delay=policy_delay)]
    steps += coefficients(policy, 1.0, 7, 2, policy_delay=policy_delay)
    assert [step.learns_policy for step in steps] == policy_learns
    assert [step.learns_world_model for step in steps] == world_model_learns


@pytest.mark.parametrize(("name", "delays"), [("discrete", (1, 1)), ("multi-binary", (1, 1)), ("box", (2, 4))])
def test_delays_by_default(name, delays):
    policy = make(SampledEnv(action_space=ACTIONS[name]), buffer_size=10, policy_kwargs=dict(transition_delay=None)).policy
    steps = coefficients(policy, gradient_steps=8)
    assert [step.learns_policy for step in steps] == [i % delays[0] == 0 for i in range(8)]
    assert [step.learns_world_model for step in steps] == [i % delays[1] == 0 for i in range(8)]


def test_counts_are_never_delayed():
    """They cost nothing, and with them the heads that read them would wait."""
    policy = policy_of(env=Chain(), transition_model="dirichlet", transition_delay=3)
    assert all(step.learns_world_model for step in coefficients(policy, gradient_steps=4))


# ----- Precision, pessimism, target of the entropy -----


@action_spaces("discrete", "box")
def test_a_given_precision_is_handed_to_the_policy(action_space):
    policy = make(SampledEnv(action_space=action_space), buffer_size=10).policy
    (step,) = coefficients(policy, 0.5, precision=LinearSchedule(1.0, 3.0, 1.0))
    assert policy.precision.item() == pytest.approx(2.0)
    assert not step.learns_precision


def test_an_automatic_precision_is_left_alone():
    policy = policy_of()
    policy.log_precision.data.fill_(1.5)
    (step,) = coefficients(policy, precision="auto")
    assert step.learns_precision and policy.log_precision.item() == 1.5


@pytest.mark.parametrize(
    ("name", "pessimism", "expected"),
    [("discrete", None, 0.75), ("box", None, 1.0), ("discrete", 0.3, 0.3), ("box", LinearSchedule(0.0, 0.4, 1.0), 0.3)],
)
def test_pessimism(name, pessimism, expected):
    """By default it rises to 1 over training, and is 1 for actions that the policy is led to by a gradient."""
    policy = policy_of(name)
    coefficients(policy, 0.25, pessimism=pessimism)
    assert policy.pessimism.item() == pytest.approx(expected)


def test_target_of_the_entropy():
    policy = policy_of()
    (auto,) = coefficients(policy, 0.0)
    assert auto.target_entropy.item() == pytest.approx(0.2 * math.log(3))
    (given,) = coefficients(policy, 0.5, target_entropy=LinearSchedule(1.0, 0.0, 1.0))
    assert given.target_entropy.item() == pytest.approx(0.5)


# ----- Weights of the terms -----


def test_weights_are_in_the_order_of_the_heads():
    policy = policy_of(arguments=dict(prediction_error_weight=-2.0))
    assert policy.term_names == ["extrinsic", "epistemic", "prediction_error"]
    given = dict(preference_weight=3.0, epistemic_weight=LinearSchedule(0.8, 0.0, 1.0), prediction_error_weight=-0.5)
    (step,) = coefficients(policy, 0.25, **given)
    # The extrinsic one is a part of the cost, and so is a sign
    assert step.head_weights.tolist() == pytest.approx([1.0, 0.2, 0.5])
    assert policy.head_weights.tolist() == step.head_weights.tolist(), "what the policy acts by"
    assert [term.sign for term in policy.terms.values()] == [1.0, 1.0, -1.0]
    assert policy.terms["extrinsic"].weight == 3.0


def test_an_automatic_weight_is_that_of_the_policy():
    policy = policy_of(arguments=dict(epistemic_weight="auto"))
    policy.log_epistemic_weight.data.fill_(math.log(0.3))
    (step,) = coefficients(policy, epistemic_weight="auto")
    assert step.learns_epistemic_weight
    assert step.head_weights.tolist() == pytest.approx([1.0, 0.3])
    (given,) = coefficients(policy)
    assert not given.learns_epistemic_weight and given.head_weights.tolist() == [1.0, 0.5]


def test_nobody_learns_the_weight_of_a_term_that_is_not_there():
    """One member alone has no information gain, whatever its weight."""
    policy = policy_of(ensemble_size=1)
    (step,) = coefficients(policy, epistemic_weight="auto")
    assert not step.learns_epistemic_weight and step.head_weights.tolist() == [1.0]


@pytest.mark.parametrize(
    ("name", "weight"),
    [("epistemic", 0.5), ("epistemic", "auto"), ("epistemic", LinearSchedule(0.6, 0.0, 1.0)), ("prediction_error", -1.0)],
    ids=["number", "auto", "schedule", "negative"],
)
def test_a_term_without_a_head_cannot_be_turned_on(name, weight):
    policy = policy_of(arguments=dict(epistemic_weight=0.0))
    assert policy.term_names == ["extrinsic"]
    given = dataclasses.replace(GIVEN, **{"epistemic_weight": 0.0, f"{name}_weight": weight})
    with pytest.raises(ValueError, match=rf"^{name}_weight=.*made with a weight of 0.*Give {name}_weight when .* DAI\.load"):
        head_weights_at(1.0, given, policy)


def test_a_weight_may_be_changed_between_calls_of_learn():
    model = make(Chain(), epistemic_weight=0.5, seed=0).learn(60)
    model.epistemic_weight = 0.0
    model.learn(20, reset_num_timesteps=False)
    assert model.policy.head_weights.tolist() == [1.0, 0.0]
    model.prediction_error_weight = 1.0
    with pytest.raises(ValueError, match=r"^prediction_error_weight=1\.0: the model was made with a weight of 0"):
        model.learn(20, reset_num_timesteps=False)


def test_a_term_may_be_turned_on_when_a_model_is_loaded(tmp_path):
    model = make(Chain(), seed=0).learn(60)
    model.save(tmp_path / "model")
    loaded = DAI.load(tmp_path / "model", env=Chain(), device="cpu", prediction_error_weight=1.0)
    assert loaded.policy.term_names == ["extrinsic", "epistemic", "prediction_error"]
    loaded.learn(60)
    assert loaded.policy.head_weights[2].item() == 1.0
    off = DAI.load(tmp_path / "model", env=Chain(), device="cpu", epistemic_weight=0.0)
    assert off.policy.term_names == ["extrinsic"]
    actions = [one.predict(np.arange(5), deterministic=True)[0].tolist() for one in (model, off)]
    assert actions[0] == actions[1]


class Effort(Term):
    """A term of the user's."""

    name = "effort"
    reads_prediction = False

    def cost(self, transition):
        return transition.actions.square().sum(dim=1, keepdim=True)


def test_weights_of_terms_of_the_users_follow_their_schedules():
    policy = policy_of(terms=[Effort(LinearSchedule(1.0, 0.0, 1.0))])
    (step,) = coefficients(policy, 0.25)
    assert policy.term_names == ["extrinsic", "epistemic", "effort"]
    assert step.head_weights.tolist() == pytest.approx([1.0, 0.5, 0.25])


def test_the_extrinsic_head_is_there_at_any_weight():
    """It holds the entropy of the policy as well."""
    assert not PreferenceTerm(0.0).is_off
    assert make(Chain(), buffer_size=10, preference_weight=0.0).policy.term_names == ["extrinsic", "epistemic"]
