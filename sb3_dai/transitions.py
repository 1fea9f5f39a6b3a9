"""
What the world model predicts, and by which distribution. The observation space chooses one; nothing else depends on it.

A ``Prediction`` p_k(.|s,a) is that of each member k of the ensemble, made of the transition net's outputs.
"""

from typing import Any, Protocol

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn
from torch.nn import functional as F

from sb3_dai import free_energy as fe
from sb3_dai.networks import RunningNorm

MIN_LOG_VAR, MAX_LOG_VAR = -10.0, 2.0


class Prediction(Protocol):
    """p_k(.|s,a) of each member k. No gradient flows through the error and the information gain."""

    def nll(self, outcome: Any) -> th.Tensor:
        """
        :param outcome: what was observed
        :return: negative log-likelihood in nats, shape (ensemble_size, batch, 1)
        """

    def error(self, outcome: Any) -> th.Tensor:
        """
        :param outcome: what was observed
        :return: how surprising it was to the ensemble, shape (batch, 1)
        """

    def information_gain(self) -> th.Tensor:
        """
        :return: expected information about the model, in nats, shape (batch, 1)
        """

    def variance(self) -> th.Tensor:
        """
        :return: the members' disagreement, whatever the noise, shape (batch, 1)
        """


class GaussianPrediction:
    """
    Diagonal Gaussians over the change of the features.

    :param mean: shape (ensemble_size, batch, dim)
    :param log_var: same shape
    """

    def __init__(self, mean: th.Tensor, log_var: th.Tensor) -> None:
        self.mean = mean
        self.log_var = log_var

    def nll(self, outcome: th.Tensor) -> th.Tensor:
        """
        :param outcome: normalised change, shape (batch, dim)
        :return: in nats a dimension, shape (ensemble_size, batch, 1)
        """
        return fe.gaussian_nll(self.mean, self.log_var, outcome)

    def error(self, outcome: th.Tensor) -> th.Tensor:
        """
        :param outcome: normalised change, shape (batch, dim)
        :return: squared error of the mean prediction, shape (batch, 1)
        """
        return fe.prediction_error(self.mean.detach(), outcome)

    def information_gain(self) -> th.Tensor:
        """
        :return: in nats, shape (batch, 1)
        """
        return fe.information_gain(self.mean.detach(), self.log_var.detach())

    def variance(self) -> th.Tensor:
        """
        :return: variance of the members' means, mean over dimensions, shape (batch, 1)
        """
        return fe.ensemble_variance(self.mean.detach()).mean(dim=-1, keepdim=True)


class CategoricalPrediction:
    """
    Categorical distributions over the next state.

    :param log_prob: shape (ensemble_size, batch, n_states)
    """

    def __init__(self, log_prob: th.Tensor) -> None:
        self.log_prob = log_prob

    def nll(self, outcome: th.Tensor) -> th.Tensor:
        """
        :param outcome: index of the next state, shape (batch, 1)
        :return: in nats, shape (ensemble_size, batch, 1)
        """
        return fe.categorical_nll(self.log_prob, outcome)

    def error(self, outcome: th.Tensor) -> th.Tensor:
        """
        :param outcome: index of the next state, shape (batch, 1)
        :return: surprise of the ensemble's mixture, in nats, shape (batch, 1)
        """
        return fe.categorical_surprise(self.log_prob.detach(), outcome)

    def information_gain(self) -> th.Tensor:
        """
        :return: in nats, shape (batch, 1)
        """
        return fe.categorical_information_gain(self.log_prob.detach())

    def variance(self) -> th.Tensor:
        """
        :return: variance of the members' probabilities, sum over states, shape (batch, 1)
        """
        return fe.ensemble_variance(self.log_prob.detach().exp()).sum(dim=-1, keepdim=True)


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
        return fe.dirichlet_variance(self.counts)


