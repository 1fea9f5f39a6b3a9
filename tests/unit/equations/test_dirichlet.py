"""Dirichlet counts by hand: digamma(1) = -gamma, digamma(2) = 1 - gamma, digamma(3) = 1.5 - gamma."""

import math

import pytest
import torch as th
from helpers import close

from sb3_dai.equations.dirichlet import dirichlet_divergence, expected_log


def test_expected_log_by_hand():
    close(expected_log(th.tensor([[1.0, 2.0], [1.0, 1.0]])), [[-1.0, -0.5], [-1.0, -1.5]])


def test_rare_outcomes_are_rarer_than_their_mean():
    counts = th.tensor([0.01, 100.0])
    assert expected_log(counts)[0].item() < -100.0 < (counts[0] / counts.sum()).log().item()
    assert expected_log(counts)[1].item() == pytest.approx(0.0, abs=0.01)


def test_expected_log_is_that_of_draws():
    th.manual_seed(0)
    counts = th.tensor([2.0, 0.5, 1.0])
    drawn = th.distributions.Dirichlet(counts).sample((200_000,)).log().mean(dim=0)
    assert expected_log(counts).tolist() == pytest.approx(drawn.tolist(), abs=0.02)


def test_divergence_by_hand():
    # Density 2 p beside 1: the expectation of log 2 + log p, with E[log p] = digamma(2) - digamma(3) = -1/2
    close(dirichlet_divergence(th.tensor([2.0, 1.0]), th.ones(2)), math.log(2.0) - 0.5)
    counts = th.tensor([[3.0, 0.1], [2.0, 5.0]])
    close(dirichlet_divergence(counts, counts), [0.0, 0.0])
    assert (dirichlet_divergence(counts, th.ones(2, 2)) > 0.0).all()
