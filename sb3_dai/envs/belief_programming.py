"""What can be earned in a known world whose state is hidden: finite-horizon dynamic programming over beliefs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sb3_dai.checks import check_number
from sb3_dai.envs.dynamic_programming import check_distribution, check_horizon, expected_dynamics
from sb3_dai.envs.hidden import check_observation_matrix

IMPOSSIBLE = 1e-12
"""Observations of lower probability are taken to be impossible: rounding makes such."""

TIE = 1e-9
"""Actions whose returns differ by less are equally good."""


def belief_update(belief: np.ndarray, transition: np.ndarray, likelihood: np.ndarray) -> tuple[np.ndarray, float]:
    """
    Exact filtering, ``b'(s') = A[o', s'] sum_s B[s', s, a] b(s) / p(o'|b, a)`` (Kaelbling et al. 1998, "Planning and acting in
    partially observable stochastic domains", section 3.3).

    :param belief: probability of each state, shape (n_states,)
    :param transition: probability of the next state after the action taken, shape (n_states, n_states) as B[s', s]. Where
        episodes end, that of reaching it and going on; the identity before the first action
    :param likelihood: probability of the observation in each state, shape (n_states,), see ``observation_likelihood``
    :return: the next belief, shape (n_states,), and the probability of the observation
    :raises ValueError: if the observation is impossible
    """
    joint = likelihood * (transition @ belief)
    probability = float(joint.sum())
    if not probability > IMPOSSIBLE:
        raise ValueError(f"likelihood={likelihood!r}: this observation is impossible after the belief {belief!r}")
    return joint / probability, probability


def observation_likelihood(observation_matrix: np.ndarray | Sequence[np.ndarray], observation: Any) -> np.ndarray:
    """
    :param observation_matrix: shape (n_observations, n_states) as A[o, s], or a list of such matrices, one a modality
    :param observation: number of the observation, or one number a modality
    :return: its probability in each state, the product over modalities, shape (n_states,)
    :raises ValueError: if the number of modalities differs
    """
    one = isinstance(observation_matrix, np.ndarray) and observation_matrix.ndim == 2
    matrices, seen = [observation_matrix] if one else list(observation_matrix), np.atleast_1d(observation)
    if len(matrices) != len(seen):
        raise ValueError(f"observation={observation!r}: give one number a modality, {len(matrices)} in all")
    return np.prod([matrix[o] for matrix, o in zip(matrices, seen, strict=True)], axis=0)


def _joint_likelihoods(matrices: list[np.ndarray]) -> np.ndarray:
    """
    :param matrices: of the modalities, shape (n_observations, n_states) each
    :return: probability in each state of each combination that is possible in one, shape (n_combinations, n_states)
    """
    joint = np.ones((1, matrices[0].shape[1]))
    for matrix in matrices:
        joint = (joint[:, None] * matrix[None]).reshape(-1, joint.shape[1])
        joint = joint[joint.any(axis=1)]
    return joint


@dataclass(frozen=True)
class BeliefPlan:
    """The best that can be done from every belief that can be reached, by :func:`plan_over_beliefs`."""

    horizon: int
    """Number of steps."""
    beliefs: np.ndarray
    """Those that can be reached, shape (n_beliefs, n_states)."""
    values: np.ndarray
    """Value of each after t steps, shape (horizon + 1, n_beliefs). NaN where so few steps do not reach it."""
    actions: np.ndarray
    """Best action there (of equals the first), shape (horizon, n_beliefs). -1 where so few steps do not reach it."""
    optimal_return: float
    """The highest expected return that any policy has."""
    goes_on: np.ndarray
    """Probability of reaching a state and going on from there, shape (n_states, n_states, n_actions)."""
    observations: list[np.ndarray]
    """Observation matrix of each modality."""
    initial_distribution: np.ndarray
    """Shape (n_states,)."""
    numbers: dict[bytes, int]
    """Where in ``beliefs`` a rounded belief is."""
    decimals: int
    """Beliefs that agree so far are the same."""

    def first_belief(self, observation: Any) -> np.ndarray:
        """
        :param observation: that of ``reset``
        :return: belief at the start of an episode, shape (n_states,)
        """
        likelihood = observation_likelihood(self.observations, observation)
        return belief_update(self.initial_distribution, np.eye(len(likelihood)), likelihood)[0]

    def next_belief(self, belief: np.ndarray, action: int, observation: Any) -> np.ndarray:
        """
        :param belief: before the step, shape (n_states,)
        :param action: number of the action taken
        :param observation: that of ``step``, which has not ended the episode
        :return: belief after the step, shape (n_states,)
        """
        return belief_update(belief, self.goes_on[:, :, action], observation_likelihood(self.observations, observation))[0]

    def _number(self, belief: np.ndarray, t: int) -> int:
        """
        :param belief: shape (n_states,)
        :param t: number of steps taken
        :return: its number
        :raises ValueError: if it cannot be reached in so many steps
        """
        check_number("t", t, 0, self.horizon, whole=True)
        number = self.numbers.get(_keys(np.asarray(belief, dtype=float)[None], self.decimals)[0], -1)
        if number < 0 or np.isnan(self.values[t, number]):
            raise ValueError(f"belief={belief!r} after t={t} steps: no actions lead there, start from first_belief")
        return number

    def value(self, belief: np.ndarray, t: int = 0) -> float:
        """
        :param belief: one that can be reached, shape (n_states,)
        :param t: number of steps taken
        :return: highest expected return of the remaining steps
        :raises ValueError: if the belief cannot be reached in t steps
        """
        return float(self.values[t, self._number(belief, t)])

    def action(self, belief: np.ndarray, t: int = 0) -> int:
        """
        :param belief: one that can be reached, shape (n_states,)
        :param t: number of steps taken, below the horizon
        :return: number of the best action
        :raises ValueError: if the belief cannot be reached in t steps, or no step is left
        """
        number = self._number(belief, t)
        if t == self.horizon:
            raise ValueError(f"t={t}: no step is left of the horizon of {self.horizon}")
        return int(self.actions[t, number])


def _keys(beliefs: np.ndarray, decimals: int) -> list[bytes]:
    """
    :param beliefs: shape (n, n_states)
    :param decimals: beliefs that agree so far are the same
    :return: what tells them apart
    """
    return [row.tobytes() for row in np.round(beliefs, decimals) + 0.0]  # + 0.0: minus zero is zero


def plan_over_beliefs(
    transition_matrix: np.ndarray,
    observation_matrix: np.ndarray | Sequence[np.ndarray],
    initial_distribution: np.ndarray,
    rewards: np.ndarray,
    horizon: int,
    terminated: np.ndarray | None = None,
    discount: float = 1.0,
    decimals: int = 10,
    max_beliefs: int = 200_000,
) -> BeliefPlan:
    """
    Exact backward induction over the beliefs that an episode can reach (a POMDP is a Markov decision process over beliefs:
    Åström 1965; Kaelbling et al. 1998). The agent sees observations and the end of an episode, not the rewards. Beliefs that
    agree to ``decimals`` are one, which keeps their number finite where they recur.

    :param transition_matrix: probability of the next state, shape (n_states, n_states, n_actions) as B[s', s, a]
    :param observation_matrix: probability of each observation, shape (n_observations, n_states) as A[o, s], or a list of such
        matrices, one a modality
    :param initial_distribution: probability that an episode starts in each state, shape (n_states,)
    :param rewards: as for ``backward_induction``
    :param horizon: number of steps
    :param terminated: as for ``backward_induction``
    :param discount: factor on the next step's value, between 0 and 1
    :param decimals: how far beliefs must agree to be the same
    :param max_beliefs: how many there may be before this gives up
    :return: values and best actions
    :raises ValueError: if an argument cannot be used, or there are more beliefs
    """
    reward, goes_on = expected_dynamics(transition_matrix, rewards, terminated)
    n_states, n_actions = reward.shape
    check_horizon(horizon, discount)
    check_number("decimals", decimals, 1, whole=True)
    check_number("max_beliefs", max_beliefs, 1, whole=True)
    initial = check_distribution("initial_distribution", initial_distribution, n_states)
    matrices = check_observation_matrix(observation_matrix, n_states)
    likelihoods = _joint_likelihoods(matrices)
    numbers: dict[bytes, int] = {}
    found: list[np.ndarray] = []

    def number(beliefs: np.ndarray) -> list[int]:
        numbered = []
        for key, belief in zip(_keys(beliefs, decimals), beliefs, strict=True):
            if key not in numbers:
                if len(numbers) >= max_beliefs:
                    raise ValueError(
                        f"max_beliefs={max_beliefs}: more can be reached in {horizon} steps, raise it or shorten the horizon"
                    )
                numbers[key] = len(found)
                found.append(belief)
            numbered.append(numbers[key])
        return numbered

    def see(priors: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """All that can be seen after each prior: number of the prior, probability, number of the belief that follows."""
        evidence = priors @ likelihoods.T
        rows, seen = np.nonzero(evidence > IMPOSSIBLE)
        probability = evidence[rows, seen]
        return rows, probability, number(priors[rows] * likelihoods[seen] / probability[:, None])

    _, first_probability, first = see(initial[None])
    n_reached = [len(found)]  # After so many steps; beliefs are numbered in the order in which they are reached
    sources, probabilities, targets = [], [], []
    done = 0
    for _ in range(horizon):
        layer = np.array(found[done:]).reshape(-1, n_states)
        for action in range(n_actions):
            rows, probability, after = see(layer @ goes_on[:, :, action].T)
            sources.append((rows + done) * n_actions + action)
            probabilities.append(probability)
            targets.append(np.array(after, dtype=np.int64))
        done += len(layer)
        n_reached.append(len(found))
    beliefs = np.array(found)
    n = len(beliefs)
    edges = (np.concatenate(parts) if parts else np.zeros(0, int) for parts in (sources, probabilities, targets))
    source, probability, target = edges
    now = beliefs @ reward
    values, actions = np.zeros((horizon + 1, n)), np.full((horizon, n), -1)
    for t in reversed(range(horizon)):
        # Also for beliefs that are reached later than t, of which nothing true can be said: no value below rests on them
        ahead = np.bincount(source, probability * values[t + 1][target], n * n_actions).reshape(n, n_actions)
        returns = now + discount * ahead
        values[t], actions[t] = returns.max(axis=1), (returns >= returns.max(axis=1, keepdims=True) - TIE).argmax(axis=1)
        actions[t, n_reached[t] :] = -1
    best = float(first_probability @ values[0, first])
    for t in range(horizon + 1):
        values[t, n_reached[t] :] = np.nan
    return BeliefPlan(int(horizon), beliefs, values, actions, best, goes_on, matrices, initial, numbers, int(decimals))
