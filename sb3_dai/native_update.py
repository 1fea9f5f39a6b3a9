"""
A gradient step by native/update.h: vectors of numbers are seen, the actions are ``Discrete`` or ``Box``, and a Gaussian
ensemble is the world model. The hundreds of small calls of torch that ``DAI._update`` consists of take four times as long as
their arithmetic.
"""

import warnings
from typing import TYPE_CHECKING, Any

import torch as th
from torch import nn

from sb3_dai.actions import CategoricalActions, GaussianActions
from sb3_dai.adam import steps_plainly
from sb3_dai.checks import check_losses
from sb3_dai.compilation import UpdateInputs
from sb3_dai.native_library import library
from sb3_dai.native_plan import Plan, can_be_planned, nets_of, places_of
from sb3_dai.networks import any_global_hook, has_hooks
from sb3_dai.packing import PackedNets
from sb3_dai.perceptrons import one_thread
from sb3_dai.transitions import GaussianTransitions

if TYPE_CHECKING:
    from sb3_dai.dai import DAI

PARTS = frozenset(
    (
        *("_losses", "_gradients", "_efe_target", "_next_efe", "_optimize", "_clipped", "_update", "_update_target"),
        *("extract_features", "features", "scaled", "observe", "encode", "predict_outcome", "bootstrap_weights"),
        *("novelty_of", "habit", "efe"),
    )
)
"""Methods of the agent, its policy and its kind of actions that nobody may have exchanged."""


class NativeUpdate:
    """
    One gradient step of an agent: by the library where it knows what the agent is made of, else by ``DAI._update``. Both agree
    up to rounding.

    :param model: the agent
    """

    def __init__(self, model: "DAI") -> None:
        self.model = model
        self.packed: PackedNets | None = None
        self.plan: Plan | None = None
        self.checked: set[str] = set()
        """What has learned in steps that were compared with torch's"""
        self.distrusted = self.ready = self.are_known = False
        self.modules: list[nn.Module] = []
        self.n_moves = -1

    def __getstate__(self) -> dict[str, Any]:
        """A plan is of the tensors of this agent: a copy of it, pickled or deep, makes its own."""
        return vars(NativeUpdate(self.model))

    def __call__(self, inputs: UpdateInputs, again: bool = False) -> tuple[tuple[str, ...], th.Tensor]:
        """
        As ``DAI._update``.

        :param inputs: all that the update reads beside the nets
        :param again: whether this step follows another of the same ``train`` call, so that the agent is what it was
        :return: names of what is logged, and the values, shape (len(names),)
        """
        model = self.model
        if not (again and self.ready and self.n_moves == model.policy.n_moves):
            self.ready, self.n_moves = self._is_ready(), model.policy.n_moves
        if not self.ready or self.plan is None or not is_usual(self.plan, inputs):
            return self._otherwise(inputs)
        # A step without the gradients of the world model or the policy says nothing about them
        learns = {"transitions": inputs.learns_transitions, "policy": inputs.learns_policy, "values": True}
        if unchecked := {name for name, does in learns.items() if does} - self.checked:
            self.checked |= unchecked
            different = self.plan.difference(inputs)
            if different:
                self.distrusted, self.ready = True, False
                warnings.warn(
                    f"native/update.h does not do what DAI._update does ({different}), which is taken instead. Has one of its "
                    "equations been changed? Then change that file too, and install sb3_dai again. If not, rounding decides "
                    "here, as it may with observations in the thousands that nothing normalises."
                )
                return self._otherwise(inputs)
        names, terms = self.plan.run(inputs)
        check_losses(names, terms)
        return names, terms

    def _otherwise(self, inputs: UpdateInputs) -> tuple[tuple[str, ...], th.Tensor]:
        """
        :param inputs: of a gradient step
        :return: what the step returns if the library does not take it
        """
        return self.model._compiled_update(inputs) if self.model.compile else self.model._update(inputs)

    def _is_ready(self) -> bool:
        """
        :return: whether there is a plan by which the library can take the steps of a ``train`` call
        """
        model = self.model
        packed = model._packing.nets() if model.device.type == "cpu" else None
        if packed is None or not knows(model) or not is_left_alone(model, packed) or not self._is_unheard():
            return False
        if packed is not self.packed:
            self.packed, self.checked, self.distrusted = packed, set(), False
        if self.distrusted:
            return False
        packed.tensors()  # Puts back what was moved
        places = places_of(model, packed)
        if self.plan is None or self.plan.places != places:
            self.plan = Plan(model, packed, places) if can_be_planned(model) else None
        if self.plan is not None:
            self.plan.refresh()
        return self.plan is not None

    def _is_unheard(self) -> bool:
        """
        :return: whether the nets are what the library knows, and nobody listens to a part of a gradient step
        """
        policy = self.model.policy
        statistics = policy.transition_model, policy.features_norm, policy.novelty_scale, policy.mean_epistemic_efe
        nets = nets_of(policy)
        modules: list[nn.Module] = [policy, *statistics, *nets]
        for net in nets:
            modules += net.layers._modules.values()
        if self.modules != modules:
            self.modules, self.are_known = modules, all(net.is_known() for net in nets)
        return self.are_known and not any(map(has_hooks, modules)) and not any_global_hook()


