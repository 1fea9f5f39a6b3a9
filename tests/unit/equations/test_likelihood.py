"""Likelihoods, against numbers worked out by hand and the distributions of torch."""

import math

import torch as th
from helpers import close

from sb3_dai.equations import likelihood


def test_gaussian_nll():
    # Two dimensions: 0.5 (log v + e^2 / v + log 2 pi) with v = 1, e = 2 and v = 4, e = 2
    first, second = 0.5 * (0 + 4 + likelihood.LOG_2_PI), 0.5 * (math.log(4) + 1 + likelihood.LOG_2_PI)
    nll = likelihood.gaussian_nll(th.zeros(1, 1, 2), th.tensor([[[0.0, math.log(4)]]]), th.tensor([[2.0, -2.0]]))
    close(nll, [[[(first + second) / 2]]])


def test_gaussian_nll_is_that_of_torchs_normal():
    mean, log_var, target = th.randn(3, 5, 2), th.randn(3, 5, 2), th.randn(5, 2)
    expected = -th.distributions.Normal(mean, (0.5 * log_var).exp()).log_prob(target).mean(-1, keepdim=True)
    th.testing.assert_close(likelihood.gaussian_nll(mean, log_var, target), expected)


def test_prediction_error_is_that_of_the_mean_of_the_members():
    mean = th.tensor([[[1.0, 0.0]], [[3.0, 2.0]]])
    close(likelihood.prediction_error(mean, th.tensor([[0.0, 0.0]])), [[(2.0**2 + 1.0**2) / 2]])


def test_categorical_likelihood_and_surprise():
    # Two members, one pair (s,a), three states; the second was observed
    log_prob = th.tensor([[[0.5, 0.25, 0.25]], [[0.25, 0.75, 1e-30]]]).log()
    outcome = th.tensor([[1]])
    close(likelihood.categorical_nll(log_prob, outcome), [[[math.log(4)]], [[math.log(4 / 3)]]])
    close(likelihood.categorical_surprise(log_prob, outcome), [[math.log(2)]])  # the mixture is (3, 4, 1) / 8
