"""
The kinds of actions. The action space chooses one of them, and nothing else depends on it.

Each kind has three parts: an ``ActionModel``, which codes actions and sizes the outputs of the nets; an ``ActionPosterior``
Q(.|s), which the outputs of the policy net stand for; and an ``ActionEFE`` G(s,.), a function of the coded action.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch as th

NEVER = 1e9
"""Cost of an option that does not exist. Not infinity: times a probability of 0 that is NaN."""


class Aggregation:
    """
    How the critics' estimates of G become one: which terms are averaged, and how pessimistic the others are.

    :param averages: of each term, whether the critics are averaged
    :param pessimism: share of the worst critic in the other terms, shape ()
    """

    def __init__(self, averages: Sequence[bool], pessimism: th.Tensor | float = 1.0) -> None:
        self.averages = tuple(averages)
        self.pessimism = pessimism


class ActionEFE(Protocol):
    """G(s,.) of each critic and term."""

    aggregation: Aggregation

    def __call__(self, actions: th.Tensor) -> th.Tensor:
        """
        :param actions: coded actions, shape (batch, code_dim)
        :return: shape (n_critics, batch, n_terms)
        """


class ActionPosterior(Protocol):
    """Q(.|s), the policy at some states. Each kind goes with its own kind of G."""

    def entropy(self) -> th.Tensor:
        """
        :return: in nats, exact or of one sample, shape (batch, 1)
        """

    def expected_efe(self, efe: Any) -> th.Tensor:
        """
        :param efe: G at the same states
        :return: each term under the policy, the critics aggregated, shape (batch, n_terms)
        """

    def divergence(self, efe: Any, weights: th.Tensor, precision: th.Tensor, log_prior: th.Tensor | float = 0.0) -> th.Tensor:
        """
        ``KL[ Q(.|s) || E(.|s) softmax(-precision G(s,.)) / Z ]``, through which only the policy learns.

        :param efe: G at the same states
        :param weights: of the terms in G, shape (n_terms,)
        :param precision: inverse temperature of G
        :param log_prior: log E(.|s), 0 for none
        :return: in nats, shape (batch, 1)
        """
