"""Each equation against numbers worked by hand."""

import itertools
import math

import pytest
import torch as th

from sb3_dai import free_energy as fe

LOG2 = math.log(2.0)


def close(value, expected):
    th.testing.assert_close(value, th.tensor(expected), rtol=1e-5, atol=1e-6)


def test_gaussian_nll():
    # Two dimensions: 0.5 (log v + e^2 / v + log 2 pi) with v = 1, e = 2 and v = 4, e = 2
    first, second = 0.5 * (0 + 4 + fe.LOG_2_PI), 0.5 * (math.log(4) + 1 + fe.LOG_2_PI)
    nll = fe.gaussian_nll(th.zeros(1, 1, 2), th.tensor([[[0.0, math.log(4)]]]), th.tensor([[2.0, -2.0]]))
    close(nll, [[[(first + second) / 2]]])


def test_gaussian_nll_is_torchs():
    mean, log_var, target = th.randn(3, 5, 2), th.randn(3, 5, 2), th.randn(5, 2)
    expected = -th.distributions.Normal(mean, (0.5 * log_var).exp()).log_prob(target).mean(-1, keepdim=True)
    th.testing.assert_close(fe.gaussian_nll(mean, log_var, target), expected)


def test_prediction_error_is_that_of_the_mean_of_the_members():
    mean = th.tensor([[[1.0, 0.0]], [[3.0, 2.0]]])
    close(fe.prediction_error(mean, th.tensor([[0.0, 0.0]])), [[(2.0**2 + 1.0**2) / 2]])


def test_information_gain():
    # One dimension, means -1 and 1 (variance 1) under noise of variance 1 and 3 (mean 2): 0.5 log(1 + 1 / 2)
    mean, log_var = th.tensor([[[-1.0]], [[1.0]]]), th.tensor([[[0.0]], [[math.log(3.0)]]])
    close(fe.information_gain(mean, log_var, resolution=0.0), [[0.5 * math.log(1.5)]])
    # Seen with a standard deviation of 1: the noise has a variance of 3. By default it is 0.1: of 2.01
    close(fe.information_gain(mean, log_var, resolution=1.0), [[0.5 * math.log(4 / 3)]])
    close(fe.information_gain(mean, log_var), [[0.5 * math.log(3.01 / 2.01)]])
    # Dimensions add up
    close(fe.information_gain(mean.expand(2, 1, 3), log_var.expand(2, 1, 3), 0.0), [[1.5 * math.log(1.5)]])


def test_information_gain_falls_with_knowledge_of_what_is_not_random():
    """The members' noise is then their own error. Without a resolution the ratio of the two need not fall at all."""
    members = th.randn(5, 200, 3, generator=th.Generator().manual_seed(0))
    # Errors of 1, 0.1, ... with a log-variance to match, down to the floor of the transition net
    errors = [1.0, 0.1, 0.01, math.exp(-5.0)]
    coarse, none = (
        [fe.information_gain(e * members, th.full_like(members, 2 * math.log(e)), r).mean().item() for e in errors]
        for r in (fe.RESOLUTION, 0.0)
    )
    assert none == pytest.approx([none[0]] * 4, rel=1e-4) and none[0] > 0.5
    assert all(later < 0.8 * sooner for sooner, later in itertools.pairwise(coarse))
    assert coarse[0] == pytest.approx(none[0], rel=0.02) and coarse[-1] < 0.01 * none[-1]


def test_ensemble_variance():
    # Means 0 and 4 in one dimension, 1 and 1 in the other: of all members, not of a sample of them
    close(fe.ensemble_variance(th.tensor([[[0.0, 1.0]], [[4.0, 1.0]]])), [[4.0, 0.0]])


@pytest.mark.parametrize("noise", [0.01, 100.0])
def test_information_gain_vanishes_where_members_agree(noise):
    mean, log_var = th.full((5, 1, 3), 0.7), th.full((5, 1, 3), math.log(noise))
    close(fe.information_gain(mean, log_var), [[0.0]])


def test_information_gain_of_one_member_is_zero():
    close(fe.information_gain(th.randn(1, 1, 4), th.randn(1, 1, 4)), [[0.0]])


