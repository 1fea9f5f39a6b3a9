"""Exact inference of hidden states, against numbers worked out by hand and against the sum over all sequences of states."""

import itertools
import math

import pytest
import torch as th
from helpers import close

from sb3_dai.equations import hidden_states as inference

A = th.tensor([[0.9, 0.2], [0.1, 0.8]])
B = th.stack([th.tensor([[0.7, 0.1], [0.3, 0.9]]), th.eye(2)], dim=2)
D = th.tensor([0.5, 0.5])


def test_modalities_are_independent_given_the_state():
    second = th.tensor([[0.5, 0.1], [0.3, 0.2], [0.2, 0.7]])
    found = inference.log_likelihood([A, second], th.tensor([[0, 2], [1, 0]]))
    close(found.exp(), [[0.9 * 0.2, 0.2 * 0.7], [0.1 * 0.5, 0.8 * 0.1]])


def test_predicted_states():
    # From state 0 by action 0: 0.7, 0.3; half of each state by action 1: the same
    close(inference.predicted_states(th.tensor([[1.0, 0.0], [0.5, 0.5]]), B, th.tensor([0, 1])), [[0.7, 0.3], [0.5, 0.5]])


def test_the_tiger_is_heard_twice():
    """Kaelbling et al. 1998: 0.85^2 / (0.85^2 + 0.15^2) after two equal sounds; the second has p = 0.85^2 + 0.15^2."""
    hears = th.tensor([[0.85, 0.15], [0.15, 0.85]])
    left = inference.log_likelihood([hears], th.tensor([[0]]))
    once, first = inference.filtered_states(th.tensor([[0.5, 0.5]]), left)
    twice, second = inference.filtered_states(once, left)
    close(once, [[0.85, 0.15]])
    close(twice, [[0.7225 / 0.745, 0.0225 / 0.745]])
    close(first.exp(), [[0.5]])
    close(second.exp(), [[0.745]])


def test_a_belief_survives_what_the_model_holds_impossible():
    sure = inference.log_likelihood([th.eye(3)], th.tensor([[1]]))
    belief, log_evidence = inference.filtered_states(th.tensor([[1.0, 0.0, 0.0]]), sure)
    close(belief, [[1.0, 0.0, 0.0]])
    assert log_evidence.item() == pytest.approx(math.log(inference.IMPOSSIBLE), rel=1e-4)


def test_smoothing_survives_what_the_model_holds_impossible():
    """Four modalities, each of which says what cannot be: their product is below what 32 bits can hold."""
    outcomes = th.tensor([[[0] * 4, [1] * 4, [2] * 4]])
    stays = th.eye(3).unsqueeze(2)
    log_likelihood = inference.log_likelihood([th.eye(3)] * 4, outcomes)
    initial, actions, mask = th.tensor([0.999, 0.001, 0.0]), th.zeros(1, 2, dtype=th.long), th.ones(1, 3, dtype=th.bool)
    found = inference.smoothed_states(log_likelihood, stays, initial, actions, mask)
    assert th.isfinite(found.states).all()
    close(found.states[0, -1], [1.0, 0.0, 0.0])
    first, second = inference.filtered_states(initial.unsqueeze(0), log_likelihood[:, 0])
    for t in (1, 2):
        first, of_step = inference.filtered_states(first, log_likelihood[:, t])
        second = second + of_step
    close(found.log_evidence, second)


def test_smoothing_is_the_sum_over_all_sequences_of_states():
    outcomes = th.tensor([[0, 1, 1], [0, 0, 1]])
    actions, lengths = th.tensor([[0, 1], [0, 1]]), [3, 2]  # What is padded must change nothing
    mask = th.tensor([[True, True, True], [True, True, False]])
    found = inference.smoothed_states(inference.log_likelihood([A], outcomes.unsqueeze(2)), B, D, actions, mask)

    transitions = th.zeros(2, 2, 2)
    for episode, length in enumerate(lengths):
        evidence, states, pairs = 0.0, th.zeros(3, 2), th.zeros(2, 2, 2)
        for path in itertools.product(range(2), repeat=length):
            p = D[path[0]] * A[outcomes[episode, 0], path[0]]
            for t in range(1, length):
                p = p * B[path[t], path[t - 1], actions[episode, t - 1]] * A[outcomes[episode, t], path[t]]
            evidence += p
            for t in range(length):
                states[t, path[t]] += p
            for t in range(1, length):
                pairs[path[t], path[t - 1], actions[episode, t - 1]] += p
        close(found.log_evidence[episode], [evidence.log().item()])
        close(found.states[episode], (states / evidence).tolist())
        transitions += pairs / evidence
    close(found.transitions, transitions.tolist())


def test_smoothing_of_long_episodes_stays_finite():
    outcomes = th.randint(2, (1, 2000, 1), generator=th.Generator().manual_seed(0))
    actions, mask = th.zeros(1, 1999, dtype=th.long), th.ones(1, 2000, dtype=th.bool)
    found = inference.smoothed_states(inference.log_likelihood([A], outcomes), B, D, actions, mask)
    close(found.states.sum(dim=2), [[1.0] * 2000])
    assert found.transitions.sum().item() == pytest.approx(1999, rel=1e-4)
    assert -1.0 < found.log_evidence.item() / 2000 < -0.3


def test_outcome_counts():
    # Outcome 1 in a sure state 0 and in an unsure one, outcome 0 once
    states = th.tensor([[1.0, 0.0], [0.25, 0.75], [0.0, 1.0]])
    close(inference.outcome_counts(th.tensor([1, 1, 0]), states, 2), [[0.0, 1.0], [1.25, 0.75]])


@pytest.mark.parametrize("n_successors", [1, 3])
def test_smoothing_by_what_is_possible_alone_is_the_same(monkeypatch, n_successors):
    """Many states with few successors each: sums are over these alone. Several states may have the same successor."""
    th.manual_seed(0)
    n_states, actions = 120, th.randint(3, (4, 5))
    transition = th.zeros(n_states, n_states, 3)
    for action in range(3):
        for share in th.rand(n_successors) + 0.1:
            transition[th.randint(n_states, (n_states,)), th.arange(n_states), action] += share
    transition[:, 0] = transition[:, 1]
    transition[5, 2], transition[:5, 2], transition[6:, 2] = 1.0, 0.0, 0.0  # Fewer successors than other states
    transition /= transition.sum(dim=0)
    likelihoods, mask = th.randn(4, 6, n_states), th.arange(6) < th.tensor([[6], [6], [3], [1]])
    arguments = likelihoods, transition, th.full((n_states,), 1.0 / n_states), actions, mask
    possible_alone = inference.smoothed_states(*arguments)
    monkeypatch.setattr("sb3_dai.equations.hidden_states.MIN_STATES", 1000)
    for found, expected in zip(possible_alone, inference.smoothed_states(*arguments), strict=True):
        close(found, expected.tolist())
