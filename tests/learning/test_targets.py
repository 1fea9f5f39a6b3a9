"""What each gradient step learns from: targets of the critics, weights, schedules and the precision."""

import math

import numpy as np
import pytest
import torch as th
from helpers import filled, make, step_inputs
from worlds import Chain, Slope

from sb3_dai import DAI
from sb3_dai.efe import Transition
from sb3_dai.learning.batch import sample_transitions
from sb3_dai.learning.losses import all_losses, efe_targets

SMALL = dict(net_arch=[32])


def chain(**kwargs):
    return filled(make(Chain(), policy_kwargs=SMALL, seed=0, **kwargs))


class Told:
    """A prediction whose gain and error are given."""

    def __init__(self, gain, error):
        self.gain, self.surprise = gain, error

    def information_gain(self):
        return self.gain

    def error(self, outcome):
        return self.surprise


def targets_of(model, samples, gain=0.0, error=0.0):
    """Bellman targets of each term by its name, shape (batch, 1), where the world model learns."""
    policy, (batch, coefficients) = model.policy, step_inputs(model, samples)
    pairs, nothing = batch.one_step, th.zeros(len(batch.one_step.actions), 1)
    prediction = Told(nothing + gain, nothing + error)
    transition = Transition(
        *(pairs.observations, policy.encode(pairs.actions), pairs.next_observations, pairs.rewards, pairs.dones),
        *(batch.log_preference, batch.has_successor, prediction, None),
    )
    next_belief = policy.belief(pairs.next_observations, target=True)
    heads, target = efe_targets(policy, batch, coefficients, transition, next_belief)
    return {policy.term_names[head]: target[:, [column]] for column, head in enumerate(heads)}


@pytest.mark.parametrize(("weight", "expected"), [(2.0, 7.0), (-2.0, -3.0)])
def test_the_worst_critic_is_the_one_of_the_higher_cost(weight, expected):
    """By hand: two critics expect surprises of 3 and 7, at a discount of 1 and none now. Who seeks surprise counts on 3."""
    model = chain(prediction_error_weight=weight, gamma=1.0, pessimism=1.0)
    (samples,) = sample_transitions(model.replay_buffer, 8)
    assert step_inputs(model, samples)[1].head_weights[2] == 2.0
    sign = 1.0 if weight > 0 else -1.0
    for member, surprise in enumerate((3.0, 7.0)):
        last = model.policy.value_net_target.layers[-1]
        with th.no_grad():
            last.weight[member], last.bias[member] = 0.0, sign * surprise
    target = targets_of(model, samples)["prediction_error"]
    th.testing.assert_close(target, expected * (1.0 - samples.one_step.dones))


def test_information_gain_lowers_the_epistemic_target():
    model = chain(gamma=0.0)  # Of this step alone
    (samples,) = sample_transitions(model.replay_buffer, 2)
    for _ in range(1000):  # until the running scale is that of the two
        target = targets_of(model, samples, gain=th.tensor([[1.0], [3.0]]))["epistemic"]
    np.testing.assert_allclose(target, [[-1.0 / 2.0], [-3.0 / 2.0]], rtol=1e-3)
    assert step_inputs(model, samples)[1].head_weights[1] > 0
    # What is known by now weighs less than it did: the scale keeps its peak
    for _ in range(1000):
        target = targets_of(model, samples, gain=th.tensor([[0.1], [0.3]]))["epistemic"]
    np.testing.assert_allclose(target, [[-0.1 / 2.0], [-0.3 / 2.0]], rtol=1e-3)


@pytest.mark.parametrize("make_env", [Chain, Slope], ids=["discrete", "box"])
def test_targets_are_those_of_the_target_net(make_env):
    model = make(make_env(), precision=2.0, prediction_error_weight=1.0, policy_kwargs=SMALL, seed=0).learn(60)
    (samples,) = sample_transitions(model.replay_buffer, 8)
    samples.one_step.dones[:] = 0.0

    def target():
        th.manual_seed(0)
        return th.cat([*targets_of(model, samples).values()], dim=1)

    target()  # The running mean of the epistemic value starts
    before = target()
    model.policy.value_net.layers[-1].bias.data += 1.0
    assert th.equal(target(), before)
    model.policy.value_net_target.layers[-1].bias.data += 1.0
    assert before.shape == (8, 3)
    th.testing.assert_close(target(), before + model.gamma)


