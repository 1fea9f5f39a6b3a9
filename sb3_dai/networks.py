"""The building blocks of the three nets: parallel perceptrons and running normalisation."""

import math
from collections.abc import Sequence

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space_channels_first
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_dai import perceptrons
from sb3_dai.products import batched_product, pays


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
        self.n_weights = self.weight[0].numel()

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """
        :param inputs: shape (n_members, batch, input_dim)
        :return: shape (n_members, batch, output_dim)
        """
        if pays(inputs, self.n_weights):
            return batched_product(inputs, self.weight) + self.bias
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
        if len(inputs) == 1:  # Of one member it is torch's, in one call
            return th.layer_norm(inputs, self.shape, self.weight.view(-1), self.bias.view(-1))
        return th.addcmul(self.bias, th.layer_norm(inputs, self.shape), self.weight)


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
        # Of nets that the native library knows
        self.kinds = () if numbered or (net_arch and activation_fn is not nn.ReLU) else tuple(map(type, self.layers))
        self.shapes = [parameter.shape for parameter in self.layers.parameters()]
        self.places: list[tuple[int, tuple[int, ...]]] = []
        self.n_weights = max(layer.n_weights for layer in self.layers if isinstance(layer, BatchedLinear)) if self.kinds else 0

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """
        :param inputs: shape (batch, input_dim), or (batch,) if numbered
        :return: shape (n_members, batch, output_dim)
        """
        layers, all_hooked = self.layers._modules.values(), any_global_hook()
        # One layer alone is one call of torch as well
        native = len(self.kinds) > 1 and not all_hooked and perceptrons.takes(inputs, self.n_weights)
        if native and inputs.dim() == 2 and inputs.shape[1] == self.shapes[0][1]:
            learned = self.learned()
            if learned is not None:
                return perceptrons.perceptrons(inputs, learned, BatchedLayerNorm in self.kinds)
        outputs = inputs
        if not self.numbered:
            outputs = inputs.unsqueeze(0) if self.n_members == 1 else inputs.unsqueeze(0).expand(self.n_members, -1, -1)
        for layer in layers:
            # What torch does around the forward of a module takes as long as a small layer
            called = all_hooked or has_hooks(layer) or type(layer) not in PLAIN_LAYERS
            outputs = layer(outputs) if called else layer.forward(outputs)
        return outputs

    def learned(self) -> list[th.Tensor] | None:
        """
        :return: all that they learn, if nobody has changed them into something that the native library does not know
        """
        if not self.is_plain():
            return None
        learned: list[th.Tensor] = []
        for layer in self.layers._modules.values():
            learned += layer._parameters.values()  # type: ignore[arg-type]
        # What lies where it lay is as it was
        places = [(parameter.data_ptr(), parameter.stride()) for parameter in learned]
        if places != self.places:
            if [parameter.shape for parameter in learned] != self.shapes or not perceptrons.can_be_read(learned):
                return None
            self.places = places
        return learned

    def is_plain(self) -> bool:
        """
        :return: whether the native library knows all layers, and nobody listens to them
        """
        return self.is_known() and not any(map(has_hooks, self.layers._modules.values()))

    def is_known(self) -> bool:
        """
        :return: whether the native library knows all layers
        """
        return tuple(map(type, self.layers._modules.values())) == self.kinds


def has_hooks(module: nn.Module) -> bool:
    """
    :param module: any
    :return: whether calling it does more than its ``forward``
    """
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks)


any_global_hook = getattr(nn.modules.module, "_has_any_global_hook", lambda: True)
"""Torch's own question before it spares a module its hooks; where it has another name none is spared."""

PLAIN_LAYERS = (BatchedLinear, BatchedTable, BatchedLayerNorm, nn.ReLU)
"""Layers of ours and the usual activation, whose ``forward`` is all that there is to them."""

