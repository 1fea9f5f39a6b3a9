"""Plans over beliefs about numbered hidden states: which beliefs may come, and what they are worth."""

from typing import Any, NamedTuple

import torch as th
from torch import nn

from sb3_dai.equations.hidden_states import IMPOSSIBLE
from sb3_dai.equations.point_values import Decisions, action_values, blind_values, branches, point_based_values

N_POINTS = 256
"""Beliefs whose values are worked out."""
N_CHAINS, N_STEPS = 32, 30
"""Simulated courses of events of one round, and their steps, from scratch."""
N_MORE_STEPS = 4
"""Their steps where the points of an earlier plan are known."""
N_ROUNDS = 4
"""Of simulation and value iteration, for a plan from scratch."""
N_BRANCHES = 8
"""Outcomes of an action that are told apart, the most probable ones."""
N_SWEEPS = 40
"""Of value iteration in one round, at most."""
TOLERANCE = 1e-3
"""Change of a value with which it stops, in units of the largest payment."""
GRAIN = 50.0
"""Beliefs that agree to 1 / 50 in each state are the same point."""
MAX_GAMMA = 0.999
"""Discount factor of plans, at most: without one, values may be infinite."""


class Plan(NamedTuple):
    """What to do in a world, as one believes it to be."""

    world: Decisions
    """It."""
    vectors: th.Tensor
    """Values of ways to go on in each state: V(b) is the largest product with b, shape (n_vectors, n_states)."""
    points: th.Tensor
    """The beliefs that they were found for, shape (n_points, n_states)."""

    def values(self, beliefs: th.Tensor) -> th.Tensor:
        """
        :param beliefs: shape (n, n_states)
        :return: V, what can be had from each, shape (n,)
        """
        return (beliefs @ self.vectors.T).max(dim=1).values


class KeptPlan(nn.Module):
    """A plan, or none yet, that is saved and loaded with the module that has it."""

    def __init__(self) -> None:
        super().__init__()
        for name in (*Decisions._fields, *Plan._fields[1:]):
            self.register_buffer(name, th.empty(0))

    @property
    def plan(self) -> Plan | None:
        """The plan; None if there is none."""
        buffers = dict(self.named_buffers())
        if buffers["vectors"].numel() == 0:
            return None
        return Plan(Decisions(*(buffers[name] for name in Decisions._fields)), buffers["vectors"], buffers["points"])

    def keep(self, plan: Plan) -> None:
        """
        :param plan: to be kept in the place of the one before
        """
        for name, value in {**plan.world._asdict(), "vectors": plan.vectors, "points": plan.points}.items():
            setattr(self, name, value)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Of any size. What was saved before plans were has none
        for name in dict(self.named_buffers()):
            state_dict.setdefault(prefix + name, th.empty(0))
            setattr(self, name, th.empty_like(state_dict[prefix + name], device=getattr(self, name).device))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _seen(predicted: th.Tensor, likelihood: th.Tensor, generator: th.Generator) -> th.Tensor:
    """
    :param predicted: p(s), shape (n, n_states)
    :param likelihood: A of all modalities as one, shape (n_outcomes, n_states)
    :param generator: of random numbers
    :return: the beliefs after outcomes that are drawn, shape (n, n_states)
    """
    outcomes = th.multinomial((predicted @ likelihood.T).clamp(min=IMPOSSIBLE), 1, generator=generator).squeeze(1)
    joint = predicted * likelihood[outcomes]
    return joint / joint.sum(dim=1, keepdim=True).clamp(min=IMPOSSIBLE)


def simulated(
    world: Decisions, gamma: float, vectors: th.Tensor | None, start: th.Tensor, n_steps: int, generator: th.Generator
) -> th.Tensor:
    """
    Beliefs that may come: of some courses of events that act at random, of others that act by the plan so far, and of all
    between these.

    :param world: to act in. Episodes that end start anew
    :param gamma: discount factor
    :param vectors: of the plan so far; None acts at random
    :param start: beliefs to start from, shape (n, n_states)
    :param n_steps: number of steps
    :param generator: of random numbers
    :return: shape (n_steps * n, n_states)
    """
    n, n_actions, device = len(start), world.rewards.shape[1], world.rewards.device
    going_on = (world.transition * world.continues).permute(2, 0, 1)
    beliefs, share = [start], th.linspace(0.0, 1.0, n, device=device)
    for _ in range(n_steps):
        actions = th.randint(n_actions, (n,), generator=generator, device=device)
        if vectors is not None:
            values, _ = action_values(beliefs[-1], branches(beliefs[-1], world, N_BRANCHES), world, gamma, vectors)
            by_plan = th.rand(n, generator=generator, device=device) < share
            actions = th.where(by_plan, values.argmax(dim=1), actions)
        after = (going_on[actions] @ beliefs[-1].unsqueeze(2)).squeeze(2)
        lasts = after.sum(dim=1, keepdim=True)
        ends = th.rand(n, 1, generator=generator, device=device) >= lasts
        predicted = th.where(ends, world.initial, after / lasts.clamp(min=IMPOSSIBLE))
        beliefs.append(_seen(predicted, world.likelihood, generator))
    return th.cat(beliefs[1:])


def distinct_points(beliefs: th.Tensor, n: int, generator: th.Generator) -> th.Tensor:
    """
    :param beliefs: shape (n_beliefs, n_states)
    :param n: number of points at most, chosen at random
    :param generator: of random numbers
    :return: one of those that are nearly the same each, shape (n_points, n_states)
    """
    same = (beliefs * GRAIN).round().unique(dim=0, return_inverse=True)[1]
    first = same.new_full((int(same.max()) + 1,), len(beliefs))
    points = beliefs[first.scatter_reduce_(0, same, th.arange(len(beliefs), device=same.device), "amin")]
    return points[th.randperm(len(points), generator=generator, device=points.device)[:n]]


def make_plan(world: Decisions, gamma: float, seed: int, points: th.Tensor | None = None) -> Plan:
    """
    Rounds of simulation, whose beliefs become points, and of point-based value iteration.

    :param world: to decide in
    :param gamma: discount factor
    :param seed: of random numbers
    :param points: of an earlier plan, from which it takes few steps, shape (n_points, n_states); None to start from scratch
    :return: the plan
    """
    gamma = min(gamma, MAX_GAMMA)
    generator = th.Generator(world.rewards.device).manual_seed(seed)
    tolerance = TOLERANCE * float(world.rewards.abs().max())
    blind = blind_values(world, gamma)
    first = _seen(world.initial.expand(N_CHAINS, -1), world.likelihood, generator)
    n_rounds, n_steps = (N_ROUNDS, N_STEPS) if points is None else (1, N_MORE_STEPS)
    vectors = blind if points is None else point_based_values(points, world, gamma, blind, N_BRANCHES, N_SWEEPS, tolerance)
    for i in range(n_rounds):
        start = first
        if points is not None:
            start = th.cat([first[: N_CHAINS // 2], points])[th.randperm(N_CHAINS // 2 + len(points), generator=generator)]
        new = simulated(world, gamma, vectors, start[:N_CHAINS], n_steps, generator)
        known = th.cat([first, new]) if points is None else th.cat([points, first, new])
        points = distinct_points(known, N_POINTS * (i + 1) // n_rounds, generator)
        vectors = th.cat([vectors, blind])
        vectors = point_based_values(points, world, gamma, vectors, N_BRANCHES, N_SWEEPS, tolerance)
    assert points is not None
    return Plan(world, vectors, points)
