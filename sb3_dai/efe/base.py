"""
A term of the expected free energy.

The one-step EFE of an action is ``g(s,a) = sum_i weight_i cost_i(s,a)``. Each term has its own head in the critics, which
bootstraps that term alone: a weight can then change without making values wrong.
"""

from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from sb3_dai.checks import check_cost, value_at
from sb3_dai.equations import targets
from sb3_dai.nets.statistics import RunningMean
from sb3_dai.world_model.base import Prediction


class Transition(NamedTuple):
    """What a term may read: a batch of transitions (s, a, s') and what the world model says of them."""

    observations: PyTorchObs
    """s, as the replay buffer returns it."""
    actions: th.Tensor
    """a, coded: one-hot, or in [-1, 1], shape (batch, code_dim)."""
    next_observations: PyTorchObs
    """s', as the replay buffer returns it."""
    rewards: th.Tensor
    """Of the step, shape (batch, 1)."""
    terminated: th.Tensor
    """1 where the episode truly ended (a timeout is not an end), shape (batch, 1)."""
    log_preference: th.Tensor
    """log p~ of the outcome, of the n-step return where ``n_steps`` is above 1, shape (batch, 1)."""
    has_successor: th.Tensor | float
    """0 where s' is not the successor of s, shape (batch, 1)."""
    prediction: Prediction | None
    """p(s'|s,a), or None in a gradient step in which the world model does not learn."""
    outcome: Any
    """What the prediction is of."""


class Term(nn.Module):
    """
    One term of the EFE. Derive from it, write ``cost``, and give an object to ``policy_kwargs=dict(terms=[...])``
    (docs/change_the_algorithm.md). Buffers of the term are saved with the policy.

    :param weight: of the cost in G: a number, of which a negative one seeks what the cost measures, or a schedule of numbers
        of at least 0, a function of the progress remaining (from 1 to 0).
    :param discount: of the values of later steps; None for the model's ``gamma``
    :raises ValueError: if the weight or the discount is no such number
    """

    name = "term"
    """Identifier of its head, which names what is logged."""
    averages = False
    """Whether several critics are averaged; else they are aggregated by the model's ``pessimism``."""
    continues = False
    """Whether its value goes on after the end of an episode, to what is expected elsewhere on average; else it ends there."""
    of_returns = False
    """Whether its cost is that of an n-step return instead of one step."""
    reads_prediction = True
    """Whether its cost reads the prediction. Its head then learns only when the world model does."""

    def __init__(self, weight: float | Schedule = 1.0, discount: float | None = None) -> None:
        super().__init__()
        if not self.name.isidentifier():
            raise ValueError(f'name={self.name!r} of {type(self).__name__}: give an identifier, such as "effort"')
        self.weight = weight
        self.discount = discount
        self.weight_at(1.0)
        if discount is not None:
            value_at(1.0, f"discount (of the EFE term {self.name!r})", discount, 0.0, 1.0)
        self.elsewhere = RunningMean() if self.continues else None

    def cost(self, transition: Transition) -> th.Tensor:
        """
        :param transition: a batch of transitions
        :return: lower is better, without a gradient, shape (batch, 1)
        """
        raise NotImplementedError

    def checked_cost(self, transition: Transition) -> th.Tensor:
        """
        :param transition: a batch of transitions
        :return: the cost, shape (batch, 1)
        :raises ValueError: if ``cost`` returns another shape
        """
        cost = self.cost(transition)
        check_cost(self, cost, len(transition.actions))
        return cost

    def weight_at(self, progress_remaining: float) -> float:
        """
        :param progress_remaining: from 1 at the beginning to 0 at the end of training
        :return: the weight of its head in G now, at least 0
        :raises ValueError: if it is not a finite number
        """
        lowest = 0.0 if callable(self.weight) else -float("inf")  # A head cannot turn its sign
        return abs(value_at(progress_remaining, f"{self.name}_weight (of the EFE term)", self.weight, lowest))

    @property
    def is_off(self) -> bool:
        """Whether its weight is 0 for ever, so that it needs no head."""
        return not callable(self.weight) and not isinstance(self.weight, str) and float(self.weight) == 0.0

    @property
    def sign(self) -> float:
        """-1 for a term that seeks what its cost measures: its head holds the negative of the cost, of which the worst critic
        is the highest as well."""
        return -1.0 if not callable(self.weight) and not isinstance(self.weight, str) and float(self.weight) < 0.0 else 1.0

    def target(self, cost: th.Tensor, terminated: th.Tensor, discount: th.Tensor | float, next_efe: th.Tensor) -> th.Tensor:
        """
        Bellman target of its head.

        :param cost: signed, shape (batch, 1)
        :param terminated: 1 where the episode truly ended, shape (batch, 1)
        :param discount: of the value that follows, a number or shape (batch, 1)
        :param next_efe: of its head at the next state, shape (batch, 1)
        :return: shape (batch, 1)
        """
        if self.elsewhere is None:
            return targets.bootstrapped_efe(cost, terminated, discount, next_efe)
        return targets.continuing_efe(cost, terminated, discount, next_efe, self.elsewhere(next_efe))


def check_terms(terms: Any) -> list[Term]:
    """
    :param terms: the argument
    :return: the same as a list
    :raises ValueError: if they are no terms, or two of them share a name
    """
    if not isinstance(terms, list | tuple) or not all(isinstance(term, Term) for term in terms):
        raise ValueError(f"terms={terms!r}: give a list of objects of classes derived from sb3_dai.efe.Term")
    names = [term.name for term in terms]
    if len(set(names)) < len(names):
        raise ValueError(f"terms={names}: give each term of the EFE a name of its own")
    return [*terms]
