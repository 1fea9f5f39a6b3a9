"""Arguments of the algorithm and its policy."""

import math
import warnings
from typing import Any

from gymnasium import spaces

from sb3_dai.checks.values import check_choice, check_number, check_schedule

MIN_PRECISION = 1e-6
"""Smallest number for a precision, whose logarithm is kept."""

NETS = ("pi", "qf", "transition")


def check_net_arch(net_arch: Any, default: list[int]) -> dict[str, list[int]]:
    """
    :param net_arch: the argument: a list for all nets, or a dictionary as SAC's with lists for "pi", "qf" and "transition"
    :param default: for None
    :return: sizes of the hidden layers of each net
    :raises ValueError: if it is something else
    """
    if net_arch is None:
        net_arch = default
    example = (
        "give a list of positive layer sizes, for example [64, 64], or dict(pi=[64, 64], qf=[64, 64], transition=[64, 64])"
    )
    if not isinstance(net_arch, list | dict):
        raise ValueError(f"net_arch={net_arch!r}: {example}")
    given = net_arch if isinstance(net_arch, dict) else dict.fromkeys(NETS, net_arch)
    unknown = [name for name in given if name not in NETS]
    if unknown:
        raise ValueError(f"net_arch={net_arch!r} has unknown nets {unknown}: choose from {NETS}")
    missing = [name for name in ("pi", "qf") if name not in given]
    if missing:
        raise ValueError(f"net_arch={net_arch!r} lacks {missing}: {example}")
    arch = {**given, "transition": given.get("transition", given["qf"])}
    for sizes in arch.values():
        if not isinstance(sizes, list):
            raise ValueError(f"net_arch={net_arch!r}: {example}")
        for size in sizes:
            check_number(f"net_arch={net_arch!r} has size", size, low=1, whole=True)
    return {name: [*sizes] for name, sizes in arch.items()}


def check_policy_arguments(policy: Any) -> None:
    """
    :param policy: with its arguments as attributes
    :raises ValueError: if one cannot be used
    """
    for name in ("ensemble_size", "n_critics", "transition_delay"):
        check_number(name, getattr(policy, name), low=1, whole=True)
    check_number("bootstrap_share", policy.bootstrap_share, low=1e-3, high=1)
    check_number("prior_scale", policy.prior_scale, low=0)
    if policy.prior_count is not None:
        check_number("prior_count (or None)", policy.prior_count, low=1e-6)
    check_choice("transition_model", policy.transition_model, "ensemble", "dirichlet")
    check_choice("novelty", policy.novelty, "information_gain", "variance")
    space = policy.action_space
    if policy.lookahead and not isinstance(space, spaces.Discrete):
        raise ValueError(f"lookahead=True asks about each action of a Discrete space, not of {space}: leave it out")
    if policy.greedy == "habit":
        raise ValueError(
            "greedy='habit' has another name now: choose \"policy\", the most probable action under the policy net as it is"
        )
    check_choice("greedy", policy.greedy, "average", "policy", "extrinsic")
    check_number("deliberation", policy.deliberation, low=0, high=1)
    if policy.deliberation > 0.0 and isinstance(space, spaces.Box):
        raise ValueError(f"deliberation={policy.deliberation!r} is for choices, not for {space}: leave it out")
    check_number("action_precision", policy.action_precision, low=MIN_PRECISION)
    nets = ("transition", "policy", "value", "dual")
    unknown = set(policy.lr_multipliers) - set(nets)
    if unknown:
        raise ValueError(f"lr_multipliers has unknown nets {sorted(unknown)}: choose from {nets}")
    for name, factor in policy.lr_multipliers.items():
        check_number(f"lr_multipliers[{name!r}]", factor, low=0)


def check_arguments(model: Any) -> None:
    """
    :param model: the algorithm, constructed or loaded, with its arguments as attributes
    :raises ValueError: if an argument of its constructor cannot be used
    """
    for name in ("buffer_size", "batch_size", "n_steps"):
        check_number(name, getattr(model, name), low=1, whole=True)
    frequency = model.train_freq[0] if isinstance(model.train_freq, tuple) else model.train_freq
    check_number("train_freq", frequency, low=1, whole=True)
    check_number("learning_starts", model.learning_starts, low=0)
    check_number("gradient_steps", model.gradient_steps, low=-1, whole=True)
    for name in ("tau", "gamma", "bootstrap_entropy"):
        check_number(name, getattr(model, name), low=0, high=1)
    if model.target_entropy != "auto":
        check_schedule('target_entropy (or a schedule or "auto")', model.target_entropy, low=-math.inf)
    check_number("preference_weight", model.preference_weight, low=0)
    if model.epistemic_weight != "auto":
        check_schedule('epistemic_weight (or a schedule or "auto")', model.epistemic_weight, low=0)
    check_number("prediction_error_weight", model.prediction_error_weight, low=-math.inf)
    if model.pessimism is not None:
        check_schedule("pessimism (or a schedule or None)", model.pessimism, low=0, high=1)
    check_schedule("learning_rate", model.learning_rate, low=0)
    if model.precision != "auto":
        check_schedule('precision (or a schedule or "auto")', model.precision, low=MIN_PRECISION)
    deliberation = model.policy_kwargs.get("deliberation")
    if model.habit_prior is not None and deliberation:
        raise ValueError(
            f"habit_prior={model.habit_prior!r} with deliberation={deliberation!r} in policy_kwargs: only the policy net is "
            "weighed against it. Leave one of them out"
        )
    if model.action_noise is not None and not isinstance(model.action_space, spaces.Box):
        raise ValueError(
            f"action_noise={model.action_noise}: only Box actions can be noisy, not {model.action_space}. Leave it out, or "
            "lower the precision for more random actions."
        )
    if model.max_grad_norm is not None:
        check_number("max_grad_norm (or None)", model.max_grad_norm, low=1e-12)
    check_choice("backend", model.backend, "auto", "eager", "compile", "native")
    if model.policy_delay is not None:
        check_number("policy_delay (or None)", model.policy_delay, low=1, whole=True)
    if model.target_update_interval is not None:
        check_number("target_update_interval (or None)", model.target_update_interval, low=1, whole=True)
        if model.n_envs > model.target_update_interval:
            warnings.warn(
                "The number of environments used is greater than the target network update interval "
                f"({model.n_envs} > {model.target_update_interval}), so the target is updated after each call to env.step(), "
                f"which is every {model.n_envs} steps. Use target_update_interval=None to update it with each gradient step."
            )
