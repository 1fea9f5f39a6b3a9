"""A model of numbered hidden states: Dirichlet counts of A, B and D, exact beliefs, and what both still have to learn."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch as th
from torch import nn

from sb3_dai.checks import check_choice
from sb3_dai.equations import hidden_states as inference
from sb3_dai.equations.point_values import Decisions
from sb3_dai.equations.salience import (
    InformationGains,
    joint_likelihood,
    likelihood_information_gain,
    state_gains,
    state_information_gain,
)
from sb3_dai.world_model.payments import PaymentCounts, drawn_distributions
from sb3_dai.world_model.sharing import Sharing, checked_dependencies, factor_sizes
from sb3_dai.world_model.tables import Episodes, checked_tables

MAX_NUMBERS = 4_000_000
"""Smoothed at once, of all episodes together: pairs of states in a step if B is learned, or else states in all steps."""
MIN_COUNT = 1e-6
"""Smallest count after random factors."""
MAX_CHANGE = 1e-3
"""Of counts, with which smoothing stops."""
MAX_JOINT_OUTCOMES = 4096
"""With more of them the salience of several modalities is the sum of that of each."""


def _means(counts: th.Tensor) -> th.Tensor:
    """
    :param counts: Dirichlet counts, shape (n, ...)
    :return: mean of each distribution over the first axis, same shape
    """
    return counts / counts.sum(dim=0)


class HiddenStateModel(nn.Module):
    """
    A, B and D of a world whose numbered states are hidden, as in pymdp: each is given and held (``A``), or learned from prior
    counts (``pA``). Without either it is learned from a flat prior, whose counts sum to one for each distribution.

    :param n_hidden_states: number of hidden states, or of values of each factor that a state is made of, of which the last one
        changes fastest from a state to the next
    :param n_outcomes: number of outcomes of each modality
    :param n_actions: number of actions
    :param A: probability of each outcome, shape (n_outcomes, n_states), or a list of these, one a modality
    :param B: probability of the next state, shape (n_states, n_states, n_actions) as B[s', s, a]
    :param D: probability of the first state, shape (n_states,)
    :param pA: prior counts of A, positive, shape of A
    :param pB: prior counts of B, positive, shape of B
    :param pD: prior counts of D, positive, shape of D
    :param assignment: "soft" counts each state by its probability. "hard" takes the most probable one for the state, one of
        them at random if there are several: a world of which neither A nor B is known looks the same however its states are
        numbered, and soft counts cannot choose
    :param A_dependencies: for each modality the numbers of the factors that it depends on; states that agree in these share
        its counts. All factors by default
    :param R_dependencies: likewise, of what is paid
    :raises ValueError: if a table or a count does not fit
    """

    B: th.Tensor
    D: th.Tensor

    def __init__(
        self,
        n_hidden_states: int | Sequence[int],
        n_outcomes: Sequence[int],
        n_actions: int,
        A: Any = None,
        B: Any = None,
        D: Any = None,
        pA: Any = None,
        pB: Any = None,
        pD: Any = None,
        assignment: str = "soft",
        A_dependencies: Any = None,
        R_dependencies: Any = None,
    ) -> None:
        super().__init__()
        check_choice("assignment", assignment, "soft", "hard")
        self.sizes = sizes = factor_sizes(n_hidden_states)
        n_states = prod(sizes)
        self.n_states, self.n_outcomes, self.n_actions = n_states, tuple(n_outcomes), n_actions
        of_A = checked_dependencies("A_dependencies", A_dependencies, len(self.n_outcomes), len(sizes))
        self.sharing = [Sharing(sizes, factors) for factors in of_A]
        of_R = None if R_dependencies is None else [R_dependencies]
        (factors,) = checked_dependencies("R_dependencies", of_R, 1, len(sizes))
        self.assignment = assignment
        shapes: list[tuple[int, ...]] = [(n, n_states) for n in self.n_outcomes]
        self.learns = {"A": A is None, "B": B is None, "D": D is None}
        priors = [*checked_tables("A", A, pA, shapes), *checked_tables("B", B, pB, [(n_states, n_states, n_actions)])]
        priors += checked_tables("D", D, pD, [(n_states,)])
        for name, prior in zip(self._names(), priors, strict=True):
            self.register_buffer(f"prior_{name}", prior)
            self.register_buffer(name, prior.clone())
        self.payments = PaymentCounts(n_states, n_actions, Sharing(sizes, factors))
        if not all(th.equal(table, sharing.of_first(table)) for table, sharing in self._shared()):
            raise ValueError("pA, A_dependencies: states that agree in these factors are to have the same counts")

    def _names(self) -> list[str]:
        return [*(f"A_{m}" for m in range(len(self.n_outcomes))), "B", "D"]

    def counted(self) -> list[tuple[th.Tensor, th.Tensor]]:
        """
        :return: of all that is learned the counts, and those of the prior
        """
        own = [(getattr(self, name), getattr(self, f"prior_{name}")) for name in self._names() if self.learns[name[0]]]
        return [*own, (self.payments.counts, self.payments.prior)]

    def _shared(self) -> list[tuple[th.Tensor, Sharing]]:
        """
        :return: tables of which states share columns
        """
        return [*zip(self.counts_of_A(), self.sharing, strict=True), (self.payments.counts, self.payments.sharing)]

    def counts_of_A(self) -> list[th.Tensor]:
        """
        :return: Dirichlet counts of each modality, or its given probabilities, shape (n_outcomes, n_states)
        """
        return [getattr(self, name) for name in self._names()[:-2]]

    def likelihoods(self) -> list[th.Tensor]:
        """
        :return: A of each modality, the mean of its belief, shape (n_outcomes, n_states)
        """
        return [_means(counts) for counts in self.counts_of_A()]

    def transition(self) -> th.Tensor:
        """
        :return: B, the mean of its belief, shape (n_states, n_states, n_actions)
        """
        return _means(self.B)

    def initial_states(self) -> th.Tensor:
        """
        :return: D, the mean of its belief, shape (n_states,)
        """
        return _means(self.D)

    def infer(self, predicted: th.Tensor, outcomes: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param predicted: p(s') before the observation, shape (batch, n_states)
        :param outcomes: number of the outcome of each modality, shape (batch, n_modalities)
        :return: the belief after it, same shape as ``predicted``, and log p(o) in nats, shape (batch, 1)
        """
        belief, log_evidence = inference.filtered_states(predicted, inference.log_likelihood(self.likelihoods(), outcomes))
        return self.assigned(belief), log_evidence

    def assigned(self, belief: th.Tensor) -> th.Tensor:
        """
        :param belief: shape (batch, n_states)
        :return: the same, or with hard assignment one-hot codes of the most probable states
        """
        if self.assignment == "soft":
            return belief
        highest = belief >= belief.max(dim=1, keepdim=True).values * (1.0 - 1e-4)
        drawn = th.multinomial(highest.to(belief.dtype), 1)
        return th.zeros_like(belief).scatter_(1, drawn, 1.0)

    @th.no_grad()
    def filtered(self, episodes: Episodes, predicted: th.Tensor | None = None) -> th.Tensor:
        """
        :param episodes: what was seen and done
        :param predicted: p(s) before the first observations, shape (n_episodes, n_states); D by default
        :return: the belief after each observation, from those before it alone, shape (n_episodes, time, n_states)
        """
        transition, beliefs = self.transition(), list[th.Tensor]()
        log_likelihood = inference.log_likelihood(self.likelihoods(), episodes.outcomes)
        predicted = self.initial_states().expand(len(log_likelihood), -1) if predicted is None else predicted
        for t in range(log_likelihood.shape[1]):
            if t > 0:
                predicted = inference.predicted_states(beliefs[-1], transition, episodes.actions[:, t - 1])
            beliefs.append(self.assigned(inference.filtered_states(predicted, log_likelihood[:, t])[0]))
        return th.stack(beliefs, dim=1)

    @th.no_grad()
    def scatter(self, noise: float) -> None:
        """
        Multiply what is learned by random numbers of mean 1, so that smoothing can tell states apart of which the prior says
        the same.

        :param noise: standard deviation of the factors
        """
        shape = th.tensor(1.0 / noise**2)
        for counts, _ in self.counted():
            factors = th.distributions.Gamma(shape, shape).sample(counts.shape).to(counts.device)
            counts.mul_(factors).clamp_(min=MIN_COUNT)
        for counts, sharing in self._shared():
            counts.copy_(sharing.of_first(counts))

    @th.no_grad()
    def keep(self) -> None:
        """Make what is known now the prior, because the episodes that it was learned from are gone."""
        for counts, prior in self.counted():
            prior.copy_(counts)

    def predict_states(self, belief: th.Tensor) -> th.Tensor:
        """
        :param belief: about s, shape (batch, n_states)
        :return: p(s') after each action, shape (batch, n_actions, n_states)
        """
        return inference.all_predicted_states(belief, self.transition())

    def predict_going_on(self, belief: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """
        :param belief: about s, shape (batch, n_states)
        :param actions: number of each action, shape (batch,)
        :return: p(s') where the episode has not ended with the action, which says something about s, same shape as ``belief``
        """
        going_on = belief * (1.0 - self.payments.expected()[1].T[actions])
        shares = going_on / going_on.sum(dim=1, keepdim=True).clamp(min=inference.IMPOSSIBLE)
        possible = going_on.sum(dim=1, keepdim=True) > inference.IMPOSSIBLE
        return inference.predicted_states(th.where(possible, shares, belief), self.transition(), actions)

    @th.no_grad()
    def count_first(self, belief: th.Tensor, outcomes: th.Tensor) -> None:
        """
        Learn from the first observations of episodes.

        :param belief: about the state after it, shape (batch, n_states)
        :param outcomes: number of the outcome of each modality, shape (batch, n_modalities)
        """
        self._count_outcomes(outcomes, belief)
        if self.learns["D"]:
            self.D += belief.sum(dim=0)

    @th.no_grad()
    def count(self, belief: th.Tensor, actions: th.Tensor, next_belief: th.Tensor, outcomes: th.Tensor) -> None:
        """
        Learn from steps as they happen.

        :param belief: about s, shape (batch, n_states)
        :param actions: number of each action, shape (batch,)
        :param next_belief: about s', the outcome included, same shape
        :param outcomes: seen at s', number of each modality, shape (batch, n_modalities)
        """
        self._count_outcomes(outcomes, next_belief)
        if self.learns["B"]:
            # p(s, s' | o', a): of what leads to s', in proportion to how it was predicted
            matrices = self.transition().permute(2, 0, 1)[actions]
            pairs = matrices * belief.unsqueeze(1)
            pairs = pairs / pairs.sum(dim=2, keepdim=True) * next_belief.unsqueeze(2)
            self.B += th.zeros_like(self.B.permute(2, 0, 1)).index_add_(0, actions, pairs).permute(1, 2, 0)

    def _count_outcomes(self, outcomes: th.Tensor, states: th.Tensor) -> None:
        """
        :param outcomes: number of each modality, shape (n_steps, n_modalities)
        :param states: probabilities of the states, shape (n_steps, n_states)
        """
        if self.learns["A"]:
            for m, counts in enumerate(self.counts_of_A()):
                counts += inference.outcome_counts(outcomes[:, m], self.sharing[m].pooled(states), len(counts))

    @th.no_grad()
    def learn(
        self,
        episodes: Episodes,
        n_sweeps: int = 5,
        prior_share: float = 1.0,
        data_share: float = 1.0,
        relabelling: th.Tensor | None = None,
    ) -> float:
        """
        Learn anew from whole episodes, as if nothing but the prior had been known: each sweep infers the states by smoothing
        and counts them (expectation-maximisation with a Dirichlet prior). The first sweep infers with what is known now.

        :param episodes: all that is to be remembered
        :param n_sweeps: at most
        :param prior_share: what the counts of the prior are multiplied by
        :param data_share: power of the likelihood with which states are inferred
        :param relabelling: number of the state that the first sweep takes each one for, shape (n_states,); None for itself
        :return: log-evidence of the episodes before the last sweep, in nats a step
        """
        of_each = self.n_states if self.learns["B"] else episodes.mask.shape[1]
        log_evidence, parts = 0.0, episodes.chunks(max(1, MAX_NUMBERS // (of_each * self.n_states)))
        for _ in range(n_sweeps):
            before = [counts.clone() for counts, _ in self.counted()]
            tables = self.transition(), self.initial_states()
            chunks = [(chunk, data_share * self._log_likelihood(chunk)) for chunk in parts]
            if relabelling is not None:
                tables = tables[0][relabelling][:, relabelling], tables[1][relabelling]
                chunks, relabelling = [(chunk, of_states[..., relabelling]) for chunk, of_states in chunks], None
            for counts, prior in self.counted():
                counts.copy_(prior * prior_share)
            steps = episodes.mask.sum(dim=1).float()
            n_steps = steps.sum() if episodes.times is None else steps @ episodes.times
            log_evidence = sum(self._learn_from(*chunk, *tables) for chunk in chunks) / float(n_steps)
            changes = [(new - old).abs().max().item() for (new, _), old in zip(self.counted(), before, strict=True)]
            if max(changes) <= MAX_CHANGE:
                break
        return log_evidence

    def _log_likelihood(self, episodes: Episodes) -> th.Tensor:
        """
        :param episodes: what was seen and done
        :return: of what each step says about its state: outcomes, and what the action then paid, shape
            (n_episodes, time, n_states)
        """
        log_likelihood = inference.log_likelihood(self.likelihoods(), episodes.outcomes)
        if episodes.payments is not None:
            valid = episodes.mask[:, 1:]
            log_likelihood[:, :-1][valid] += self.payments.log_likelihood(episodes.payments[valid], episodes.actions[valid])
        return log_likelihood

    def _learn_from(self, episodes: Episodes, log_likelihood: th.Tensor, transition: th.Tensor, initial: th.Tensor) -> float:
        """
        :param episodes: some of them
        :param log_likelihood: of what was seen, to infer their states with, shape (n_episodes, time, n_states)
        :param transition: B, likewise
        :param initial: D, likewise
        :return: log-evidence, in nats
        """
        mask, actions, times = episodes.mask, episodes.actions, episodes.times
        times = th.ones_like(log_likelihood[:, 0, 0]) if times is None else times
        seen = inference.smoothed_states(log_likelihood, transition, initial, actions, mask, times, self.learns["B"])
        states = seen.states * times[:, None, None]
        self._count_outcomes(episodes.outcomes[mask], states[mask])
        if episodes.payments is not None:
            valid = mask[:, 1:]
            self.payments.count(episodes.payments[valid], actions[valid], states[:, :-1][valid])
        if self.learns["B"]:
            self.B += seen.transitions
        if self.learns["D"]:
            self.D += states[:, 0].sum(dim=0)
        return float((seen.log_evidence.squeeze(1) * times).sum())

    @th.no_grad()
    def information_gains(self, belief: th.Tensor) -> InformationGains:
        """
        :param belief: about s, shape (batch, n_states)
        :return: what each action is expected to teach about the state, A and B
        """
        predicted = self.predict_states(belief)
        rows, matrices = predicted.flatten(end_dim=1), self.likelihoods()
        if np.prod(self.n_outcomes) <= MAX_JOINT_OUTCOMES:
            matrices = [joint_likelihood(matrices)]
        shape = predicted.shape[:2]
        salience = th.stack([state_information_gain(rows, matrix) for matrix in matrices]).sum(dim=0).reshape(shape)
        novelty_A, novelty_B = th.zeros_like(salience), th.zeros_like(salience)
        if self.learns["A"]:
            gains = [likelihood_information_gain(rows, counts) for counts in self.counts_of_A()]
            novelty_A = th.stack(gains).sum(dim=0).reshape(shape)
        if self.learns["B"]:
            novelty_B = belief @ state_gains(self.B)
        return InformationGains(salience, novelty_A, novelty_B, belief @ self.payments.gains())

    @th.no_grad()
    def decisions(self, draws: bool) -> Decisions:
        """
        :param draws: whether to draw all that is learned from what is known of it, instead of the mean
        :return: the world to decide in, payments as rewards
        """
        of = drawn_distributions if draws else _means
        likelihoods = self.likelihoods()
        if draws and self.learns["A"]:
            drawn = [drawn_distributions(counts) for counts in self.counts_of_A()]
            likelihoods = [sharing.of_first(table) for table, sharing in zip(drawn, self.sharing, strict=True)]
        transition = of(self.B) if self.learns["B"] else self.transition()
        paid, ends = self.payments.expected(draws)
        return Decisions(transition, joint_likelihood(likelihoods), self.initial_states(), paid, 1.0 - ends)

    @th.no_grad()
    def gains_of_seen_states(self) -> th.Tensor:
        """
        Novelty of each action if the state were seen: of B, and of A in the next state.

        :return: in nats, shape (n_states, n_actions)
        """
        gains = self.payments.gains()
        if self.learns["A"]:
            entered = th.stack([state_gains(counts) for counts in self.counts_of_A()]).sum(dim=0)
            gains = gains + th.tensordot(entered, self.transition(), dims=([0], [0]))
        return gains + state_gains(self.B) if self.learns["B"] else gains
