"""
The losses of a gradient step, in the order of the theory: the world model learns from what happened, the critics bootstrap the
expected free energy (EFE), and the policy minimises the variational free energy.
"""

from typing import Any

import torch as th
from torch.nn import functional as F

from sb3_dai.efe import Transition
from sb3_dai.equations import dual
from sb3_dai.learning.batch import Batch
from sb3_dai.learning.coefficients import Coefficients
from sb3_dai.world_model.base import Belief

Named = dict[str, th.Tensor]


def all_losses(policy: Any, batch: Batch, c: Coefficients) -> tuple[Named, Named]:
    """
    :param policy: the nets, a :class:`sb3_dai.policy.DAIPolicy`
    :param batch: transitions and what goes with them
    :param c: numbers that do not depend on the nets
    :return: the losses, scalars by name, and what is logged of each sample, shapes (batch, 1) or (batch,)
    """
    pairs = batch.one_step
    belief, next_belief, outcome, filtered = beliefs(policy, batch, c.learns_world_model)
    actions = policy.encode(pairs.actions)

    losses: Named = {}
    samples: Named = {}
    prediction = None
    if c.learns_world_model:
        seen = policy.seen_by_world_model(belief)
        prediction = policy.world_model.predict(seen, actions)
        losses, samples = world_model_losses(policy, batch, prediction, outcome)
        if filtered is not None:
            new_losses, new_samples = policy.filter_losses(batch, seen, filtered, actions)
            losses.update(new_losses)
            samples.update(new_samples)

    transition = Transition(
        *(pairs.observations, actions, pairs.next_observations, pairs.rewards, pairs.dones),
        *(batch.log_preference, batch.has_successor, prediction, outcome),
    )
    efe = policy.efe(belief)
    heads, target = efe_targets(policy, batch, c, transition, next_belief, filtered)
    losses["value_loss"] = value_loss(efe(actions), heads, target, c.head_weights)
    for column, head in enumerate(heads):
        samples[f"{policy.term_names[head]}_value"] = -target[:, column]

    if c.learns_policy:
        new_losses, new_samples, divergence = policy_losses(policy, batch, c, belief, efe)
        losses.update(new_losses)
        samples.update(new_samples)
        if c.learns_world_model:
            samples["vfe"] = samples["prediction_error"] + divergence
    if c.learns_epistemic_weight and c.learns_world_model:
        losses["epistemic_weight_loss"] = epistemic_weight_loss(policy, belief)
    return losses, samples


def beliefs(policy: Any, batch: Batch, learns_world_model: bool) -> tuple[Belief, Belief, Any, Belief | None]:
    """
    :param policy: the nets
    :param batch: transitions
    :param learns_world_model: whether somebody asks for the outcome
    :return: beliefs about s, and about s' by the targets, the outcome that the world model is to predict, and what a belief
        filter that learns makes of s'
    """
    if batch.windows is not None:
        return policy.replay(batch.windows, batch.one_step, learns_world_model)
    pairs = batch.one_step
    next_belief, outcome = policy.observe(pairs.observations, pairs.next_observations, batch.has_successor, learns_world_model)
    return policy.belief(pairs.observations), next_belief, outcome, None


def world_model_losses(policy: Any, batch: Batch, prediction: Any, outcome: Any) -> tuple[Named, Named]:
    """
    :param policy: the nets
    :param batch: transitions
    :param prediction: p(s'|s,a) of the world model
    :param outcome: what happened
    :return: the loss, and its error and information gain for each sample
    """
    weights = batch.has_successor * policy.bootstrap_weights(len(batch.one_step.actions))
    return {"transition_loss": policy.world_model.loss(prediction, outcome, weights)}, {
        "prediction_error": prediction.error(outcome) * batch.has_successor,
        "information_gain": policy.novelty_of(prediction),
    }


