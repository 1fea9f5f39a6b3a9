"""Models and arguments of version 0.1: what has taken the place of an argument, and zips that still load."""

import contextlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.utils import LinearSchedule

from sb3_dai.actions import make_action_model

ENTROPY = "give target_entropy, a number in nats or a schedule such as LinearSchedule(0.7, 0.2, 0.5)"

RENAMED = {
    "compile": 'give backend="compile" (or "auto", the default)',
    "use_sde": "leave it out, since gSDE is not supported; action_noise adds noise to Box actions",
    "exploration_fraction": ENTROPY,
    "exploration_initial_entropy": ENTROPY,
    "exploration_final_entropy": ENTROPY,
    "transition_delay": "give policy_kwargs=dict(transition_delay=...)",
    "action_precision": "give policy_kwargs=dict(action_precision=...)",
    "epistemic_gamma": "give gamma, for all terms of the expected free energy",
}
"""Arguments of version 0.1, and what to do instead."""

HEADS = ("extrinsic", "epistemic", "prediction_error")
"""Those that the critics of version 0.1 always had."""

PREFIXES = {
    "transition_net.": "world_model.net.",
    "transition_prior.": "world_model.prior.",
    "transition_model.": "world_model.",
    "novelty_scale.": "terms.epistemic.scale.",
    "mean_epistemic_efe.": "terms.epistemic.elsewhere.",
}

MOVED = {
    "sb3_dai.policies": ("sb3_dai.policy",),
    "sb3_dai.networks": ("sb3_dai.nets.ensembles", "sb3_dai.nets.extractors", "sb3_dai.nets.statistics"),
    "sb3_dai.preference_learning": ("sb3_dai.preferences.learned",),
}
"""Modules of version 0.1, and where their classes are."""

TENSORS_BY_HEAD = ("value_net.", "value_net_target.")


def check_renamed(given: dict[str, Any]) -> None:
    """
    :param given: arguments that the constructor does not know
    :raises ValueError: if one of them had this name before
    :raises TypeError: for any other
    """
    for name, value in given.items():
        if name in RENAMED:
            raise ValueError(f"{name}={value!r} is no argument any more: {RENAMED[name]}")
        raise TypeError(f"DAI.__init__() got an unexpected keyword argument {name!r}")


def upgrade(data: dict[str, Any]) -> list[str] | None:
    """
    Turn the attributes of a loaded model into those of this version, in place.

    :param data: attributes of a model, constructed or loaded
    :return: names of the heads of its critics; None if it was not loaded
    """
    saved = data.pop("term_names", None)
    if "exploration_fraction" not in data:
        return saved
    share = tuple(data.pop(f"exploration_{name}") for name in ("initial_entropy", "final_entropy", "fraction"))
    data.pop("entropy_schedule", None)
    options = {"action_precision": data.pop("action_precision"), "transition_delay": data.pop("transition_delay")}
    wanted = {name: value for name, value in options.items() if value not in (None, 1.0)}
    data["policy_kwargs"] = upgrade_policy({**data.get("policy_kwargs", {}), **wanted})
    data.pop("epistemic_gamma")
    # The constructor's defaults, unless another value was given to `load`: the saved model had no such arguments
    for name in ("backend", "target_entropy"):
        data.setdefault(name, "auto")
    if data.pop("compile") and data["backend"] == "auto":
        data["backend"] = "compile"
    if share != (0.7, 0.2, 0.5) and not isinstance(data["action_space"], spaces.Box) and data["target_entropy"] == "auto":
        most = make_action_model(data["action_space"]).max_entropy
        data["target_entropy"] = LinearSchedule(share[0] * most, share[1] * most, share[2])
    scale = vars(data["preference"]).pop("scale", 1.0)
    data["preference_weight"] *= scale
    return [*HEADS]


def upgrade_policy(arguments: dict[str, Any]) -> dict[str, Any]:
    """
    :param arguments: of a policy
    :return: those of this version
    """
    return {**arguments, "greedy": "policy"} if arguments.get("greedy") == "habit" else arguments


