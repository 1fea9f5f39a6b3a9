"""World model of vectors: an ensemble of Gaussians over the change of the features."""

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs
from torch.nn import functional as F

from sb3_dai.equations import information_gain, likelihood
from sb3_dai.nets.ensembles import EnsembleMLP
from sb3_dai.nets.statistics import RunningNorm
from sb3_dai.world_model.base import Belief, WorldModel

MIN_LOG_VAR, MAX_LOG_VAR = -10.0, 2.0
"""Soft bounds of the predicted log-variance."""


class GaussianPrediction:
    """
    Diagonal Gaussians over the change of the features, in units of its running standard deviation.

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
        return likelihood.gaussian_nll(self.mean, self.log_var, outcome)

    def error(self, outcome: th.Tensor) -> th.Tensor:
        """
        :param outcome: normalised change, shape (batch, dim)
        :return: squared error of the mean prediction, shape (batch, 1)
        """
        return likelihood.prediction_error(self.mean.detach(), outcome)

    def information_gain(self) -> th.Tensor:
        """
        :return: in nats, shape (batch, 1)
        """
        mean, log_var = self.mean.detach(), self.log_var.detach()
        return information_gain.gaussian_information_gain(mean, log_var, information_gain.RESOLUTION)

    def variance(self) -> th.Tensor:
        """
        :return: variance of the members' means, mean over dimensions, shape (batch, 1)
        """
        return information_gain.ensemble_variance(self.mean.detach()).mean(dim=-1, keepdim=True)

    def sample(self) -> th.Tensor:
        """
        :return: normalised change, shape (batch, dim)
        """
        n_members, batch = self.mean.shape[:2]
        drawn = th.randint(n_members, (batch,), device=self.mean.device), th.arange(batch, device=self.mean.device)
        mean, log_var = self.mean[drawn], self.log_var[drawn]
        return mean + (0.5 * log_var).exp() * th.randn_like(mean)


class GaussianWorldModel(WorldModel):
    """
    The change of the features, in units of its running standard deviation.

    :param features_dim: number of features
    :param net: the ensemble, which reads features beside coded actions and has ``2 * features_dim`` outputs
    :param prior: as in :class:`WorldModel`
    :param prior_scale: as in :class:`WorldModel`
    """

    def __init__(
        self, features_dim: int, net: EnsembleMLP, prior: EnsembleMLP | None = None, prior_scale: float = 0.0
    ) -> None:
        super().__init__(features_dim, net, prior, prior_scale)
        self.change_norm = RunningNorm(features_dim, center=False)

    def predict(self, belief: Belief, actions: th.Tensor) -> GaussianPrediction:
        """
        :param belief: about s
        :param actions: coded actions, shape (batch, code_dim)
        :return: p_k(.|s,a) of each member
        """
        return self.distribution(self.outputs(th.cat([belief.features, actions], dim=1)))

    @staticmethod
    def distribution(outputs: th.Tensor) -> GaussianPrediction:
        """
        :param outputs: of the ensemble, shape (ensemble_size, batch, 2 * features_dim)
        :return: the distributions that they stand for
        """
        mean, raw = outputs.chunk(2, dim=-1)
        # A smooth bound: gradients survive at both ends (Chua et al. 2018, arXiv:1805.12114, appendix A.1)
        log_var = MAX_LOG_VAR - F.softplus(MAX_LOG_VAR - raw)
        log_var = MIN_LOG_VAR + F.softplus(log_var - MIN_LOG_VAR)
        return GaussianPrediction(mean, log_var)

    def outcome(
        self, belief: Belief, next_belief: Belief, next_obs: PyTorchObs, has_successor: th.Tensor | float
    ) -> th.Tensor:
        """
        :param belief: about s, as the target extractor sees it
        :param next_belief: about s', likewise
        :param next_obs: s' itself
        :param has_successor: (batch, 1), 0 where s' is not the successor of s
        :return: normalised change, shape (batch, features_dim)
        """
        change = (next_belief.raw - belief.raw) * has_successor
        self.change_norm.update(change)
        return self.change_norm(change)

    def successor(self, belief: Belief, outcome: th.Tensor) -> th.Tensor:
        """
        :param belief: about s
        :param outcome: normalised change, shape (batch, features_dim)
        :return: the raw features of s', same shape
        """
        return belief.raw + self.change_norm.inverse(outcome)
