"""Numbered states: the learned transition matrix beside the true one."""

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_dai.checks import check_number
from sb3_dai.dai import DAI

MAX_ROWS = 4096
"""Pairs (s, a) that are predicted at once."""


def _spaces(model: DAI) -> tuple[int, int]:
    """
    :param model: a DAI model
    :return: number of states and of actions
    :raises ValueError: if it does not number them
    """
    states, actions = model.observation_space, model.action_space
    if not isinstance(states, spaces.Discrete):
        raise ValueError(
            f"observation_space={states}: only Discrete observations have a transition matrix. For vectors use "
            "one_step_error, k_step_error or calibration"
        )
    if not isinstance(actions, spaces.Discrete):
        raise ValueError(
            f"action_space={actions}: a transition matrix needs Discrete actions, wrap the environment to number them"
        )
    return int(states.n), int(actions.n)


@th.no_grad()
def predicted_transitions(model: DAI) -> np.ndarray:
    """
    The transition matrix that a model has learned: the mixture of its ensemble, for all states and actions.

    :param model: a DAI model with Discrete observations and actions
    :return: probability of the next state, shape (n_states, n_states, n_actions) as B[s', s, a]
    :raises ValueError: if it has other observations or actions
    """
    n_states, n_actions = _spaces(model)
    if model.policy.memory_dim > 0:
        raise ValueError(
            f"{type(model.policy).__name__} predicts from what it remembers as well: give a policy without a memory"
        )
    policy = model.policy
    policy.set_training_mode(False)
    pairs = th.cartesian_prod(th.arange(n_states), th.arange(n_actions)).to(policy.device)
    columns = []
    for rows in pairs.split(MAX_ROWS):
        prediction = policy.world_model.predict(policy.belief(rows[:, 0]), policy.encode(rows[:, 1:]))
        # In double precision: what is all but impossible in the logarithm must not become 0
        columns.append(prediction.log_prob.double().exp().mean(dim=0).cpu())  # type: ignore[attr-defined]
    learned = th.cat(columns).numpy().reshape(n_states, n_actions, n_states).transpose(2, 0, 1)
    return learned / learned.sum(axis=0)


def visit_counts(model: DAI) -> np.ndarray:
    """
    How often each action was taken in each state, of what the replay buffer still holds.

    :param model: a DAI model with Discrete observations and actions
    :return: shape (n_states, n_actions)
    :raises ValueError: if it has other observations or actions, or no replay buffer (a loaded model: see
        ``load_replay_buffer``)
    """
    n_states, n_actions = _spaces(model)
    buffer = model.replay_buffer
    if buffer is None:
        raise ValueError("replay_buffer=None: load it with model.load_replay_buffer(...)")
    visits = np.zeros((n_states, n_actions), dtype=np.int64)
    held = slice(buffer.size())
    np.add.at(visits, (buffer.observations[held].astype(np.int64).ravel(), buffer.actions[held].astype(np.int64).ravel()), 1)
    return visits


def _matrix(name: str, matrix: np.ndarray) -> np.ndarray:
    """
    :param name: the argument
    :param matrix: what it got
    :return: the same in double precision
    :raises ValueError: if it holds no probabilities of a next state
    """
    array = np.asarray(matrix, dtype=float)
    if array.ndim != 3 or array.shape[0] != array.shape[1] or 0 in array.shape:
        raise ValueError(f"{name} of shape {array.shape}: give (n_states, n_states, n_actions), B[s', s, a]")
    if not (array >= 0.0).all() or not np.allclose(array.sum(axis=0), 1.0, atol=1e-4):
        raise ValueError(f"{name}: give probabilities B[s', s, a] that sum to one over the next state s'")
    return array


