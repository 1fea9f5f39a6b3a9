"""A gradient step whose losses are compiled by torch: traced from the eager one, and so the same by construction."""

import types
from collections.abc import Callable
from typing import Any

import torch as th

from sb3_dai.checks import check_losses
from sb3_dai.learning.batch import Batch
from sb3_dai.learning.coefficients import Coefficients
from sb3_dai.learning.step import EagerStep, Metrics

PAYS_FROM = 40_000
"""Gradient steps from which compiling, which takes half a minute and saves about 2 ms a step, pays on a CPU."""

PAYS_FROM_ON_GPU = 20_000


class CompiledStep:
    """
    The losses and their gradients by ``torch.compile``; clipping, optimizer and targets as in the eager step.

    :param eager: the definition of the step
    """

    name = "compile"

    def __init__(self, eager: EagerStep) -> None:
        self.eager = eager
        self.failure: str | None = None
        self.compiled: Callable[[Batch, Coefficients], tuple[th.Tensor, Metrics]] | None = None

    def pays(self, n_left: float) -> bool:
        """
        :param n_left: about how many gradient steps are left in this training
        :return: whether compiling saves more time than it takes
        """
        return n_left >= (PAYS_FROM if self.eager.policy.device.type == "cpu" else PAYS_FROM_ON_GPU)

    def _losses(self, batch: Batch, coefficients: Coefficients) -> tuple[th.Tensor, Metrics]:
        """
        :param batch: transitions and what goes with them
        :param coefficients: numbers that do not depend on the nets
        :return: the sum of the losses, and what is logged
        """
        loss, losses, samples = self.eager.losses(batch, coefficients)
        return loss, self.eager.summary(loss, losses, samples, coefficients)

    def __call__(self, batch: Batch, coefficients: Coefficients) -> Metrics:
        if self.failure is not None:
            return self.eager(batch, coefficients)
        try:
            if self.compiled is None:  # Importing the compiler takes seconds
                # Torch keeps a few graphs of each code object, which would be those of the first agents of a process
                losses = types.FunctionType(CompiledStep._losses.__code__.replace(), globals())
                # Random numbers are torch's own, so that a seed means the same as in the eager step
                self.compiled = th.compile(types.MethodType(losses, self), dynamic=False, options={"fallback_random": True})
            loss, metrics = self.compiled(batch, coefficients)
        # Whatever keeps a compiler from its work: there is none, or a net of the user's branches on values
        except Exception as error:
            if isinstance(error, ValueError):
                raise
            self.failure = f"of {type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
            return self.eager(batch, coefficients)
        check_losses(*metrics)
        gradients: list[Any] = self.eager.gradients_of(loss)
        self.eager.optimize(gradients, coefficients)
        return metrics
