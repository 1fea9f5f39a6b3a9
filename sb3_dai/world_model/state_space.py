"""A belief filter whose hidden state has a distribution, which learns by the variational free energy."""

from typing import Any

import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_dai.equations import free_energy, likelihood
from sb3_dai.nets.ensembles import EnsembleMLP
from sb3_dai.world_model.gaussian import GaussianWorldModel
from sb3_dai.world_model.recurrent import LstmFilter

MIN_LOG_STD, MAX_LOG_STD = -5.0, 2.0
"""Soft bounds of the logarithm of a standard deviation of the hidden state."""


class StateSpaceFilter(LstmFilter):
    """
    A state-space model with an LSTM as its recognition model: posterior q(s_t|o_1..t, a_1..t-1) from the LSTM's hidden
    state, prior p(s_t|s_t-1, a_t-1) and likelihood p(o_t|s_t) by perceptrons. They minimise the variational free energy

    ``F_t = E_q[-log p(o_t|s_t)] + KL[ q(s_t|o_1..t, a_1..t-1) || p(s_t|s_t-1, a_t-1) ]``

    with s_t-1 and s_t drawn from the posterior (Krishnan et al. 2017, arXiv:1609.09869). The LSTM needs no draws, so that a
    sequence is one call of it.

    :param features_dim: number of features of an observation
    :param code_dim: size of a coded action
    :param hidden_size: number of units of the LSTM
    :param longest: as in :class:`LstmFilter`
    :param state_dim: size of the hidden state
    :param net_arch: hidden layers of prior and likelihood
    :param is_categorical: whether the features are the one-hot code of a number
    """

    def __init__(
        self,
        features_dim: int,
        code_dim: int,
        hidden_size: int,
        longest: int,
        state_dim: int,
        net_arch: list[int],
        is_categorical: bool = False,
    ) -> None:
        super().__init__(features_dim, code_dim, hidden_size, longest)
        self.is_categorical = is_categorical
        self.posterior_net = nn.Linear(hidden_size, 2 * state_dim)
        self.prior_net = EnsembleMLP(1, state_dim + code_dim, 2 * state_dim, net_arch, layer_norm=False)
        self.likelihood_net = EnsembleMLP(
            1, state_dim, features_dim * (1 if is_categorical else 2), net_arch, layer_norm=False
        )

    @staticmethod
    def _gaussian(outputs: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param outputs: of a net, shape (batch, 2 * state_dim)
        :return: mean and logarithm of the standard deviation, each (batch, state_dim)
        """
        mean, raw = outputs.chunk(2, dim=-1)
        log_std = MAX_LOG_STD - F.softplus(MAX_LOG_STD - raw)
        return mean, MIN_LOG_STD + F.softplus(log_std - MIN_LOG_STD)

    def posterior(self, beliefs: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param beliefs: hidden states of the LSTM, shape (batch, hidden_size)
        :return: mean and logarithm of the standard deviation of q(s), each (batch, state_dim)
        """
        return self._gaussian(self.posterior_net(beliefs))

    def prior(self, states: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param states: s, shape (batch, state_dim)
        :param actions: coded actions, shape (batch, code_dim)
        :return: mean and logarithm of the standard deviation of p(s'|s,a), each (batch, state_dim)
        """
        return self._gaussian(self.prior_net(th.cat([states, actions], dim=1))[0])

    def surprise(self, states: th.Tensor, features: th.Tensor) -> th.Tensor:
        """
        :param states: s, shape (batch, state_dim)
        :param features: of the observation, shape (batch, features_dim)
        :return: -log p(o|s) in nats, of vectors a dimension, shape (batch, 1)
        """
        outputs = self.likelihood_net(states)
        if self.is_categorical:
            return likelihood.categorical_nll(outputs.log_softmax(dim=-1), features.argmax(dim=1, keepdim=True))[0]
        return GaussianWorldModel.distribution(outputs).nll(features)[0] * features.shape[1]

    def losses(
        self, beliefs: th.Tensor, next_beliefs: th.Tensor, actions: th.Tensor, next_features: th.Tensor
    ) -> tuple[dict[str, th.Tensor], dict[str, th.Tensor]]:
        """
        :param beliefs: before a step, shape (batch, belief_dim)
        :param next_beliefs: after it, same shape
        :param actions: coded actions of the step, shape (batch, code_dim)
        :param next_features: of the observation after it, shape (batch, features_dim)
        :return: the loss, and the parts of the free energy
        """
        (states, _), posterior = map(self._drawn, (beliefs, next_beliefs))
        prior = self.prior(states, actions)
        surprise = self.surprise(posterior[0], next_features)
        divergence: Any = free_energy.balanced_divergence(posterior[1], prior)
        samples = {
            "observation_surprise": surprise.detach(),
            "state_divergence": free_energy.gaussian_divergence(*posterior[1], *prior).detach(),
        }
        return {"free_energy_loss": (surprise + divergence).mean() / next_features.shape[1]}, samples

    def _drawn(self, beliefs: th.Tensor) -> tuple[th.Tensor, tuple[th.Tensor, th.Tensor]]:
        """
        :param beliefs: shape (batch, belief_dim)
        :return: a draw from the posterior, shape (batch, state_dim), and the posterior
        """
        mean, log_std = self.posterior(beliefs)
        return mean + log_std.exp() * th.randn_like(mean), (mean, log_std)
