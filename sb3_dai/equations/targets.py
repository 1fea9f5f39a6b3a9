"""Bellman targets of the expected free energy, and how several critics are aggregated."""

from collections.abc import Sequence

import torch as th


def pessimistic(efe: th.Tensor, pessimism: th.Tensor | float = 1.0) -> th.Tensor:
    """
    What several estimates of a cost come to: between their average and the worst of them, which is the maximum over value
    nets. With ``pessimism = 1`` it is clipped double Q-learning (Fujimoto et al. 2018, arXiv:1802.09477, eq. 10) with
    ``G = -Q``.

    :param efe: shape (n_critics, ...)
    :param pessimism: share of the worst, the rest being the average's, a number or shape ()
    :return: shape (...)
    """
    return th.lerp(efe.mean(dim=0), efe.max(dim=0).values, pessimism)


def aggregate_terms(efe: th.Tensor, averages: Sequence[bool], pessimism: th.Tensor | float = 1.0) -> th.Tensor:
    """
    Aggregate the critics, term by term: :func:`pessimistic`, or their mean for the terms that ask for it. The epistemic term
    does: critics differ most where least is known, and pessimism there would be the opposite of curiosity.

    :param efe: shape (n_critics, batch, n_terms, ...)
    :param averages: of each term, whether the critics are averaged
    :param pessimism: share of the worst critic in the other terms, a number or shape ()
    :return: shape (batch, n_terms, ...)
    """
    if not any(averages):
        return pessimistic(efe, pessimism)
    averaged = th.tensor(averages, device=efe.device).reshape(-1, *[1] * (efe.dim() - 3))
    return th.where(averaged, efe.mean(dim=0), pessimistic(efe, pessimism))


def aggregate_efe(
    efe: th.Tensor, weights: th.Tensor, averages: Sequence[bool], pessimism: th.Tensor | float = 1.0
) -> th.Tensor:
    """
    Aggregate the critics' estimates of ``G``, the weighted sum of its terms: :func:`pessimistic` of the sum of the terms that
    are not averaged, plus the mean of the sum of those that are.

    :param efe: shape (n_critics, batch, n_terms, ...)
    :param weights: of the terms in G, shape (n_terms,)
    :param averages: of each term, whether the critics are averaged
    :param pessimism: share of the worst critic in the other terms, a number or shape ()
    :return: shape (batch, ...)
    """
    weighted = efe * weights.reshape(-1, *[1] * (efe.dim() - 3))
    if not any(averages):
        return pessimistic(weighted.sum(dim=2), pessimism)
    averaged = [i for i, does in enumerate(averages) if does]
    others = [i for i, does in enumerate(averages) if not does]
    total = weighted[:, :, averaged].sum(dim=2).mean(dim=0)
    return total + pessimistic(weighted[:, :, others].sum(dim=2), pessimism) if others else total


def bootstrapped_efe(efe: th.Tensor, terminated: th.Tensor, discount: th.Tensor | float, next_efe: th.Tensor) -> th.Tensor:
    """
    Bellman target of the value net (van der Himst & Lanillos 2020, eq. 10, with a discount):
    ``G(s,a) = g(s,a) + discount (1 - terminated) E_Q[G(s',.)]``.

    :param efe: one-step (or n-step) EFE g, shape (batch, 1)
    :param terminated: 1 where the episode truly ended (a timeout is not an end), shape (batch, 1)
    :param discount: discount of the next value, a number or shape (batch, 1)
    :param next_efe: expected EFE at the next state, shape (batch, 1)
    :return: shape (batch, 1)
    """
    return efe + discount * (1.0 - terminated) * next_efe


def continuing_efe(
    efe: th.Tensor, terminated: th.Tensor, discount: th.Tensor | float, next_efe: th.Tensor, elsewhere: th.Tensor
) -> th.Tensor:
    """
    Bellman target of a value that does not end with the episode: after it the agent goes on, to what is on average
    expected elsewhere. So the end of an episode is, on average, neither shunned nor sought for the sake of this value
    (after Burda et al. 2019, arXiv:1810.12894, section 2.3, whose exploration bonus is not episodic).

    :param efe: one-step EFE g, shape (batch, 1)
    :param terminated: 1 where the episode truly ended, shape (batch, 1)
    :param discount: discount of the next value, a number or shape (batch, 1)
    :param next_efe: expected EFE at the next state, shape (batch, 1)
    :param elsewhere: mean of expected EFEs, shape (1,)
    :return: shape (batch, 1)
    """
    return efe + discount * (next_efe + terminated * (elsewhere - next_efe))