def test_ensemble_of_one_has_no_epistemic_term():
    model = filled(make(Chain(), policy_kwargs=dict(SMALL, ensemble_size=1), epistemic_weight=0.5, seed=0))
    model.train(gradient_steps=3, batch_size=16)
    assert model.logger.name_to_value["train/information_gain"] == 0.0
    assert model.policy.term_names == ["extrinsic"] and "train/epistemic_weight" not in model.logger.name_to_value


def test_by_default_curiosity_and_randomness_fall_and_pessimism_rises():
    """What the scores of the README were measured with."""
    model = DAI("MlpPolicy", Chain(), buffer_size=10, policy_kwargs=SMALL, device="cpu")
    values = []
    for model._current_progress_remaining in (1.0, 0.625, 0.25, 0.0):
        (now,) = model._coefficients(1)
        values.append((now.head_weights[1].item(), now.target_entropy.item() / math.log(2), model.policy.pessimism.item()))
    weights, entropies, shares = zip(*values, strict=True)
    assert weights == pytest.approx([0.6, 0.3, 0.0, 0.0]) and entropies == pytest.approx([0.7, 0.325, 0.2, 0.2])
    assert shares == pytest.approx([0.0, 0.375, 0.75, 1.0])
    model = DAI("MlpPolicy", Slope(), buffer_size=10, policy_kwargs=SMALL, device="cpu")
    next(iter(model._coefficients(1)))
    assert model.policy.pessimism == 1.0


# ----- Precision -----


def test_a_given_precision_stays():
    model = chain(precision=2.5)
    model.train(gradient_steps=5, batch_size=16)
    assert model.policy.precision.item() == pytest.approx(2.5)


def test_a_precision_given_at_load_replaces_the_saved_one(tmp_path):
    chain(precision=2.5).save(tmp_path / "model")
    model = filled(DAI.load(tmp_path / "model", env=Chain(), precision=5.0, device="cpu"))
    model.train(gradient_steps=1, batch_size=16)
    assert model.policy.precision.item() == pytest.approx(5.0)


@pytest.mark.parametrize("precision", [0.5, 4.0])
@pytest.mark.parametrize("automatic", [False, True])
def test_the_policys_loss_is_its_divergence_in_units_of_g_if_the_precision_moves(precision, automatic):
    model = chain(precision="auto" if automatic else precision, learning_rate=1e-9)
    model.policy.log_precision.data.fill_(np.log(precision))
    model.train(gradient_steps=3, batch_size=16)
    logged = {name.removeprefix("train/"): value for name, value in model.logger.name_to_value.items()}
    divergence = logged["vfe"] - logged["prediction_error"]
    assert divergence > 1e-3
    assert logged["policy_loss"] == pytest.approx(divergence / (precision if automatic else 1.0), rel=1e-3)


def test_the_policys_gradient_does_not_grow_with_an_automatic_precision():
    """A uniform policy has the highest entropy, so that its gradient is that of G alone. Clipping it must not slow others."""
    gradients = []
    for precision in (0.1, 100.0):
        model = chain(precision="auto")
        model.policy.log_precision.data.fill_(np.log(precision))
        last = model.policy.policy_net.layers[-1]
        last.weight.data.zero_(), last.bias.data.zero_()
        model.policy.value_net.layers[-1].weight.data.mul_(100.0)
        (samples,) = sample_transitions(model.replay_buffer, 64)
        losses, _ = all_losses(model.policy, *step_inputs(model, samples))
        gradients.append(th.autograd.grad(losses["policy_loss"], last.bias)[0])
    assert gradients[0].abs().max() > 1e-3
    th.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)
