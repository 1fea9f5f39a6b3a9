"""What an action pays in a hidden state, and whether it ends the episode: one more outcome that is counted."""

import torch as th
from torch import nn

from sb3_dai.equations.salience import state_gains
from sb3_dai.world_model.sharing import Sharing

MAX_PAYMENTS = 16
"""Pairs of payment and end that are told apart. Further ones count as the nearest of these."""
PRIOR_COUNT = 0.1
"""Of each pair that was met, for each state and action: small, since most worlds pay the same each time."""
TOLERANCE = 1e-5
"""Payments that differ by less are the same, in units of the largest one or of 1."""


def drawn_distributions(counts: th.Tensor) -> th.Tensor:
    """
    :param counts: Dirichlet counts, shape (n, ...)
    :return: a draw of each distribution over the first axis, same shape
    """
    # In double precision: of small counts most of the gamma variables are tiny
    drawn = th.distributions.Dirichlet(counts.double().movedim(0, -1), validate_args=False).sample().movedim(-1, 0)
    drawn = drawn.to(counts.dtype)
    is_one = drawn.sum(dim=0, keepdim=True) > 0.5  # All may be too tiny, or not a number
    return th.where(is_one, drawn, counts / counts.sum(dim=0))


class PaymentCounts(nn.Module):
    """
    Dirichlet counts of the pairs (payment, end of the episode) of each state and action, ``R[v, s, a]``. A pair is known from
    the time it is met.

    :param n_states: number of hidden states
    :param n_actions: number of actions
    :param sharing: which states share their counts; none by default
    """

    counts: th.Tensor
    prior: th.Tensor
    values: th.Tensor
    n_known: th.Tensor

    def __init__(self, n_states: int, n_actions: int, sharing: Sharing | None = None) -> None:
        super().__init__()
        self.sharing = sharing or Sharing((n_states,), (0,))
        self.register_buffer("prior", th.full((MAX_PAYMENTS, n_states, n_actions), PRIOR_COUNT))
        self.register_buffer("counts", self.prior.clone())
        self.register_buffer("values", th.zeros(MAX_PAYMENTS, 2))
        self.register_buffer("n_known", th.tensor(0))

    def number(self, pairs: th.Tensor) -> th.Tensor:
        """
        :param pairs: payment, and 1 where the episode ended, shape (..., 2)
        :return: number of each pair, shape (...). New ones get the next free number, or that of the nearest
        """
        rows = pairs.reshape(-1, 2)
        for pair in rows.unique(dim=0):
            n = int(self.n_known)
            if n < MAX_PAYMENTS and not (self._distance(pair[None]) <= TOLERANCE).any():
                self.values[n] = pair
                self.n_known += 1
        return self._distance(rows).argmin(dim=1).reshape(pairs.shape[:-1])

    def _distance(self, pairs: th.Tensor) -> th.Tensor:
        """
        :param pairs: shape (n, 2)
        :return: from each known pair; one that ends an episode is far from one that does not, shape (n, n_known)
        """
        known = self.values[: int(self.n_known)]
        scale = known[:, 0].abs().max().clamp(min=1.0) if len(known) else 1.0
        apart = (pairs[:, None] - known).abs()
        return apart[:, :, 0] / scale + 1e6 * apart[:, :, 1]

    def known(self) -> th.Tensor:
        """
        :return: counts of the pairs that were met, shape (n_known, n_states, n_actions)
        """
        return self.counts[: int(self.n_known)]

    def log_likelihood(self, numbers: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """
        What payments say about the states in which they were made.

        :param numbers: of the payments, shape (n,)
        :param actions: number of each action, same shape
        :return: log R[v, s, a], shape (n, n_states)
        """
        counts = self.known()
        return (counts / counts.sum(dim=0)).log().permute(0, 2, 1)[numbers, actions]

    def count(self, numbers: th.Tensor, actions: th.Tensor, states: th.Tensor) -> None:
        """
        :param numbers: of the payments, shape (n,)
        :param actions: number of each action, same shape
        :param states: probability of the states in which they were made, shape (n, n_states)
        """
        self.counts.permute(0, 2, 1).index_put_((numbers, actions), self.sharing.pooled(states), accumulate=True)

    def expected(self, draws: bool = False) -> tuple[th.Tensor, th.Tensor]:
        """
        :param draws: whether to draw what is not known for certain, instead of the mean
        :return: payment, and probability that the episode ends, shapes (n_states, n_actions)
        """
        counts = self.known()
        if len(counts) == 0:
            return th.zeros_like(self.counts[0]), th.zeros_like(self.counts[0])
        shares = self.sharing.of_first(drawn_distributions(counts)) if draws else counts / counts.sum(dim=0)
        paid, ends = th.tensordot(self.values[: len(counts)], shares, dims=([0], [0]))
        return paid, ends

    def gains(self) -> th.Tensor:
        """
        :return: what an action would teach about what it pays if the state were seen, in nats, shape (n_states, n_actions)
        """
        counts = self.known()
        return state_gains(counts) if len(counts) > 1 else th.zeros_like(self.counts[0])
