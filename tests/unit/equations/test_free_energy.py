"""The free energy of a hidden state against numbers worked out by hand."""

import math

import torch as th
from helpers import close

from sb3_dai.equations.free_energy import balanced_divergence, categorical_divergence, gaussian_divergence


def test_divergence_of_gaussians_by_hand():
    mean, log_std = th.tensor([[1.0, 0.0]]), th.tensor([[0.0, math.log(2.0)]])
    prior_mean, prior_log_std = th.tensor([[0.0, 0.0]]), th.tensor([[0.0, 0.0]])
    # A shift by one standard deviation costs half a nat; twice the standard deviation (4 - 2 log 2 - 1) / 2
    close(gaussian_divergence(mean, log_std, prior_mean, prior_log_std), [[0.5 + 1.5 - math.log(2.0)]])
    close(gaussian_divergence(mean, log_std, mean, log_std), [[0.0]])


def test_divergence_is_that_of_torch():
    parts = th.randn(4, 5, 3, generator=th.Generator().manual_seed(0))
    q, p = (th.distributions.Normal(mean, log_std.exp()) for mean, log_std in (parts[:2], parts[2:]))
    close(gaussian_divergence(*parts), th.distributions.kl_divergence(q, p).sum(dim=1, keepdim=True))


def test_divergence_of_numbered_states_by_hand():
    # 3/4 log(3/4 / 1/2) + 1/4 log(1/4 / 1/2); what is known for certain is worth the logarithm of what it was expected to be
    divergence = categorical_divergence(th.tensor([[0.75, 0.25], [1.0, 0.0]]), th.tensor([[0.5, 0.5], [0.25, 0.75]]))
    close(divergence, [[0.75 * math.log(1.5) - 0.25 * math.log(2.0)], [math.log(4.0)]])


def test_the_prior_gets_the_larger_share_of_the_gradient():
    mean, prior_mean = th.tensor([[3.0]], requires_grad=True), th.tensor([[0.0]], requires_grad=True)
    zero = th.zeros(1, 1)
    divergence = balanced_divergence((mean, zero), (prior_mean, zero), balance=0.8, free_nats=1.0)
    close(divergence, [[4.5]])
    of_mean, of_prior = th.autograd.grad(divergence.sum(), [mean, prior_mean])
    close(of_mean, [[0.2 * 3.0]])
    close(of_prior, [[-0.8 * 3.0]])


def test_some_nats_are_free():
    mean = th.tensor([[1.0]], requires_grad=True)
    divergence = balanced_divergence((mean, th.zeros(1, 1)), (th.zeros(1, 1), th.zeros(1, 1)), free_nats=1.0)
    close(divergence, [[1.0]])  # Half a nat, raised to what is free
    assert not th.autograd.grad(divergence.sum(), [mean])[0].any()
