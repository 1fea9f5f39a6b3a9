"""What the environment, a preference or a gradient step returned."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th

from sb3_dai.checks.spaces import is_single


def check_finite(what: str, array: Any) -> None:
    """
    :param what: name of what the environment returned
    :param array: its value, an array or a dictionary of them
    :raises ValueError: if it holds NaN, infinity or a number that is infinite in single precision
    """
    for key, part in array.items() if isinstance(array, dict) else [(None, array)]:
        if not is_single(part).all():
            where = what if key is None else f"{what}[{key!r}]"
            single = " in single precision, with which the nets compute" if np.isfinite(part).all() else ""
            raise ValueError(
                f"The environment returned a non-finite {where}: {part}{single}. "
                "It was not stored and the nets are as they were: mend the environment, or wrap it to "
                "clip or replace the value (VecCheckNan helps to find its origin)."
            )


def check_log_prob(preference: Any, log_prob: Any, rewards: th.Tensor) -> None:
    """
    :param preference: one that a user may have written
    :param log_prob: what its ``log_prob`` returned
    :param rewards: of the same transitions, shape (batch, 1)
    :raises ValueError: if they are not as many numbers, which torch would expand to the batch or stumble over later
    """
    _check_column(f"preference={type(preference).__name__}", "log_prob", log_prob, len(rewards))


def check_cost(term: Any, cost: Any, n: int) -> None:
    """
    :param term: one of the EFE that a user may have written
    :param cost: what its ``cost`` returned
    :param n: number of transitions
    :raises ValueError: if they are not as many numbers
    """
    _check_column(f"terms: {type(term).__name__} (name={term.name!r})", "cost", cost, n)


def _check_column(what: str, name: str, value: Any, n: int) -> None:
    """
    :param what: an object of the user's
    :param name: of its method
    :param value: what that returned
    :param n: number of transitions
    :raises ValueError: if it is not one number each
    """
    if isinstance(value, th.Tensor) and value.shape == (n, 1):
        return
    found = f"shape {tuple(value.shape)}" if isinstance(value, th.Tensor) else f"a {type(value).__name__}"
    raise ValueError(
        f"{what}: {name} returned {found} for {n} transitions. Return a tensor of shape {(n, 1)}, such as "
        f"{name}.reshape(-1, 1)"
    )


def check_losses(names: Sequence[str], terms: th.Tensor) -> None:
    """
    :param names: of the terms; losses end with "_loss"
    :param terms: the first is the sum of the losses, shape (len(names),)
    :raises ValueError: if a loss is not finite
    """
    if math.isfinite(terms[0].item()):
        return
    values = {n: v for n, v in zip(names, terms.tolist(), strict=True) if n.endswith("_loss")}
    broken = [name for name, value in values.items() if not math.isfinite(value)] or list(values)
    raise ValueError(
        f"Training stopped: {', '.join(broken)} is not finite ({values}). The nets are as before this gradient step. "
        "Look at the scale of rewards and observations (VecNormalize), or lower learning_rate, max_grad_norm or precision."
    )
