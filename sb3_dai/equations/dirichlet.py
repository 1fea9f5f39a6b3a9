"""Beliefs about probabilities as Dirichlet counts, of which each column is one distribution."""

import torch as th


def expected_log(counts: th.Tensor) -> th.Tensor:
    """
    ``E[log p] = digamma(alpha) - digamma(sum alpha)`` (Beal 2003, "Variational algorithms for approximate Bayesian inference",
    equation 3.69). Its exponential is less than the mean, much less where counts are small.

    :param counts: alpha, positive, shape (n, ...)
    :return: in nats, same shape
    """
    return th.digamma(counts) - th.digamma(counts.sum(dim=0))


def dirichlet_divergence(counts: th.Tensor, other: th.Tensor) -> th.Tensor:
    """
    ``KL[ Dir(counts) || Dir(other) ]`` of each column.

    :param counts: positive, shape (n, ...)
    :param other: same shape
    :return: in nats, shape (...)
    """
    logs = th.lgamma(counts.sum(dim=0)) - th.lgamma(other.sum(dim=0)) + (th.lgamma(other) - th.lgamma(counts)).sum(dim=0)
    return logs + ((counts - other) * expected_log(counts)).sum(dim=0)
