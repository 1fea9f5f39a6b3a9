"""Actions that are choices between options: ``Discrete``, ``MultiDiscrete`` and ``MultiBinary``."""

import math

import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_dai.actions.base import NEVER, Aggregation
from sb3_dai.equations import divergence, targets
from sb3_dai.nets.ensembles import EnsembleMLP


class CategoricalEFE:
    """
    A table of G for actions of several independent choices, one for ``Discrete``. G(s,a) is the sum over the choices of
    a cost of each (Sunehag et al. 2018, arXiv:1706.05296): expectations and divergences are exact, and grow with the sum
    of the options, not with their product.

    :param table: shape (n_critics, batch, n_terms, n_choices, n_options)
    :param possible: which options exist, shape (n_choices, n_options)
    :param even: whether all do, which saves the masks
    :param aggregation: how the critics become one
    """

    def __init__(self, table: th.Tensor, possible: th.Tensor, even: bool, aggregation: Aggregation) -> None:
        if table.shape[-2] > 1:
            # A constant may move from one choice to another without a change of G. Where it sits must not matter to the
            # comparison of critics option by option: let each choice have the same mean.
            means = (table * possible).sum(dim=-1, keepdim=True) / possible.sum(dim=-1, keepdim=True)
            table = table - means + means.mean(dim=-2, keepdim=True)
        self.table = table
        self.possible = possible
        self.even = even
        self.aggregation = aggregation

    def __call__(self, actions: th.Tensor) -> th.Tensor:
        """
        :param actions: coded actions, shape (batch, code_dim)
        :return: shape (n_critics, batch, n_terms)
        """
        chosen = actions.reshape(-1, 1, *self.table.shape[-2:])
        return (self.table * chosen).sum(dim=(-2, -1))

    def terms(self) -> th.Tensor:
        """
        :return: each term, the critics aggregated option by option, shape (batch, n_terms, n_choices, n_options)
        """
        return targets.aggregate_terms(self.table, self.aggregation.averages, self.aggregation.pessimism)

    def total(self, weights: th.Tensor) -> th.Tensor:
        """
        :param weights: of the terms in G, shape (n_terms,)
        :return: G, the critics aggregated option by option, without a gradient, shape (batch, n_choices, n_options)
        """
        total = targets.aggregate_efe(self.table.detach(), weights, self.aggregation.averages, self.aggregation.pessimism)
        return total if self.even else total.masked_fill(~self.possible, NEVER)


class CategoricalPosterior:
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
        return divergence.policy_entropy(self.log_prob)

    def expected_efe(self, efe: CategoricalEFE) -> th.Tensor:
        """
        :param efe: G at the same states
        :return: each term under the policy, shape (batch, n_terms)
        """
        return divergence.policy_expectation(self.log_prob, efe.terms())

    def divergence(
        self, efe: CategoricalEFE, weights: th.Tensor, precision: th.Tensor, log_prior: th.Tensor | float = 0.0
    ) -> th.Tensor:
        """
        :param efe: G at the same states
        :param weights: of the terms in G, shape (n_terms,)
        :param precision: inverse temperature of G
        :param log_prior: log E(a|s), 0 or shape (batch, n_choices, n_options)
        :return: in nats, exact, shape (batch, 1)
        """
        return divergence.policy_divergence(self.log_prob, efe.total(weights), precision, log_prior)


class CategoricalActions(nn.Module):
    """
    Independent choices between options. All have the size of the largest one in the nets; what is beyond a choice's own
    options has no probability.

    :param n_options: number of options of each choice
    """

    possible: th.Tensor
    reads_actions = False
    """Whether the critics take the action as an input, or give G of all actions."""

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

    def posterior(self, outputs: th.Tensor) -> CategoricalPosterior:
        """
        :param outputs: of the policy net, shape (batch, policy_dim)
        :return: Q(.|s)
        """
        return CategoricalPosterior(F.log_softmax(self._logits(outputs), dim=-1))

    def efe(
        self, net: EnsembleMLP, features: th.Tensor, n_terms: int, aggregation: Aggregation, known: th.Tensor | float = 0.0
    ) -> CategoricalEFE:
        """
        :param net: the critics
        :param features: features of s, shape (batch, features_dim)
        :param n_terms: number of terms of G
        :param aggregation: how the critics become one
        :param known: what need not be learned of G, shape (batch, n_terms, n_choices, n_options)
        :return: G(s,.)
        """
        return CategoricalEFE(
            net(features).unflatten(-1, (n_terms, *self.shape)) + known, self.possible, self.even, aggregation
        )

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
        :param efe: G at the same states
        :return: indices of the lowest first term of G, shape (batch, n_choices)
        """
        extrinsic = targets.pessimistic(efe.table[:, :, 0], efe.aggregation.pessimism)
        return extrinsic.masked_fill(~self.possible, NEVER).argmin(dim=-1)
