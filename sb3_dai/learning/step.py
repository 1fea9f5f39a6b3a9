"""One gradient step. The eager one is the definition; ``sb3_dai.acceleration`` has others that do the same faster."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch as th
from torch import nn

from sb3_dai.checks import check_losses
from sb3_dai.learning.batch import Batch
from sb3_dai.learning.coefficients import Coefficients
from sb3_dai.learning.losses import Named, all_losses

Gradients = list[th.Tensor | None]


class Metrics(NamedTuple):
    """What is logged of a gradient step, as one tensor that is read once."""

    names: tuple[str, ...]
    values: th.Tensor
    """Shape (len(names),)."""


class UpdateStep(Protocol):
    """A gradient step of an agent."""

    name: str
    """The backend that takes it: "eager", "compile" or "native"."""

    def __call__(self, batch: Batch, coefficients: Coefficients) -> Metrics:
        """
        :param batch: transitions and what goes with them
        :param coefficients: numbers that do not depend on the nets
        :return: what is logged
        :raises ValueError: if a loss is not finite, before it reaches the parameters
        """


class EagerStep:
    """
    The gradient step by torch, operation by operation.

    :param policy: the nets and their optimizer, a :class:`sb3_dai.policy.DAIPolicy`
    """

    name = "eager"

    def __init__(self, policy: Any) -> None:
        self.policy = policy

    def __call__(self, batch: Batch, coefficients: Coefficients) -> Metrics:
        metrics, gradients = self.gradients(batch, coefficients)
        check_losses(*metrics)
        self.optimize(gradients, coefficients)
        return metrics

    def losses(self, batch: Batch, coefficients: Coefficients) -> tuple[th.Tensor, Named, Named]:
        """
        :param batch: transitions and what goes with them
        :param coefficients: numbers that do not depend on the nets
        :return: the sum of the losses, whose parameters meet in the features extractor alone, the losses, and what is logged
            of each sample
        """
        losses, samples = all_losses(self.policy, batch, coefficients)
        return th.stack([term.reshape(()) for term in losses.values()]).sum(), losses, samples

    def gradients(self, batch: Batch, coefficients: Coefficients) -> tuple[Metrics, Gradients]:
        """
        :param batch: transitions and what goes with them
        :param coefficients: numbers that do not depend on the nets
        :return: what is logged, and the gradients of ``parameters()``; None where there is none
        """
        loss, losses, samples = self.losses(batch, coefficients)
        return self.summary(loss, losses, samples, coefficients), self.gradients_of(loss)

    def parameters(self) -> list[nn.Parameter]:
        """
        :return: all that is learned, what dual descent learns first
        """
        return [*self.policy.dual_parameters(), *self.policy.net_parameters()]

    def gradients_of(self, loss: th.Tensor) -> Gradients:
        """
        :param loss: the sum of the losses
        :return: the gradients of ``parameters()``
        """
        parameters = self.parameters()
        free = [parameter for parameter in parameters if parameter.requires_grad]
        found = iter(th.autograd.grad(loss, free, allow_unused=True))
        return [next(found) if parameter.requires_grad else None for parameter in parameters]

    def summary(self, loss: th.Tensor, losses: Named, samples: Named, coefficients: Coefficients) -> Metrics:
        """
        :param loss: the sum of the losses
        :param losses: scalars by name
        :param samples: of batch elements each, by name
        :param coefficients: numbers that do not depend on the nets
        :return: the scalars, and the means of the samples
        """
        scalars = {"loss": loss, **losses, "precision": self.policy.precision}
        weights = zip(self.policy.term_names, coefficients.head_weights, strict=True)
        scalars.update({f"{name}_weight": weight for name, weight in weights if name != "extrinsic"})
        means = th.stack([value.detach().reshape(-1) for value in samples.values()], dim=1).mean(dim=0)
        return Metrics((*scalars, *samples), th.cat([*(value.detach().reshape(1) for value in scalars.values()), means]))

    def optimize(self, gradients: Sequence[th.Tensor | None], coefficients: Coefficients) -> None:
        """
        Clip the gradients, take a step of the optimizer, and let the average and the target follow.

        :param gradients: of ``parameters()``
        :param coefficients: numbers that do not depend on the nets
        """
        for parameter, gradient in zip(self.parameters(), gradients, strict=True):
            parameter.grad = gradient
        if coefficients.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.policy.net_parameters(), coefficients.max_grad_norm)
        self.policy.optimizer.step()
        self.follow(coefficients)

    def follow(self, coefficients: Coefficients) -> None:
        """
        Let the average and the target follow the trained nets.

        :param coefficients: numbers that do not depend on the nets
        """
        polyak(self.policy.average_pairs(), coefficients.averaging_rate)
        if coefficients.tau is not None:
            polyak(self.policy.target_pairs(), coefficients.tau)


@th.no_grad()
def polyak(pairs: tuple[list[nn.Module], list[nn.Module]], tau: float) -> None:
    """
    Move nets towards others; buffers, such as the statistics of batch norm, are copied (GH#996).

    :param pairs: the nets that are trained, and those that follow, in the same order
    :param tau: share of the trained ones
    """
    for net, follower in zip(*pairs, strict=True):
        # As polyak_update of SB3, in half the operations
        for parameter, followed in zip(net.parameters(), follower.parameters(), strict=True):
            followed.lerp_(parameter, tau)
        for buffer, copied in zip(net.buffers(), follower.buffers(), strict=True):
            copied.copy_(buffer)


def means(steps: Sequence[Metrics]) -> dict[str, float]:
    """
    :param steps: what several gradient steps returned
    :return: of each name the mean over the steps that have it
    """
    rows: dict[str, list[float]] = {}
    by_names: dict[tuple[str, ...], list[th.Tensor]] = {}
    for names, values in steps:
        by_names.setdefault(names, []).append(values)
    for names, tensors in by_names.items():
        for name, *numbers in zip(names, *th.stack(tensors).tolist(), strict=True):
            rows.setdefault(name, []).extend(numbers)
    return {name: sum(numbers) / len(numbers) for name, numbers in rows.items()}
