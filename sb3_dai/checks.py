"""Errors that name the argument, the value it got and the remedy."""

import copy
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_dai.habits import check_habit_prior

if TYPE_CHECKING:
    from sb3_dai.dai import DAI

MIN_PRECISION = 1e-6
"""Smallest number for a precision, whose logarithm is kept."""

SUPPORTED_ACTIONS = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Box)
SUPPORTED_OBSERVATIONS = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


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


def check_arguments(model: "DAI") -> None:
    """
    :param model: the algorithm, constructed or loaded
    :raises ValueError: if an argument of its constructor cannot be used
    """
    for name in ("buffer_size", "batch_size", "n_steps"):
        check_number(name, getattr(model, name), low=1, whole=True)
    frequency = model.train_freq[0] if isinstance(model.train_freq, tuple) else model.train_freq
    check_number("train_freq", frequency, low=1, whole=True)
    check_number("learning_starts", model.learning_starts, low=0)
    check_number("gradient_steps", model.gradient_steps, low=-1, whole=True)
    for name in ("tau", "gamma", "epistemic_gamma", "bootstrap_entropy"):
        check_number(name, getattr(model, name), low=0, high=1)
    for name in ("exploration_fraction", "exploration_initial_entropy", "exploration_final_entropy"):
        check_number(name, getattr(model, name), low=0, high=1)
    if model.exploration_fraction == 0:
        raise ValueError("exploration_fraction=0: give a number above 0 (1e-6 for a constant final entropy)")
    check_number("preference_weight", model.preference_weight, low=0)
    if model.epistemic_weight != "auto":
        check_schedule('epistemic_weight (or a schedule or "auto")', model.epistemic_weight, low=0)
    check_number("prediction_error_weight", model.prediction_error_weight, low=-math.inf)
    if model.pessimism is not None:
        check_schedule("pessimism (or a schedule or None)", model.pessimism, low=0, high=1)
    check_schedule("learning_rate", model.learning_rate, low=0)
    if model.precision != "auto":
        check_schedule('precision (or a schedule or "auto")', model.precision, low=MIN_PRECISION)
    check_habit_prior(model.habit_prior, model.action_space, model.precision)
    deliberation = model.policy_kwargs.get("deliberation")
    if model.habit_prior is not None and deliberation:
        raise ValueError(
            f"habit_prior={model.habit_prior!r} with deliberation={deliberation!r} in policy_kwargs: only the habit is "
            "weighed against it. Leave one of them out"
        )
    check_number("action_precision", model.action_precision, low=MIN_PRECISION)
    if "action_precision" in model.policy_kwargs:
        value = model.policy_kwargs["action_precision"]
        raise ValueError(f"policy_kwargs has action_precision={value!r}: give it as an argument of DAI instead")
    if model.action_noise is not None and not isinstance(model.action_space, spaces.Box):
        raise ValueError(
            f"action_noise={model.action_noise}: only Box actions can be noisy, not {model.action_space}. Leave it out, or "
            "lower the precision for more random actions."
        )
    if model.max_grad_norm is not None:
        check_number("max_grad_norm (or None)", model.max_grad_norm, low=1e-12)
    if not isinstance(model.compile, bool):
        raise ValueError(f"compile={model.compile!r}: give True or False")
    for name in ("transition_delay", "policy_delay"):
        if getattr(model, name) is not None:
            check_number(f"{name} (or None)", getattr(model, name), low=1, whole=True)
    if model.target_update_interval is not None:
        check_number("target_update_interval (or None)", model.target_update_interval, low=1, whole=True)
        if model.n_envs > model.target_update_interval:
            warnings.warn(
                "The number of environments used is greater than the target network update interval "
                f"({model.n_envs} > {model.target_update_interval}), so the target is updated after each call to env.step(), "
                f"which is every {model.n_envs} steps. Use target_update_interval=None to update it with each gradient step."
            )


