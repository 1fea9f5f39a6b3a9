"""Adam as a function of tensors, which a compiler can make one kernel of."""

import importlib
from typing import Any, NamedTuple

import torch as th

OPTIMIZERS = importlib.import_module("torch.optim.optimizer")
"""Torch hides this module behind its class."""


class AdamState(NamedTuple):
    """What Adam keeps of a parameter."""

    step: th.Tensor
    """Number of steps, shape ()"""
    exp_avg: th.Tensor
    """Running mean of the gradient, of the parameter's shape"""
    exp_avg_sq: th.Tensor
    """Running mean of its square"""


def adam_corrections(betas: tuple[float, float], step: Any) -> list[Any]:
    """
    Factors that remove the bias of Adam's running means, of the mean and of the square root of the mean square.

    :param betas: decays of the running means
    :param step: number of the step, from 1: a number, or any shape
    :return: 1 / (1 - beta_1^step) and (1 - beta_2^step)^(-1/2)
    """
    return [1.0 / (1.0 - betas[0] ** step), (1.0 - betas[1] ** step) ** -0.5]


@th.no_grad()
def adam_step(
    parameter: th.Tensor,
    gradient: th.Tensor,
    state: AdamState,
    learning_rate: th.Tensor | float,
    betas: tuple[float, float],
    eps: float,
    apply: th.Tensor,
    corrections: th.Tensor | None = None,
) -> None:
    """
    Adam (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1), in place.

    :param parameter: any shape
    :param gradient: same shape
    :param state: of the parameter
    :param learning_rate: a number or shape ()
    :param betas: decays of the running means
    :param eps: added to the denominator
    :param apply: whether to do it, shape ()
    :param corrections: ``adam_corrections`` of the step, shape (2,): a kernel would compute them for each number
    """
    step = state.step + 1.0
    of_mean, of_root = adam_corrections(betas, step) if corrections is None else corrections.unbind()
    mean = state.exp_avg.lerp(gradient, 1.0 - betas[0])
    square = state.exp_avg_sq * betas[1] + gradient.square() * (1.0 - betas[1])
    root = square.sqrt() * of_root + eps
    moved = parameter - learning_rate * of_mean * mean / root
    for old, new in zip((parameter, *state), (moved, step, mean, square), strict=True):
        old.copy_(th.where(apply, new, old))


def is_plain_adam(optimizer: th.optim.Optimizer) -> bool:
    """
    :param optimizer: any
    :return: whether ``adam_step`` is what it does
    """
    variants = ("weight_decay", "amsgrad", "maximize")
    return type(optimizer) is th.optim.Adam and not any(group[name] for group in optimizer.param_groups for name in variants)


def steps_plainly(optimizer: th.optim.Optimizer) -> bool:
    """
    :param optimizer: a plain Adam
    :return: whether it has one learning rate, nobody wants to be told of its steps, and none has put another step in the place
        of its own, as schedulers of torch do
    """
    hooks = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
    of_all = (getattr(OPTIMIZERS, f"_global_optimizer_{name}_hooks", ()) for name in ("pre", "post"))
    one_rate = len({group["lr"] for group in optimizer.param_groups}) == 1
    return one_rate and "step" not in vars(optimizer) and not any(map(bool, (*hooks, *of_all)))