MODELESS = (
    nn.Conv2d, nn.ELU, nn.Flatten, nn.GELU, nn.Identity, nn.LayerNorm, nn.LeakyReLU, nn.Linear, nn.Module, nn.ModuleDict,
    nn.ModuleList, nn.ReLU, nn.Sequential, nn.SiLU, nn.Tanh,
)  # fmt: skip
"""Modules of torch that do the same in training and in evaluation."""


def heeds_mode(module: nn.Module) -> bool:
    """
    :param module: a net, or all of them
    :return: whether some part of it may do in training what it does not do in evaluation. Layers of this package and of
        Stable-Baselines3 do not; those of others may.
    """
    ours = ("sb3_dai.", "stable_baselines3.")
    return any(type(part) not in MODELESS and not type(part).__module__.startswith(ours) for part in module.modules())


class SmallCNN(BaseFeaturesExtractor):
    """
    Features of images that are too small for ``NatureCNN``, such as those of MinAtar and minigrid: one layer of 16 filters
    of 3 by 3 and one of 128 units (Young & Tian 2019, arXiv:1903.03176, section 4.1).

    :param observation_space: of images of at least 3 by 3 pixels, channels first or last
    :param features_dim: number of features
    :param normalized_image: unused, for ``NatureCNN``'s signature
    :raises ValueError: if the observations are no such images
    """

    def __init__(self, observation_space: spaces.Box, features_dim: int = 128, normalized_image: bool = False) -> None:
        super().__init__(observation_space, features_dim)
        if len(observation_space.shape) != 3:
            raise ValueError(f"observation_space={observation_space}: an image has three axes, use MlpPolicy for vectors")
        self.channels_last = not is_image_space_channels_first(observation_space)
        height, width = observation_space.shape[:2] if self.channels_last else observation_space.shape[1:]
        if min(height, width) < 3:
            raise ValueError(f"observation_space={observation_space}: give images of at least 3 by 3 pixels, or use MlpPolicy")
        n_channels = observation_space.shape[2 if self.channels_last else 0]
        self.layers = nn.Sequential(
            nn.Conv2d(n_channels, 16, kernel_size=3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * (height - 2) * (width - 2), features_dim),
            nn.ReLU(),
        )

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """
        :param observations: shape (batch, channels, height, width), or with the channels last
        :return: shape (batch, features_dim)
        """
        return self.layers(observations.permute(0, 3, 1, 2) if self.channels_last else observations)


class RunningNorm(nn.Module):
    """
    Normalisation by the running mean and variance of a stream of batches: an exact average at first, an exponential
    one after ``horizon`` batches. The statistics are buffers, so they are saved with the policy.

    :param dim: size of the last axis of the data
    :param center: whether to subtract the mean
    :param horizon: number of batches that the average looks back on
    :param clip: largest size of a normalised value: what was all but constant so far must not come as a shock
    """

    mean: th.Tensor
    var: th.Tensor
    n_batches: th.Tensor

    def __init__(self, dim: int, center: bool = True, horizon: int = 1000, clip: float = 10.0) -> None:
        super().__init__()
        self.center = center
        self.horizon = horizon
        self.clip = clip
        self.register_buffer("mean", th.zeros(dim))
        self.register_buffer("var", th.ones(dim))
        self.register_buffer("n_batches", th.zeros(1))

    @th.no_grad()
    def update(self, batch: th.Tensor) -> None:
        """
        :param batch: shape (batch, dim)
        """
        self.n_batches.add_(1.0)
        rate = self.n_batches.clamp(max=self.horizon).reciprocal()
        # Squares must stay finite: an infinite variance would never come back, and scales everything to 0
        var, mean = th.var_mean(batch.clamp(-1e18, 1e18), dim=0, correction=0)
        # Law of total variance for a mixture of the old statistics and the batch; the first batch replaces them
        var.addcmul_((mean - self.mean).square(), 1.0 - rate)
        self.var.lerp_(var, rate)
        self.mean.lerp_(mean, rate)

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """
        :param inputs: shape (..., dim)
        :return: in units of the running standard deviation, same shape
        """
        if self.center and inputs.dim() == 2:
            # One call, which each prediction makes
            scaled = th.batch_norm(inputs, None, None, self.mean, self.var, False, 0.0, 1e-8, False)
        else:
            scaled = (inputs - self.mean if self.center else inputs) * th.rsqrt(self.var + 1e-8)
        return scaled.clamp(-self.clip, self.clip)

    def inverse(self, normalized: th.Tensor) -> th.Tensor:
        """
        Undo ``forward``, but for its clipping.

        :param normalized: shape (..., dim)
        :return: in the units of the data, same shape
        """
        scaled = normalized * th.sqrt(self.var + 1e-8)
        return scaled + self.mean if self.center else scaled


