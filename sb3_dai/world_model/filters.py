"""What carries a belief about a hidden state from step to step."""

import torch as th
from torch import nn

Memory = tuple[th.Tensor, ...]
"""What a filter carries of each environment: parts of shapes (n_envs, ...)."""


class BeliefFilter(nn.Module):
    """
    Base of the belief filters. A filter is used in three ways: one step at a time while acting (:meth:`step`), over sequences
    of episodes while learning (:meth:`replay`), and through what it learns itself (:meth:`losses`).

    :param belief_dim: size of a belief as the nets read it
    """

    def __init__(self, belief_dim: int) -> None:
        super().__init__()
        self.belief_dim = belief_dim

    def initial(self, n: int, device: th.device | str = "cpu") -> Memory:
        """
        :param n: number of environments
        :param device: where it is to be
        :return: what is carried before anything was observed
        """
        raise NotImplementedError

    def step(self, memory: Memory, features: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, Memory]:
        """
        Update the belief by one observation.

        :param memory: before it; the initial one where an episode starts
        :param features: of the observation, shape (n_envs, features_dim)
        :param actions: coded actions before it, zeros where an episode starts, shape (n_envs, code_dim)
        :return: the belief, shape (n_envs, belief_dim), and what is carried on
        """
        raise NotImplementedError

    def replay(self, features: th.Tensor, actions: th.Tensor, memory: Memory | None = None) -> th.Tensor:
        """
        Go through sequences of episodes.

        :param features: of the observations, shape (time, batch, features_dim)
        :param actions: coded actions before each, zeros at the start of an episode, shape (time, batch, code_dim)
        :param memory: before the first observation; None for the initial one
        :return: the belief after each observation, shape (time, batch, belief_dim)
        """
        memory, beliefs = self.initial(features.shape[1], features.device) if memory is None else memory, []
        for observed, acted in zip(features, actions, strict=True):
            belief, memory = self.step(memory, observed, acted)
            beliefs.append(belief)
        return th.stack(beliefs)

    def losses(
        self, beliefs: th.Tensor, next_beliefs: th.Tensor, actions: th.Tensor, next_features: th.Tensor
    ) -> tuple[dict[str, th.Tensor], dict[str, th.Tensor]]:
        """
        What the filter learns beside what the nets that read it learn: nothing, unless a subclass says so.

        :param beliefs: before a step, shape (batch, belief_dim)
        :param next_beliefs: after it, same shape
        :param actions: coded actions of the step, shape (batch, code_dim)
        :param next_features: of the observation after it, without a gradient, shape (batch, features_dim)
        :return: scalars by name, which end with "_loss", and what is logged of each sample, shapes (batch, 1)
        """
        return {}, {}
