"""Prior preferences, against numbers worked out by hand."""

import math

import torch as th
from helpers import close

from sb3_dai.equations import preference


def test_gaussian_preference():
    outcome = th.tensor([[1.0, 2.0], [3.0, 2.0], [1.0, 10.0]])
    goal, std = th.tensor([1.0, 2.0]), th.tensor([2.0, 4.0])
    # One and two standard deviations away
    close(preference.gaussian_preference(outcome, goal, std), [[0.0], [-0.5], [-2.0]])
    # A background of density 0.1: at the goal it is still 1
    expected = [[0.0], [math.log(0.9 * math.exp(-0.5) + 0.1)], [math.log(0.9 * math.exp(-2.0) + 0.1)]]
    close(preference.gaussian_preference(outcome, goal, std, math.log(0.1)), expected)


def test_the_background_bounds_the_preference():
    far = th.tensor([[1e4], [1e18]])
    close(preference.gaussian_preference(far, th.tensor(0.0), th.tensor(1.0), -10.0), [[-10.0], [-10.0]])


def test_an_outcome_that_lasts_for_ever():
    # 3 + 0.75 3 + 0.75^2 3 + ... = 12
    close(preference.absorbed(th.tensor([[-3.0], [-3.0]]), th.tensor([[0.0], [1.0]]), 0.75), [[-3.0], [-12.0]])