def check_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """
    Kinds of action spaces that nobody could use get the standard error of Stable-Baselines3 instead.

    :param observation_space: of the environment
    :param action_space: of the environment
    :raises ValueError: if the nets cannot read the one or code the other
    """
    parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {None: observation_space}
    if not parts:
        raise ValueError(f"observation_space={observation_space}: give it at least one entry")
    for key, space in parts.items():
        where = "observation_space" if key is None else f"observation_space[{key!r}]"
        _check_observation_space(f"{where}={space}", space)

    where = f"action_space={action_space}"
    if isinstance(action_space, SUPPORTED_ACTIONS):
        _check_dtype(where, action_space)
    if np.any(getattr(action_space, "start", 0)):
        raise ValueError(f"{where}: actions must start at 0, wrap the environment to shift them")
    if isinstance(action_space, spaces.MultiDiscrete) and len(action_space.shape) != 1:
        raise ValueError(f"{where}: wrap the environment to flatten its actions")
    # MultiBinary([3]) has the shape of MultiBinary(3), but the buffers of SB3 want the number
    if isinstance(action_space, spaces.MultiBinary) and not isinstance(action_space.n, int):
        raise ValueError(f"{where}: wrap the environment to flatten its actions to MultiBinary(n), n a number")
    if isinstance(action_space, spaces.Box):
        if not np.issubdtype(action_space.dtype, np.floating):
            raise ValueError(f"{where}: Box actions must be of a float type, use MultiDiscrete for whole numbers")
        if not (np.isfinite(action_space.low).all() and np.isfinite(action_space.high).all()):
            raise ValueError(f"{where}: Box actions must have finite bounds, wrap the environment to give it some")
        if action_space.shape == ():
            raise ValueError(f"{where}: wrap the environment to give its actions shape (1,)")
        try:
            with np.errstate(over="ignore"):
                copy.deepcopy(action_space).sample()  # A copy, whose generator may move on
        # Gymnasium cannot draw from bounds that are further apart than the largest number
        except (OverflowError, ValueError) as error:
            raise ValueError(f"{where}: no action can be drawn ({error}), wrap the environment to rescale it") from error
    if 0 in (action_space.shape or ()):
        raise ValueError(f"{where}: there is nothing to choose, give it at least one dimension")


def _check_observation_space(where: str, space: spaces.Space) -> None:
    """
    :param where: what to call the space in an error
    :param space: an observation space, or one entry of a dictionary
    :raises ValueError: if the nets cannot read it
    """
    if not isinstance(space, SUPPORTED_OBSERVATIONS):
        names = ", ".join(cls.__name__ for cls in SUPPORTED_OBSERVATIONS)
        raise ValueError(f"{where} is not supported: wrap the environment to observe {names} or a flat Dict of them")
    if np.any(getattr(space, "start", 0)):
        raise ValueError(f"{where}: observations must start at 0, wrap the environment to shift them")
    if isinstance(space, spaces.Box) and space.shape == ():
        raise ValueError(f"{where}: wrap the environment to give it shape (1,)")
    if isinstance(space, spaces.MultiDiscrete) and len(space.shape) > 1:
        raise ValueError(f"{where}: wrap the environment to flatten it")
    if 0 in (space.shape or ()):
        raise ValueError(f"{where}: there is nothing to observe, give it at least one dimension")
    if isinstance(space, spaces.Box) and not _is_single(np.clip(0, space.low, space.high)).all():
        raise ValueError(f"{where}: float32 has no such values, wrap the environment to rescale it")
    _check_dtype(where, space)


def _check_dtype(where: str, space: spaces.Space) -> None:
    """
    :param where: what to call the space in an error
    :param space: of observations or actions
    :raises ValueError: if torch has no such type of numbers
    """
    try:
        th.as_tensor(np.zeros(1, space.dtype))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: torch cannot read its dtype {space.dtype!r}, use float32 for example") from error


def _is_single(array: Any) -> np.ndarray:
    """
    :param array: numbers of any type
    :return: which of them are finite in single precision, in which the nets compute
    """
    if getattr(array, "dtype", None) == np.float64:
        return np.abs(array) <= np.finfo(np.float32).max
    return np.isfinite(array)


def check_finite(what: str, array: Any) -> None:
    """
    :param what: name of what the environment returned
    :param array: its value, an array or a dictionary of them
    :raises ValueError: if it holds NaN, infinity or a number that is infinite in single precision
    """
    for key, part in array.items() if isinstance(array, dict) else [(None, array)]:
        if not _is_single(part).all():
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
    if isinstance(log_prob, th.Tensor) and log_prob.shape == rewards.shape:
        return
    found = f"shape {tuple(log_prob.shape)}" if isinstance(log_prob, th.Tensor) else f"a {type(log_prob).__name__}"
    raise ValueError(
        f"preference={type(preference).__name__}: log_prob returned {found} for {len(rewards)} transitions. Return a tensor "
        f"of shape {tuple(rewards.shape)}, such as log_prob.reshape(-1, 1)"
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