def _pairs(pairs: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """
    :param pairs: which (s, a) count, None for all
    :param shape: (n_states, n_actions)
    :return: mask of that shape
    :raises ValueError: if it is of another shape, or empty
    """
    mask = np.ones(shape, dtype=bool) if pairs is None else np.asarray(pairs)
    if mask.shape != shape or mask.dtype != bool or not mask.any():
        raise ValueError(
            f"pairs of shape {mask.shape} and type {mask.dtype}: give a mask (bool) of shape {shape}, not all False"
        )
    return mask


def _both(true_B: np.ndarray, learned_B: np.ndarray, pairs: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    :param true_B: see ``categorical_divergence``
    :param learned_B: see ``categorical_divergence``
    :param pairs: see ``categorical_divergence``
    :return: the three, checked
    :raises ValueError: if they do not fit
    """
    true, learned = _matrix("true_B", true_B), _matrix("learned_B", learned_B)
    if true.shape != learned.shape:
        raise ValueError(f"learned_B of shape {learned.shape}: true_B has shape {true.shape}, give matrices of one world")
    return true, learned, _pairs(pairs, true.shape[1:])


def categorical_divergence(
    true_B: np.ndarray, learned_B: np.ndarray, pairs: np.ndarray | None = None
) -> tuple[float, np.ndarray]:
    """
    ``KL[ true(.|s,a) || learned(.|s,a) ]``: nats that the learned model needs more than the true one to say what happens.

    :param true_B: true probability of the next state, shape (n_states, n_states, n_actions) as B[s', s, a]
    :param learned_B: learned one, same shape
    :param pairs: which (s, a) count, mask of shape (n_states, n_actions), see ``reachable_pairs``; None for all
    :return: mean over the pairs, and that of each, shape (n_states, n_actions), NaN where it does not count. Infinite where
        the learned model holds impossible what can happen.
    :raises ValueError: if a shape does not fit, or the matrices are no probabilities
    """
    true, learned, mask = _both(true_B, learned_B, pairs)
    possible = true > 0.0
    with np.errstate(divide="ignore"):
        terms = np.log(true, where=possible, out=np.zeros_like(true)) - np.log(learned)
    divergence = (true * np.where(possible, terms, 0.0)).sum(axis=0)
    return float(divergence[mask].mean()), np.where(mask, divergence, np.nan)


def argmax_accuracy(true_B: np.ndarray, learned_B: np.ndarray, pairs: np.ndarray | None = None) -> float:
    """
    Share of the pairs (s, a) whose most probable next state is learned. Where the learned model is undecided between
    several, this is the chance to be right: a uniform one is right in one of n_states of deterministic pairs.

    :param true_B: true probability of the next state, shape (n_states, n_states, n_actions) as B[s', s, a]
    :param learned_B: learned one, same shape
    :param pairs: which (s, a) count, mask of shape (n_states, n_actions); None for all
    :return: between 0 and 1
    :raises ValueError: if a shape does not fit, or the matrices are no probabilities
    """
    true, learned, mask = _both(true_B, learned_B, pairs)
    right, chosen = (np.isclose(matrix, matrix.max(axis=0), rtol=1e-6, atol=0.0) for matrix in (true, learned))
    return float(((right & chosen).sum(axis=0) / chosen.sum(axis=0))[mask].mean())


def reachable_pairs(true_B: np.ndarray, start: int, terminated: np.ndarray | None = None) -> np.ndarray:
    """
    The pairs (s, a) that an episode can try: all actions of the states that can be reached. Walls and goals are not among
    them.

    :param true_B: true probability of the next state, shape (n_states, n_states, n_actions) as B[s', s, a]
    :param start: state in which every episode starts
    :param terminated: probability that each transition ends the episode, same shape (``TabularEnv.termination_matrix``),
        None if nothing does
    :return: mask of shape (n_states, n_actions)
    :raises ValueError: if a shape does not fit, or there is no such state
    """
    true = _matrix("true_B", true_B)
    check_number("start", start, 0, len(true) - 1, whole=True)
    goes_on = true > 0.0
    if terminated is not None:
        if np.shape(terminated) != true.shape:
            raise ValueError(f"terminated of shape {np.shape(terminated)}: give one of shape {true.shape}, or None")
        goes_on &= np.asarray(terminated) < 1.0
    leads_to = np.asarray(goes_on.any(axis=2))
    reached = np.zeros(len(true), dtype=bool)
    reached[start] = True
    for _ in range(len(true)):
        reached |= leads_to[:, reached].any(axis=1)
    return np.repeat(reached[:, None], true.shape[2], axis=1)


def coverage(visits: np.ndarray, pairs: np.ndarray | None = None) -> float:
    """
    Share of the pairs (s, a) that were tried.

    :param visits: how often, shape (n_states, n_actions), see ``visit_counts``
    :param pairs: which of them count, mask of the same shape, see ``reachable_pairs``; None for all
    :return: between 0 and 1
    :raises ValueError: if the shapes do not fit
    """
    counts = np.asarray(visits)
    return float((counts[_pairs(pairs, counts.shape)] > 0).mean())
