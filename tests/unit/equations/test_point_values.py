"""Point-based value iteration, against numbers worked out by hand."""

import pytest
import torch as th
from helpers import close

from sb3_dai.equations.point_values import Decisions, action_values, blind_values, branches, point_based_values, state_values

#: States: reward left, reward right. Actions: listen, left, right. A door ends the episode
PAID = th.tensor([[-1.0, 10.0, -100.0], [-1.0, -100.0, 10.0]])
TIGER = Decisions(
    transition=th.eye(2).unsqueeze(2).expand(2, 2, 3),
    likelihood=th.tensor([[0.85, 0.15], [0.15, 0.85]]),
    initial=th.tensor([0.5, 0.5]),
    rewards=PAID,
    continues=th.tensor([[1.0, 0.0, 0.0]]).expand(2, -1),
)
UNKNOWN = th.tensor([[0.5, 0.5]])


def test_state_values():
    # Two states, stay or go to the other; being in state 1 pays 1. From state 0: go, then stay
    rewards, transition = th.tensor([[0.0, 0.0], [1.0, 1.0]]), th.stack([th.eye(2), th.eye(2).flip(0)], dim=2)
    close(state_values(rewards, transition, 0.5, 1), [0.0, 1.0])
    close(state_values(rewards, transition, 0.5, 2), [0.5, 1.5])
    close(state_values(rewards, transition, 0.5, 50), [1.0, 2.0])
    close(state_values(rewards, transition, 0.5, 1, th.tensor([1.0, 2.0])), [1.0, 2.0])


def test_always_the_same_action():
    # To listen for ever costs 1 + 0.9 + 0.81 + ... = 10
    close(blind_values(TIGER, 0.9), [[-10.0, -10.0], [10.0, -100.0], [-100.0, 10.0]])


def test_values_of_actions():
    vectors = blind_values(TIGER, 0.9)
    values, best = action_values(UNKNOWN, branches(UNKNOWN, TIGER, 2), TIGER, 0.9, vectors)
    # A growl from the left has probability 0.5, and the left door then pays 0.85 * 10 - 0.15 * 100 = -6.5: less is lost than
    # by listening for ever. It is the same on the right: -1 - 0.9 * 6.5
    close(values, [[-6.85, -45.0, -45.0]])
    assert best[0, 0].tolist() == [1, 2]


def test_one_sweep_and_more():
    vectors = blind_values(TIGER, 0.9)
    close(point_based_values(UNKNOWN, TIGER, 0.9, vectors, 2, 1), [[-6.85, -6.85]])
    # With beliefs after two equal growls, and after one, as points a door is opened after two: 10 p - 100 (1 - p) where
    # p = 0.7225 / 0.745
    sure, growl = th.tensor([[0.7225, 0.0225]]) / 0.745, th.tensor([[0.85, 0.15]])
    points = th.cat([UNKNOWN, sure, sure.flip(1), growl, growl.flip(1)])
    found = point_based_values(points, TIGER, 0.9, vectors, 2, 100)
    value = (points @ found.T).max(dim=1).values
    opened, heard, unknown = value[1].item(), value[3].item(), value[0].item()
    assert opened == pytest.approx((7.225 - 2.25) / 0.745, rel=1e-5)
    assert heard == pytest.approx(-1 + 0.9 * (0.745 * opened + 0.255 * unknown), rel=1e-4)
    assert unknown == pytest.approx(-1 + 0.9 * heard, rel=1e-4)


def test_a_value_never_falls_below_where_it_began():
    better = th.tensor([[5.0, 5.0]])
    close(point_based_values(UNKNOWN, TIGER, 0.9, better, 2, 3), [[5.0, 5.0]])


def test_improbable_outcomes_become_one():
    world = TIGER._replace(likelihood=th.tensor([[0.6, 0.6], [0.3, 0.0], [0.0, 0.3], [0.1, 0.1]]))
    seen = branches(th.tensor([[0.9, 0.1]]), world, 2)
    close(seen.likelihood[0, 0], [[0.6, 0.6], [0.3, 0.0], [0.1, 0.4]])
    close(seen.joint[0, 0], [[0.54, 0.06], [0.27, 0.0], [0.09, 0.04]])
    assert not seen.joint[0, 1:].any(), "nothing follows an end"
    assert branches(UNKNOWN, world, 4).likelihood.shape[2] == 4
