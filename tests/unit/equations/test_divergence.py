"""Entropies, expectations and divergences of the policy, against numbers worked out by hand."""

import math

import pytest
import torch as th
from helpers import close
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from sb3_dai.equations import divergence as kl
from sb3_dai.equations.likelihood import LOG_2_PI

LOG2 = math.log(2.0)


def test_policy_expectation():
    log_prob = th.tensor([[[0.25, 0.75]]]).log()
    # Two parts of G
    close(kl.policy_expectation(log_prob, th.tensor([[[[4.0, 8.0]], [[0.0, -4.0]]]])), [[7.0, -3.0]])


def test_policy_expectation_adds_up_over_choices():
    log_prob = th.tensor([[[0.25, 0.75], [0.5, 0.5]]]).log()
    close(kl.policy_expectation(log_prob, th.tensor([[[[4.0, 8.0], [1.0, 3.0]]]])), [[7.0 + 2.0]])


def test_policy_entropy():
    log_prob = th.tensor([[[0.5, 0.5]], [[0.25, 0.75]]]).log()
    quarter = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    close(kl.policy_entropy(log_prob), [[LOG2], [quarter]])
    # The same as two choices of one state
    close(kl.policy_entropy(log_prob.reshape(1, 2, 2)), [[LOG2 + quarter]])


def test_policy_divergence():
    # softmax(-G) with G = (0, log 3) is (3/4, 1/4)
    efe = th.tensor([[[0.0, math.log(3.0)]]])
    close(kl.policy_divergence(th.tensor([[[0.75, 0.25]]]).log(), efe, 1.0), [[0.0]])
    expected = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    close(kl.policy_divergence(th.tensor([[[0.5, 0.5]]]).log(), efe, 1.0), [[expected]])
    # Twice the precision: (9/10, 1/10)
    twice = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    close(kl.policy_divergence(th.tensor([[[0.5, 0.5]]]).log(), efe, 2.0), [[twice]])
    # Two choices, of which one is at its best
    two = th.tensor([[[0.75, 0.25], [0.5, 0.5]]]).log()
    close(kl.policy_divergence(two, efe.expand(1, 2, 2), 1.0), [[expected]])


def test_policy_divergence_from_a_habit():
    # E = (1/4, 3/4) and softmax(-G) = (3/4, 1/4) cancel out; at twice the precision (9/10, 1/10) wins, 3 to 1
    efe, log_prior = th.tensor([[[0.0, math.log(3.0)]]]), th.tensor([0.25, 0.75]).log()
    close(kl.policy_divergence(th.tensor([[[0.5, 0.5]]]).log(), efe, 1.0, log_prior), [[0.0]])
    expected = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    close(kl.policy_divergence(th.tensor([[[0.5, 0.5]]]).log(), efe, 2.0, log_prior), [[expected]])
    # A uniform habit is none
    close(kl.policy_divergence(th.tensor([[[0.5, 0.5]]]).log(), efe, 1.0, math.log(0.5)), [[expected]])


def test_sampled_divergence():
    # log Q + precision G - log E
    one = th.ones(1, 1)
    close(kl.sampled_divergence(-2.0 * one, 3.0 * one, 0.5), [[-0.5]])
    close(kl.sampled_divergence(-2.0 * one, 3.0 * one, 0.5, -4.0 * one), [[3.5]])


def test_policy_divergence_is_finite_for_a_certain_policy():
    """A softmax without its logarithm would give log(0) here (the notebook's NaN)."""
    logits = th.tensor([[[1000.0, -1000.0]]], requires_grad=True)
    divergence = kl.policy_divergence(th.log_softmax(logits, dim=-1), th.tensor([[[5000.0, -5000.0]]]), 1.0)
    divergence.sum().backward()
    assert th.isfinite(divergence).all() and th.isfinite(logits.grad).all()


def test_a_step_on_the_divergence_lowers_the_expected_efe():
    """The notebook's first fatal fault: with the divergence's sign turned, the policy flees softmax(-G)."""
    efe = th.tensor([[[1.0, -1.0, 0.5]]])
    logits = th.zeros(1, 1, 3, requires_grad=True)
    log_prob = th.log_softmax(logits, dim=-1)
    kl.policy_divergence(log_prob, efe, 1.0).sum().backward()
    stepped = th.log_softmax(logits - 0.1 * logits.grad, dim=-1)
    assert kl.policy_expectation(stepped, efe.unsqueeze(1)) < kl.policy_expectation(log_prob, efe.unsqueeze(1))
    assert stepped.argmax() == efe.argmin()


def test_mean_of_the_sampled_divergence_is_the_divergence_but_for_the_normaliser():
    log_prob, efe = th.tensor([0.5, 0.3, 0.2]).log(), th.tensor([1.0, -2.0, 0.5])
    samples = kl.sampled_divergence(log_prob.unsqueeze(1), efe.unsqueeze(1), 1.5)
    mean = (log_prob.exp() * samples[:, 0]).sum() + th.logsumexp(-1.5 * efe, dim=0)
    close(mean.reshape(1, 1), kl.policy_divergence(log_prob.reshape(1, 1, 3), efe.reshape(1, 1, 3), 1.5))


def test_tanh_gaussian_log_prob_by_hand():
    # tanh(log(3) / 2) is 1/2, where the Jacobian is 1 - 1/4; the Gaussian has the deviation 2
    raw, half = 0.5 * math.log(3.0), -0.5 * LOG_2_PI
    expected = half - 0.5 * (raw / 2) ** 2 - LOG2 - math.log(0.75)
    close(kl.tanh_gaussian_log_prob(th.tensor([[raw]]), th.zeros(1, 1), th.full((1, 1), LOG2)), [[expected]])
    # A second dimension, at its mean 0, adds to it
    raws, log_std = th.tensor([[raw, 0.0]]), th.tensor([[LOG2, 0.0]])
    close(kl.tanh_gaussian_log_prob(raws, th.zeros(1, 2), log_std), [[expected + half]])


def test_tanh_gaussian_log_prob_is_torchs():
    th.manual_seed(0)
    raw, mean, log_std = (scale * th.randn(200, 3, dtype=th.float64) for scale in (1.5, 1.0, 0.5))
    squashed = TransformedDistribution(Independent(Normal(mean, log_std.exp()), 1), [TanhTransform()])
    th.testing.assert_close(kl.tanh_gaussian_log_prob(raw, mean, log_std)[:, 0], squashed.log_prob(th.tanh(raw)))


def test_tanh_gaussian_density_integrates_to_one():
    actions = (th.arange(20_000, dtype=th.float64) + 0.5).unsqueeze(1) / 10_000 - 1
    mean, log_std = th.full_like(actions, 0.4), th.full_like(actions, -0.5)
    density = kl.tanh_gaussian_log_prob(th.atanh(actions), mean, log_std).exp()
    assert density.mean().item() * 2 == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("raw", [-30.0, 30.0])
def test_tanh_gaussian_log_prob_is_finite_in_the_tails(raw):
    """tanh is 1 there to machine precision, and the logarithm of its derivative would be that of 0."""
    mean, log_std = th.tensor([[raw]], requires_grad=True), th.zeros(1, 1, requires_grad=True)
    log_prob = kl.tanh_gaussian_log_prob(mean + 0.0, mean.detach(), log_std)
    log_prob.sum().backward()
    # 1 - tanh(u)^2 is 4 exp(-2 |u|) in the tails
    close(log_prob, [[-0.5 * LOG_2_PI - 2 * LOG2 + 60.0]])
    assert th.isfinite(mean.grad).all() and th.isfinite(log_std.grad).all()
