"""Planning with hidden states, against numbers worked out by hand."""

import pytest
import torch as th
from helpers import close

from sb3_dai.equations.deliberation import sophisticated_efe, state_values

#: States: reward left, reward right. Actions: listen, left, right
LISTENED = th.tensor([[0.85, 0.15], [0.15, 0.85]])
STAYS = th.eye(2).unsqueeze(2).expand(2, 2, 3)
PAID = th.tensor([[-1.0, 10.0, -100.0], [-1.0, -100.0, 10.0]])


def tiger_cost(belief):
    return -belief @ PAID


def test_state_values():
    # Two states, stay or go to the other; being in state 1 pays 1. From state 0: go, then stay
    rewards, transition = th.tensor([[0.0, 0.0], [1.0, 1.0]]), th.stack([th.eye(2), th.eye(2).flip(0)], dim=2)
    close(state_values(rewards, transition, 0.5, 1), [0.0, 1.0])
    close(state_values(rewards, transition, 0.5, 2), [0.5, 1.5])
    close(state_values(rewards, transition, 0.5, 50), [1.0, 2.0])
    close(state_values(rewards, transition, 0.5, 1, th.tensor([1.0, 2.0])), [1.0, 2.0])


def test_one_step_is_the_cost():
    efe = sophisticated_efe(th.tensor([[0.5, 0.5]]), STAYS, LISTENED, tiger_cost, depth=1)
    close(efe, [[1.0, 45.0, 45.0]])


def test_a_tree_sees_what_listening_is_for():
    """Kaelbling et al. 1998: two equal sounds are enough to open a door, one is not."""
    belief = th.tensor([[0.5, 0.5], [0.85, 0.15], [0.7225 / 0.745, 0.0225 / 0.745]])
    one_sound, two_sounds = (tiger_cost(row[None])[0, 1].item() for row in belief[1:])
    assert one_sound == pytest.approx(-(0.85 * 10 - 0.15 * 100)) and two_sounds < -1.0
    efe = sophisticated_efe(belief, STAYS, LISTENED, tiger_cost, depth=2)
    # After one sound it is best to listen on, whatever is heard
    assert efe[0, 0].item() == pytest.approx(1.0 + 1.0)
    # After two, a third that agrees (or not) decides: 0.745 of the time the first two sounds agree
    assert efe[1, 0].item() == pytest.approx(1.0 + 0.745 * two_sounds + 0.255 * 1.0, rel=1e-4)
    assert efe.argmin(dim=1).tolist() == [0, 0, 1]


def test_discount_leaf_and_precision():
    belief = th.tensor([[0.5, 0.5]])
    efe = sophisticated_efe(belief, STAYS, LISTENED, tiger_cost, 1, gamma=0.5, leaf=lambda b: b.max(dim=1).values)
    close(efe, [[1.0 + 0.5 * 0.85, 45.0 + 0.5 * 0.85, 45.0 + 0.5 * 0.85]])
    # A precision of 0 takes later actions at random
    efe = sophisticated_efe(belief, STAYS, LISTENED, tiger_cost, 2, precision=0.0)
    close(efe[:, 0], [1.0 + (1.0 + 45.0 + 45.0) / 3])


def test_what_ends_an_episode_has_nothing_after_it():
    """Listening ends it in one of four cases, a door always: what follows, which is to listen again, costs 1."""
    efe = sophisticated_efe(
        *(th.tensor([[0.5, 0.5]]), STAYS, LISTENED, tiger_cost, 2), continues=lambda b: th.tensor([[0.75, 0.0, 0.0]])
    )
    close(efe, [[1.0 + 0.75 * 1.0, 45.0, 45.0]])


def test_improbable_outcomes_are_left_out():
    rare = th.tensor([[0.99, 0.99], [0.01, 0.0], [0.0, 0.01]])
    seen = []

    def leaf(belief):
        seen.append(len(belief))
        return belief[:, 0]

    belief, one = th.tensor([[0.5, 0.5]]), STAYS[:, :, :1]
    efe = sophisticated_efe(belief, one, rare, lambda b: th.zeros(len(b), 1), 1, leaf=leaf, min_probability=0.05)
    exact = sophisticated_efe(belief, one, rare, lambda b: th.zeros(len(b), 1), 1, leaf=leaf, min_probability=0.0)
    assert seen == [1, 3]
    close(efe, [[0.5]])
    close(exact, [[0.5]])