@contextlib.contextmanager
def old_modules() -> Iterator[None]:
    """Let what was pickled find the classes that have moved since."""

    def alias(name: str, *modules: str) -> ModuleType:
        made = ModuleType(name)
        for module in map(importlib.import_module, modules):
            vars(made).update({key: value for key, value in vars(module).items() if not key.startswith("__")})
        return made

    added = {name: alias(name, *modules) for name, modules in MOVED.items() if name not in sys.modules}
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            sys.modules.pop(name, None)


def convert_state(state: dict[str, Any], policy: Any, saved_terms: Sequence[str] | None = None) -> dict[str, Any]:
    """
    :param state: of a policy
    :param policy: that is to load it
    :param saved_terms: names of the heads that its critics had; None if they are the policy's
    :return: the same for the names and the heads of the policy
    """
    is_old = any(name.startswith(("transition_", "novelty_scale.")) for name in state)
    if is_old:
        for old, new in PREFIXES.items():
            state = {new + name.removeprefix(old) if name.startswith(old) else name: value for name, value in state.items()}
        saved_terms = HEADS
    ours = policy.term_names
    if saved_terms is None or [*saved_terms] == [*ours]:
        return state
    own = policy.state_dict()
    converted = {}
    for name, value in state.items():
        if name == "head_weights" or (name.startswith(TENSORS_BY_HEAD) and value.shape != own[name].shape):
            value = fit_heads(value, own[name], saved_terms, ours)
        converted[name] = value
    # Buffers of terms that are off are forgotten, those of new ones begin
    kept = {name: value for name, value in converted.items() if not name.startswith("terms.") or name in own}
    return {**{name: value for name, value in own.items() if name.startswith("terms.")}, **kept}


def fit_heads(saved: th.Tensor, own: th.Tensor, saved_terms: Sequence[str], terms: Sequence[str]) -> th.Tensor:
    """
    :param saved: tensor whose last axis goes over the heads of the critics, and over the options of each
    :param own: of the loading policy, whose values new heads keep
    :param saved_terms: names of the heads of the former
    :param terms: names of the heads of the latter
    :return: shape of ``own``
    """
    size = own.shape[-1] // len(terms)
    pieces = [
        saved[..., (i := [*saved_terms].index(name)) * size : (i + 1) * size]
        if name in saved_terms
        else own[..., j * size : (j + 1) * size].to(saved.device)
        for j, name in enumerate(terms)
    ]
    return th.cat(pieces, dim=-1)


def convert_parameters(parameters: dict[str, Any], policy: Any, saved_terms: Sequence[str] | None) -> dict[str, Any]:
    """
    :param parameters: of a saved model: states of the policy and its optimizer
    :param policy: that is to load them. Its optimizer is made anew where that of the saved model had fewer groups
    :param saved_terms: names of the heads that its critics had; None if they are the policy's
    :return: the same for the names and the heads of the policy
    """
    state = parameters.get("policy")
    if state is None:
        return parameters
    if any(name.startswith(("transition_", "novelty_scale.")) for name in state):
        saved_terms = HEADS
    converted = {**parameters, "policy": convert_state(state, policy, saved_terms)}
    optimizer = parameters.get("policy.optimizer")
    if optimizer is not None and len(optimizer["param_groups"]) < len(policy.optimizer.param_groups):
        # Saved before what dual descent learns had a learning rate of its own. It goes on as it was
        policy.lr_multipliers["dual"] = policy.lr_multipliers.get("policy", 1.0)
        policy.optimizer = policy._make_optimizer(policy.optimizer.param_groups[0]["lr"])
    if optimizer is not None and saved_terms is not None and [*saved_terms] != [*policy.term_names]:
        flat = [parameter for group in policy.optimizer.param_groups for parameter in group["params"]]
        numbers = [number for group in optimizer["param_groups"] for number in group["params"]]
        states = {}
        for number, parameter in zip(numbers, flat, strict=True):
            if number not in optimizer["state"]:
                continue
            moments = dict(optimizer["state"][number])
            for name, value in moments.items():
                if value.dim() == parameter.dim() > 0 and value.shape != parameter.shape:
                    moments[name] = fit_heads(value, th.zeros_like(parameter), saved_terms, policy.term_names)
            states[number] = moments
        converted["policy.optimizer"] = {**optimizer, "state": states}
    return converted
