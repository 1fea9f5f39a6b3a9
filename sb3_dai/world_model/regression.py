"""What is paid and what ends an episode, in terms of beliefs about numbered hidden states."""

import torch as th
from torch import nn

RIDGE = 1e-4
"""Precision of the prior of each coefficient, in units of the noise's. States that were never believed in pay nothing."""


class BeliefRegression(nn.Module):
    """
    Targets of each action that are linear in the belief, ``E[y | b, a] = sum_s b(s) Y[s, a]``: whatever depends on a hidden
    state and an action has such an expectation. Bayesian linear regression with noise of variance 1 (Bishop 2006, "Pattern
    recognition and machine learning", section 3.3).

    :param n_states: number of hidden states
    :param n_actions: number of actions
    :param n_targets: number of targets
    """

    precision: th.Tensor
    covariance: th.Tensor
    products: th.Tensor
    coefficients: th.Tensor

    def __init__(self, n_states: int, n_actions: int, n_targets: int) -> None:
        super().__init__()
        self.register_buffer("precision", th.empty(n_actions, n_states, n_states))
        self.register_buffer("covariance", th.empty(n_actions, n_states, n_states))
        self.register_buffer("products", th.empty(n_actions, n_states, n_targets))
        self.register_buffer("coefficients", th.empty(n_actions, n_states, n_targets))
        self.forget()

    def forget(self) -> None:
        """Start anew."""
        prior = th.eye(self.precision.shape[1], device=self.precision.device)
        self.precision.copy_(RIDGE * prior)
        self.covariance.copy_(prior / RIDGE)
        self.products.zero_()
        self.coefficients.zero_()

    def learn(self, belief: th.Tensor, actions: th.Tensor, targets: th.Tensor) -> None:
        """
        :param belief: b, shape (batch, n_states)
        :param actions: number of each action, shape (batch,)
        :param targets: y, shape (batch, n_targets)
        """
        for action in actions.unique():
            rows = actions == action
            self.precision[action] += belief[rows].T @ belief[rows]
            self.products[action] += belief[rows].T @ targets[rows]
            # In double precision: sums of many steps beside the prior
            covariance = th.linalg.inv(self.precision[action].double())
            self.covariance[action] = covariance.float()
            self.coefficients[action] = (covariance @ self.products[action].double()).float()

    def forward(self, belief: th.Tensor) -> th.Tensor:
        """
        :param belief: b, shape (batch, n_states)
        :return: E[y | b, a] of each action, shape (batch, n_actions, n_targets)
        """
        return th.einsum("bs,ast->bat", belief, self.coefficients)

    def information_gain(self, belief: th.Tensor) -> th.Tensor:
        """
        What each action would teach about a target's coefficients: ``0.5 log(1 + b' S b)`` with their covariance S.

        :param belief: b, shape (batch, n_states)
        :return: in nats, shape (batch, n_actions)
        """
        return 0.5 * th.log1p(th.einsum("bs,ast,bt->ba", belief, self.covariance, belief).clamp(min=0.0))

    def gains_of_seen_states(self) -> th.Tensor:
        """
        :return: the same if the state were seen, shape (n_states, n_actions)
        """
        return 0.5 * th.log1p(self.covariance.diagonal(dim1=1, dim2=2)).T
