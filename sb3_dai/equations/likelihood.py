"""Likelihood of what was observed under the predictions of the ensemble, in nats."""

import math

import torch as th

LOG_2_PI = math.log(2.0 * math.pi)


def gaussian_nll(mean: th.Tensor, log_var: th.Tensor, target: th.Tensor) -> th.Tensor:
    """
    Negative log-likelihood of a diagonal Gaussian, in nats, averaged over dimensions so that its size
    does not grow with the observation.

    :param mean: predicted mean, shape (..., batch, dim)
    :param log_var: logarithm of the predicted variance, same shape
    :param target: observed value, shape (batch, dim)
    :return: shape (..., batch, 1)
    """
    nll = 0.5 * (log_var + (target - mean).square() * th.exp(-log_var) + LOG_2_PI)
    return nll.mean(dim=-1, keepdim=True)


def prediction_error(mean: th.Tensor, target: th.Tensor) -> th.Tensor:
    """
    Squared error of the ensemble's mean prediction, averaged over dimensions: the transition term of the
    variational free energy (van der Himst & Lanillos 2020, eq. 8, with a unit-variance likelihood).

    :param mean: predicted means, shape (ensemble_size, batch, dim)
    :param target: observed value, shape (batch, dim)
    :return: shape (batch, 1)
    """
    return (mean.mean(dim=0) - target).square().mean(dim=-1, keepdim=True)


def categorical_nll(log_prob: th.Tensor, outcome: th.Tensor) -> th.Tensor:
    """
    Negative log-likelihood of a categorical distribution, in nats.

    :param log_prob: shape (..., batch, n_states)
    :param outcome: index of what was observed, shape (batch, 1)
    :return: shape (..., batch, 1)
    """
    return -log_prob.gather(-1, outcome.expand(*log_prob.shape[:-1], 1))


def categorical_surprise(log_prob: th.Tensor, outcome: th.Tensor) -> th.Tensor:
    """
    Surprise of the ensemble's mixture, ``-log mean_k p_k(s'|s,a)``, in nats: the transition term of the variational free
    energy of numbered states.

    :param log_prob: of each member, shape (ensemble_size, batch, n_states)
    :param outcome: index of what was observed, shape (batch, 1)
    :return: shape (batch, 1)
    """
    return math.log(log_prob.shape[0]) - th.logsumexp(-categorical_nll(log_prob, outcome), dim=0)