def test_categorical_terms():
    # Two members, one pair (s,a), three states; the second was observed
    log_prob = th.tensor([[[0.5, 0.25, 0.25]], [[0.25, 0.75, 1e-30]]]).log()
    outcome = th.tensor([[1]])
    close(fe.categorical_nll(log_prob, outcome), [[[math.log(4)]], [[math.log(4 / 3)]]])
    close(fe.categorical_surprise(log_prob, outcome), [[math.log(2)]])  # the mixture is (3, 4, 1) / 8
    mixture = -sum(p * math.log(p) for p in (3 / 8, 1 / 2, 1 / 8))
    members = (1.5 * math.log(2) + 0.5 * math.log(2) - 0.75 * math.log(0.75)) / 2
    close(fe.categorical_information_gain(log_prob), [[mixture - members]])


def test_categorical_information_gain_is_zero_for_noise_and_log_k_for_contradiction():
    noise = th.full((5, 1, 7), 1 / 7).log()
    close(fe.categorical_information_gain(noise), [[0.0]])
    certain = th.full((2, 1, 2), 1e-12).log()
    certain[0, 0, 0] = certain[1, 0, 1] = 0.0
    close(fe.categorical_information_gain(certain), [[math.log(2)]])
    close(fe.categorical_information_gain(th.randn(1, 4, 6).log_softmax(-1)), [[0.0]] * 4)


def test_dirichlet_information_gain():
    # Two states, a uniform belief: the mean's entropy is log 2, the mean entropy 1/2 (the integral of -2 p log p over [0, 1])
    close(fe.dirichlet_information_gain(th.tensor([1.0, 1.0])), [LOG2 - 0.5])
    # Counts of 2 and 1: log 3 - 2/3 log 2 less 2/3 (1/3) + 1/3 (1/2 + 1/3), as psi(n + 1) - psi(m + 1) = 1/(m+1) + ... + 1/n
    expected = math.log(3) - 2 / 3 * LOG2 - (2 / 3 * (1 / 3) + 1 / 3 * (1 / 2 + 1 / 3))
    close(fe.dirichlet_information_gain(th.tensor([[2.0, 1.0], [1.0, 2.0]])), [[expected], [expected]])
    # One state: nothing to learn
    close(fe.dirichlet_information_gain(th.tensor([3.0])), [0.0])


def test_dirichlet_information_gain_by_sampling():
    th.manual_seed(0)
    for counts in ([0.5, 0.5, 4.0], [0.25] * 4, [3.0, 7.0, 1.0, 0.1]):
        alpha = th.tensor(counts, dtype=th.float64)
        mean, drawn = alpha / alpha.sum(), th.distributions.Dirichlet(alpha).sample((200_000,))
        entropy, mean_entropy = (th.special.entr(p).sum(-1).mean() for p in (mean, drawn))
        assert fe.dirichlet_information_gain(alpha).item() == pytest.approx((entropy - mean_entropy).item(), abs=3e-3)


@pytest.mark.parametrize("n_states", [2, 5, 20])
def test_dirichlet_information_gain_falls_as_one_over_the_count(n_states):
    n, prior = th.tensor([[100.0], [1000.0], [10_000.0]], dtype=th.float64), 1 / n_states
    # Every state was seen often: (k - 1) / 2n, whatever their shares
    shares = th.arange(1.0, n_states + 1, dtype=th.float64)
    gain = fe.dirichlet_information_gain(prior + n * shares / shares.sum())
    th.testing.assert_close((gain * n)[-1].item(), (n_states - 1) / 2, rtol=0.05, atol=0.0)
    # Only one ever was: (k - 1) a (psi(a + 1) - log a) / n, with a of each other from the prior
    counts = th.full((3, n_states), prior, dtype=th.float64)
    counts[:, :1] += n
    a = th.tensor(prior, dtype=th.float64)
    wanted = (n_states - 1) * a * (th.digamma(a + 1) - a.log())
    th.testing.assert_close((fe.dirichlet_information_gain(counts) * n)[-1].item(), wanted.item(), rtol=0.01, atol=0.0)
    assert (gain.diff(dim=0) < 0).all() and (fe.dirichlet_information_gain(counts).diff(dim=0) < 0).all()


def test_dirichlet_variance():
    # Uniform on two states: p has the variance 1/12, and so has 1 - p
    close(fe.dirichlet_variance(th.tensor([1.0, 1.0])), [1 / 6])
    # Means 3/4 and 1/4, five in all with the one that is added: twice 3/16 over 5
    close(fe.dirichlet_variance(th.tensor([[3.0, 1.0]])), [[2 * 3 / 16 / 5]])


def test_pessimistic_is_the_higher_cost():
    close(fe.pessimistic(th.tensor([[1.0, -2.0], [0.0, 5.0]])), [1.0, 5.0])