def averaging_rate(n_steps: int, decay: float = 19.0) -> float:
    """
    The share of the newest in an average of all iterates in which the t-th weighs about t^decay: of the last twentieth of
    training above all, however long that is. Polynomial-decay averaging (Shamir & Zhang 2013, arXiv:1212.1824, section 4).

    :param n_steps: number of iterates so far, with the newest, at least 1
    :param decay: eta of the paper
    :return: (eta + 1) / (n + eta), 1 at first
    """
    return (decay + 1.0) / (n_steps + decay)


class RunningMean(nn.Module):
    """
    Mean of a stream of batches: an exact average at first, an exponential one after ``horizon`` batches.

    :param horizon: number of batches that the average looks back on
    """

    mean: th.Tensor
    n_batches: th.Tensor

    def __init__(self, horizon: int = 100) -> None:
        super().__init__()
        self.horizon = horizon
        self.register_buffer("mean", th.zeros(1))
        self.register_buffer("n_batches", th.zeros(1))

    @th.no_grad()
    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """
        :param inputs: a batch, any shape
        :return: mean of all so far, shape (1,)
        """
        self.n_batches.add_(1.0)
        self.mean.lerp_(inputs.mean(), self.n_batches.clamp(max=self.horizon).reciprocal())
        return self.mean


class RunningPeak(nn.Module):
    """
    Scale of a quantity that falls as training goes on: the highest value of its running mean. Divided by its current
    mean instead, it would never fade, and its noise would be all that is left of it.

    :param horizon: number of batches that the running mean looks back on
    """

    peak: th.Tensor

    def __init__(self, horizon: int = 100) -> None:
        super().__init__()
        self.running = RunningMean(horizon)
        self.register_buffer("peak", th.zeros(1))

    @th.no_grad()
    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """
        Add a batch to the running mean and scale it.

        :param inputs: not negative, any shape
        :return: in units of the peak, same shape
        """
        th.maximum(self.peak, self.running(inputs), out=self.peak)
        return self.scaled(inputs)

    def scaled(self, inputs: th.Tensor) -> th.Tensor:
        """
        :param inputs: not negative, any shape
        :return: in units of the peak, same shape; 0 as long as there is none
        """
        return inputs / th.where(self.peak > 0.0, self.peak, th.inf)


def clipped(gradients: Sequence[th.Tensor | None], max_norm: float) -> list[th.Tensor | None]:
    """
    As ``torch.nn.utils.clip_grad_norm_``, in a few calls on the whole list (on the CPU torch's own loops over it).

    :param gradients: clipped together; ``None`` stays ``None``
    :param max_norm: largest Euclidean norm of all of them
    :return: the clipped ones
    """
    known = [gradient for gradient in gradients if gradient is not None]
    norm = th.linalg.vector_norm(th.stack(th._foreach_norm(known)))
    scaled = iter(th._foreach_mul(known, (max_norm / (norm + 1e-6)).clamp(max=1.0)))
    return [None if gradient is None else next(scaled) for gradient in gradients]
