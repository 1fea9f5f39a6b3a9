"""Hidden states: a learned model beside the true one, whose states have other numbers."""

from typing import NamedTuple

import numpy as np
import torch as th

from sb3_dai.envs.hidden import check_observation_matrix

FLOOR = 1e-16
"""Probabilities below it count as this one when states are matched, so that no cost is infinite."""


TOLERANCE = 1e-9
"""A swap must be better by more."""


class HiddenModel(NamedTuple):
    """A model with hidden states: A, B and D of active inference."""

    observation_matrix: list[np.ndarray]
    """A of each modality, probability of each observation, shape (n_observations, n_states) as A[o, s]."""
    transition_matrix: np.ndarray
    """B, probability of the next state, shape (n_states, n_states, n_actions) as B[s', s, a]."""
    initial_distribution: np.ndarray
    """D, probability that an episode starts in each state, shape (n_states,)."""


def _assigned(costs: np.ndarray) -> np.ndarray:
    """
    :param costs: of matching each true state with each learned one, shape (n_states, n_states)
    :return: the learned state of each true one, of the lowest total cost, shape (n_states,)
    :raises ImportError: if scipy is missing
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise ImportError("matching of states needs scipy: pip install scipy") from error
    return linear_sum_assignment(costs)[1]


def _divergences(true: np.ndarray, learned: np.ndarray) -> np.ndarray:
    """
    :param true: distributions over the same outcomes, shape (n_outcomes, n_states)
    :param learned: same shape
    :return: ``KL[ true(.|i) || learned(.|j) ]`` in nats, shape (n_states, n_states)
    """
    log_true, log_learned = np.log(np.maximum(true, FLOOR)), np.log(np.maximum(learned, FLOOR))
    return (true * log_true).sum(axis=0)[:, None] - true.T @ log_learned


def _squared_distances(true: np.ndarray, learned: np.ndarray) -> np.ndarray:
    """
    :param true: one row a state, shape (n_states, n)
    :param learned: same shape
    :return: between each true row and each learned one, shape (n_states, n_states)
    """
    return np.square(true).sum(axis=1)[:, None] + np.square(learned).sum(axis=1)[None] - 2.0 * true @ learned.T


def match_by_beliefs(states: np.ndarray, beliefs: np.ndarray) -> np.ndarray:
    """
    Match states by when they happen: the assignment under which a learned model's beliefs have the most mass on the true
    states. This works where states look alike, too.

    :param states: true state at each of n points of time, shape (n,)
    :param beliefs: of the learned model at the same points, shape (n, n_states)
    :return: the learned state of each true one, shape (n_states,)
    :raises ValueError: if the shapes do not fit
    :raises ImportError: if scipy is missing
    """
    at, held = np.asarray(states), np.asarray(beliefs, dtype=float)
    if held.ndim != 2 or at.shape != held.shape[:1] or not ((at >= 0) & (at < held.shape[1])).all():
        raise ValueError(
            f"beliefs of shape {held.shape}: give (n, n_states) for {at.shape} true states, as many as are learned"
        )
    together = np.zeros((held.shape[1], held.shape[1]))
    np.add.at(together, at, held)
    return _assigned(-together)


def _fingerprints(model: HiddenModel, n_chains: int = 10, length: int = 20) -> np.ndarray:
    """
    What can be said of a state without its number: what will be seen after random sequences of actions, and how probable it is
    after such sequences and each first observation. The sequences are the same for each model of as many actions.

    :param model: A, B and D
    :param n_chains: number of sequences
    :param length: of each; its parts of 1 to ``length`` actions count as well
    :return: one row a state, shape (n_states, n_fingerprints)
    """
    rng, by_action = np.random.default_rng(0), np.moveaxis(model.transition_matrix, 2, 0).copy()
    looks, found = np.concatenate(model.observation_matrix), []
    for _ in range(n_chains):
        ahead, since = looks, (looks * model.initial_distribution).T
        for action in rng.integers(len(by_action), size=length):
            ahead, since = ahead @ by_action[action], by_action[action] @ since
            found += [ahead.T, since]
    return np.concatenate(found, axis=1)


def _changes(looks: np.ndarray, true: np.ndarray, learned: np.ndarray) -> np.ndarray:
    """
    What it would cost to swap the matches of two states.

    :param looks: cost of matching each true state with each learned one, in the numbers of the present match
    :param true: B
    :param learned: B of the learned model, in the same numbers
    :return: change of the cost plus that of the squared distance of the matrices, shape (n_states, n_states)
    """

    def swap(matrix: np.ndarray) -> np.ndarray:
        stays = np.diagonal(matrix)
        return matrix + matrix.T - stays[:, None] - stays[None]

    # Norms do not depend on the numbers: the distance changes by minus twice the inner product
    change = swap(looks)
    for B, L in zip(np.moveaxis(true, 2, 0), np.moveaxis(learned, 2, 0), strict=True):
        b, x = np.diagonal(B), np.diagonal(L)
        # The four entries where rows and columns of the pair cross belong to both products, and move differently
        stays = np.outer(b * x, np.ones_like(b)) + B * L
        rows = b[:, None] * L.T + B * x[None]
        columns = b[:, None] * L + B * x[:, None]
        both = np.outer(b, x) + B * L.T
        crossing = both - rows - columns + stays
        change -= 2.0 * (swap(B @ L.T) + swap(B.T @ L) + crossing + crossing.T)
    return change


def match_by_models(true: HiddenModel, learned: HiddenModel) -> np.ndarray:
    """
    Match states by what the models say of them: first by what is seen in them, before and after them, then by swapping
    the pair that brings A, B and D closest to the truth, as long as one does. This is a local search (the best match of two
    graphs is hard to find): it may fail where states look much alike or little was learned. Compare with
    :func:`match_by_beliefs`.

    :param true: the true model
    :param learned: the learned one, of the same shapes
    :return: the learned state of each true one, shape (n_states,)
    :raises ValueError: if the shapes differ
    :raises ImportError: if scipy is missing
    """
    _check_models(true, learned)
    modalities = zip(true.observation_matrix, learned.observation_matrix, strict=True)
    looks = sum((_divergences(*pair) for pair in modalities), np.zeros(2 * np.shape(true.initial_distribution)))
    looks += _squared_distances(true.initial_distribution[:, None], learned.initial_distribution[:, None])
    match = _assigned(looks + _squared_distances(_fingerprints(true), _fingerprints(learned)))
    for _ in range(10 * len(match)):
        change = _changes(looks[:, match], true.transition_matrix, learned.transition_matrix[match][:, match])
        pair = list(np.unravel_index(change.argmin(), change.shape))
        if change[pair[0], pair[1]] > -TOLERANCE:
            break
        match[pair] = match[pair[::-1]]
    return match


def relabelled(model: HiddenModel, match: np.ndarray) -> HiddenModel:
    """
    :param model: the learned model
    :param match: the learned state of each true one, shape (n_states,)
    :return: the same model with the numbers of the truth
    :raises ValueError: if it does not name each state once
    """
    order = np.asarray(match)
    if sorted(order.tolist()) != list(range(len(model.initial_distribution))):
        raise ValueError(f"match={match!r}: give each of {len(model.initial_distribution)} states once")
    return HiddenModel(
        [matrix[:, order] for matrix in model.observation_matrix],
        model.transition_matrix[order][:, order],
        model.initial_distribution[order],
    )


def observation_divergence(true_A: np.ndarray, learned_A: np.ndarray) -> tuple[float, np.ndarray]:
    """
    ``KL[ true(.|s) || learned(.|s) ]`` of one modality: nats that the learned model needs more than the true one to say what
    is seen in a state. For B see ``categorical_divergence``; D is an A with one state, ``D[:, None]``.

    :param true_A: probability of each observation, shape (n_observations, n_states) as A[o, s]
    :param learned_A: learned one, in the same numbers of states, same shape
    :return: mean over states, and that of each, shape (n_states,). Infinite where the learned model holds impossible what
        can be seen
    :raises ValueError: if the shapes differ, or the matrices are no probabilities
    """
    true, learned = np.asarray(true_A, dtype=float), np.asarray(learned_A, dtype=float)
    if true.shape != learned.shape or true.ndim != 2:
        raise ValueError(f"learned_A of shape {learned.shape}: true_A has shape {true.shape}, give matrices of one world")
    for matrix in (true, learned):
        check_observation_matrix(matrix, true.shape[1])
    possible = true > 0.0
    with np.errstate(divide="ignore"):
        terms = np.log(true, where=possible, out=np.zeros_like(true)) - np.log(learned)
    each = (true * np.where(possible, terms, 0.0)).sum(axis=0)
    return float(each.mean()), each


def dirichlet_divergence(counts: np.ndarray, other: np.ndarray) -> np.ndarray:
    """
    ``KL[ Dir(counts) || Dir(other) ]`` of each column, in nats. The notebooks of pymdp measure a learned A so, with
    ``other = 1e4 * A + 1e-4`` of the true A.

    :param counts: of outcomes, positive, shape (n_outcomes, ...)
    :param other: same shape
    :return: shape (...)
    :raises ValueError: if the shapes differ, or a count is not positive
    """
    ours, theirs = (th.as_tensor(np.asarray(array), dtype=th.float64) for array in (counts, other))
    if ours.shape != theirs.shape or not ((ours > 0).all() and (theirs > 0).all()):
        raise ValueError(f"other of shape {tuple(theirs.shape)}: give positive counts of the shape {tuple(ours.shape)}")
    total = ours.sum(dim=0)
    divergence = th.lgamma(total) - th.lgamma(theirs.sum(dim=0)) + (th.lgamma(theirs) - th.lgamma(ours)).sum(dim=0)
    return (divergence + ((ours - theirs) * (th.digamma(ours) - th.digamma(total))).sum(dim=0)).numpy()


def _check_models(true: HiddenModel, learned: HiddenModel) -> None:
    """
    :param true: a model
    :param learned: another
    :raises ValueError: if they are not of the same shapes
    """
    shapes = [([np.shape(matrix) for matrix in A], np.shape(B), np.shape(D)) for A, B, D in (true, learned)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"learned of shapes {shapes[1]}: true has {shapes[0]}, give models of one world")
