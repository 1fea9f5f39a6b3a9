"""What is paid and what ends an episode, in terms of beliefs about numbered hidden states."""

import torch as th
from torch import nn

RIDGE = 1e-2
"""Penalty of the squared coefficients: states that were never believed in pay nothing and end nothing."""


class BeliefRegression(nn.Module):
    """
    Targets of each action that are linear in the belief, ``E[y | b, a] = sum_s b(s) Y[s, a]``: whatever depends on a hidden
    state and an action has such an expectation. Ridge regression, of which the sums are kept.

    :param n_states: number of hidden states
    :param n_actions: number of actions
    :param n_targets: number of targets
    """

    covariance: th.Tensor
    products: th.Tensor
    coefficients: th.Tensor

    def __init__(self, n_states: int, n_actions: int, n_targets: int) -> None:
        super().__init__()
        self.register_buffer("covariance", th.zeros(n_actions, n_states, n_states))
        self.register_buffer("products", th.zeros(n_actions, n_states, n_targets))
        self.register_buffer("coefficients", th.zeros(n_actions, n_states, n_targets))

    def forget(self) -> None:
        """Start anew."""
        for sums in self.buffers():
            sums.zero_()

    def learn(self, belief: th.Tensor, actions: th.Tensor, targets: th.Tensor) -> None:
        """
        :param belief: b, shape (batch, n_states)
        :param actions: number of each action, shape (batch,)
        :param targets: y, shape (batch, n_targets)
        """
        for action in actions.unique():
            rows = actions == action
            self.covariance[action] += belief[rows].T @ belief[rows]
            self.products[action] += belief[rows].T @ targets[rows]
            penalty = RIDGE * th.eye(belief.shape[1], device=belief.device)
            self.coefficients[action] = th.linalg.solve(self.covariance[action] + penalty, self.products[action])

    def forward(self, belief: th.Tensor) -> th.Tensor:
        """
        :param belief: b, shape (batch, n_states)
        :return: E[y | b, a] of each action, shape (batch, n_actions, n_targets)
        """
        return th.einsum("bs,ast->bat", belief, self.coefficients)
