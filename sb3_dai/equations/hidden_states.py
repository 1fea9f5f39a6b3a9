"""
Exact inference of numbered hidden states: filtering while acting, smoothing of whole episodes.

``A[o, s]`` is the probability of an outcome, one matrix a modality, ``B[s', s, a]`` that of the next state, ``D[s]`` that of
the first one (the order of axes in pymdp).
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import NamedTuple, TypeAlias

import torch as th

MIN_STATES, MAX_SUCCESSORS = 100, 4
"""From how many states, and up to how many successors of a state and an action, smoothing sums over these alone."""
Message: TypeAlias = Callable[[th.Tensor, th.Tensor], th.Tensor]
"""What a sum over states makes of a number for each state, given the actions taken."""
IMPOSSIBLE = 1e-16
"""What an outcome of probability zero counts as, so that a belief survives what its model holds impossible (as in pymdp)."""


class Smoothed(NamedTuple):
    """What whole episodes say about their hidden states."""

    states: th.Tensor
    """p(s_t | the whole episode), zero at padded steps, shape (batch, time, n_states)."""
    transitions: th.Tensor
    """Expected number of times that each transition happened, all episodes together, shape of B; zeros if nobody asked."""
    log_evidence: th.Tensor
    """log p(o_1..T | a_1..T-1), in nats, shape (batch, 1)."""


def log_likelihood(likelihoods: Sequence[th.Tensor], outcomes: th.Tensor) -> th.Tensor:
    """
    ``sum_m log A_m[o_m, s]``: modalities are independent, given the state.

    :param likelihoods: A of each modality, shape (n_outcomes, n_states)
    :param outcomes: number of the outcome of each modality, shape (..., n_modalities)
    :return: in nats, shape (..., n_states)
    """
    numbers = outcomes.reshape(-1, len(likelihoods)).unbind(dim=1)
    logs = (matrix.clamp(min=IMPOSSIBLE).log() for matrix in likelihoods)
    # Far faster on CPUs than indexing, and than the sum of a stack
    parts = (log.index_select(0, of_modality) for log, of_modality in zip(logs, numbers, strict=True))
    return reduce(th.add, parts).unflatten(0, outcomes.shape[:-1])


def predicted_states(belief: th.Tensor, transition: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """
    ``p(s') = sum_s B[s', s, a] b(s)``.

    :param belief: b, shape (batch, n_states)
    :param transition: B, shape (n_states, n_states, n_actions)
    :param actions: number of each action, shape (batch,)
    :return: shape (batch, n_states)
    """
    after_each = all_predicted_states(belief, transition)  # Cheaper than a matrix for each row
    return after_each[th.arange(len(belief), device=belief.device), actions]


def all_predicted_states(belief: th.Tensor, transition: th.Tensor) -> th.Tensor:
    """
    :param belief: b, shape (batch, n_states)
    :param transition: B, shape (n_states, n_states, n_actions)
    :return: p(s') after each action, shape (batch, n_actions, n_states)
    """
    n_states, _, n_actions = transition.shape
    return (belief @ transition.permute(1, 2, 0).reshape(n_states, -1)).unflatten(1, (n_actions, n_states))


def _messages(transition: th.Tensor) -> tuple[Message, Message]:
    """
    What the forward-backward algorithm sums over in each step, without the sums' zeros where the states are many and each
    leads to few.

    :param transition: B, shape (n_states, n_states, n_actions)
    :return: of numbers f of shape (batch, n_states) and actions of shape (batch,): ``sum_s B[s', s, a] f(s)``, which are
        :func:`predicted_states`, and ``sum_s' B[s', s, a] f(s')``, both of the shape of f
    """
    n_states = len(transition)
    n_successors = int((transition > 0.0).sum(dim=0).max())
    if n_states < MIN_STATES or n_successors > MAX_SUCCESSORS:
        look_back = transition.transpose(0, 1)
        return (
            lambda f, actions: predicted_states(f, transition, actions),
            lambda f, actions: predicted_states(f, look_back, actions),
        )
    tables = (of_each.permute(2, 0, 1).flatten(start_dim=1).contiguous() for of_each in transition.topk(n_successors, dim=0))
    probabilities, successors = tables  # Of each action, shape (n_actions, n_successors * n_states)

    def ahead(f: th.Tensor, actions: th.Tensor) -> th.Tensor:
        shares = probabilities.index_select(0, actions).unflatten(1, (n_successors, n_states)) * f.unsqueeze(1)
        return th.zeros_like(f).scatter_add_(1, successors.index_select(0, actions), shares.flatten(start_dim=1))

    def back(f: th.Tensor, actions: th.Tensor) -> th.Tensor:
        of_successors = f.gather(1, successors.index_select(0, actions)) * probabilities.index_select(0, actions)
        return of_successors.unflatten(1, (n_successors, n_states)).sum(dim=1)

    return ahead, back


def filtered_states(predicted: th.Tensor, log_likelihood: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Bayes' rule: ``b'(s') = A[o, s'] p(s') / p(o)``.

    :param predicted: p(s'), shape (..., n_states)
    :param log_likelihood: log A[o, s'], same shape
    :return: b', same shape, and log p(o) in nats, shape (..., 1)
    """
    highest = log_likelihood.amax(dim=-1, keepdim=True)
    belief, evidence = _bayes(predicted, (log_likelihood - highest).exp())
    return belief, evidence.clamp(min=IMPOSSIBLE).log() + highest


def _bayes(predicted: th.Tensor, likelihood: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    :param predicted: p(s'), shape (..., n_states)
    :param likelihood: A[o, s'], same shape, in any unit
    :return: b', same shape, and p(o) in that unit, shape (..., 1)
    """
    joint = predicted * likelihood
    evidence = joint.sum(dim=-1, keepdim=True)
    # Where what is likely was held impossible, to the precision of the numbers, the prediction stands
    lost = (evidence <= 0.0).to(joint.dtype)
    return th.addcmul(joint / (evidence + lost), predicted, lost), evidence


def smoothed_states(
    log_likelihood: th.Tensor,
    transition: th.Tensor,
    initial: th.Tensor,
    actions: th.Tensor,
    mask: th.Tensor,
    times: th.Tensor | None = None,
    counts_transitions: bool = True,
) -> Smoothed:
    """
    The forward-backward algorithm (Rabiner 1989, "A tutorial on hidden Markov models", equations 19-37), with a transition
    matrix for each action and scaled at each step.

    :param log_likelihood: log A[o_t, s], shape (batch, time, n_states)
    :param transition: B, shape (n_states, n_states, n_actions)
    :param initial: D, shape (n_states,)
    :param actions: number of the action between steps t and t + 1, shape (batch, time - 1)
    :param mask: whether a step belongs to its episode, which padding follows, shape (batch, time)
    :param times: how often each of the episodes happened, shape (batch,); None for once
    :param counts_transitions: whether somebody asks for the expected transitions, which take most of the time
    :return: posteriors of states, expected transitions, log-evidence
    """
    n_steps = log_likelihood.shape[1]
    by_action = transition.permute(2, 0, 1)
    ahead_of, back_from = _messages(transition)
    highest = log_likelihood.amax(dim=-1, keepdim=True)
    # Padding says nothing of states, so that messages pass it as they are
    likelihood = (log_likelihood - highest).exp_().masked_fill_(~mask.unsqueeze(2), 1.0).unbind(dim=1)
    belief, evidence = _bayes(initial.expand_as(likelihood[0]), likelihood[0])
    beliefs, evidences = [belief], [evidence]
    for t in range(1, n_steps):
        belief, evidence = _bayes(ahead_of(belief, actions[:, t - 1]), likelihood[t])
        beliefs.append(belief)
        evidences.append(evidence)
    of_steps = th.stack(evidences, dim=1).clamp(min=IMPOSSIBLE).log() + highest
    log_evidence = (of_steps * mask.unsqueeze(2)).sum(dim=1)

    backward, states = th.ones_like(belief), [belief]
    counts = th.zeros_like(by_action)
    for t in range(n_steps - 2, -1, -1):
        ahead = likelihood[t + 1] * backward
        if counts_transitions:
            pairs = ahead.unsqueeze(2) * by_action[actions[:, t]] * beliefs[t].unsqueeze(1)
            pairs = pairs / pairs.sum(dim=(1, 2), keepdim=True).clamp(min=IMPOSSIBLE)
            is_step = mask[:, t + 1 : t + 2]
            happened = is_step if times is None else is_step * times.unsqueeze(1)
            counts.index_add_(0, actions[:, t], pairs * happened.unsqueeze(2))
        message = back_from(ahead, actions[:, t])
        backward = message / message.amax(dim=-1, keepdim=True).clamp(min=IMPOSSIBLE)
        joint = beliefs[t] * backward
        states.append(joint / joint.sum(dim=-1, keepdim=True).clamp(min=IMPOSSIBLE))
    posterior = th.stack(states[::-1], dim=1) * mask.unsqueeze(2)
    return Smoothed(posterior, counts.permute(1, 2, 0), log_evidence)


def outcome_counts(outcomes: th.Tensor, states: th.Tensor, n_outcomes: int) -> th.Tensor:
    """
    ``sum_t [o_t = o] q(s_t = s)``: what the Dirichlet counts of A grow by.

    :param outcomes: numbers of one modality, shape (n_steps,)
    :param states: q(s_t), shape (n_steps, n_states)
    :param n_outcomes: number of outcomes of the modality
    :return: shape (n_outcomes, n_states)
    """
    return states.new_zeros(n_outcomes, states.shape[-1]).index_add_(0, outcomes, states)
