"""Which backend takes the gradient steps of an agent."""

import warnings
from typing import Any

from sb3_dai.acceleration.compiled import CompiledStep
from sb3_dai.acceleration.native.step import NativeStep
from sb3_dai.acceleration.threads import is_small
from sb3_dai.learning.step import EagerStep, UpdateStep


class ChosenStep:
    """
    The gradient step of an agent by the backend that it asks for, or by the fastest that it allows.

    :param eager: the definition of the step
    """

    def __init__(self, eager: EagerStep) -> None:
        self.eager = eager
        self.native: NativeStep | None = None
        self.compiled: CompiledStep | None = None
        self.name: str | None = None
        """The backend of the last gradient step; None before the first."""
        self.compiles: bool | None = None
        """Whether compiling pays in this training, once that was asked."""
        self.told: set[str] = set()
        self.small: dict[tuple[int, int], bool] = {}
        self.n_rows = 1
        """Transitions of the gradient steps that were last asked about, at most"""

    def __deepcopy__(self, memo: dict[int, Any]) -> "ChosenStep":
        """Pointers and graphs are of the tensors of this agent: a copy makes its own."""
        import copy

        return ChosenStep(copy.deepcopy(self.eager, memo))

    def __getstate__(self) -> dict[str, Any]:
        return vars(ChosenStep(self.eager))

    def is_small(self, batch_size: int) -> bool:
        """
        :param batch_size: number of transitions of a gradient step, or of sequences
        :return: whether one thread is as fast as several
        """
        policy = self.eager.policy
        # A sequence is shorter where its episode ends
        self.n_rows = batch_size * (policy.sequence_length if policy.memory_dim > 0 else 1)
        key = policy.n_device_moves, self.n_rows
        if key not in self.small:
            self.small[key] = is_small(policy, self.n_rows)
        return self.small[key]

    def reset(self) -> None:
        """Training begins: what pays depends on its length."""
        self.compiles = None

    def chosen(self, asked: str, n_left: float, verbose: int = 0) -> UpdateStep:
        """
        :param asked: the argument ``backend``
        :param n_left: about how many gradient steps are left in this training
        :param verbose: whether to say once which backend it is, and why not a faster one
        :return: what takes the next steps
        """
        step, reasons = self._choose(asked, n_left)
        self.name = step.name
        message = f"Gradient steps by the {step.name} backend" + "".join(f"; {reason}" for reason in reasons)
        if message not in self.told:
            self.told.add(message)
            # What was edited, or what was asked for and cannot be, is worth a warning
            if (asked not in ("auto", step.name)) or any("is not what" in reason for reason in reasons):
                warnings.warn(message)
            elif verbose > 0:
                print(message)
        return step

    def _choose(self, asked: str, n_left: float) -> tuple[UpdateStep, list[str]]:
        """
        :param asked: the argument ``backend``
        :param n_left: about how many gradient steps are left in this training
        :return: what takes the next steps, and why not a faster one
        """
        policy, reasons = self.eager.policy, []
        if asked in ("auto", "native"):
            self.native = self.native or NativeStep(self.eager)
            refusal = self.native.refusal(self.n_rows)
            if refusal is None:
                return self.native, []
            reasons.append(f"not native, because {refusal}")
        if asked in ("auto", "compile") and policy.memory_dim > 0:
            reasons.append("not compiled, because sequences have many lengths")
        elif asked in ("auto", "compile"):
            self.compiled = self.compiled or CompiledStep(self.eager)
            if self.compiles is None:
                self.compiles = asked == "compile" or self.compiled.pays(n_left)
            if self.compiles and self.compiled.failure is None:
                return self.compiled, reasons
            reasons.append(f"not compiled, because {self.compiled.failure or 'that takes longer than it saves'}")
        return self.eager, reasons
