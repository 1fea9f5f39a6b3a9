"""The numbers of a gradient step that do not depend on the nets, and what they follow from."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch as th
from stable_baselines3.common.type_aliases import Schedule

from sb3_dai.checks import MIN_PRECISION, value_at
from sb3_dai.learning.schedules import PESSIMISM, averaging_rate, target_entropy_at


@dataclass(frozen=True)
class Hyperparameters:
    """
    Arguments of :class:`sb3_dai.dai.DAI` that its gradient steps depend on. They are read again in each call of
    ``train``.
    """

    gamma: float
    tau: float
    bootstrap_entropy: float
    max_grad_norm: float | None
    target_update_interval: int | None
    policy_delay: int | None
    preference_weight: float
    epistemic_weight: float | str | Schedule
    prediction_error_weight: float
    precision: float | str | Schedule
    target_entropy: float | str | Schedule
    pessimism: float | Schedule | None


@dataclass(frozen=True)
class Coefficients:
    """What a gradient step is told beside its batch. Tensors are what changes from step to step."""

    gamma: float
    """Discount factor of terms of the EFE without one of their own."""
    tau: float | None
    """Share of the trained nets in their targets; None if the targets are updated by steps of the environment."""
    bootstrap_entropy: float
    """Share of the policy's entropy in the extrinsic target."""
    max_grad_norm: float | None
    """Largest Euclidean norm of the gradients of all nets together."""
    learns_precision: bool
    """Whether the precision is automatic. It learns when the policy does."""
    learns_epistemic_weight: bool
    """Whether the weight of the epistemic term is automatic. It learns when the world model does."""
    learns_world_model: bool
    """Whether the world model learns in this step, and the heads of the terms that read its prediction."""
    learns_policy: bool
    """Whether the policy net learns in this step."""
    head_weights: th.Tensor
    """Weights of the terms in G, at least 0, shape (n_terms,)."""
    target_entropy: th.Tensor
    """What an automatic precision aims at, in nats, shape ()."""
    averaging_rate: float
    """Share of the newest policy net in the average of all."""


def coefficients_at(
    progress_remaining: float, given: Hyperparameters, policy: Any, n_updates: int, gradient_steps: int
) -> Iterator[Coefficients]:
    """
    Read the schedules, and hand the policy what it acts by: precision, pessimism and the weights of the terms.

    :param progress_remaining: from 1 at the beginning to 0 at the end of training
    :param given: arguments of the algorithm
    :param policy: a :class:`sb3_dai.policy.DAIPolicy`
    :param n_updates: gradient steps so far
    :param gradient_steps: number of gradient steps to come
    :return: the numbers of each of them
    """
    reads_actions = policy.action_model.reads_actions
    if given.precision != "auto":
        precision = value_at(progress_remaining, "precision", given.precision, MIN_PRECISION)
        policy.log_precision.data.fill_(math.log(precision))
    # The policy of Box actions goes where a critic's gradient leads, and so to its errors
    usual_pessimism = 1.0 if reads_actions else PESSIMISM
    pessimism = usual_pessimism if given.pessimism is None else given.pessimism
    policy.pessimism.fill_(value_at(progress_remaining, "pessimism", pessimism, 0.0, 1.0))
    head_weights = head_weights_at(progress_remaining, given, policy)
    policy.head_weights.copy_(head_weights)
    target_entropy = target_entropy_at(progress_remaining, given.target_entropy, policy.action_model)
    # With Box actions the policy's part is the most arithmetic but one, and no task that was measured needed all of it
    usual_delay = 2 if reads_actions and policy.memory_dim == 0 else 1
    policy_delay = usual_delay if given.policy_delay is None else given.policy_delay
    transition_delay = policy.transition_delay if policy.world_model.net is not None else 1
    target = th.tensor(target_entropy, device=policy.device)
    for i in range(n_updates, n_updates + gradient_steps):
        yield Coefficients(
            gamma=given.gamma,
            tau=given.tau if given.target_update_interval is None else None,
            bootstrap_entropy=given.bootstrap_entropy,
            max_grad_norm=given.max_grad_norm,
            learns_precision=given.precision == "auto",
            learns_epistemic_weight=given.epistemic_weight == "auto" and "epistemic" in policy.term_names,
            learns_world_model=i % transition_delay == 0,
            learns_policy=i % policy_delay == 0,
            head_weights=head_weights,
            target_entropy=target,
            averaging_rate=averaging_rate(i + 1),
        )


def head_weights_at(progress_remaining: float, given: Hyperparameters, policy: Any) -> th.Tensor:
    """
    :param progress_remaining: from 1 at the beginning to 0 at the end of training
    :param given: arguments of the algorithm
    :param policy: a :class:`sb3_dai.policy.DAIPolicy`, whose own terms get the weights that are given
    :return: weights in G of the heads of the critics, shape (n_terms,)
    :raises ValueError: if a term is to act that has no head
    """
    own = dict(
        extrinsic=given.preference_weight, epistemic=given.epistemic_weight, prediction_error=given.prediction_error_weight
    )
    for name, weight in own.items():
        if name in policy.terms:
            policy.terms[name].weight = weight
        elif policy.lacks(name, weight):
            raise ValueError(
                f"{name}_weight={weight!r}: the model was made with a weight of 0, and its critics have no head for that "
                f"term. Give {name}_weight when the model is made, or to DAI.load"
            )
    automatic = [given.epistemic_weight == "auto" and name == "epistemic" for name in policy.term_names]
    terms = zip(policy.terms.values(), automatic, strict=True)
    weights = th.tensor([0.0 if auto else term.weight_at(progress_remaining) for term, auto in terms], device=policy.device)
    if any(automatic):
        weights[automatic.index(True)] = policy.log_epistemic_weight.detach().exp()[0]
    return weights
