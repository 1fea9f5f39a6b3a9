"""How smoothing leaves a poor optimum: random starts, and other labels of some of the hidden states."""

import numpy as np
import torch as th

from sb3_dai.world_model.hidden_states import HiddenStateModel
from sb3_dai.world_model.tables import Episodes

MIN_IMPROVEMENT = 1e-4
"""Log-evidence in nats a step that what was learned anew has to be worth."""
FIRST_PRIOR_SHARE, FIRST_DATA_SHARE, N_NOISY_SWEEPS, NOISE_OF_STARTS = 0.01, 0.1, 15, 0.3
"""Of a random start: part of the prior counts and power of the likelihood at first, sweeps until both are 1, noise after each
(Ueda & Nakano 1998, "Deterministic annealing EM algorithm")."""
N_DRAWS = 100
"""Of other labels at most, until some fit what is given."""


@th.no_grad()
def learn_from_many_starts(model: HiddenStateModel, episodes: Episodes, n_starts: int, n_sweeps: int = 5) -> float:
    """
    As :meth:`HiddenStateModel.learn`, from what is known now and from other starts: smoothing finds the nearest optimum alone.
    Random ones, every second of which forgets what was known, and twice as many with other labels of some states
    (:func:`other_labels`). The one of the highest log-evidence stays. States may have other numbers then.

    :param model: that learns
    :param episodes: all that is to be remembered
    :param n_starts: number of random starts
    :param n_sweeps: at most, of a random start ten times as many, with other labels twice as many
    :return: log-evidence, in nats a step
    """
    best = model.learn(episodes, n_sweeps)
    for start in range(3 * n_starts):
        labels = None if start < n_starts else other_labels(model)
        if start >= n_starts and labels is None:
            break
        known = [counts.clone() for counts, _ in model.counted()]
        if labels is None:
            found = _learn_from_random_start(model, episodes, 10 * n_sweeps, forgets=start % 2 == 0)
        else:
            found = model.learn(episodes, 2 * n_sweeps, relabelling=labels)
        if found > best + MIN_IMPROVEMENT:
            best = found
        else:
            for (counts, _), before in zip(model.counted(), known, strict=True):
                counts.copy_(before)
    return best


def _learn_from_random_start(model: HiddenStateModel, episodes: Episodes, n_sweeps: int, forgets: bool) -> float:
    """
    :param model: that learns
    :param episodes: all that is to be remembered
    :param n_sweeps: at most, after those with noise
    :param forgets: whether it starts from the prior, not from what is known
    :return: log-evidence, in nats a step
    """
    if forgets:
        for counts, prior in model.counted():
            counts.copy_(prior)
        model.scatter(1.0)
    for progress in np.linspace(1.0, 0.0, N_NOISY_SWEEPS):
        share = FIRST_PRIOR_SHARE**progress if forgets else 1.0
        model.learn(episodes, 1, prior_share=share, data_share=FIRST_DATA_SHARE**progress)
        model.scatter(NOISE_OF_STARTS)
    return model.learn(episodes, n_sweeps)


def other_labels(model: HiddenStateModel) -> th.Tensor | None:
    """
    Exchange two values of one factor, in those states in which another factor has one of some random values.

    In a poor optimum of states made of factors, what a value stands for differs from one value of another factor to the next,
    such as where the reward is from one place of a cue to the next.

    :param model: of the states
    :return: another number for each state, shape (n_states,), at random among those that no given B or D tells from none; None
        if there seem to be none
    """
    sizes, numbers = model.sizes, th.arange(model.n_states)
    if len(sizes) < 2:
        return None
    given = [table for name, table in (("B", model.transition()), ("D", model.initial_states())) if not model.learns[name]]
    for _ in range(N_DRAWS):
        where, changed = th.randperm(len(sizes))[:2].tolist()
        part = th.rand(sizes[where]) < 0.5
        if sizes[changed] < 2 or part.all() or not part.any():
            continue
        old = numbers.reshape(sizes).movedim((where, changed), (0, 1))
        new = old.clone()
        one, other = th.randperm(sizes[changed])[:2].tolist()
        new[part, one], new[part, other] = old[part, other], old[part, one]
        labels = new.movedim((0, 1), (where, changed)).flatten().to(model.D.device)
        if all(th.equal(table if table.dim() == 1 else table[:, labels], table[labels]) for table in given):
            return labels
    return None
