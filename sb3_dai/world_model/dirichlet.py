"""World model of numbered states that counts: Dirichlet beliefs about each row of the transition matrix."""

import numpy as np
import torch as th

from sb3_dai.equations import information_gain
from sb3_dai.world_model.base import Belief
from sb3_dai.world_model.categorical import CategoricalPrediction, CategoricalWorldModel, numbers


class DirichletPrediction(CategoricalPrediction):
    """
    The mean of Dirichlet beliefs, as an ensemble of one, and what is still to be learned about them.

    :param counts: alpha, shape (batch, n_states)
    :param gain: information gain, shape (batch, 1)
    """

    def __init__(self, counts: th.Tensor, gain: th.Tensor) -> None:
        super().__init__((counts / counts.sum(dim=-1, keepdim=True)).log().unsqueeze(0))
        self.counts = counts
        self.gain = gain

    def information_gain(self) -> th.Tensor:
        """
        :return: in nats, exact, shape (batch, 1)
        """
        return self.gain

    def variance(self) -> th.Tensor:
        """
        :return: variance of the probabilities under the belief, sum over states, shape (batch, 1)
        """
        return information_gain.dirichlet_variance(self.counts)


class DirichletWorldModel(CategoricalWorldModel):
    """
    Beliefs about each row of the transition matrix, learned by counting, as in pymdp: no net, and exact. Memory grows with
    n_states^2 n_actions.

    :param n_states: number of states
    :param n_actions: number of actions
    :param prior_count: of each next state before anything was seen; by default they sum to one
    """

    counts: th.Tensor
    gains: th.Tensor

    def __init__(self, n_states: int, n_actions: int, prior_count: float | None = None) -> None:
        super().__init__(n_states, None)
        prior = 1.0 / n_states if prior_count is None else prior_count
        self.register_buffer("counts", th.full((n_states, n_actions, n_states), prior))
        unseen = information_gain.dirichlet_information_gain(self.counts[0, 0])
        self.register_buffer("gains", unseen.expand(n_states, n_actions, 1).clone())

    @th.no_grad()
    def count(self, states: np.ndarray, actions: np.ndarray, next_states: np.ndarray) -> None:
        """
        Learn from transitions, each of them once.

        :param states: shape (batch,)
        :param actions: same shape
        :param next_states: same shape
        """
        for state, action, next_state in zip(states.tolist(), actions.tolist(), next_states.tolist(), strict=True):
            row = self.counts[state, action]
            row[next_state] += 1.0
            self.gains[state, action] = information_gain.dirichlet_information_gain(row)

    def gains_of_actions(self, belief: Belief) -> th.Tensor:
        """
        :param belief: about s
        :return: information gain of every action, shape (batch, n_actions)
        """
        return self.gains[numbers(belief), :, 0]

    def predict(self, belief: Belief, actions: th.Tensor) -> DirichletPrediction:
        """
        :param belief: about s
        :param actions: one-hot, shape (batch, n_actions)
        :return: p(.|s,a)
        """
        pairs = numbers(belief), actions.argmax(dim=1)
        return DirichletPrediction(self.counts[pairs], self.gains[pairs])
