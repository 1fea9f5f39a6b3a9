"""The policy's part of the variational free energy: entropies, expectations and divergences of Q(a|s), in nats."""

import math

import torch as th
from torch.nn import functional as F

from sb3_dai.equations.likelihood import LOG_2_PI


def policy_expectation(log_prob: th.Tensor, efe: th.Tensor) -> th.Tensor:
    """
    ``sum_i sum_a Q_i(a|s) G_i(s,a)``: the EFE of following the policy, whose independent choices i each cost G_i.

    :param log_prob: log Q_i(a|s), shape (batch, n_choices, n_options)
    :param efe: shape (batch, n_parts, n_choices, n_options)
    :return: shape (batch, n_parts)
    """
    return (log_prob.exp().unsqueeze(1) * efe).sum(dim=(-2, -1))


def policy_entropy(log_prob: th.Tensor) -> th.Tensor:
    """
    Entropy of a policy of independent choices, in nats.

    :param log_prob: log Q_i(a|s), shape (batch, n_choices, n_options)
    :return: shape (batch, 1)
    """
    return -(log_prob.exp() * log_prob).sum(dim=(-2, -1)).unsqueeze(1)


def policy_divergence(
    log_prob: th.Tensor, efe: th.Tensor, precision: th.Tensor | float, log_prior: th.Tensor | float = 0.0
) -> th.Tensor:
    """
    ``KL[ Q(a|s) || E(a|s) softmax(-precision G(s,.)) / Z ]``, the policy's term of the variational free energy
    (van der Himst & Lanillos 2020, eq. 9; with a habit E, Friston et al. 2017, "Active inference: a process theory",
    whose policies are softmax(log E - precision G)), in nats. For a G that is a sum over independent choices both factorise.

    :param log_prob: log Q_i(a|s), shape (batch, n_choices, n_options)
    :param efe: G_i(s,.), same shape; no gradient should flow through it
    :param precision: inverse temperature of the EFE
    :param log_prior: log E_i(a|s), same shape or one that broadcasts to it; any constant is a uniform one
    :return: shape (batch, 1), never negative
    """
    log_target = F.log_softmax(log_prior - precision * efe, dim=-1)
    return (log_prob.exp() * (log_prob - log_target)).sum(dim=(-2, -1)).unsqueeze(1)


def tanh_gaussian_log_prob(raw: th.Tensor, mean: th.Tensor, log_std: th.Tensor) -> th.Tensor:
    """
    Log-density of ``tanh(raw)``, with ``raw`` drawn from a diagonal Gaussian (Haarnoja et al. 2018, arXiv:1801.01290,
    eq. 21). The Jacobian ``log(1 - tanh(u)^2)`` is written as ``2 (log 2 - u - softplus(-2u))``, which stays finite.

    :param raw: before squashing, shape (batch, dim)
    :param mean: of the Gaussian, same shape
    :param log_std: of the Gaussian, same shape
    :return: in nats, shape (batch, 1)
    """
    log_prob = -0.5 * (((raw - mean) * th.exp(-log_std)).square() + LOG_2_PI) - log_std
    log_jacobian = 2.0 * (math.log(2.0) - raw - F.softplus(-2.0 * raw))
    return (log_prob - log_jacobian).sum(dim=-1, keepdim=True)


def sampled_divergence(
    log_prob: th.Tensor, efe: th.Tensor, precision: th.Tensor | float, log_prior: th.Tensor | float = 0.0
) -> th.Tensor:
    """
    One sample of ``KL[ Q(a|s) || E(a|s) softmax(-precision G(s,.)) / Z ]``, less the log-normaliser of the latter, which does
    not depend on the policy: ``log Q(a|s) + precision G(s,a) - log E(a|s)`` with a from Q (the policy's loss in Haarnoja
    et al. 2018, arXiv:1801.01290, eq. 12, with G = -Q and precision = 1 / temperature).

    :param log_prob: log Q(a|s) of the sample, shape (batch, 1)
    :param efe: G(s,a) of the sample, shape (batch, 1)
    :param precision: inverse temperature of the EFE
    :param log_prior: log E(a|s) of the sample, 0 (uniform) or shape (batch, 1)
    :return: shape (batch, 1)
    """
    return log_prob + precision * efe - log_prior
