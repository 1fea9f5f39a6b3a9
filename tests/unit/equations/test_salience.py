"""Salience and novelty of hidden states, against numbers worked out by hand."""

import math

import pytest
import torch as th
from helpers import close

from sb3_dai.equations import salience

LOG2 = math.log(2.0)


def test_modalities_as_one():
    first, second = th.tensor([[0.9, 0.2], [0.1, 0.8]]), th.tensor([[0.5, 0.1], [0.5, 0.9]])
    close(salience.joint_likelihood([first, second]), [[0.45, 0.02], [0.45, 0.18], [0.05, 0.08], [0.05, 0.72]])
    assert salience.joint_likelihood([first]) is first


def test_salience_of_a_cue():
    # A sure cue about two equally probable states is worth one bit, a cue that says nothing is worth nothing
    half = th.tensor([[0.5, 0.5], [1.0, 0.0]])
    close(salience.state_information_gain(half, th.eye(2)), [[LOG2], [0.0]])
    close(salience.state_information_gain(half, th.full((2, 2), 0.5)), [[0.0], [0.0]])
    # The tiger's sound, right in 85 %: log 2 - H(0.85)
    hears = th.tensor([[0.85, 0.15], [0.15, 0.85]])
    entropy = -0.85 * math.log(0.85) - 0.15 * math.log(0.15)
    close(salience.state_information_gain(half[:1], hears), [[LOG2 - entropy]])


def test_two_sounds_tell_less_than_twice_one():
    hears = th.tensor([[0.85, 0.15], [0.15, 0.85]])
    half = th.tensor([[0.5, 0.5]])
    once = salience.state_information_gain(half, hears).item()
    twice = salience.state_information_gain(half, salience.joint_likelihood([hears, hears])).item()
    # Equal sounds (p = 0.745) leave 0.0225 / 0.745, different ones tell nothing
    rest = 0.0225 / 0.745
    entropy = -rest * math.log(rest) - (1 - rest) * math.log(1 - rest)
    assert twice == pytest.approx(LOG2 - 0.745 * entropy - 0.255 * LOG2, rel=1e-4)
    assert once < twice < 2 * once


def test_divergence_of_a_count_that_grows():
    # Dir(2, 1) from Dir(1, 1) of one whole count: the density 2p against 1, so E[log 2p] = log 2 + psi(2) - psi(3)
    found = salience.dirichlet_increment_divergence(th.tensor(1.0), th.tensor(2.0), th.tensor(1.0))
    assert found.item() == pytest.approx(LOG2 - 0.5, rel=1e-5)
    assert salience.dirichlet_increment_divergence(th.tensor(3.0), th.tensor(7.0), th.tensor(0.0)).item() == 0.0


def test_large_counts_still_teach_a_little():
    # Of n observations of k outcomes (k - 1) / 2n
    found = salience.likelihood_information_gain(th.ones(1, 1), th.full((3, 1), 1e5 / 3))
    assert found.item() == pytest.approx(1e-5, rel=1e-2)


def test_novelty_of_a_sure_state_is_the_exact_information_gain():
    counts = th.tensor([[1.0, 2.0], [3.0, 0.5], [0.2, 0.1]])
    gains = salience.state_gains(counts)
    close(salience.likelihood_information_gain(th.eye(2), counts).squeeze(1), gains.tolist())
    # By the mean of Dir(1, 1) both outcomes teach log 2 - 1/2
    close(salience.state_gains(th.ones(2, 1)), [LOG2 - 0.5])


def test_novelty_falls_with_doubt_about_the_state():
    """Of n equally probable states whose outcomes are unknown, each gets 1/n of a count, which teaches about 1/n^2."""
    gains = [salience.likelihood_information_gain(th.full((1, n), 1.0 / n), th.ones(2, n)).item() for n in (1, 4, 16, 64)]
    # A small count c of Dir(1, 1) teaches c^2 / 2 (psi'(1) - psi'(2)) = c^2 / 2
    assert gains[0] == pytest.approx(LOG2 - 0.5, rel=1e-4)
    assert gains[3] == pytest.approx(0.5 / 64, rel=0.05)
    assert gains == sorted(gains, reverse=True)


def test_novelty_of_transitions_has_the_shape_of_the_pairs():
    found = salience.state_gains(th.stack([th.ones(2, 3), 5 * th.ones(2, 3)], dim=2))
    assert found.shape == (3, 2)
    assert (found[:, 0] > found[:, 1]).all()