@th.no_grad()
def efe_targets(
    policy: Any,
    batch: Batch,
    c: Coefficients,
    transition: Transition,
    next_belief: Belief,
    filtered: Belief | None = None,
) -> tuple[list[int], th.Tensor]:
    """
    Bellman targets of the heads of the critics. The cost of the extrinsic term is that of an n-step return; others are known
    of the pair (s_t, a_t) alone and have one step.

    :param policy: the nets
    :param batch: transitions
    :param c: numbers that do not depend on the nets
    :param transition: what the terms of the EFE read
    :param next_belief: about s_{t+1}, as the targets see it
    :param filtered: the same by a belief filter that learns, if there is one
    :return: indices of the heads that learn, and their targets, shape (batch, n_heads_that_learn)
    """
    one_step, n_step = batch.one_step, batch.n_step
    if n_step.rewards is one_step.rewards:
        next_efe, last_entropy = expected_efe(policy, next_belief, filtered)
        last_efe = next_efe
    else:
        last_belief = policy.belief(n_step.next_observations, target=True)
        both = Belief(*(th.cat(parts) for parts in zip(next_belief, last_belief, strict=True)))
        both_efe, both_entropy = expected_efe(policy, both)
        (next_efe, last_efe), (_, last_entropy) = both_efe.chunk(2), both_entropy.chunk(2)
    heads, columns = [], []
    for head, term in enumerate(policy.terms.values()):
        if term.reads_prediction and not c.learns_world_model:
            continue
        gamma = c.gamma if term.discount is None else term.discount
        cost = term.sign * term.checked_cost(transition)
        if term.of_returns:
            discount = gamma if n_step.discounts is None else n_step.discounts
            # A share of the policy's entropy makes its value a soft one
            soft_efe = last_efe[:, head : head + 1] - c.bootstrap_entropy / policy.precision * last_entropy
            columns.append(term.target(cost, n_step.dones, discount, soft_efe))
        else:
            columns.append(term.target(cost, one_step.dones, gamma, next_efe[:, head : head + 1]))
        heads.append(head)
    return heads, th.cat(columns, dim=1)


def expected_efe(policy: Any, belief: Belief, acting: Belief | None = None) -> tuple[th.Tensor, th.Tensor]:
    """
    :param policy: the nets
    :param belief: about a next state
    :param acting: the same as the policy net is used to read it, if that is another one
    :return: each term of the EFE of following the policy from there, by the target critics, (batch, n_terms), and the policy's
        entropy, (batch, 1)
    """
    posterior = policy.posterior(belief if acting is None else acting)
    return posterior.expected_efe(policy.efe(belief, target=True)), posterior.entropy()


def value_loss(efe: th.Tensor, heads: list[int], target: th.Tensor, head_weights: th.Tensor) -> th.Tensor:
    """
    Squared errors of the critics: mean over samples, sum over critics and heads. A head learns in proportion to its weight, so
    that what does not act does not shape the shared layers. The EFE is an expectation, and that is where squares are least: a
    rare failure of a large error is no outlier.

    :param efe: G of the actions taken, shape (n_critics, batch, n_terms)
    :param heads: indices of those that learn
    :param target: theirs, shape (batch, n_heads_that_learn)
    :param head_weights: of all heads, shape (n_terms,)
    :return: shape ()
    """
    if len(heads) < efe.shape[2]:
        efe, head_weights = efe[..., heads], head_weights[heads]
    errors = F.mse_loss(efe, target.expand_as(efe), reduction="none")
    return (errors.mean(dim=1) * head_weights).sum()


def policy_losses(policy: Any, batch: Batch, c: Coefficients, belief: Belief, efe: Any) -> tuple[Named, Named, th.Tensor]:
    """
    :param policy: the nets
    :param batch: transitions
    :param c: numbers that do not depend on the nets
    :param belief: about s
    :param efe: G(s,.) of the critics
    :return: losses of the policy and of an automatic precision, the entropy, and the divergence of each sample
    """
    posterior = policy.posterior(belief)
    divergence = posterior.divergence(efe, c.head_weights, policy.precision, batch.log_habit_prior)
    entropy = posterior.entropy()
    # In units of G if the precision moves: the policy's gradient would grow with it, and clipping shrink the others'
    losses = {"policy_loss": (divergence / policy.precision if c.learns_precision else divergence).mean()}
    if c.learns_precision:
        losses["precision_loss"] = dual.precision_loss(policy.log_precision, entropy, c.target_entropy)
    return losses, {"entropy": entropy}, divergence


def epistemic_weight_loss(policy: Any, belief: Belief) -> th.Tensor:
    """
    :param policy: the nets
    :param belief: about s
    :return: loss of an automatic epistemic weight, shape ()
    """
    scale = policy.terms["epistemic"].scale
    gains = (scale.scaled(policy.novelty_of_actions(belief, target)) for target in (False, True))
    return dual.epistemic_weight_loss(policy.log_epistemic_weight, *gains)