@pytest.mark.parametrize("share", [0.25, th.tensor(0.25)])
def test_less_pessimism_is_nearer_to_the_average(share):
    # Averages of 1 and 2, of which the worst is 2 and 3 away
    efe = th.tensor([[3.0, 5.0], [0.0, 0.0], [0.0, 1.0]])
    close(fe.pessimistic(efe, share), [1.0 + 0.5, 2.0 + 0.75])
    close(fe.pessimistic(efe, 0.0 * share), [1.0, 2.0])


PARTS = th.tensor([[[1.0, 2.0, 0.0]], [[3.0, -6.0, -1.0]]])
"""Two value nets of three parts at one state: extrinsic, epistemic, prediction error."""


def test_judged_parts_are_the_higher_costs_and_the_average_of_the_epistemic_one():
    close(fe.judged_parts(PARTS), [[3.0, -2.0, 0.0]])
    # With actions, and of one net, and without the last part, and of one part
    close(fe.judged_parts(PARTS.reshape(2, 1, 3, 1, 1)), [[[[3.0]], [[-2.0]], [[0.0]]]])
    close(fe.judged_parts(PARTS[1:]), [[3.0, -6.0, -1.0]])
    close(fe.judged_parts(PARTS[:, :, :2]), [[3.0, -2.0]])
    close(fe.judged_parts(PARTS[:, :, :1]), [[3.0]])
    # Averages of 2 and -0.5, each with a quarter of the way to the worst
    close(fe.judged_parts(PARTS, 0.25), [[2.25, -2.0, -0.375]])


def test_judged_efe_takes_the_worse_net_in_all_but_the_epistemic_part():
    # 1 + 4 * 0 and 3 - 4 * 1, of which the first is the worse; and half of the mean of 2 and -6
    weights = th.tensor([1.0, 0.5, 4.0])
    close(fe.judged_efe(PARTS, weights), [1.0 - 1.0])
    close(fe.judged_efe(PARTS.reshape(2, 1, 3, 1, 1), weights), [[[0.0]]])
    close(fe.judged_efe(PARTS[:, :, :1], weights[:1]), [3.0])
    # Half way between 0, the average of 1 and -1, and 1
    close(fe.judged_efe(PARTS, weights, 0.5), [0.5 - 1.0])


def test_policy_expectation():
    log_prob = th.tensor([[[0.25, 0.75]]]).log()
    # Two parts of G
    close(fe.policy_expectation(log_prob, th.tensor([[[[4.0, 8.0]], [[0.0, -4.0]]]])), [[7.0, -3.0]])


def test_policy_expectation_adds_up_over_choices():
    log_prob = th.tensor([[[0.25, 0.75], [0.5, 0.5]]]).log()
    close(fe.policy_expectation(log_prob, th.tensor([[[[4.0, 8.0], [1.0, 3.0]]]])), [[7.0 + 2.0]])


def test_policy_entropy():
    log_prob = th.tensor([[[0.5, 0.5]], [[0.25, 0.75]]]).log()
    quarter = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    close(fe.policy_entropy(log_prob), [[LOG2], [quarter]])
    # The same as two choices of one state
    close(fe.policy_entropy(log_prob.reshape(1, 2, 2)), [[LOG2 + quarter]])


def test_bootstrapped_efe():
    # A survivor keeps the discounted next value, the dead keep only the cost of the step
    g, terminated, next_efe = th.tensor([[-1.0], [-1.0]]), th.tensor([[0.0], [1.0]]), th.tensor([[-10.0], [-10.0]])
    close(fe.bootstrapped_efe(g, terminated, 0.9, next_efe), [[-10.0], [-1.0]])
    close(fe.bootstrapped_efe(g, terminated, th.tensor([[0.5], [0.5]]), next_efe), [[-6.0], [-1.0]])


def test_continuing_efe():
    # A survivor goes on to the next state, the dead to the average one
    g, terminated, next_efe = th.tensor([[-1.0], [-1.0]]), th.tensor([[0.0], [1.0]]), th.tensor([[-10.0], [-10.0]])
    close(fe.continuing_efe(g, terminated, 0.9, next_efe, th.tensor([-4.0])), [[-10.0], [-4.6]])


def test_an_end_is_neither_shunned_nor_sought_where_novelty_is_constant():
    """Every value is then the same, that of an end too. Of a plain Bellman target, the end would be a loss."""
    novelty, terminated = th.full((2, 1), 0.5), th.tensor([[0.0], [1.0]])
    efe = th.zeros(2, 1)
    for _ in range(500):
        efe = fe.continuing_efe(-novelty, terminated, 0.9, efe[:1].expand(2, 1), efe.mean(dim=0))
    close(efe, [[-0.5 / (1 - 0.9)]] * 2)
    assert fe.bootstrapped_efe(-novelty, terminated, 0.9, efe)[1] == -0.5


