"""Running statistics of streams of batches. They are buffers, and so a part of what is saved."""

import torch as th
from torch import nn

EPS = 1e-8
"""Added to a running variance before its root is taken."""

LARGEST = 1e18
"""Values beyond it are cut before they are squared, which must stay finite: an infinite variance would never come back."""


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
        var, mean = th.var_mean(batch.clamp(-LARGEST, LARGEST), dim=0, correction=0)
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
            scaled = th.batch_norm(inputs, None, None, self.mean, self.var, False, 0.0, EPS, False)
        else:
            scaled = (inputs - self.mean if self.center else inputs) * th.rsqrt(self.var + EPS)
        return scaled.clamp(-self.clip, self.clip)

    def inverse(self, normalized: th.Tensor) -> th.Tensor:
        """
        Undo ``forward``, but for its clipping.

        :param normalized: shape (..., dim)
        :return: in the units of the data, same shape
        """
        scaled = normalized * th.sqrt(self.var + EPS)
        return scaled + self.mean if self.center else scaled


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
