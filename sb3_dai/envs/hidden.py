"""Worlds with finitely many states that are not seen: partially observed Markov decision processes (POMDPs)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_dai.envs.dynamic_programming import check_distribution, expected_dynamics
from sb3_dai.envs.tabular import Outcome, TabularEnv


def check_observation_matrix(observation_matrix: np.ndarray | Sequence[np.ndarray], n_states: int) -> list[np.ndarray]:
    """
    :param observation_matrix: probability of each observation, shape (n_observations, n_states) as A[o, s], or a list of such
        matrices, one a modality
    :param n_states: number of states
    :return: the list, in double precision
    :raises ValueError: if a shape does not fit, or a matrix holds no probabilities
    """
    one = isinstance(observation_matrix, np.ndarray) and observation_matrix.ndim == 2
    matrices = [np.array(matrix, dtype=float) for matrix in ([observation_matrix] if one else observation_matrix)]
    for matrix in matrices:
        if matrix.ndim != 2 or matrix.shape[1] != n_states or 0 in matrix.shape:
            raise ValueError(f"observation_matrix of shape {matrix.shape}: give (n_observations, {n_states}), A[o, s]")
        if not (matrix >= 0.0).all() or not np.allclose(matrix.sum(axis=0), 1.0):
            raise ValueError("observation_matrix: give probabilities A[o, s] that sum to one over the observation o")
    if not matrices:
        raise ValueError("observation_matrix=[]: give at least one modality")
    return matrices


class HiddenTabularEnv(TabularEnv):
    """
    A world whose state is hidden: what is seen of it is drawn from the observation matrix, for each modality by itself. One
    modality is observed as ``Discrete``, several as ``MultiDiscrete``. ``reset`` and ``step`` put the hidden state into the
    info as ``state``.

    A reward may depend on the hidden states (``rewards``) and on what is seen (``observation_rewards``); both add up.

    :param transition_matrix: B, probability of the next state, shape (n_states, n_states, n_actions) as B[s', s, a]
    :param observation_matrix: A, probability of each observation, shape (n_observations, n_states) as A[o, s], or a list of
        such matrices, one a modality
    :param initial_distribution: D, probability that an episode starts in each state, shape (n_states,)
    :param rewards: of the state entered, shape (n_states,); of acting, shape (n_states, n_actions); or of each transition,
        shape (n_states, n_states, n_actions) as R[s', s, a]. None for none
    :param terminated: probability that entering a state, shape (n_states,), or a transition, shape
        (n_states, n_states, n_actions), ends the episode; None: nothing does
    :param observation_rewards: reward of each observation after a step, shape (n_observations,), or a list of them, one a
        modality (a preference over outcomes, as C in pymdp). None for none
    :param action_names: what each action does, in order; numbers by default
    :param render_mode: None, "ansi" or "rgb_array"
    :raises ValueError: if a shape does not fit, probabilities do not sum to one, or there is no such render mode
    """

    def __init__(
        self,
        transition_matrix: np.ndarray,
        observation_matrix: np.ndarray | Sequence[np.ndarray],
        initial_distribution: np.ndarray,
        rewards: np.ndarray | None = None,
        terminated: np.ndarray | None = None,
        observation_rewards: np.ndarray | Sequence[np.ndarray] | None = None,
        action_names: Sequence[str] | None = None,
        render_mode: str | None = None,
    ) -> None:
        self._transitions = np.array(transition_matrix, dtype=float)
        n_states, n_actions = self._transitions.shape[0], self._transitions.shape[-1]
        paid = np.zeros(n_states) if rewards is None else np.array(rewards, dtype=float)
        ends = np.zeros(n_states) if terminated is None else np.array(terminated, dtype=float)
        expected_dynamics(self._transitions, paid, ends)  # Checks the three
        shape = self._transitions.shape
        self._rewards = np.broadcast_to(paid[:, None, None] if paid.ndim == 1 else paid, shape)
        self._ends = np.broadcast_to(ends[:, None, None] if ends.ndim == 1 else ends, shape)
        self._initial_distribution = check_distribution("initial_distribution", initial_distribution, n_states)
        self._observations = check_observation_matrix(observation_matrix, n_states)
        self._observation_rewards = self._check_observation_rewards(observation_rewards)
        names = tuple(str(action) for action in range(n_actions)) if action_names is None else tuple(action_names)
        if len(names) != n_actions:
            raise ValueError(f"action_names={names!r}: give one a action, {n_actions} in all")
        super().__init__(n_states, names, int(self._initial_distribution.argmax()), render_mode)
        sizes = [len(matrix) for matrix in self._observations]
        self.observation_space = spaces.Discrete(sizes[0]) if len(sizes) == 1 else spaces.MultiDiscrete(sizes)
        self._drawn_below = [np.cumsum(matrix, axis=0).T for matrix in self._observations]
        for matrix in (self._initial_distribution, *self._observations):
            matrix.setflags(write=False)

    def _check_observation_rewards(self, rewards: np.ndarray | Sequence[np.ndarray] | None) -> list[np.ndarray]:
        """
        :param rewards: see the constructor
        :return: one a modality
        :raises ValueError: if they do not fit the observations
        """
        sizes = [len(matrix) for matrix in self._observations]
        if rewards is None:
            return [np.zeros(size) for size in sizes]
        one = isinstance(rewards, np.ndarray) and rewards.ndim == 1
        vectors = [np.asarray(vector, dtype=float) for vector in ([rewards] if one else rewards)]
        if [vector.shape for vector in vectors] != [(size,) for size in sizes]:
            raise ValueError(
                f"observation_rewards of shapes {[vector.shape for vector in vectors]}: give one number an observation, "
                f"{', '.join(map(str, sizes))} for the modalities"
            )
        return vectors

    def outcomes(self, state: int, action: int) -> list[Outcome]:
        found = []
        for next_state in np.flatnonzero(self._transitions[:, state, action]):
            index = next_state, state, action
            probability, reward, ends = self._transitions[index], float(self._rewards[index]), self._ends[index]
            for terminated, share in ((False, 1.0 - ends), (True, ends)):
                if share > 0.0:
                    found.append(Outcome(float(probability * share), int(next_state), reward, terminated))
        return found

    def _observe(self) -> tuple[Any, float]:
        """
        :return: what is seen of the state, drawn anew, and the reward of seeing it
        """
        seen, reward = [], 0.0
        for below, rewards in zip(self._drawn_below, self._observation_rewards, strict=True):
            column = below[self.state]
            # Scaled by the last entry, which rounding may leave below 1
            seen.append(int(np.searchsorted(column, self.np_random.random() * column[-1], side="right")))
            reward += float(rewards[seen[-1]])
        return (seen[0] if len(seen) == 1 else np.array(seen, dtype=np.int64)), reward

    def succeeded(self) -> bool | None:
        """
        :return: whether the present state is what the world asks for, put into the info of a step as ``is_success``, which
            the logs of Stable-Baselines3 read at the end of an episode; None where a world does not say
        """
        return None

    def _info(self) -> dict[str, Any]:
        """
        :return: the hidden state, and whether it is what the world asks for
        """
        success = self.succeeded()
        return {"state": self.state} if success is None else {"state": self.state, "is_success": success}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.state = int(self.np_random.choice(self.n_states, p=self._initial_distribution))
        return self._observe()[0], {"state": self.state}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """
        :param action: number of the action
        :return: what is seen of the next state, reward, terminated, truncated (never: the registered time limit does that),
            info with the hidden ``state``
        :raises ValueError: if there is no such action
        """
        _, reward, terminated, truncated, _ = super().step(action)
        observation, seen_reward = self._observe()
        return observation, reward + seen_reward, terminated, truncated, self._info()

    @property
    def observation_matrix(self) -> np.ndarray | list[np.ndarray]:
        """
        :return: the true A: probability of each observation, shape (n_observations, n_states) as A[o, s]; of several
            modalities the list of these. Read-only
        """
        return self._observations[0] if len(self._observations) == 1 else list(self._observations)

    @property
    def initial_distribution(self) -> np.ndarray:
        """
        :return: the true D: probability that an episode starts in each state, shape (n_states,). Read-only
        """
        return self._initial_distribution

    @property
    def reward_matrix(self) -> np.ndarray:
        """
        :return: expected reward of each transition, that of what is seen included, zero for impossible ones, shape
            (n_states, n_states, n_actions) as R[s', s, a]
        """
        pairs = zip(self._observation_rewards, self._observations, strict=True)
        seen = np.sum([rewards @ matrix for rewards, matrix in pairs], axis=0)
        return super().reward_matrix + seen[:, None, None] * (self.transition_matrix > 0.0)

    def glyphs(self) -> np.ndarray:
        return np.full((1, self.n_states), ".")

    def agent_cell(self) -> tuple[int, int] | None:
        return 0, self.state
