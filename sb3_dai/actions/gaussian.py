"""Continuous actions: ``Box``."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch as th
from torch import nn

from sb3_dai.actions.base import Aggregation
from sb3_dai.equations import divergence, targets
from sb3_dai.nets.ensembles import EnsembleMLP

MIN_LOG_STD, MAX_LOG_STD = -20.0, 2.0
"""Bounds of the logarithm of the standard deviation before squashing."""

N_CANDIDATES = 32
"""Samples of the policy among which ``best`` looks for the lowest cost."""


class GaussianEFE:
    """
    Critics that read the action.

    :param net: the critics
    :param features: features of s, shape (batch, features_dim)
    :param aggregation: how the critics become one
    """

    def __init__(self, net: EnsembleMLP, features: th.Tensor, aggregation: Aggregation) -> None:
        self.net = net
        self.features = features
        self.aggregation = aggregation

    def __call__(self, actions: th.Tensor) -> th.Tensor:
        """
        :param actions: in [-1, 1], shape (batch, code_dim)
        :return: shape (n_critics, batch, n_terms)
        """
        return self.net(th.cat([self.features, actions], dim=1))


class GaussianPosterior:
    """
    A Gaussian squashed by tanh (Haarnoja et al. 2018, arXiv:1801.01290, appendix C) and one reparameterised sample of it.

    :param mean: before squashing, shape (batch, dim)
    :param log_std: before squashing, same shape
    """

    def __init__(self, mean: th.Tensor, log_std: th.Tensor) -> None:
        raw = mean + log_std.exp() * th.randn_like(mean)
        self.actions = th.tanh(raw)
        self.log_prob = divergence.tanh_gaussian_log_prob(raw, mean, log_std)

    def entropy(self) -> th.Tensor:
        """
        :return: in nats, of the sample, shape (batch, 1)
        """
        return -self.log_prob

    def expected_efe(self, efe: GaussianEFE) -> th.Tensor:
        """
        :param efe: G at the same states
        :return: each term at the sample, the critics aggregated, shape (batch, n_terms)
        """
        return targets.aggregate_terms(efe(self.actions), efe.aggregation.averages, efe.aggregation.pessimism)

    def divergence(
        self, efe: GaussianEFE, weights: th.Tensor, precision: th.Tensor, log_prior: th.Tensor | float = 0.0
    ) -> th.Tensor:
        """
        The divergence less the logarithm of the normaliser of softmax(-precision G), which is nothing the policy can change.

        :param efe: G at the same states
        :param weights: of the terms in G, shape (n_terms,)
        :param precision: inverse temperature of G
        :param log_prior: log E(a|s) of the sample, 0 or shape (batch, 1)
        :return: in nats, of the sample, shape (batch, 1)
        """
        with frozen(efe.net):
            terms = GaussianEFE(efe.net, efe.features.detach(), efe.aggregation)(self.actions)
        total = targets.aggregate_efe(terms, weights, efe.aggregation.averages, efe.aggregation.pessimism).unsqueeze(1)
        return divergence.sampled_divergence(self.log_prob, total, precision, log_prior)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """
    Let gradients flow through a module to its inputs, but not to its parameters.

    :param module: what is evaluated inside the context
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


class GaussianActions(nn.Module):
    """
    A tanh-squashed Gaussian in [-1, 1], which the policy stretches to the bounds of the space.

    :param dim: number of dimensions
    """

    reads_actions = True
    """Whether the critics take the action as an input, or give G of all actions."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.code_dim, self.policy_dim, self.value_dim = dim, 2 * dim, 1

    def encode(self, actions: th.Tensor) -> th.Tensor:
        """
        :param actions: in [-1, 1], as the replay buffer holds them, shape (batch, code_dim)
        :return: the same
        """
        return actions

    def posterior(self, outputs: th.Tensor) -> GaussianPosterior:
        """
        :param outputs: of the policy net, shape (batch, policy_dim)
        :return: Q(.|s)
        """
        return GaussianPosterior(*self._gaussian(outputs))

    @staticmethod
    def _gaussian(outputs: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param outputs: of the policy net, shape (batch, policy_dim)
        :return: mean and logarithm of the standard deviation before squashing, each (batch, dim)
        """
        mean, log_std = outputs.chunk(2, dim=-1)
        return mean, log_std.clamp(MIN_LOG_STD, MAX_LOG_STD)

    def efe(
        self, net: EnsembleMLP, features: th.Tensor, n_terms: int, aggregation: Aggregation, known: th.Tensor | float = 0.0
    ) -> GaussianEFE:
        """
        :param net: the critics
        :param features: features of s, shape (batch, features_dim)
        :param n_terms: number of terms of G
        :param aggregation: how the critics become one
        :param known: nothing
        :return: G(s,.)
        """
        return GaussianEFE(net, features, aggregation)

    def act(self, outputs: th.Tensor, deterministic: bool, action_precision: float = 1.0) -> th.Tensor:
        """
        :param outputs: of the policy net, shape (batch, policy_dim)
        :param deterministic: the median action, or a sample
        :param action_precision: alpha of the samples. The Gaussian is raised to it before it is squashed, which divides its
            standard deviation by sqrt(alpha).
        :return: in [-1, 1], shape (batch, code_dim)
        """
        if deterministic:
            return th.tanh(outputs.chunk(2, dim=-1)[0])
        mean, log_std = self._gaussian(outputs)
        return GaussianPosterior(mean, log_std - 0.5 * math.log(action_precision)).actions

    def best(self, outputs: th.Tensor, efe: GaussianEFE) -> th.Tensor:
        """
        :param outputs: of the policy net, shape (batch, policy_dim)
        :param efe: G at the same states
        :return: of the policy's median and ``N_CANDIDATES`` samples that with the lowest first term of G, in [-1, 1], shape
            (batch, code_dim)
        """
        candidates = th.cat([self.act(outputs, True), self.act(outputs.repeat(N_CANDIDATES, 1), False)])
        features = efe.features.repeat(N_CANDIDATES + 1, 1)
        terms = GaussianEFE(efe.net, features, efe.aggregation)(candidates)
        extrinsic = targets.pessimistic(terms[:, :, 0], efe.aggregation.pessimism).reshape(N_CANDIDATES + 1, -1)
        return candidates.reshape(N_CANDIDATES + 1, *outputs.shape[:1], -1)[extrinsic.argmin(dim=0), th.arange(len(outputs))]
