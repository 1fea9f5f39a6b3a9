"""
The distributions of actions. An action space chooses one of them; nothing else depends on it.

Each kind has three parts: an ``ActionModel`` that says how actions are coded and how large the outputs of the nets are, a
``Habit`` Q(.|s) that the policy net's outputs stand for, and an EFE G(s,.), a function of the coded action.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch as th
from gymnasium import spaces
from torch import nn
from torch.nn import functional as F

from sb3_dai import free_energy as fe
from sb3_dai.networks import EnsembleMLP

MIN_LOG_STD, MAX_LOG_STD = -20.0, 2.0

NEVER = 1e9
"""Cost of an option that does not exist. Not infinity: times a probability of 0 that is NaN."""


class EFE(Protocol):
    """G(s,.) of each value net and part."""

    pessimism: th.Tensor | float
    """Share of the worst value net in what all of them make of G (:func:`free_energy.pessimistic`)"""

    def __call__(self, actions: th.Tensor) -> th.Tensor:
        """
        :param actions: coded actions, shape (batch, code_dim)
        :return: shape (n_critics, batch, n_parts)
        """


class Habit(Protocol):
    """Q(.|s), the policy at some states. Each kind goes with its own kind of EFE."""

    def entropy(self) -> th.Tensor:
        """
        :return: in nats, exact or of one sample, shape (batch, 1)
        """

    def expected_efe(self, efe: Any) -> th.Tensor:
        """
        :param efe: at the same states
        :return: what the value nets make of each part under the policy, shape (batch, n_parts)
        """

    def divergence(self, efe: Any, weights: th.Tensor, precision: th.Tensor, log_prior: th.Tensor | float = 0.0) -> th.Tensor:
        """
        ``KL[ Q(.|s) || E(.|s) softmax(-precision G(s,.)) / Z ]``, through which only the policy learns.

        :param efe: at the same states
        :param weights: of the parts in G, shape (n_parts,)
        :param precision: inverse temperature of G
        :param log_prior: log E(.|s), 0 for none
        :return: in nats, shape (batch, 1)
        """


class CategoricalEFE:
    """
    A table of G for actions of several independent choices, one for ``Discrete``. G(s,a) is the sum over the choices of
    a cost of each (Sunehag et al. 2018, arXiv:1706.05296): expectations and divergences are exact, and grow with the sum
    of the options, not with their product.

    :param table: shape (n_critics, batch, n_parts, n_choices, n_options)
    :param possible: which options exist, shape (n_choices, n_options)
    :param even: whether all do, which saves the masks
    """

    pessimism: th.Tensor | float = 1.0

    def __init__(self, table: th.Tensor, possible: th.Tensor, even: bool = False) -> None:
        if table.shape[-2] > 1:
            # A constant may move from one choice to another without a change of G. Where it sits must not matter to the
            # comparison of value nets option by option: let each choice have the same mean.
            means = (table * possible).sum(dim=-1, keepdim=True) / possible.sum(dim=-1, keepdim=True)
            table = table - means + means.mean(dim=-2, keepdim=True)
        self.table = table
        self.possible = possible
        self.even = even

    def __call__(self, actions: th.Tensor) -> th.Tensor:
        """
        :param actions: coded actions, shape (batch, code_dim)
        :return: shape (n_critics, batch, n_parts)
        """
        chosen = actions.reshape(-1, 1, *self.table.shape[-2:])
        return (self.table * chosen).sum(dim=(-2, -1))

    def total(self, weights: th.Tensor) -> th.Tensor:
        """
        :param weights: of the parts in G, shape (n_parts,)
        :return: what the value nets make of G, option by option, without a gradient, shape (batch, n_choices, n_options)
        """
        total = fe.judged_efe(self.table.detach(), weights, self.pessimism)
        return total if self.even else total.masked_fill(~self.possible, NEVER)


class CategoricalHabit:
    """
    Independent categorical distributions, one for each choice.

    :param log_prob: log Q(a|s), shape (batch, n_choices, n_options)
    """

    def __init__(self, log_prob: th.Tensor) -> None:
        self.log_prob = log_prob

    def entropy(self) -> th.Tensor:
        """
        :return: in nats, exact, shape (batch, 1)
        """
        return fe.policy_entropy(self.log_prob)

    def expected_efe(self, efe: CategoricalEFE) -> th.Tensor:
        """
        :param efe: at the same states
        :return: what the value nets make of each part, option by option, under the policy, shape (batch, n_parts)
        """
        return fe.policy_expectation(self.log_prob, fe.judged_parts(efe.table, efe.pessimism))

    def divergence(
        self, efe: CategoricalEFE, weights: th.Tensor, precision: th.Tensor, log_prior: th.Tensor | float = 0.0
    ) -> th.Tensor:
        """
        :param efe: at the same states
        :param weights: of the parts in G, shape (n_parts,)
        :param precision: inverse temperature of G
        :param log_prior: log E(a|s), 0 or shape (batch, n_choices, n_options)
        :return: in nats, exact, shape (batch, 1)
        """
        return fe.policy_divergence(self.log_prob, efe.total(weights), precision, log_prior)


class GaussianEFE:
    """
    A value net that reads the action.

    :param net: the value net
    :param features: features of s, shape (batch, features_dim)
    """

    pessimism: th.Tensor | float = 1.0

    def __init__(self, net: EnsembleMLP, features: th.Tensor) -> None:
        self.net = net
        self.features = features

    def __call__(self, actions: th.Tensor) -> th.Tensor:
        """
        :param actions: in [-1, 1], shape (batch, code_dim)
        :return: shape (n_critics, batch, n_parts)
        """
        return self.net(th.cat([self.features, actions], dim=1))


class GaussianHabit:
    """
    A Gaussian squashed by tanh (Haarnoja et al. 2018, arXiv:1801.01290, appendix C) and one reparameterised sample of it.

    :param mean: before squashing, shape (batch, dim)
    :param log_std: before squashing, same shape
    """

    def __init__(self, mean: th.Tensor, log_std: th.Tensor) -> None:
        raw = mean + log_std.exp() * th.randn_like(mean)
        self.actions = th.tanh(raw)
        self.log_prob = fe.tanh_gaussian_log_prob(raw, mean, log_std)

    def entropy(self) -> th.Tensor:
        """
        :return: in nats, of the sample, shape (batch, 1)
        """
        return -self.log_prob

    def expected_efe(self, efe: GaussianEFE) -> th.Tensor:
        """
        :param efe: at the same states
        :return: what the value nets make of each part at the sample, shape (batch, n_parts)
        """
        return fe.judged_parts(efe(self.actions), efe.pessimism)

    def divergence(
        self, efe: GaussianEFE, weights: th.Tensor, precision: th.Tensor, log_prior: th.Tensor | float = 0.0
    ) -> th.Tensor:
        """
        The divergence less the logarithm of the normaliser of softmax(-precision G), which is nothing the policy can change.

        :param efe: at the same states
        :param weights: of the parts in G, shape (n_parts,)
        :param precision: inverse temperature of G
        :param log_prior: log E(a|s) of the sample, 0 or shape (batch, 1)
        :return: in nats, of the sample, shape (batch, 1)
        """
        with frozen(efe.net):
            parts = GaussianEFE(efe.net, efe.features.detach())(self.actions)
        total = fe.judged_efe(parts, weights, efe.pessimism).unsqueeze(1)
        return fe.sampled_divergence(self.log_prob, total, precision, log_prior)


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


class CategoricalActions(nn.Module):
    """
    ``Discrete``, ``MultiDiscrete`` and ``MultiBinary``: independent choices between options. All have the size of the
    largest one in the nets; those beyond a choice's own options have no probability.

    :param n_options: number of options of each choice
    """

    possible: th.Tensor
    reads_actions = False
    """Whether the value net takes the action as an input, or gives G of all."""

    def __init__(self, n_options: list[int]) -> None:
        super().__init__()
        self.shape = (len(n_options), max(n_options))
        self.code_dim = self.policy_dim = self.value_dim = math.prod(self.shape)
        self.max_entropy = sum(math.log(n) for n in n_options)
        # A constant, and so no part of what is saved
        self.register_buffer("possible", th.arange(self.shape[1]) < th.tensor(n_options).unsqueeze(1), persistent=False)
        self.even = bool(self.possible.all())

    def encode(self, actions: th.Tensor) -> th.Tensor:
        """
        :param actions: indices, shape (batch, n_choices)
        :return: one-hot, shape (batch, code_dim): a scalar code would put a false order on actions
        """
        return F.one_hot(actions.long(), self.shape[1]).flatten(start_dim=1).float()

    def _logits(self, outputs: th.Tensor) -> th.Tensor:
        """
        :param outputs: of the policy net, shape (batch, policy_dim)
        :return: shape (batch, n_choices, n_options)
        """
        logits = outputs.reshape(-1, *self.shape)
        return logits if self.even else logits.masked_fill(~self.possible, -NEVER)

    def habit(self, outputs: th.Tensor) -> CategoricalHabit:
        """
        :param outputs: of the policy net, shape (batch, policy_dim)
        :return: Q(.|s)
        """
        return CategoricalHabit(F.log_softmax(self._logits(outputs), dim=-1))

    def efe(self, net: EnsembleMLP, features: th.Tensor, n_parts: int, known: th.Tensor | float = 0.0) -> CategoricalEFE:
        """
        :param net: the value net
        :param features: features of s, shape (batch, features_dim)
        :param n_parts: number of parts of G
        :param known: what need not be learned of G, shape (batch, n_parts, n_choices, n_options)
        :return: G(s,.)
        """
        return CategoricalEFE(net(features).unflatten(-1, (n_parts, *self.shape)) + known, self.possible, self.even)

    def act(self, outputs: th.Tensor, deterministic: bool, action_precision: float = 1.0) -> th.Tensor:
        """
        :param outputs: of the policy net, shape (batch, policy_dim)
        :param deterministic: the most probable action, or a sample
        :param action_precision: alpha of the samples, which are from Q(a|s)^alpha, normalised
        :return: indices, shape (batch, n_choices)
        """
        if deterministic:
            return self._logits(outputs).argmax(dim=-1)
        prob = F.softmax(self._logits(outputs if action_precision == 1.0 else action_precision * outputs), dim=-1)
        # The race of exponential clocks that torch.multinomial runs, without its checks, which take most of its time
        return (prob / th.empty_like(prob).exponential_()).argmax(dim=-1)

    def best(self, outputs: th.Tensor, efe: CategoricalEFE) -> th.Tensor:
        """
        :param outputs: of the policy net, shape (batch, policy_dim)
        :param efe: at the same states
        :return: indices of the lowest first part of the EFE, shape (batch, n_choices)
        """
        extrinsic = fe.pessimistic(efe.table[:, :, 0], efe.pessimism)
        return extrinsic.masked_fill(~self.possible, NEVER).argmin(dim=-1)


class GaussianActions(nn.Module):
    """
    ``Box``: a tanh-squashed Gaussian in [-1, 1], which the policy stretches to the bounds of the space.

    :param dim: number of dimensions
    """

    reads_actions = True
    """Whether the value net takes the action as an input, or gives G of all."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.code_dim, self.policy_dim, self.value_dim = dim, 2 * dim, 1

    def encode(self, actions: th.Tensor) -> th.Tensor:
        """
        :param actions: in [-1, 1], as the replay buffer holds them, shape (batch, code_dim)
        :return: the same
        """
        return actions

    def habit(self, outputs: th.Tensor) -> GaussianHabit:
        """
        :param outputs: of the policy net, shape (batch, policy_dim)
        :return: Q(.|s)
        """
        return GaussianHabit(*self._gaussian(outputs))

    @staticmethod
    def _gaussian(outputs: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param outputs: of the policy net, shape (batch, policy_dim)
        :return: mean and logarithm of the standard deviation before squashing, each (batch, dim)
        """
        mean, log_std = outputs.chunk(2, dim=-1)
        return mean, log_std.clamp(MIN_LOG_STD, MAX_LOG_STD)

    def efe(self, net: EnsembleMLP, features: th.Tensor, n_parts: int, known: th.Tensor | float = 0.0) -> GaussianEFE:
        """
        :param net: the value net
        :param features: features of s, shape (batch, features_dim)
        :param n_parts: number of parts of G
        :param known: nothing
        :return: G(s,.)
        """
        return GaussianEFE(net, features)

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
        return GaussianHabit(mean, log_std - 0.5 * math.log(action_precision)).actions

    def best(self, outputs: th.Tensor, efe: GaussianEFE, n_samples: int = 32) -> th.Tensor:
        """
        :param outputs: of the policy net, shape (batch, policy_dim)
        :param efe: at the same states
        :param n_samples: candidates that are drawn from the policy, beside its median
        :return: the candidate of the lowest first part of the EFE, in [-1, 1], shape (batch, code_dim)
        """
        candidates = th.cat([self.act(outputs, True), self.act(outputs.repeat(n_samples, 1), False)])
        features = efe.features.repeat(n_samples + 1, 1)
        parts = GaussianEFE(efe.net, features)(candidates)
        extrinsic = fe.pessimistic(parts[:, :, 0], efe.pessimism).reshape(n_samples + 1, -1)
        return candidates.reshape(n_samples + 1, *outputs.shape[:1], -1)[extrinsic.argmin(dim=0), th.arange(len(outputs))]


ActionModel = CategoricalActions | GaussianActions


def action_model(space: spaces.Space) -> ActionModel:
    """
    :param space: Action space
    :return: its distribution
    :raises ValueError: if there is none
    """
    if isinstance(space, spaces.Discrete):
        return CategoricalActions([int(space.n)])
    if isinstance(space, spaces.MultiDiscrete):
        return CategoricalActions([int(n) for n in np.ravel(space.nvec)])
    if isinstance(space, spaces.MultiBinary):
        return CategoricalActions([2] * int(np.prod(space.shape)))
    if isinstance(space, spaces.Box):
        return GaussianActions(int(np.prod(space.shape)))
    raise ValueError(f"action_space={space} is not supported: Discrete, MultiDiscrete, MultiBinary or Box")
