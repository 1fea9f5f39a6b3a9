"""Values of numbered hidden states if they were seen, and of beliefs about them: point-based value iteration."""

from typing import NamedTuple

import torch as th

MIN_ROWS, MAX_DENSITY = 4000, 0.1
"""From how many branches, and up to what share of possible states, a sparse product is faster."""


class Decisions(NamedTuple):
    """A world to decide in, as one believes it to be."""

    transition: th.Tensor
    """B, probability of the next state, shape (n_states, n_states, n_actions) as B[s', s, a]."""
    likelihood: th.Tensor
    """A of all modalities as one, shape (n_outcomes, n_states)."""
    initial: th.Tensor
    """D, shape (n_states,)."""
    rewards: th.Tensor
    """What is expected of each action, r(s,a), shape (n_states, n_actions)."""
    continues: th.Tensor
    """Probability that the episode goes on after it, c(s,a), shape (n_states, n_actions)."""


class Branches(NamedTuple):
    """What may be seen after each action: the most probable outcomes, and all others as one."""

    joint: th.Tensor
    """p(o, s', the episode goes on | b, a), shape (n_beliefs, n_actions, n_branches, n_states)."""
    likelihood: th.Tensor
    """p(o | s') of these outcomes, same shape."""
    rows: th.Tensor
    """The first as a matrix of one row for each belief, action and outcome: a sparse one where most of it is zero."""


def branches(beliefs: th.Tensor, world: Decisions, n_branches: int) -> Branches:
    """
    :param beliefs: b, shape (n_beliefs, n_states)
    :param world: to decide in
    :param n_branches: number of outcomes that are told apart, at most
    :return: what may be seen next
    """
    going_on = (world.transition * world.continues).permute(1, 2, 0)
    predicted = (beliefs @ going_on.flatten(start_dim=1)).unflatten(1, going_on.shape[1:])
    n_outcomes = len(world.likelihood)
    if n_outcomes <= n_branches:
        likelihood = world.likelihood.expand(*predicted.shape[:2], -1, -1)
    else:
        likely = (predicted @ world.likelihood.T).topk(n_branches, dim=2).indices
        likelihood = world.likelihood[likely]
        others = (1.0 - likelihood.sum(dim=2, keepdim=True)).clamp(min=0.0)
        likelihood = th.cat([likelihood, others], dim=2)
    joint = predicted.unsqueeze(2) * likelihood
    rows = joint.flatten(end_dim=2)
    is_sparse = len(rows) > MIN_ROWS and predicted.count_nonzero() < MAX_DENSITY * predicted.numel()
    return Branches(joint, likelihood, rows.to_sparse() if is_sparse else rows)


def action_values(
    beliefs: th.Tensor, seen: Branches, world: Decisions, gamma: float, vectors: th.Tensor
) -> tuple[th.Tensor, th.Tensor]:
    """
    ``Q(b,a) = sum_s b(s) r(s,a) + gamma sum_o max_i sum_s' p(o, s' | b, a) v_i(s')``.

    :param beliefs: b, shape (n_beliefs, n_states)
    :param seen: what may be seen after them
    :param world: to decide in
    :param gamma: discount factor
    :param vectors: v_i, shape (n_vectors, n_states)
    :return: Q, shape (n_beliefs, n_actions), and which vector is best after each outcome, shape
        (n_beliefs, n_actions, n_branches)
    """
    values, best = (seen.rows @ vectors.T).max(dim=1)
    values, best = (part.unflatten(0, seen.joint.shape[:3]) for part in (values, best))
    return beliefs @ world.rewards + gamma * values.sum(dim=2), best


def state_values(
    rewards: th.Tensor, transition: th.Tensor, gamma: float, n_sweeps: int, values: th.Tensor | None = None
) -> th.Tensor:
    """
    Sweeps of value iteration, ``V(s) = max_a [ r(s,a) + gamma sum_s' B[s',s,a] V(s') ]``: what would follow if the state were
    seen from now on (Q_MDP: Littman et al. 1995, "Learning policies for partially observable environments").

    :param rewards: r(s,a), shape (n_states, n_actions)
    :param transition: B, shape (n_states, n_states, n_actions)
    :param gamma: discount factor
    :param n_sweeps: number of sweeps
    :param values: V to begin with, zeros by default, shape (n_states,)
    :return: V, shape (n_states,)
    """
    values = rewards.new_zeros(len(rewards)) if values is None else values
    for _ in range(n_sweeps):
        values = (rewards + gamma * th.tensordot(values, transition, dims=([0], [0]))).max(dim=1).values
    return values


def blind_values(world: Decisions, gamma: float) -> th.Tensor:
    """
    What always taking the same action is worth, ``v_a = r_a + gamma c_a B_a' v_a``: a lower bound of what can be had
    (Hauskrecht 2000, "Value-function approximations for partially observable Markov decision processes").

    :param world: to decide in
    :param gamma: discount factor, below 1
    :return: shape (n_actions, n_states)
    """
    going_on = (world.transition * world.continues).permute(2, 1, 0)
    identity = th.eye(going_on.shape[1], device=going_on.device)
    return th.linalg.solve(identity - gamma * going_on, world.rewards.T.unsqueeze(2)).squeeze(2)


def point_based_values(
    beliefs: th.Tensor,
    world: Decisions,
    gamma: float,
    vectors: th.Tensor,
    n_branches: int,
    n_sweeps: int,
    tolerance: float = 0.0,
) -> th.Tensor:
    """
    Point-based value iteration (Pineau et al. 2003, "Point-based value iteration: an anytime algorithm for POMDPs"). Each
    belief gets the values, in all states, of the way to go on that is best there:

    ``v_b(s) = r(s,a) + gamma c(s,a) sum_s' B[s',s,a] sum_o A[o,s'] v_i(o)(s')``

    with the action a and the vectors i(o) that are best at b. ``V(b) = max_i v_i b`` is a lower bound of what can be had from
    any belief.

    :param beliefs: b, shape (n_beliefs, n_states)
    :param world: to decide in
    :param gamma: discount factor
    :param vectors: v_i to begin with, which must be lower bounds, shape (n_vectors, n_states)
    :param n_branches: number of outcomes of an action that are told apart, at most
    :param n_sweeps: number of sweeps at most
    :param tolerance: stop when no value changes by more
    :return: those that are the best at some belief, shape (n_vectors, n_states)
    """
    seen = branches(beliefs, world, n_branches)
    going_on = (world.transition * world.continues).permute(2, 0, 1)
    rows = th.arange(len(beliefs), device=beliefs.device)
    values, kept = (beliefs @ vectors.T).max(dim=1)
    distinct = vectors  # Those that are the best at no point may be so after an outcome
    for _ in range(n_sweeps):
        of_actions, best = action_values(beliefs, seen, world, gamma, distinct)
        actions = of_actions.argmax(dim=1)
        ahead = (seen.likelihood[rows, actions] * distinct[best[rows, actions]]).sum(dim=1)
        found = th.empty_like(beliefs)
        for action in actions.unique().tolist():
            which = actions == action
            found[which] = world.rewards[:, action] + gamma * ahead[which] @ going_on[action]
        is_better = (found * beliefs).sum(dim=1) > values
        vectors = th.where(is_better.unsqueeze(1), found, vectors[kept])
        before = values
        values, kept = (beliefs @ vectors.T).max(dim=1)
        distinct = vectors[kept.unique()]
        if (values - before).max() <= tolerance:
            break
    return distinct
