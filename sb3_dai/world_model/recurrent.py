"""A recurrent net as a belief filter."""

import math
from typing import Any

import torch as th
from torch import nn

from sb3_dai.world_model.filters import BeliefFilter, Memory


class LstmFilter(BeliefFilter):
    """
    The hidden state of an LSTM (Hochreiter & Schmidhuber 1997) is the belief: a sufficient statistic of what was observed and
    done, as far as the nets that read it need one.

    :param features_dim: number of features of an observation
    :param code_dim: size of a coded action
    :param hidden_size: number of units
    :param longest: number of steps that some of them are to remember from the start, 2 at least
    """

    def __init__(self, features_dim: int, code_dim: int, hidden_size: int, longest: int = 64) -> None:
        super().__init__(hidden_size)
        self.lstm = nn.LSTM(features_dim + code_dim, hidden_size)
        # Gates that forget after 2 to ``longest`` steps (Tallec & Ollivier 2018, arXiv:1804.11188, eq. 16), which are evenly
        # spread by their logarithm: most of what there is to remember was seen a few steps ago
        with th.no_grad():
            steps = (th.rand(hidden_size) * math.log(max(longest - 1.0, 1.0))).exp()
            _, _, bias, other_bias = self.lstm.all_weights[0]
            other_bias.zero_()
            bias.zero_()
            bias[: 2 * hidden_size] = th.cat([-steps.log(), steps.log()])  # Of the input gates, and the forget gates

    def initial(self, n: int, device: th.device | str = "cpu") -> Memory:
        """
        :param n: number of environments
        :param device: where it is to be
        :return: hidden and cell state, zeros of shape (n, hidden_size)
        """
        return th.zeros(n, self.belief_dim, device=device), th.zeros(n, self.belief_dim, device=device)

    def step(self, memory: Memory, features: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, Memory]:
        """
        :param memory: hidden and cell state
        :param features: of the observation, shape (n_envs, features_dim)
        :param actions: coded actions before it, shape (n_envs, code_dim)
        :return: the hidden state, and both
        """
        # Of a single step, many times faster than the layer that reads sequences
        weights: Any = self.lstm.all_weights[0]
        hidden, cell = th.lstm_cell(th.cat([features, actions], dim=1), [*memory], *weights)
        return hidden, (hidden, cell)

    def replay(self, features: th.Tensor, actions: th.Tensor, memory: Memory | None = None) -> th.Tensor:
        """
        :param features: of the observations, shape (time, batch, features_dim)
        :param actions: coded actions before each, shape (time, batch, code_dim)
        :param memory: before the first observation; None for the initial one
        :return: the hidden state after each, shape (time, batch, hidden_size)
        """
        before = None if memory is None else (memory[0].unsqueeze(0), memory[1].unsqueeze(0))
        return self.lstm(th.cat([features, actions], dim=2), before)[0]
