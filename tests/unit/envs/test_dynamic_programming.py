"""Dynamic programming, against numbers worked out by hand."""

import numpy as np
import pytest

import sb3_dai.envs as envs


def test_optimal_return_by_hand():
    # State 0: action 0 pays 1 and stays; action 1 pays nothing and reaches state 1 with probability 1/2. State 1 pays 4 a step
    transitions, rewards = np.zeros((2, 2, 2)), np.array([[1.0, 0.0], [4.0, 4.0]])
    transitions[0, 0] = [1.0, 0.5]
    transitions[1, 0, 1] = 0.5
    transitions[1, 1] = 1.0
    by_hand = [0.0, 1.0, 2.5, 5.25]  # nothing; 1; max(1 + 1, (1 + 4) / 2); max(1 + 2.5, (2.5 + 8) / 2)
    assert [envs.optimal_return(transitions, rewards, 0, horizon) for horizon in range(4)] == by_hand
    assert envs.optimal_return(transitions, rewards, 0, 2, discount=0.5) == 1.5, "max(1 + 0.5, 0.5 * 2.5)"
    assert envs.optimal_return(transitions, rewards, 0, 3, terminated=[0.0, 1.0]) == 3.0, "state 1 ends before it pays"
    per_transition = np.broadcast_to(rewards, (2, 2, 2))
    assert envs.optimal_return(transitions, per_transition, 0, 3) == 5.25
    assert envs.optimal_return(transitions, [0.0, 4.0], 0, 2) == 5.0, "of entering: 2 + (0.5 * 2 + 0.5 * 4)"
    assert envs.backward_induction(transitions, rewards, 3)[1][:, 0].tolist() == [1, 1, 0]
    assert envs.policy_return(transitions, rewards, 0, 2, np.full((2, 2), 0.5)) == 1.875, "0.5 + 0.75 * 0.5 + 0.25 * 4"


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        (dict(transition_matrix=np.ones((2, 2, 2))), "sum to one"),
        (dict(transition_matrix=np.eye(2)), "transition_matrix of shape"),
        (dict(rewards=np.zeros(3)), r"rewards of shape \(3,\)"),
        (dict(terminated=np.zeros((2, 1))), "terminated of shape"),
        (dict(start=2), "start=2"),
        (dict(horizon=-1), "horizon=-1"),
        (dict(discount=1.1), "discount=1.1"),
    ],
)
def test_optimal_return_names_wrong_arguments(kwargs, named):
    right = dict(transition_matrix=np.full((2, 2, 2), 0.5), rewards=np.zeros(2), start=0, horizon=1)
    with pytest.raises(ValueError, match=named):
        envs.optimal_return(**{**right, **kwargs})


def test_a_start_may_be_a_distribution():
    transitions, rewards = np.broadcast_to(np.eye(2)[:, :, None], (2, 2, 1)), np.array([1.0, 4.0])
    assert envs.optimal_return(transitions, rewards, np.array([0.25, 0.75]), 2) == pytest.approx(2 * 3.25)
    assert envs.policy_return(transitions, rewards, [0.25, 0.75], 2, np.ones((2, 1))) == pytest.approx(2 * 3.25)
    with pytest.raises(ValueError, match=r"start of shape \(2,\).*sum to one"):
        envs.optimal_return(transitions, rewards, np.array([0.25, 0.7]), 2)