class GaussianTransitions(nn.Module):
    """
    The change of the features, in units of its running standard deviation.

    :param features_dim: number of features
    """

    def __init__(self, features_dim: int) -> None:
        super().__init__()
        self.output_dim = 2 * features_dim
        self.change_norm = RunningNorm(features_dim, center=False)

    def outcome(
        self, features: th.Tensor, next_features: th.Tensor, next_obs: PyTorchObs, has_successor: th.Tensor | float
    ) -> th.Tensor:
        """
        What is to be predicted. Updates the running scale.

        :param features: of s as the slow extractor sees it, shape (batch, features_dim)
        :param next_features: of s', same shape
        :param next_obs: s' itself
        :param has_successor: (batch, 1), 0 where s' is not the successor of s
        :return: normalised change, shape (batch, features_dim)
        """
        change = (next_features - features) * has_successor
        self.change_norm.update(change)
        return self.change_norm(change)

    def forward(self, outputs: th.Tensor) -> GaussianPrediction:
        """
        :param outputs: of the transition net, shape (ensemble_size, batch, output_dim)
        :return: p_k(.|s,a)
        """
        mean, raw = outputs.chunk(2, dim=-1)
        # A smooth bound: gradients survive at both ends (Chua et al. 2018, arXiv:1805.12114, appendix A.1)
        log_var = MAX_LOG_VAR - F.softplus(MAX_LOG_VAR - raw)
        log_var = MIN_LOG_VAR + F.softplus(log_var - MIN_LOG_VAR)
        return GaussianPrediction(mean, log_var)


class CategoricalTransitions(nn.Module):
    """
    The next state of a world of numbered states.

    :param n_states: number of states
    """

    def __init__(self, n_states: int) -> None:
        super().__init__()
        self.output_dim = n_states

    def outcome(
        self, features: th.Tensor, next_features: th.Tensor, next_obs: PyTorchObs, has_successor: th.Tensor | float
    ) -> th.Tensor:
        """
        :param features: of s, shape (batch, features_dim)
        :param next_features: of s', same shape
        :param next_obs: s' itself, any shape of batch elements
        :param has_successor: (batch, 1), 0 where s' is not the successor of s
        :return: index of the next state, shape (batch, 1)
        """
        assert isinstance(next_obs, th.Tensor)
        return next_obs.long().reshape(-1, 1)

    def forward(self, outputs: th.Tensor) -> CategoricalPrediction:
        """
        :param outputs: of the transition net, shape (ensemble_size, batch, output_dim)
        :return: p_k(.|s,a)
        """
        return CategoricalPrediction(F.log_softmax(outputs, dim=-1))


class DirichletTransitions(CategoricalTransitions):
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
        super().__init__(n_states)
        prior = 1.0 / n_states if prior_count is None else prior_count
        self.n_states = n_states
        self.register_buffer("counts", th.full((n_states, n_actions, n_states), prior))
        unseen = fe.dirichlet_information_gain(self.counts[0, 0])
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
            self.gains[state, action] = fe.dirichlet_information_gain(row)

    def gains_of(self, states: th.Tensor) -> th.Tensor:
        """
        :param states: numbers of s, shape (batch,)
        :return: information gain of each action, shape (batch, n_actions)
        """
        return self.gains[states, :, 0]

    def predict(self, states: th.Tensor, actions: th.Tensor) -> DirichletPrediction:
        """
        :param states: numbers of s, shape (batch,)
        :param actions: one-hot, shape (batch, n_actions)
        :return: p(.|s,a)
        """
        pairs = states, actions.argmax(dim=1)
        return DirichletPrediction(self.counts[pairs], self.gains[pairs])


TransitionModel = GaussianTransitions | CategoricalTransitions | DirichletTransitions


def transition_model(
    space: spaces.Space,
    features_dim: int,
    action_space: spaces.Space,
    dirichlet: bool = False,
    prior_count: float | None = None,
) -> TransitionModel:
    """
    :param space: Observation space
    :param features_dim: number of features that are extracted from it
    :param action_space: Action space
    :param dirichlet: whether numbered states are counted instead of learned by a net
    :param prior_count: of a Dirichlet model
    :return: its distribution
    :raises ValueError: if what is to be counted has no numbers
    """
    if dirichlet:
        if not (isinstance(space, spaces.Discrete) and isinstance(action_space, spaces.Discrete)):
            raise ValueError(
                f'transition_model="dirichlet" counts Discrete observations and actions, not {space} and {action_space}: '
                "use the ensemble"
            )
        return DirichletTransitions(int(space.n), int(action_space.n), prior_count)
    if isinstance(space, spaces.Discrete):
        return CategoricalTransitions(int(space.n))
    return GaussianTransitions(features_dim)