def test_policy_divergence():
    # softmax(-G) with G = (0, log 3) is (3/4, 1/4)
    efe = th.tensor([[[0.0, math.log(3.0)]]])
    close(fe.policy_divergence(th.tensor([[[0.75, 0.25]]]).log(), efe, 1.0), [[0.0]])
    expected = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    close(fe.policy_divergence(th.tensor([[[0.5, 0.5]]]).log(), efe, 1.0), [[expected]])
    # Twice the precision: (9/10, 1/10)
    twice = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    close(fe.policy_divergence(th.tensor([[[0.5, 0.5]]]).log(), efe, 2.0), [[twice]])
    # Two choices, of which one is at its best
    two = th.tensor([[[0.75, 0.25], [0.5, 0.5]]]).log()
    close(fe.policy_divergence(two, efe.expand(1, 2, 2), 1.0), [[expected]])


def test_policy_divergence_from_a_habit():
    # E = (1/4, 3/4) and softmax(-G) = (3/4, 1/4) cancel out; at twice the precision (9/10, 1/10) wins, 3 to 1
    efe, log_prior = th.tensor([[[0.0, math.log(3.0)]]]), th.tensor([0.25, 0.75]).log()
    close(fe.policy_divergence(th.tensor([[[0.5, 0.5]]]).log(), efe, 1.0, log_prior), [[0.0]])
    expected = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    close(fe.policy_divergence(th.tensor([[[0.5, 0.5]]]).log(), efe, 2.0, log_prior), [[expected]])
    # A uniform habit is none
    close(fe.policy_divergence(th.tensor([[[0.5, 0.5]]]).log(), efe, 1.0, math.log(0.5)), [[expected]])


def test_sampled_divergence():
    # log Q + precision G - log E
    one = th.ones(1, 1)
    close(fe.sampled_divergence(-2.0 * one, 3.0 * one, 0.5), [[-0.5]])
    close(fe.sampled_divergence(-2.0 * one, 3.0 * one, 0.5, -4.0 * one), [[3.5]])


def test_policy_divergence_is_finite_for_a_certain_policy():
    """A softmax without its logarithm would give log(0) here (the notebook's NaN)."""
    logits = th.tensor([[[1000.0, -1000.0]]], requires_grad=True)
    divergence = fe.policy_divergence(th.log_softmax(logits, dim=-1), th.tensor([[[5000.0, -5000.0]]]), 1.0)
    divergence.sum().backward()
    assert th.isfinite(divergence).all() and th.isfinite(logits.grad).all()


def test_a_step_on_the_divergence_lowers_the_expected_efe():
    """The notebook's first fatal fault: with the divergence's sign turned, the policy flees softmax(-G)."""
    efe = th.tensor([[[1.0, -1.0, 0.5]]])
    logits = th.zeros(1, 1, 3, requires_grad=True)
    log_prob = th.log_softmax(logits, dim=-1)
    fe.policy_divergence(log_prob, efe, 1.0).sum().backward()
    stepped = th.log_softmax(logits - 0.1 * logits.grad, dim=-1)
    assert fe.policy_expectation(stepped, efe.unsqueeze(1)) < fe.policy_expectation(log_prob, efe.unsqueeze(1))
    assert stepped.argmax() == efe.argmin()


@pytest.mark.parametrize("entropy, rises", [(0.6, True), (0.4, False)])
def test_precision_rises_while_the_policy_is_too_random(entropy, rises):
    log_precision = th.zeros(1, requires_grad=True)
    loss = fe.precision_loss(log_precision, th.full((4, 1), entropy), 0.5)
    loss.backward()
    close(log_precision.grad, [0.5 - entropy])
    assert (log_precision.grad.item() < 0) == rises


@pytest.mark.parametrize("gain, rises", [(0.2, True), (0.7, False)])
def test_epistemic_weight_rises_while_the_policy_gains_less_than_its_slow_copy(gain, rises):
    log_weight = th.zeros(1, requires_grad=True)
    gains = th.full((4, 1), gain, requires_grad=True)
    loss = fe.epistemic_weight_loss(log_weight, gains, th.full((4, 1), 0.5))
    loss.backward()
    close(log_weight.grad, [gain - 0.5])
    assert (log_weight.grad.item() < 0) == rises
    assert gains.grad is None, "the world model does not learn from it"
