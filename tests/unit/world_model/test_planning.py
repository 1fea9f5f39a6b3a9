"""Plans over beliefs, beside what is best in known worlds."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th

import sb3_dai.envs
from sb3_dai.equations.point_values import Decisions
from sb3_dai.equations.salience import joint_likelihood
from sb3_dai.world_model.planning import distinct_points, make_plan


def known(name, **kwargs):
    world = gym.make(f"sb3_dai/{name}", **kwargs).unwrapped
    matrices = world.observation_matrix
    matrices = [matrices] if isinstance(matrices, np.ndarray) else matrices
    B = world.transition_matrix
    rewards, ends = ((B * table).sum(axis=0) for table in (world.reward_matrix, world.termination_matrix))
    likelihood = joint_likelihood([th.tensor(matrix) for matrix in matrices]).numpy()
    tables = B, likelihood, world.initial_distribution, rewards, 1.0 - ends
    return world, Decisions(*(th.tensor(table).float() for table in tables))


def best(world, gamma, horizon):
    tables = world.transition_matrix, world.observation_matrix, world.initial_distribution, world.reward_matrix
    return sb3_dai.envs.plan_over_beliefs(*tables, horizon, world.termination_matrix, discount=gamma).optimal_return


@pytest.mark.parametrize(("name", "share"), [("TMaze-v0", 0.999), ("TigerOnce-v0", 0.99), ("AliasedGrid-v0", 0.85)])
def test_plans_are_worth_nearly_as_much_as_the_best(name, share):
    world, decisions = known(name)
    plan = make_plan(decisions, 0.9, seed=0)
    first = decisions.likelihood * decisions.initial  # Not normalised: values of first beliefs times their probability
    value, optimum = (first @ plan.vectors.T).max(dim=1).values.sum().item(), best(world, 0.9, 60)
    assert share * optimum <= value <= optimum + 1e-3


def test_points_of_another_plan_are_a_start():
    _, decisions = known("AliasedGrid-v0")
    first = make_plan(decisions, 0.9, seed=0)
    again = make_plan(decisions, 0.9, seed=1, points=first.points)
    other = make_plan(decisions, 0.9, seed=0)
    assert (first.vectors == other.vectors).all(), "the same seed makes the same plan"
    gained = again.values(first.points) - first.values(first.points)
    assert gained.mean() > -1e-3


def test_points_that_are_nearly_the_same_are_one():
    points = th.tensor([[0.5, 0.5], [0.501, 0.499], [0.9, 0.1], [0.0, 1.0]])
    found = distinct_points(points, 10, th.Generator().manual_seed(0))
    assert sorted(found[:, 0].tolist()) == pytest.approx([0.0, 0.5, 0.9])
    assert len(distinct_points(points, 2, th.Generator().manual_seed(0))) == 2
