"""Whether an agent is still made of the same parts, which is asked in each call of ``train`` and so has to be quick."""

from collections.abc import Iterator
from itertools import chain
from operator import attrgetter, is_, itemgetter
from typing import Any

import torch as th
from torch import nn
from torch.optim import optimizer as optimizers

HOOKS = itemgetter("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

PARTS = itemgetter("_modules", "_parameters", "_buffers")

RULES = itemgetter("betas", "eps", "weight_decay", "amsgrad", "maximize", "capturable", "differentiable")

EXTRACTORS = "features_extractor"
"""Beginning of the names of modules that torch evaluates, hooks included."""

any_global_hook = getattr(nn.modules.module, "_has_any_global_hook", lambda: True)
"""Torch's own question before it spares a module its hooks; where it has another name none is spared."""


def modules_of(module: nn.Module, extractors: bool = False) -> Iterator[nn.Module]:
    """
    :param module: a policy or a part of it
    :param extractors: whether to go through features extractors as well
    :return: it and its parts
    """
    yield module
    for name, part in module._modules.items():
        if part is not None and (extractors or not name.startswith(EXTRACTORS)):
            yield from modules_of(part, extractors)


def is_heard(policy: Any) -> bool:
    """
    :param policy: the nets of an agent
    :return: whether there is a hook in a gradient step, or a module's forward or the step of the optimizer was exchanged
    """
    return (
        any(any(HOOKS(module)) or "forward" in module for module in map(vars, modules_of(policy)))
        or any_global_hook()
        or is_heard_optimizer(policy.optimizer)
    )


def is_heard_optimizer(optimizer: Any) -> bool:
    """
    :param optimizer: of an agent
    :return: whether somebody listens to its steps, or has exchanged them
    """
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or "step" in vars(optimizer)
        or optimizers._global_optimizer_pre_hooks
        or optimizers._global_optimizer_post_hooks
    )


class Watch:
    """
    All that an agent is made of at some time.

    :param policy: its nets
    """

    def __init__(self, policy: Any) -> None:
        self.policy, self.optimizer = policy, policy.optimizer
        parts = chain.from_iterable(map(PARTS, map(vars, modules_of(policy, extractors=True))))
        self.own = [dictionary for dictionary in parts if dictionary]
        """Where modules keep what they consist of"""
        self.hooked = [vars(module) for module in modules_of(policy)]
        self.parts = [*self._parts()]
        self.learned = [parameter for group in policy.optimizer.param_groups for parameter in group["params"]]
        self.tensors = [part for part in self.parts if isinstance(part, th.Tensor)]
        self.places = self._places()
        self.rules = self._rules()

    def _parts(self) -> Iterator[Any]:
        """
        :return: modules, parameters, buffers and what the optimizer keeps
        """
        return chain.from_iterable(map(dict.values, chain(self.own, self.optimizer.state.values())))

    def _places(self) -> list[Any]:
        """
        :return: where each tensor lies, and whether it learns and somebody listens
        """
        hooks = map(bool, map(attrgetter("_backward_hooks"), self.learned))
        return [*map(th.Tensor.data_ptr, self.tensors), *map(attrgetter("requires_grad"), self.learned), *hooks]

    def _rules(self) -> list[Any]:
        """
        :return: by what the optimizer learns, and settings of the agent that decide who takes the step
        """
        policy, groups = self.policy, self.optimizer.param_groups
        found = [(len(group["params"]), type(group["lr"]), *RULES(group)) for group in groups] if self._is_adam() else []
        heard = any(chain.from_iterable(map(HOOKS, self.hooked))) or any_global_hook() or is_heard_optimizer(self.optimizer)
        exchanged = [("forward" in module, module.get("center")) for module in self.hooked]
        terms = ((type(term.weight) is str, getattr(term, "novelty", "")) for term in policy.terms.values())
        return [*found, heard, exchanged, policy.lookahead, policy.novelty, *terms]

    def _is_adam(self) -> bool:
        """
        :return: whether the optimizer has the settings of Adam
        """
        return type(self.optimizer) is th.optim.Adam

    def is_same(self) -> bool:
        """
        :return: whether nothing has changed since
        """
        parts = [*self._parts()]
        return (
            self.policy.optimizer is self.optimizer
            and len(parts) == len(self.parts)
            and all(map(is_, parts, self.parts))
            and self._places() == self.places
            and self._rules() == self.rules
        )
