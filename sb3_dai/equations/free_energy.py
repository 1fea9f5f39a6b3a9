"""The variational free energy of a hidden state: how far beliefs are from what was expected, in nats."""

import torch as th

from sb3_dai.equations.hidden_states import IMPOSSIBLE


def gaussian_divergence(mean: th.Tensor, log_std: th.Tensor, prior_mean: th.Tensor, prior_log_std: th.Tensor) -> th.Tensor:
    """
    ``KL[ q(s) || p(s) ]`` of diagonal Gaussians, the complexity in the variational free energy
    ``F = E_q[-log p(o|s)] + KL[ q(s) || p(s) ]``.

    :param mean: of q, shape (batch, dim)
    :param log_std: of q, same shape
    :param prior_mean: of p, same shape
    :param prior_log_std: of p, same shape
    :return: in nats, shape (batch, 1)
    """
    ratio = 2.0 * (log_std - prior_log_std)
    distance = ((mean - prior_mean) * th.exp(-prior_log_std)).square()
    return 0.5 * (ratio.exp() + distance - ratio - 1.0).sum(dim=-1, keepdim=True)


def categorical_divergence(belief: th.Tensor, prior: th.Tensor) -> th.Tensor:
    """
    ``KL[ q(s) || p(s) ]`` of numbered states. With ``E_q[-log p(o|s)]`` it is the free energy of an observation, which for the
    exact posterior q is its surprise -log p(o).

    :param belief: q, probabilities, shape (batch, n_states)
    :param prior: p, likewise
    :return: in nats, shape (batch, 1); states of probability zero count as 1e-16
    """
    ratio = belief.clamp(min=IMPOSSIBLE).log() - prior.clamp(min=IMPOSSIBLE).log()
    return (belief * ratio).sum(dim=-1, keepdim=True)


def balanced_divergence(
    posterior: tuple[th.Tensor, th.Tensor], prior: tuple[th.Tensor, th.Tensor], balance: float = 0.8, free_nats: float = 1.0
) -> th.Tensor:
    """
    The divergence with a gradient that moves the prior towards the posterior more than the posterior towards the prior
    (Hafner et al. 2021, arXiv:2010.02193, algorithm 2), and none below some nats that are free (Kingma et al. 2016,
    arXiv:1606.04934), so that the posterior does not give up what it knows before the prior can tell it.

    :param posterior: mean and logarithm of the standard deviation of q(s|o), each (batch, dim)
    :param prior: of p(s), likewise
    :param balance: share of the gradient that is the prior's
    :param free_nats: nats that cost nothing
    :return: in nats, shape (batch, 1)
    """
    of_prior = gaussian_divergence(posterior[0].detach(), posterior[1].detach(), *prior)
    of_posterior = gaussian_divergence(*posterior, prior[0].detach(), prior[1].detach())
    return balance * of_prior.clamp(min=free_nats) + (1.0 - balance) * of_posterior.clamp(min=free_nats)
