"""Learning the tables of hidden states from several starts, of which the one of the lowest free energy stays."""

import numpy as np
import torch as th

from sb3_dai.equations.dirichlet import dirichlet_divergence
from sb3_dai.world_model.hidden_states import HiddenStateModel
from sb3_dai.world_model.tables import Episodes

MIN_IMPROVEMENT = 1e-4
"""Free energy in nats a step that new numbers of the states have to be worth."""
FIRST_PRIOR_SHARE, FIRST_DATA_SHARE, N_NOISY_SWEEPS, NOISE = 0.01, 0.1, 15, 0.3
"""Of a random start: part of the prior counts and power of the likelihood at first, sweeps until both are 1, noise after each
(Ueda & Nakano 1998, "Deterministic annealing EM algorithm")."""


@th.no_grad()
def free_energy(model: HiddenStateModel, episodes: Episodes) -> float:
    """
    The variational free energy of whole episodes, with a belief about what is paid and point estimates of A, B and D:
    ``KL[q(R) || p(R)] - log p(o, payments | actions)``, of which the second term has the expected logs of R (Beal 2003,
    "Variational algorithms for approximate Bayesian inference", section 3.4). The first one says that a state which pays the
    same each time is simpler than one that pays now this, now that.

    :param model: whose counts of payments are q(R)
    :param episodes: what was seen, done and paid
    :return: in nats a step
    """
    paid = model.payments
    counts, prior = (paid.sharing.distinct(table).double() for table in (paid.known(), paid.prior[: int(paid.n_known)]))
    complexity = float(dirichlet_divergence(counts, prior).sum()) if len(counts) else 0.0
    return (complexity - model.log_evidence(episodes)) / episodes.n_steps()


@th.no_grad()
def learn_from_many_starts(model: HiddenStateModel, episodes: Episodes, n_starts: int, n_sweeps: int = 5) -> None:
    """
    Learn anew from what is known now and from random starts, every second one of which forgets it before: smoothing finds the
    nearest optimum alone. The one of the lowest free energy stays. States may have other numbers then.

    :param model: that learns
    :param episodes: all that is to be remembered
    :param n_starts: number of random starts
    :param n_sweeps: at most, of a random start ten times as many
    """
    model.learn(episodes, n_sweeps)
    if n_starts == 0:
        return
    best = free_energy(model, episodes)
    for start in range(n_starts):
        known = [counts.clone() for counts, _ in model.counted()]
        if forgets := start % 2 == 0:
            for counts, prior in model.counted():
                counts.copy_(prior)
            model.scatter(1.0)
        for progress in np.linspace(1.0, 0.0, N_NOISY_SWEEPS):
            share = FIRST_PRIOR_SHARE**progress if forgets else 1.0
            model.learn(episodes, 1, prior_share=share, data_share=FIRST_DATA_SHARE**progress)
            model.scatter(NOISE)
        model.learn(episodes, 10 * n_sweeps, expected=True)
        found = free_energy(model, episodes)
        if found < best - MIN_IMPROVEMENT:
            best = found
        else:
            for (counts, _), before in zip(model.counted(), known, strict=True):
                counts.copy_(before)
