"""What can be earned in a known world: finite-horizon dynamic programming."""

from typing import Any

import numpy as np

from sb3_dai.checks import check_number


def expected_dynamics(
    transition_matrix: np.ndarray, rewards: np.ndarray, terminated: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """
    :param transition_matrix: see ``backward_induction``
    :param rewards: see ``backward_induction``
    :param terminated: see ``backward_induction``
    :return: expected reward, shape (n_states, n_actions); probability of reaching a state and going on from there, shape
        (n_states, n_states, n_actions)
    :raises ValueError: if a shape does not fit, or the transitions are no probabilities
    """
    transitions, reward = np.asarray(transition_matrix, dtype=float), np.asarray(rewards, dtype=float)
    if transitions.ndim != 3 or transitions.shape[0] != transitions.shape[1] or 0 in transitions.shape:
        raise ValueError(f"transition_matrix of shape {transitions.shape}: give (n_states, n_states, n_actions), B[s', s, a]")
    if transitions.min() < 0.0 or not np.allclose(transitions.sum(0), 1.0):
        raise ValueError("transition_matrix: give probabilities B[s', s, a] that sum to one over the next state s'")
    n_states, _, n_actions = transitions.shape
    shapes = {1: (n_states,), 2: (n_states, n_actions), 3: transitions.shape}
    if reward.shape != shapes.get(reward.ndim):
        raise ValueError(f"rewards of shape {reward.shape}: give one of {', '.join(map(str, shapes.values()))}")
    if reward.ndim == 1:
        reward = np.einsum("psa,p->sa", transitions, reward)
    elif reward.ndim == 3:
        reward = np.einsum("psa,psa->sa", transitions, reward)
    if terminated is None:
        return reward, transitions
    ends = np.asarray(terminated, dtype=float)
    if ends.shape not in ((n_states,), transitions.shape) or not ((ends >= 0.0) & (ends <= 1.0)).all():
        raise ValueError(
            f"terminated of shape {ends.shape}: give probabilities of shape {(n_states,)} or {transitions.shape}, or None"
        )
    return reward, transitions * (1.0 - (ends[:, None, None] if ends.ndim == 1 else ends))


def check_start(start: int | np.ndarray, n_states: int) -> np.ndarray:
    """
    :param start: number of a state, or probability of each, shape (n_states,)
    :param n_states: number of states
    :return: probability of each, shape (n_states,)
    :raises ValueError: if there is no such state, or these are no probabilities
    """
    if np.ndim(start) == 0:
        check_number("start", start, 0, n_states - 1, whole=True)
        return np.eye(n_states)[start]
    return check_distribution("start", start, n_states)


def check_distribution(name: str, distribution: Any, n_states: int) -> np.ndarray:
    """
    :param name: the argument
    :param distribution: what it got
    :param n_states: number of states
    :return: the same in double precision
    :raises ValueError: if it is no distribution over the states
    """
    array = np.array(distribution, dtype=float)
    if array.shape != (n_states,) or not (array >= 0.0).all() or not np.isclose(array.sum(), 1.0):
        raise ValueError(f"{name} of shape {array.shape}: give probabilities of shape ({n_states},) that sum to one")
    return array


def check_horizon(horizon: int, discount: float) -> None:
    """
    :param horizon: number of steps
    :param discount: factor on the next step's value
    :raises ValueError: if one of them cannot be
    """
    check_number("horizon", horizon, 0, whole=True)
    check_number("discount", discount, 0.0, 1.0)


def backward_induction(
    transition_matrix: np.ndarray,
    rewards: np.ndarray,
    horizon: int,
    terminated: np.ndarray | None = None,
    discount: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """
    The best that can be done with so many steps left (Bellman 1957; Sutton & Barto 2018, section 4.4, with a horizon).

    :param transition_matrix: probability of the next state, shape (n_states, n_states, n_actions) as B[s', s, a]
    :param rewards: of the state entered, shape (n_states,); of acting, shape (n_states, n_actions); or of each transition,
        shape (n_states, n_states, n_actions) as R[s', s, a]
    :param horizon: number of steps
    :param terminated: probability that entering a state, shape (n_states,), or a transition, shape
        (n_states, n_states, n_actions), ends the episode; None: nothing does
    :param discount: factor on the next step's value, between 0 and 1
    :return: value of each state after t steps, shape (horizon + 1, n_states), the last row zero; best action there (of equals
        the first), shape (horizon, n_states)
    :raises ValueError: if a shape does not fit, the transitions are no probabilities, or horizon or discount cannot be
    """
    reward, goes_on = expected_dynamics(transition_matrix, rewards, terminated)
    n_states, n_actions = reward.shape
    check_horizon(horizon, discount)
    values, actions = np.zeros((horizon + 1, n_states)), np.zeros((horizon, n_states), dtype=np.int64)
    flat = goes_on.reshape(n_states, n_states * n_actions)
    for t in reversed(range(horizon)):
        returns = reward + discount * (values[t + 1] @ flat).reshape(n_states, n_actions)
        values[t], actions[t] = returns.max(1), returns.argmax(1)
    return values, actions


def optimal_return(
    transition_matrix: np.ndarray,
    rewards: np.ndarray,
    start: int | np.ndarray,
    horizon: int,
    terminated: np.ndarray | None = None,
    discount: float = 1.0,
) -> float:
    """
    :param transition_matrix: as for ``backward_induction``
    :param rewards: as for ``backward_induction``
    :param start: the state in which the episode starts, or the probability of each, shape (n_states,)
    :param horizon: number of steps
    :param terminated: as for ``backward_induction``
    :param discount: factor on the next step's value, between 0 and 1
    :return: the highest expected return that any policy has, time-dependent ones included
    :raises ValueError: as ``backward_induction`` does, and if there is no such start
    """
    initial = check_start(start, len(transition_matrix))
    return float(initial @ backward_induction(transition_matrix, rewards, horizon, terminated, discount)[0][0])


def policy_return(
    transition_matrix: np.ndarray,
    rewards: np.ndarray,
    start: int | np.ndarray,
    horizon: int,
    policy: np.ndarray,
    terminated: np.ndarray | None = None,
    discount: float = 1.0,
) -> float:
    """
    :param transition_matrix: as for ``backward_induction``
    :param rewards: as for ``backward_induction``
    :param start: the state in which the episode starts, or the probability of each, shape (n_states,)
    :param horizon: number of steps
    :param policy: probability of each action, shape (n_states, n_actions)
    :param terminated: as for ``backward_induction``
    :param discount: factor on the next step's value, between 0 and 1
    :return: the expected return of the policy
    :raises ValueError: as ``optimal_return`` does, and if the policy has another shape or its rows do not sum to one
    """
    reward, goes_on = expected_dynamics(transition_matrix, rewards, terminated)
    check_horizon(horizon, discount)
    initial = check_start(start, len(reward))
    chosen = np.asarray(policy, dtype=float)
    if chosen.shape != reward.shape or chosen.min() < 0.0 or not np.allclose(chosen.sum(1), 1.0):
        raise ValueError(
            f"policy of shape {chosen.shape}: give probabilities of shape {reward.shape} with rows that sum to one"
        )
    step_reward, step = (chosen * reward).sum(1), np.einsum("psa,sa->sp", goes_on, chosen)
    values = np.zeros(len(reward))
    for _ in range(horizon):
        values = step_reward + discount * step @ values
    return float(initial @ values)
