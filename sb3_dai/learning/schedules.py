"""Schedules of training: functions of the progress remaining, from 1 at its beginning to 0 at its end."""

import math
from typing import Any

from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import LinearSchedule

from sb3_dai.checks import value_at

LEARNING_RATE = LinearSchedule(2e-3, 2e-4, 1.0)
"""Fast at first, and a tenth of that by the end, so that the final checkpoint is not one of an oscillation."""

EPISTEMIC_WEIGHT = LinearSchedule(0.6, 0.0, 0.75)
"""Curious at first, and for the extrinsic value alone in the last quarter."""

PESSIMISM = LinearSchedule(0.0, 1.0, 1.0)
"""Critics are averaged at first, when a little known way is to be tried, and the worst counts in the end."""

ENTROPY = LinearSchedule(0.7, 0.2, 0.5)
"""Target of the policy's entropy for choices, as a share of the uniform policy's."""

AVERAGING_DECAY = 19.0
"""eta of :func:`averaging_rate`."""


def target_entropy_at(progress_remaining: float, target: float | str | Schedule, actions: Any) -> float:
    """
    :param progress_remaining: from 1 at the beginning to 0 at the end of training
    :param target: in nats, a schedule of it, or "auto"
    :param actions: the action model
    :return: what an automatic precision aims at, in nats. "auto" is minus the number of dimensions for ``Box`` actions
        (Haarnoja et al. 2018, arXiv:1812.05905), and falls from 0.7 to 0.2 of the uniform policy's over the first half of
        training for others.
    """
    if target != "auto":
        return value_at(progress_remaining, "target_entropy", target, -math.inf)
    if actions.reads_actions:
        return -float(actions.code_dim)
    return value_at(progress_remaining, "target_entropy", ENTROPY, 0.0) * actions.max_entropy


def averaging_rate(n_steps: int) -> float:
    """
    The share of the newest in an average of all iterates in which the t-th weighs about t^eta: of the last twentieth of
    training above all, however long that is. Polynomial-decay averaging (Shamir & Zhang 2013, arXiv:1212.1824, section 4).

    :param n_steps: number of iterates so far, with the newest, at least 1
    :return: (eta + 1) / (n + eta), 1 at first
    """
    return (AVERAGING_DECAY + 1.0) / (n_steps + AVERAGING_DECAY)
