"""Independent perceptrons of one shape, evaluated together as batched matrix products."""

import math

import torch as th
from torch import nn

LAYER_NORM_EPS = 1e-5
"""Added to the variance by a layer norm."""


class BatchedLinear(nn.Module):
    """
    Independent linear layers of one shape, as one batched matrix product.

    :param n_members: number of layers
    :param input_dim: size of each layer's input
    :param output_dim: size of each layer's output
    """

    def __init__(self, n_members: int, input_dim: int, output_dim: int) -> None:
        super().__init__()
        # The initialisation of torch's Linear layer, for each member by itself
        bound = 1.0 / math.sqrt(max(input_dim, 1))
        self.weight = nn.Parameter(th.empty(n_members, input_dim, output_dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(th.empty(n_members, 1, output_dim).uniform_(-bound, bound))

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """
        :param inputs: shape (n_members, batch, input_dim)
        :return: shape (n_members, batch, output_dim)
        """
        return th.baddbmm(self.bias, inputs, self.weight)


class BatchedTable(nn.Module):
    """
    A row of numbers for each numbered input, in each of several tables: ``BatchedLinear`` of a one-hot code without the code.

    :param n_members: number of tables
    :param n_rows: number of inputs
    :param output_dim: length of a row
    """

    def __init__(self, n_members: int, n_rows: int, output_dim: int) -> None:
        super().__init__()
        # One row at a time is read: each by itself has the size that a linear layer of a single input would have
        self.rows = nn.Parameter(th.empty(n_members, n_rows, output_dim).uniform_(-1.0, 1.0))

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """
        :param inputs: numbers of rows, shape (batch,)
        :return: shape (n_members, batch, output_dim)
        """
        return self.rows.index_select(1, inputs)


class BatchedLayerNorm(nn.Module):
    """
    Layer normalisation (Ba et al. 2016, arXiv:1607.06450) with a scale and shift for each member.

    :param n_members: number of members
    :param dim: size of the last axis
    """

    def __init__(self, n_members: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(th.ones(n_members, 1, dim))
        self.bias = nn.Parameter(th.zeros(n_members, 1, dim))
        self.shape = (dim,)

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """
        :param inputs: shape (n_members, batch, dim)
        :return: same shape
        """
        if inputs.shape[0] == 1:  # Of one member it is torch's, in one call
            return th.layer_norm(inputs, self.shape, self.weight.view(-1), self.bias.view(-1), LAYER_NORM_EPS)
        return th.addcmul(self.bias, th.layer_norm(inputs, self.shape, eps=LAYER_NORM_EPS), self.weight)


class EnsembleMLP(nn.Module):
    """
    Independent multilayer perceptrons of one shape, evaluated together.

    :param n_members: number of perceptrons
    :param input_dim: size of the input, which all members share
    :param output_dim: size of each member's output
    :param net_arch: sizes of the hidden layers
    :param activation_fn: activation after each hidden layer
    :param layer_norm: whether to layer-normalise before each activation
    :param numbered: whether the input is a number below ``input_dim`` instead of a vector
    """

    def __init__(
        self,
        n_members: int,
        input_dim: int,
        output_dim: int,
        net_arch: list[int],
        activation_fn: type[nn.Module] = nn.ReLU,
        layer_norm: bool = True,
        numbered: bool = False,
    ) -> None:
        super().__init__()
        self.n_members = n_members
        self.numbered = numbered
        layers: list[nn.Module] = []
        first: type[BatchedTable | BatchedLinear] = BatchedTable if numbered else BatchedLinear
        for size in net_arch:
            layers.append(first(n_members, input_dim, size))
            first = BatchedLinear
            if layer_norm:
                layers.append(BatchedLayerNorm(n_members, size))
            layers.append(activation_fn())
            input_dim = size
        self.layers = nn.Sequential(*layers, first(n_members, input_dim, output_dim))

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """
        :param inputs: shape (batch, input_dim), or (batch,) if numbered
        :return: shape (n_members, batch, output_dim)
        """
        if not self.numbered:
            inputs = inputs.unsqueeze(0) if self.n_members == 1 else inputs.unsqueeze(0).expand(self.n_members, -1, -1)
        return self.layers(inputs)
