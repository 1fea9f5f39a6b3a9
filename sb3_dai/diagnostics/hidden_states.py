"""Hidden states: what a model predicts of what will be seen, and whether its beliefs are as sure as they may be."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sb3_dai.checks import check_number
from sb3_dai.diagnostics.relabelling import HiddenModel
from sb3_dai.envs.belief_programming import observation_likelihood

RANK_TOLERANCE = 1e-8
"""Directions shorter than this share of what they were made of are noise."""


def filtered_beliefs(model: HiddenModel, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """
    The belief about the present state after each observation (``sb3_dai.envs.belief_update``). An observation that the model
    holds impossible leaves the prediction as it was. That an episode goes on is no evidence here.

    :param model: A, B and D
    :param observations: of one episode, shape (length + 1,), or (length + 1, n_modalities)
    :param actions: numbers of the actions between them, shape (length,)
    :return: shape (length + 1, n_states)
    :raises ValueError: if there is not one observation more than actions
    """
    if len(observations) != len(actions) + 1:
        raise ValueError(f"{len(observations)} observations and {len(actions)} actions: an episode has one observation more")
    prior = np.asarray(model.initial_distribution, dtype=float)
    beliefs: list[np.ndarray] = []
    for t, seen in enumerate(observations):
        if t > 0:
            prior = model.transition_matrix[:, :, int(actions[t - 1])] @ beliefs[-1]
        joint = prior * observation_likelihood(model.observation_matrix, seen)
        evidence = joint.sum()
        beliefs.append(joint / evidence if evidence > 0.0 else prior)
    return np.array(beliefs)


def predictive_log_likelihood(
    model: HiddenModel, observations: Sequence[np.ndarray], actions: Sequence[np.ndarray], n_steps: int = 1
) -> np.ndarray:
    """
    ``log p(o_t+k | o_0..t, a_0..t+k-1)``, the mean over all points of time of all episodes that have k steps after them: how
    well a model foretells what will be seen after actions that are given. It does not depend on the numbers of the states,
    so that any two models can be compared, the true one among them.

    :param model: A, B and D
    :param observations: of each episode, shape (length + 1,), or (length + 1, n_modalities)
    :param actions: of each episode, shape (length,)
    :param n_steps: how far to look ahead
    :return: in nats, for k = 1 to ``n_steps``, shape (n_steps,). Minus infinity where the model holds impossible what came
    :raises ValueError: if no episode is long enough, or there is not one observation more than actions
    """
    check_number("n_steps", n_steps, 1, whole=True)
    longest = max(map(len, actions), default=0)
    if longest < n_steps:
        raise ValueError(f"n_steps={n_steps}: no episode is that long, the longest has {longest} steps")
    total, n = np.zeros(n_steps), np.zeros(n_steps)
    for seen, taken in zip(observations, actions, strict=True):
        beliefs = filtered_beliefs(model, seen, taken)
        for t in range(len(taken)):
            ahead = beliefs[t]
            for k in range(min(n_steps, len(taken) - t)):
                ahead = model.transition_matrix[:, :, int(taken[t + k])] @ ahead
                probability = float(ahead @ observation_likelihood(model.observation_matrix, seen[t + k + 1]))
                total[k] += np.log(probability) if probability > 0.0 else -np.inf
                n[k] += 1
    return total / n


class BeliefCalibration(NamedTuple):
    """Whether states are as often true as a belief says."""

    predicted: np.ndarray
    """Mean probability in each bin, shape (n_bins,), NaN where it is empty."""
    observed: np.ndarray
    """Share of these in which the state was the true one, shape (n_bins,). Below ``predicted``: overconfident."""
    counts: np.ndarray
    """Number of probabilities in each bin, shape (n_bins,)."""
    brier: float
    """Mean over time of ``sum_s (b(s) - [s is true])^2`` (Brier 1950): 0 is perfect, 2 is surely wrong."""
    log_score: float
    """Mean of ``log b(true state)`` in nats: 0 is perfect."""


def belief_calibration(beliefs: np.ndarray, states: np.ndarray, n_bins: int = 10) -> BeliefCalibration:
    """
    Reliability of beliefs. The probabilities of all states are put into bins of equal width. If they are calibrated, a state
    of probability p is the true one in a share p of the cases (Murphy & Winkler 1977, "Reliability of subjective probability
    forecasts of precipitation and temperature").

    :param beliefs: about the state at n points of time, in the numbers of the truth (see ``match_by_beliefs``), shape
        (n, n_states)
    :param states: true state at each, shape (n,)
    :param n_bins: number of bins
    :return: bins and scores
    :raises ValueError: if the shapes do not fit, or the beliefs are no probabilities
    """
    check_number("n_bins", n_bins, 1, whole=True)
    held, at = np.asarray(beliefs, dtype=float), np.asarray(states)
    if held.ndim != 2 or len(held) == 0 or at.shape != held.shape[:1]:
        raise ValueError(f"beliefs of shape {held.shape}: give (n, n_states) for {at.shape} true states")
    if not (held >= 0.0).all() or not np.allclose(held.sum(axis=1), 1.0, atol=1e-4):
        raise ValueError("beliefs: give probabilities that sum to one over the states")
    true = np.zeros_like(held)
    true[np.arange(len(held)), at] = 1.0
    # Edges belong to the bin above, but 1 to the last; a probability that rounding has put below an edge to the bin above too
    bins = np.minimum((held * n_bins + 1e-9).astype(int), n_bins - 1).ravel()
    counts = np.bincount(bins, minlength=n_bins)
    with np.errstate(invalid="ignore", divide="ignore"):
        predicted, observed = (np.bincount(bins, array.ravel(), n_bins) / counts for array in (held, true))
        log_score = float(np.log(held[np.arange(len(held)), at]).mean())
    return BeliefCalibration(predicted, observed, counts, float(np.square(held - true).sum(axis=1).mean()), log_score)


def equivalent_states(model: HiddenModel, terminated: np.ndarray | None = None) -> np.ndarray:
    """
    Which states no experiment can tell apart: whatever actions follow, all that can be seen is equally likely from both. No
    agent can learn to tell them apart, or prefer one to the other.

    The probability of a sequence of observations is linear in the state. The space that all such probabilities span is built
    up a step at a time (the predictive states of Littman et al. 2001, "Predictive representations of state").

    :param model: A, B and D, the true ones
    :param terminated: probability that each transition ends the episode, shape (n_states, n_states, n_actions), which is
        seen; None if nothing does
    :return: class of each state, numbered in order of the first state, shape (n_states,)
    """
    transitions = np.asarray(model.transition_matrix, dtype=float)
    goes_on = transitions if terminated is None else transitions * (1.0 - np.asarray(terminated))
    likelihoods = np.ones((1, len(transitions)))
    for matrix in model.observation_matrix:
        likelihoods = (likelihoods[:, None] * matrix[None]).reshape(-1, len(transitions))
        likelihoods = likelihoods[likelihoods.any(axis=1)]
    basis: list[np.ndarray] = []
    todo = [np.ones(len(transitions)), *likelihoods]
    while todo:
        test = todo.pop()
        rest = test / np.linalg.norm(test)
        for _ in range(2):  # Once is not enough for rounding
            for direction in basis:
                rest = rest - (rest @ direction) * direction
        if np.linalg.norm(rest) < RANK_TOLERANCE:
            continue
        basis.append(rest / np.linalg.norm(rest))
        # To act, then to see something, then to pass the test
        for action in range(transitions.shape[2]):
            ahead = (likelihoods * basis[-1]) @ goes_on[:, :, action]
            todo.extend(row for row in ahead if np.linalg.norm(row) > RANK_TOLERANCE)
    columns, classes = np.array(basis).T, np.full(len(transitions), -1)
    for state in range(len(transitions)):
        if classes[state] < 0:
            classes[np.linalg.norm(columns - columns[state], axis=1) < 1e-6] = classes.max() + 1
    return classes
