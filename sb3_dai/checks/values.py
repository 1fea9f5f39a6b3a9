"""Numbers, choices and schedules that arguments may be."""

import math
from typing import Any

import numpy as np


def check_number(name: str, value: Any, low: float, high: float = math.inf, whole: bool = False) -> None:
    """
    :param name: the argument
    :param value: what it got
    :param low: smallest allowed value
    :param high: largest allowed value
    :param whole: whether only whole numbers are allowed
    :raises ValueError: if the value is something else
    """
    kind = int | np.integer if whole else int | float | np.integer | np.floating
    if isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value) and low <= value <= high:
        return
    bounds = f"between {low:g} and {high:g}" if math.isfinite(high) else f"of at least {low:g}" if math.isfinite(low) else ""
    raise ValueError(f"{name}={value!r}: give a {'whole' if whole else 'finite'} number {bounds}".rstrip())


def check_choice(name: str, value: Any, *choices: str) -> None:
    """
    :param name: the argument
    :param value: what it got
    :param choices: what it may be
    :raises ValueError: if it is something else
    """
    if value not in choices:
        raise ValueError(f"{name}={value!r}: choose " + " or ".join(f'"{choice}"' for choice in choices))


def value_at(progress_remaining: float, name: str, value: Any, low: float, high: float = math.inf) -> float:
    """
    :param progress_remaining: from 1 at the beginning to 0 at the end of training
    :param name: the argument
    :param value: what it got: a number, or a schedule, which is a function of the progress remaining
    :param low: smallest allowed value
    :param high: largest allowed value
    :return: its value now
    :raises ValueError: if that is not a finite number between them
    """
    if not callable(value):
        check_number(name, value, low, high)
        return float(value)
    # Steps may overshoot total_timesteps, as episodes do: a schedule is read on [0, 1] alone
    progress_remaining = min(max(progress_remaining, 0.0), 1.0)
    where = f"{name}={value!r} at progress_remaining={progress_remaining:g}"
    try:
        scheduled = float(value(progress_remaining))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} fails ({error}): give a function from one number to one number") from error
    check_number(f"{where}: value", scheduled, low, high)
    return scheduled


def check_schedule(name: str, value: Any, low: float, high: float = math.inf) -> None:
    """
    :param name: the argument
    :param value: what it got
    :param low: smallest allowed value
    :param high: largest allowed value
    :raises ValueError: if it is no number between them and no schedule that has such at both ends and half-way
    """
    for progress_remaining in (1.0, 0.5, 0.0):
        value_at(progress_remaining, name, value, low, high)
