"""Information gain and disagreement, against numbers worked out by hand."""

import itertools
import math

import pytest
import torch as th
from helpers import close

from sb3_dai.equations import information_gain as gain

LOG2 = math.log(2.0)


def test_gaussian_information_gain():
    # One dimension, means -1 and 1 (variance 1) under noise of variance 1 and 3 (mean 2): 0.5 log(1 + 1 / 2)
    mean, log_var = th.tensor([[[-1.0]], [[1.0]]]), th.tensor([[[0.0]], [[math.log(3.0)]]])
    close(gain.gaussian_information_gain(mean, log_var, resolution=0.0), [[0.5 * math.log(1.5)]])
    # Seen with a standard deviation of 1: the noise has a variance of 3. By default it is 0.1: of 2.01
    close(gain.gaussian_information_gain(mean, log_var, resolution=1.0), [[0.5 * math.log(4 / 3)]])
    close(gain.gaussian_information_gain(mean, log_var), [[0.5 * math.log(3.01 / 2.01)]])
    # Dimensions add up
    close(gain.gaussian_information_gain(mean.expand(2, 1, 3), log_var.expand(2, 1, 3), 0.0), [[1.5 * math.log(1.5)]])


def test_information_gain_of_a_deterministic_outcome_falls_as_the_members_learn():
    """The members' noise is then their own error. Without a resolution the ratio of the two need not fall at all."""
    members = th.randn(5, 200, 3, generator=th.Generator().manual_seed(0))
    # Errors of 1, 0.1, ... with a log-variance to match, down to the floor of the transition net
    errors = [1.0, 0.1, 0.01, math.exp(-5.0)]
    coarse, none = (
        [gain.gaussian_information_gain(e * members, th.full_like(members, 2 * math.log(e)), r).mean().item() for e in errors]
        for r in (gain.RESOLUTION, 0.0)
    )
    assert none == pytest.approx([none[0]] * 4, rel=1e-4) and none[0] > 0.5
    assert all(later < 0.8 * sooner for sooner, later in itertools.pairwise(coarse))
    assert coarse[0] == pytest.approx(none[0], rel=0.02) and coarse[-1] < 0.01 * none[-1]


def test_ensemble_variance():
    # Means 0 and 4 in one dimension, 1 and 1 in the other: of all members, not of a sample of them
    close(gain.ensemble_variance(th.tensor([[[0.0, 1.0]], [[4.0, 1.0]]])), [[4.0, 0.0]])


@pytest.mark.parametrize("noise", [0.01, 100.0])
def test_information_gain_vanishes_where_members_agree(noise):
    mean, log_var = th.full((5, 1, 3), 0.7), th.full((5, 1, 3), math.log(noise))
    close(gain.gaussian_information_gain(mean, log_var), [[0.0]])


def test_information_gain_of_one_member_is_zero():
    close(gain.gaussian_information_gain(th.randn(1, 1, 4), th.randn(1, 1, 4)), [[0.0]])


def test_categorical_information_gain():
    # Two members, one pair (s,a), three states: the mixture is (3, 4, 1) / 8
    log_prob = th.tensor([[[0.5, 0.25, 0.25]], [[0.25, 0.75, 1e-30]]]).log()
    mixture = -sum(p * math.log(p) for p in (3 / 8, 1 / 2, 1 / 8))
    members = (1.5 * LOG2 + 0.5 * LOG2 - 0.75 * math.log(0.75)) / 2
    close(gain.categorical_information_gain(log_prob), [[mixture - members]])


def test_categorical_information_gain_is_zero_for_noise_and_log_k_for_certain_members_that_disagree():
    noise = th.full((5, 1, 7), 1 / 7).log()
    close(gain.categorical_information_gain(noise), [[0.0]])
    certain = th.full((2, 1, 2), 1e-12).log()
    certain[0, 0, 0] = certain[1, 0, 1] = 0.0
    close(gain.categorical_information_gain(certain), [[math.log(2)]])
    close(gain.categorical_information_gain(th.randn(1, 4, 6).log_softmax(-1)), [[0.0]] * 4)


def test_dirichlet_information_gain():
    # Two states, a uniform belief: the mean's entropy is log 2, the mean entropy 1/2 (the integral of -2 p log p over [0, 1])
    close(gain.dirichlet_information_gain(th.tensor([1.0, 1.0])), [LOG2 - 0.5])
    # Counts of 2 and 1: log 3 - 2/3 log 2 less 2/3 (1/3) + 1/3 (1/2 + 1/3), as psi(n + 1) - psi(m + 1) = 1/(m+1) + ... + 1/n
    expected = math.log(3) - 2 / 3 * LOG2 - (2 / 3 * (1 / 3) + 1 / 3 * (1 / 2 + 1 / 3))
    close(gain.dirichlet_information_gain(th.tensor([[2.0, 1.0], [1.0, 2.0]])), [[expected], [expected]])
    # One state: nothing to learn
    close(gain.dirichlet_information_gain(th.tensor([3.0])), [0.0])


def test_dirichlet_information_gain_by_sampling():
    th.manual_seed(0)
    for counts in ([0.5, 0.5, 4.0], [0.25] * 4, [3.0, 7.0, 1.0, 0.1]):
        alpha = th.tensor(counts, dtype=th.float64)
        mean, drawn = alpha / alpha.sum(), th.distributions.Dirichlet(alpha).sample((200_000,))
        entropy, mean_entropy = (th.special.entr(p).sum(-1).mean() for p in (mean, drawn))
        assert gain.dirichlet_information_gain(alpha).item() == pytest.approx((entropy - mean_entropy).item(), abs=3e-3)


@pytest.mark.parametrize("n_states", [2, 5, 20])
def test_dirichlet_information_gain_falls_as_one_over_the_count(n_states):
    n, prior = th.tensor([[100.0], [1000.0], [10_000.0]], dtype=th.float64), 1 / n_states
    # Every state was seen often: (k - 1) / 2n, whatever their shares
    shares = th.arange(1.0, n_states + 1, dtype=th.float64)
    frequent = gain.dirichlet_information_gain(prior + n * shares / shares.sum())
    th.testing.assert_close((frequent * n)[-1].item(), (n_states - 1) / 2, rtol=0.05, atol=0.0)
    # Only one ever was: (k - 1) a (psi(a + 1) - log a) / n, with a of each other from the prior
    counts = th.full((3, n_states), prior, dtype=th.float64)
    counts[:, :1] += n
    a = th.tensor(prior, dtype=th.float64)
    wanted = (n_states - 1) * a * (th.digamma(a + 1) - a.log())
    one = gain.dirichlet_information_gain(counts)
    th.testing.assert_close((one * n)[-1].item(), wanted.item(), rtol=0.01, atol=0.0)
    assert (frequent.diff(dim=0) < 0).all() and (one.diff(dim=0) < 0).all()


def test_dirichlet_variance():
    # Uniform on two states: p has the variance 1/12, and so has 1 - p
    close(gain.dirichlet_variance(th.tensor([1.0, 1.0])), [1 / 6])
    # Means 3/4 and 1/4, five in all with the one that is added: twice 3/16 over 5
    close(gain.dirichlet_variance(th.tensor([[3.0, 1.0]])), [[2 * 3 / 16 / 5]])
