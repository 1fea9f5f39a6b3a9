"""Bellman targets and the aggregation of critics, against numbers worked out by hand."""

import pytest
import torch as th
from helpers import close

from sb3_dai.equations import targets

TERMS = th.tensor([[[1.0, 2.0, 0.0]], [[3.0, -6.0, -1.0]]])
"""Two critics of three terms at one state: extrinsic, epistemic, prediction error."""
AVERAGES = [False, True, False]


def test_full_pessimism_takes_the_higher_cost():
    close(targets.pessimistic(th.tensor([[1.0, -2.0], [0.0, 5.0]])), [1.0, 5.0])


@pytest.mark.parametrize("share", [0.25, th.tensor(0.25)])
def test_less_pessimism_is_nearer_to_the_average(share):
    # Averages of 1 and 2, of which the worst is 2 and 3 away
    efe = th.tensor([[3.0, 5.0], [0.0, 0.0], [0.0, 1.0]])
    close(targets.pessimistic(efe, share), [1.0 + 0.5, 2.0 + 0.75])
    close(targets.pessimistic(efe, 0.0 * share), [1.0, 2.0])


def test_terms_are_aggregated_by_pessimism_or_averaged():
    close(targets.aggregate_terms(TERMS, AVERAGES), [[3.0, -2.0, 0.0]])
    # With axes of actions, and of one critic, and without the last term, and of one term
    close(targets.aggregate_terms(TERMS.reshape(2, 1, 3, 1, 1), AVERAGES), [[[[3.0]], [[-2.0]], [[0.0]]]])
    close(targets.aggregate_terms(TERMS[1:], AVERAGES), [[3.0, -6.0, -1.0]])
    close(targets.aggregate_terms(TERMS[:, :, :2], AVERAGES[:2]), [[3.0, -2.0]])
    close(targets.aggregate_terms(TERMS[:, :, :1], [False]), [[3.0]])
    # Averages of 2 and -0.5, each with a quarter of the way to the worst
    close(targets.aggregate_terms(TERMS, AVERAGES, 0.25), [[2.25, -2.0, -0.375]])
    # Nothing and everything averaged
    close(targets.aggregate_terms(TERMS, [False] * 3), [[3.0, 2.0, 0.0]])
    close(targets.aggregate_terms(TERMS, [True] * 3), [[2.0, -2.0, -0.5]])


def test_the_efe_takes_the_worse_critic_of_the_sum_of_the_terms_that_are_not_averaged():
    # 1 + 4 * 0 and 3 - 4 * 1, of which the first is the worse; and half of the mean of 2 and -6
    weights = th.tensor([1.0, 0.5, 4.0])
    close(targets.aggregate_efe(TERMS, weights, AVERAGES), [1.0 - 1.0])
    close(targets.aggregate_efe(TERMS.reshape(2, 1, 3, 1, 1), weights, AVERAGES), [[[0.0]]])
    close(targets.aggregate_efe(TERMS[:, :, :1], weights[:1], [False]), [3.0])
    # Half way between 0, the average of 1 and -1, and 1
    close(targets.aggregate_efe(TERMS, weights, AVERAGES, 0.5), [0.5 - 1.0])
    # Without an average: 1 + 1 + 0 and 3 - 3 - 4. Of averages alone: 2 - 1 - 2
    close(targets.aggregate_efe(TERMS, weights, [False] * 3), [2.0])
    close(targets.aggregate_efe(TERMS, weights, [True] * 3), [-1.0])


def test_bootstrapped_efe():
    # Where the episode goes on the discounted next value counts, where it terminated only the cost of the step
    g, terminated, next_efe = th.tensor([[-1.0], [-1.0]]), th.tensor([[0.0], [1.0]]), th.tensor([[-10.0], [-10.0]])
    close(targets.bootstrapped_efe(g, terminated, 0.9, next_efe), [[-10.0], [-1.0]])
    close(targets.bootstrapped_efe(g, terminated, th.tensor([[0.5], [0.5]]), next_efe), [[-6.0], [-1.0]])


def test_continuing_efe():
    # Where the episode goes on the next state counts, where it terminated the mean
    g, terminated, next_efe = th.tensor([[-1.0], [-1.0]]), th.tensor([[0.0], [1.0]]), th.tensor([[-10.0], [-10.0]])
    close(targets.continuing_efe(g, terminated, 0.9, next_efe, th.tensor([-4.0])), [[-10.0], [-4.6]])


def test_where_novelty_is_constant_the_end_of_an_episode_is_worth_what_any_state_is():
    """With a plain Bellman target it would be a loss."""
    novelty, terminated = th.full((2, 1), 0.5), th.tensor([[0.0], [1.0]])
    efe = th.zeros(2, 1)
    for _ in range(500):
        efe = targets.continuing_efe(-novelty, terminated, 0.9, efe[:1].expand(2, 1), efe.mean(dim=0))
    close(efe, [[-0.5 / (1 - 0.9)]] * 2)
    assert targets.bootstrapped_efe(-novelty, terminated, 0.9, efe)[1] == -0.5
