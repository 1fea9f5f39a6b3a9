"""World model of numbered states: an ensemble of categorical distributions over the next state."""

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs
from torch.nn import functional as F

from sb3_dai.equations import information_gain, likelihood
from sb3_dai.world_model.base import Belief, WorldModel


def numbers(belief: Belief) -> th.Tensor:
    """
    :param belief: about numbered states
    :return: their numbers, shape (batch,)
    """
    return belief.raw.argmax(dim=1)


class CategoricalPrediction:
    """
    Categorical distributions over the next state.

    :param log_prob: shape (ensemble_size, batch, n_states)
    """

    def __init__(self, log_prob: th.Tensor) -> None:
        self.log_prob = log_prob

    def nll(self, outcome: th.Tensor) -> th.Tensor:
        """
        :param outcome: number of the next state, shape (batch, 1)
        :return: in nats, shape (ensemble_size, batch, 1)
        """
        return likelihood.categorical_nll(self.log_prob, outcome)

    def error(self, outcome: th.Tensor) -> th.Tensor:
        """
        :param outcome: number of the next state, shape (batch, 1)
        :return: surprise of the ensemble's mixture, in nats, shape (batch, 1)
        """
        return likelihood.categorical_surprise(self.log_prob.detach(), outcome)

    def information_gain(self) -> th.Tensor:
        """
        :return: in nats, shape (batch, 1)
        """
        return information_gain.categorical_information_gain(self.log_prob.detach())

    def variance(self) -> th.Tensor:
        """
        :return: variance of the members' probabilities, sum over states, shape (batch, 1)
        """
        return information_gain.ensemble_variance(self.log_prob.detach().exp()).sum(dim=-1, keepdim=True)

    def sample(self) -> th.Tensor:
        """
        :return: number of the next state, shape (batch, 1)
        """
        n_members, batch = self.log_prob.shape[:2]
        device = self.log_prob.device
        drawn = th.randint(n_members, (batch,), device=device), th.arange(batch, device=device)
        return th.multinomial(self.log_prob[drawn].exp(), 1)


class CategoricalWorldModel(WorldModel):
    """
    The next state of a world of numbered states. The ensemble has ``n_states`` outputs. It reads the number of the pair (s, a)
    if it is a table, since the number of a state says nothing about another's; else features beside coded actions. Arguments
    are those of :class:`WorldModel`.
    """

    def predict(self, belief: Belief, actions: th.Tensor) -> CategoricalPrediction:
        """
        :param belief: about s
        :param actions: coded actions, shape (batch, code_dim)
        :return: p_k(.|s,a) of each member
        """
        assert self.net is not None
        if self.net.numbered:
            inputs = numbers(belief) * actions.shape[1] + actions.argmax(dim=1)
        else:
            inputs = th.cat([belief.features, actions], dim=1)
        return self.distribution(self.outputs(inputs))

    @staticmethod
    def distribution(outputs: th.Tensor) -> CategoricalPrediction:
        """
        :param outputs: of the ensemble, shape (ensemble_size, batch, n_states)
        :return: the distributions that they stand for
        """
        return CategoricalPrediction(F.log_softmax(outputs, dim=-1))

    def outcome(
        self, belief: Belief, next_belief: Belief, next_obs: PyTorchObs, has_successor: th.Tensor | float
    ) -> th.Tensor:
        """
        :param belief: about s
        :param next_belief: about s'
        :param next_obs: s' itself, any shape of batch elements
        :param has_successor: (batch, 1), 0 where s' is not the successor of s
        :return: number of the next state, shape (batch, 1)
        """
        assert isinstance(next_obs, th.Tensor)
        return next_obs.long().reshape(-1, 1)

    def successor(self, belief: Belief, outcome: th.Tensor) -> th.Tensor:
        """
        :param belief: about s
        :param outcome: number of the next state, shape (batch, 1)
        :return: its one-hot code, shape (batch, n_states)
        """
        return F.one_hot(outcome.squeeze(1), self.n_states).float()

    @property
    def n_states(self) -> int:
        """Number of states, each of which has an output of the ensemble."""
        return self.features_dim
