"""Prior preferences log p~(o), in nats."""

import math

import torch as th


def gaussian_preference(outcome: th.Tensor, goal: th.Tensor, std: th.Tensor, floor: float | None = None) -> th.Tensor:
    """
    Prior preference for a goal: an unnormalised Gaussian density, 1 at the goal, mixed with a background of density e^floor:
    ``log((1 - e^floor) exp(-0.5 sum_d ((o_d - goal_d) / std_d)^2) + e^floor)``, between floor and 0.

    :param outcome: o', shape (batch, dim)
    :param goal: wanted values, shape () or (dim,)
    :param std: standard deviations around them, shape () or (dim,)
    :param floor: negative, in nats; None for no background
    :return: in nats, shape (batch, 1)
    """
    log_density = -0.5 * ((outcome - goal) / std).square().sum(dim=-1, keepdim=True)
    if floor is None:
        return log_density
    return th.logaddexp(log_density + math.log1p(-math.exp(floor)), th.full_like(log_density, floor))


def absorbed(log_prob: th.Tensor, terminated: th.Tensor, gamma: float) -> th.Tensor:
    """
    Preference for an outcome that lasts for ever where the episode ends with it: ``log p~(o') / (1 - gamma)`` there.

    :param log_prob: log p~(o'), shape (batch, 1)
    :param terminated: 1 where the episode truly ended, shape (batch, 1)
    :param gamma: discount factor, below 1
    :return: shape (batch, 1)
    """
    return log_prob * (1.0 + terminated * gamma / (1.0 - gamma))
