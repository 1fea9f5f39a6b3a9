"""Looking ahead with numbered hidden states: a tree of actions and outcomes."""

from collections.abc import Callable

import torch as th


def sophisticated_efe(
    belief: th.Tensor,
    transition: th.Tensor,
    likelihood: th.Tensor,
    cost: Callable[[th.Tensor], th.Tensor],
    depth: int,
    gamma: float = 1.0,
    leaf: Callable[[th.Tensor], th.Tensor] | None = None,
    continues: Callable[[th.Tensor], th.Tensor] | None = None,
    precision: float | None = None,
    min_probability: float = 1.0 / 16.0,
) -> th.Tensor:
    """
    Expected free energy by a tree of actions and outcomes (Friston et al. 2021, "Sophisticated inference"):

    ``G(b,a) = g(b,a) + gamma c(b,a) sum_o p(o|b,a) sum_a' Q(a'|b') G(b',a')``

    where b' is the belief after a and o, Q the softmax of -precision G, and c the probability that the episode goes on.

    :param belief: b, shape (batch, n_states)
    :param transition: B, shape (n_states, n_states, n_actions)
    :param likelihood: A of all modalities as one, shape (n_outcomes, n_states)
    :param cost: from beliefs, shape (n, n_states), to the one-step EFE g of each action, shape (n, n_actions)
    :param depth: number of actions that are looked ahead, at least 1
    :param gamma: discount factor
    :param leaf: from beliefs after the last action to the EFE of what follows, shape (n,); None for nothing
    :param continues: from beliefs to the probability that the episode goes on after each action, shape (n, n_actions); None if
        it always does
    :param precision: inverse temperature of later actions; None takes the best
    :param min_probability: outcomes less probable than this are not followed, unless no other is; what the others lead to
        stands for them
    :return: G, shape (batch, n_actions)
    """
    efe = cost(belief)
    if depth == 1 and leaf is None:
        return efe
    predicted = th.einsum("xsa,bs->bax", transition, belief)
    probability = predicted @ likelihood.T
    likely = probability >= th.minimum(probability.max(dim=2, keepdim=True).values, probability.new_tensor(min_probability))
    kept = probability * likely
    kept = kept / kept.sum(dim=2, keepdim=True)
    branches = likely.nonzero(as_tuple=True)
    children = predicted[branches[:2]] * likelihood[branches[2]] / probability[branches].unsqueeze(1)
    if depth == 1:
        assert leaf is not None
        values = leaf(children)
    else:
        next_efe = sophisticated_efe(
            children, transition, likelihood, cost, depth - 1, gamma, leaf, continues, precision, min_probability
        )
        values = next_efe.min(dim=1).values
        if precision is not None:
            values = ((-precision * next_efe).softmax(dim=1) * next_efe).sum(dim=1)
    following = th.zeros_like(kept).index_put(branches, values).mul(kept).sum(dim=2)
    return efe + gamma * following * (1.0 if continues is None else continues(belief))
