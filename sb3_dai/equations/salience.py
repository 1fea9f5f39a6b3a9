"""Expected information about hidden states (salience) and about what is counted of them (novelty), in nats."""

from collections.abc import Sequence
from typing import NamedTuple

import torch as th

from sb3_dai.equations.information_gain import dirichlet_information_gain


class InformationGains(NamedTuple):
    """What is expected to be learned by each action, in nats, shapes (batch, n_actions)."""

    salience: th.Tensor
    """About the next state."""
    novelty_A: th.Tensor
    """About the likelihood of outcomes."""
    novelty_B: th.Tensor
    """About transitions."""
    novelty_R: th.Tensor
    """About what is paid."""

    def total(self) -> th.Tensor:
        """
        :return: the sum, shape (batch, n_actions)
        """
        return self.salience + self.novelty_A + self.novelty_B + self.novelty_R


def joint_likelihood(likelihoods: Sequence[th.Tensor]) -> th.Tensor:
    """
    All modalities as one: ``A[(o_1, .., o_M), s] = prod_m A_m[o_m, s]``.

    :param likelihoods: A of each modality, shape (n_outcomes, n_states)
    :return: shape (product of n_outcomes, n_states); the last modality's outcome changes fastest
    """
    joint = likelihoods[0]
    for matrix in likelihoods[1:]:
        joint = (joint.unsqueeze(1) * matrix).flatten(end_dim=1)
    return joint


def entropy(probabilities: th.Tensor) -> th.Tensor:
    """
    :param probabilities: shape (..., n)
    :return: in nats, shape (..., 1)
    """
    return -th.xlogy(probabilities, probabilities).sum(dim=-1, keepdim=True)


def state_information_gain(predicted: th.Tensor, likelihood: th.Tensor) -> th.Tensor:
    """
    What the next outcome is expected to say about the next state, ``H[A p] - sum_s p(s) H[A_s]`` (salience, the expected
    divergence of posterior from prior; Friston et al. 2017, "Active inference: a process theory").

    :param predicted: p(s'), shape (..., n_states)
    :param likelihood: A of all modalities as one, see :func:`joint_likelihood`, shape (n_outcomes, n_states)
    :return: shape (..., 1), never negative
    """
    expected = predicted @ entropy(likelihood.T)
    return (entropy(predicted @ likelihood.T) - expected).clamp(min=0.0)


def dirichlet_increment_divergence(counts: th.Tensor, total: th.Tensor, increment: th.Tensor) -> th.Tensor:
    """
    ``KL[ Dir(alpha + c e_o) || Dir(alpha) ]``: what a Dirichlet belief learns when the count of one outcome grows by c.

    :param counts: alpha_o, positive
    :param total: sum of alpha over outcomes, shape that broadcasts to that of ``counts``
    :param increment: c, not negative, likewise
    :return: in nats, shape of the arguments together
    """
    dtype = counts.dtype
    counts, total, increment = counts.double(), total.double(), increment.double()  # Of large counts little would be left
    grown, grown_total = counts + increment, total + increment
    log_ratio = th.lgamma(grown_total) - th.lgamma(grown) - th.lgamma(total) + th.lgamma(counts)
    return (log_ratio + increment * (th.digamma(grown) - th.digamma(grown_total))).clamp(min=0.0).to(dtype)


def likelihood_information_gain(predicted: th.Tensor, counts: th.Tensor) -> th.Tensor:
    """
    What the counts of A are expected to gain from the next outcome:
    ``sum_o p(o) sum_s KL[ Dir(alpha_s + q(s|o) e_o) || Dir(alpha_s) ]`` with the posterior q(s|o) of the predicted state.
    Where the state is certain it is the exact mutual information of outcome and parameters
    (:func:`~sb3_dai.equations.information_gain.dirichlet_information_gain`). An outcome of an unknown state teaches little:
    the gain of n equally probable states is of the order 1/n.

    :param predicted: p(s'), shape (batch, n_states)
    :param counts: alpha of one modality, shape (n_outcomes, n_states)
    :return: shape (batch, 1)
    """
    total = counts.sum(dim=0)
    joint = predicted.unsqueeze(1) * (counts / total)
    evidence = joint.sum(dim=2, keepdim=True)
    gains = dirichlet_increment_divergence(counts, total, joint / evidence.clamp(min=th.finfo(joint.dtype).tiny))
    return (evidence * gains).sum(dim=(1, 2)).unsqueeze(1)


def state_gains(counts: th.Tensor) -> th.Tensor:
    """
    Information gain of each column of Dirichlet counts: of A, what an outcome of each state teaches; of B, what each pair
    (s, a) does.

    :param counts: alpha, positive, shape (n_outcomes, ...)
    :return: shape of the other axes
    """
    return dirichlet_information_gain(counts.movedim(0, -1)).squeeze(-1)