def knows(model: "DAI") -> bool:
    """
    :param model: an agent whose nets are packed
    :return: whether update.h is what its gradient steps do
    """
    from sb3_dai.dai import DAI
    from sb3_dai.policies import DAIPolicy

    policy, actions = model.policy, model.policy.action_model
    return (
        library() is not None
        and type(model) is DAI
        and type(policy) is DAIPolicy
        and policy.reads_vectors
        and (type(actions) is GaussianActions or (type(actions) is CategoricalActions and actions.shape[0] == 1))
        and isinstance(policy.transition_model, GaussianTransitions)
        and policy.transition_prior is None
        and policy.novelty == "information_gain"
        and policy.bootstrap_share == 1.0
        and not policy.lookahead
        and model.epistemic_weight != "auto"
        and PARTS.isdisjoint(vars(model))
        and PARTS.isdisjoint(vars(policy))
        and PARTS.isdisjoint(vars(actions))
    )


def is_left_alone(model: "DAI", packed: PackedNets) -> bool:
    """
    :param model: an agent that update.h knows
    :param packed: its nets
    :return: whether all parameters learn as usual, and nobody listens to them or the optimizer
    """
    optimizer, log_precision = packed.optimizer, model.policy.log_precision
    return bool(
        len(packed.learned) == 3  # Values, policy and transitions, and nothing of the user's
        and (model.precision != "auto" or (optimizer.state.get(log_precision) and log_precision.requires_grad))
        and steps_plainly(optimizer)
        and not any(parameter._backward_hooks for parameter in model.learned_parameters)
    )


def is_usual(plan: Plan, inputs: UpdateInputs) -> bool:
    """
    :param plan: of an agent
    :param inputs: of a gradient step
    :return: whether all is of the usual shapes
    """
    policy, batch, n_rows = plan.model.policy, inputs.batch, inputs.log_preference.numel()
    shape = (n_rows, plan.update.n_features)
    numbers = (*batch.n_step[3:], *batch.one_step[3:], batch.has_successor)
    n_coded = policy.action_model.code_dim if isinstance(policy.action_model, GaussianActions) else 1
    observations = (samples[i] for samples in (batch.one_step, batch.n_step) for i in (0, 2))
    return bool(
        one_thread(n_rows * plan.n_weights)
        and all(number.numel() == n_rows for number in numbers if isinstance(number, th.Tensor))
        and batch.one_step.actions.numel() == n_rows * n_coded
        and all(rows.shape == shape for rows in observations)  # type: ignore[union-attr]
    )
