"""Expected information about the parameters of the world model (novelty), in nats."""

import math

import torch as th

RESOLUTION = 0.1
"""Standard deviation of the error of an observation, in units of the typical change of a feature in a step."""


def gaussian_information_gain(mean: th.Tensor, log_var: th.Tensor, resolution: float = RESOLUTION) -> th.Tensor:
    """
    Expected information about the transition model's parameters, in nats: entropy of the ensemble's mixture minus
    the mean entropy of its members (Tschantz et al. 2020, eq. 6), with the mixture moment-matched to a Gaussian, for an
    outcome that is seen with an error of standard deviation ``resolution``:
    ``0.5 sum_d log(1 + Var_k[mu_kd] / (E_k[sigma_kd^2] + resolution^2))``. It vanishes where members agree, however noisy
    the outcome. Without the resolution it need not fall with knowledge where nothing is random: the members' noise is
    then their own error, which shrinks as fast as their disagreement.

    :param mean: member means, shape (ensemble_size, batch, dim)
    :param log_var: member log-variances, same shape
    :param resolution: in the units of the outcome
    :return: shape (batch, 1), zero for a single member
    """
    noise = log_var.exp().mean(dim=0) + resolution**2
    return 0.5 * th.log1p(ensemble_variance(mean) / noise).sum(dim=-1, keepdim=True)


def ensemble_variance(mean: th.Tensor) -> th.Tensor:
    """
    Variance of the members' means, their disagreement whatever the noise (Pathak et al. 2019, arXiv:1906.04161, eq. 1).

    :param mean: member means, shape (ensemble_size, batch, dim)
    :return: shape (batch, dim)
    """
    apart = mean - mean[:1]  # Exactly 0 where members agree
    return (apart - apart.mean(dim=0)).square().mean(dim=0)


def categorical_information_gain(log_prob: th.Tensor) -> th.Tensor:
    """
    Expected information about the transition model's parameters, in nats: entropy of the ensemble's mixture minus the
    mean entropy of its members (Tschantz et al. 2020, eq. 6), which is their Jensen-Shannon divergence. At most the
    logarithm of the ensemble's size.

    :param log_prob: of each member, shape (ensemble_size, batch, n_states)
    :return: shape (batch, 1), zero for a single member
    """
    mixture = th.logsumexp(log_prob, dim=0) - math.log(log_prob.shape[0])
    members = -(log_prob.exp() * log_prob).sum(dim=-1, keepdim=True).mean(dim=0)
    return (-(mixture.exp() * mixture).sum(dim=-1, keepdim=True) - members).clamp(min=0.0)


def dirichlet_information_gain(counts: th.Tensor) -> th.Tensor:
    """
    Expected information about the parameters of a categorical distribution whose belief is a Dirichlet, in nats: entropy
    of its mean minus its mean entropy (exact; the novelty of Friston et al. 2017, "Active inference, curiosity and
    insight", eq. A.2, is its expansion for large counts).
    ``sum_i p_i [ psi(alpha_i + 1) - psi(alpha_0 + 1) - log p_i ]`` with ``p = alpha / alpha_0``. With n observations it falls
    as 1/n: where all k states occur, as ``(k - 1) / 2n``.

    :param counts: alpha, positive, shape (..., n_states)
    :return: shape (..., 1)
    """
    total = counts.sum(dim=-1, keepdim=True)
    mean = counts / total
    gain = mean * (th.digamma(counts + 1.0) - th.digamma(total + 1.0) - mean.log())
    return gain.sum(dim=-1, keepdim=True).clamp(min=0.0)


def dirichlet_variance(counts: th.Tensor) -> th.Tensor:
    """
    Variance of the probabilities of a Dirichlet belief, sum over states: ``sum_i p_i (1 - p_i) / (alpha_0 + 1)`` with
    ``p = alpha / alpha_0``.

    :param counts: alpha, positive, shape (..., n_states)
    :return: shape (..., 1)
    """
    total = counts.sum(dim=-1, keepdim=True)
    mean = counts / total
    return (mean * (1.0 - mean)).sum(dim=-1, keepdim=True) / (total + 1.0)
