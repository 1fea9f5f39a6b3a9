"""
Exact inference of numbered hidden states: filtering while acting, smoothing of whole episodes.

``A[o, s]`` is the probability of an outcome, one matrix a modality, ``B[s', s, a]`` that of the next state, ``D[s]`` that of
the first one (the order of axes in pymdp).
"""

from collections.abc import Callable, Sequence
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
    parts = [matrix.clamp(min=IMPOSSIBLE).log()[outcomes[..., m]] for m, matrix in enumerate(likelihoods)]
    return th.stack(parts).sum(dim=0)


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
    probabilities, successors = (of_each.permute(2, 0, 1).contiguous() for of_each in transition.topk(n_successors, dim=0))

    def ahead(f: th.Tensor, actions: th.Tensor) -> th.Tensor:
        shares = probabilities[actions] * f.unsqueeze(1)
        return th.zeros_like(f).scatter_add_(1, successors[actions].flatten(start_dim=1), shares.flatten(start_dim=1))

    def back(f: th.Tensor, actions: th.Tensor) -> th.Tensor:
        of_successors = f.gather(1, successors[actions].flatten(start_dim=1)).unflatten(1, (n_successors, n_states))
        return (probabilities[actions] * of_successors).sum(dim=1)

    return ahead, back


def filtered_states(predicted: th.Tensor, log_likelihood: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Bayes' rule: ``b'(s') = A[o, s'] p(s') / p(o)``.

    :param predicted: p(s'), shape (..., n_states)
    :param log_likelihood: log A[o, s'], same shape
    :return: b', same shape, and log p(o) in nats, shape (..., 1)
    """
    highest = log_likelihood.max(dim=-1, keepdim=True).values
    joint = predicted * (log_likelihood - highest).exp()
    evidence = joint.sum(dim=-1, keepdim=True)
    # Where what is likely was held impossible, to the precision of the numbers, the prediction stands
    lost = evidence <= 0.0
    joint = th.where(lost, predicted, joint)
    return joint / joint.sum(dim=-1, keepdim=True), evidence.clamp(min=IMPOSSIBLE).log() + highest


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
    forward, log_evidence = filtered_states(initial.expand_as(log_likelihood[:, 0]), log_likelihood[:, 0])
    beliefs = [forward]
    for t in range(1, n_steps):
        predicted = ahead_of(beliefs[-1], actions[:, t - 1])
        belief, evidence = filtered_states(predicted, log_likelihood[:, t])
        is_step = mask[:, t : t + 1]
        beliefs.append(th.where(is_step, belief, beliefs[-1]))
        log_evidence = log_evidence + evidence * is_step

    scaled = (log_likelihood - log_likelihood.max(dim=-1, keepdim=True).values).exp()
    backward, states = th.ones_like(forward), [beliefs[-1]]
    counts = th.zeros_like(by_action)
    for t in range(n_steps - 2, -1, -1):
        is_step, ahead = mask[:, t + 1 : t + 2], scaled[:, t + 1] * backward
        if counts_transitions:
            pairs = ahead.unsqueeze(2) * by_action[actions[:, t]] * beliefs[t].unsqueeze(1)
            pairs = pairs / pairs.sum(dim=(1, 2), keepdim=True).clamp(min=IMPOSSIBLE)
            happened = is_step if times is None else is_step * times.unsqueeze(1)
            counts.index_add_(0, actions[:, t], pairs * happened.unsqueeze(2))
        message = back_from(ahead, actions[:, t])
        backward = th.where(is_step, message / message.max(dim=-1, keepdim=True).values.clamp(min=IMPOSSIBLE), backward)
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
