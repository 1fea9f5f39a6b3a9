"""The learned transition matrix beside the true one: numbers worked out by hand, and models of known worlds."""

import math

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import make
from stable_baselines3.common.vec_env import DummyVecEnv
from worlds import Chain, SampledEnv, transition

from sb3_dai import diagnostics
from sb3_dai.envs import GridWorld, ThreeStateChain
from sb3_dai.world_model.categorical import CategoricalPrediction

#: Two states, one action: from 0 on to 1 for certain, from 1 back or not with equal chances. B[s', s, a]
TRUE = np.array([[[0.0], [0.5]], [[1.0], [0.5]]])
LEARNED = np.array([[[0.25], [0.75]], [[0.75], [0.25]]])


def test_divergence_by_hand():
    mean, each = diagnostics.categorical_divergence(TRUE, LEARNED)
    # KL[(0, 1) || (1/4, 3/4)] = log 4/3; KL[(1/2, 1/2) || (3/4, 1/4)] = log(2/3)/2 + log(2)/2 = log(4/3)/2
    assert np.allclose(each, [[math.log(4 / 3)], [math.log(4 / 3) / 2]])
    assert mean == pytest.approx(0.75 * math.log(4 / 3))
    assert diagnostics.categorical_divergence(TRUE, TRUE)[0] == 0.0


def test_divergence_of_some_pairs_and_of_the_impossible():
    surely_wrong = np.array([[[1.0], [0.75]], [[0.0], [0.25]]])
    assert diagnostics.categorical_divergence(TRUE, surely_wrong)[0] == math.inf
    mean, each = diagnostics.categorical_divergence(TRUE, surely_wrong, np.array([[False], [True]]))
    assert mean == pytest.approx(math.log(4 / 3) / 2)
    assert np.isnan(each[0, 0])


@pytest.mark.parametrize("visits", [0, 1, 10])
def test_divergence_of_a_dirichlet_posterior(visits):
    world = GridWorld().transition_matrix
    counts = 1 / 49 + visits * world
    mean, each = diagnostics.categorical_divergence(world, counts / counts.sum(axis=0))
    assert mean == pytest.approx(-math.log((1 / 49 + visits) / (1 + visits)))
    assert np.allclose(each, mean)


def test_argmax_accuracy_by_hand():
    assert diagnostics.argmax_accuracy(TRUE, LEARNED) == 1.0, "both outcomes of state 1 are the most probable"
    assert diagnostics.argmax_accuracy(TRUE, TRUE) == 1.0
    assert diagnostics.argmax_accuracy(TRUE, 1.0 - LEARNED) == 0.5
    assert diagnostics.argmax_accuracy(TRUE, 1.0 - LEARNED, np.array([[True], [False]])) == 0.0
    world = GridWorld().transition_matrix
    assert diagnostics.argmax_accuracy(world, np.full_like(world, 1 / 49)) == pytest.approx(1 / 49), "no guess is no knowledge"


def test_coverage_and_reachable_pairs():
    env = GridWorld(shape=(2, 3), start=(0, 0), walls=[(1, 1)], goal=(0, 2))
    pairs = diagnostics.reachable_pairs(env.transition_matrix, env.start, env.termination_matrix)
    assert pairs.tolist() == [[True] * 4, [True] * 4, [False] * 4, [True] * 4, [False] * 4, [False] * 4]
    beyond = diagnostics.reachable_pairs(env.transition_matrix, env.start)
    assert beyond[:, 0].tolist() == [True, True, True, True, False, True], "the corner behind the goal"
    visits = np.zeros((6, 4), dtype=int)
    visits[0] = [5, 1, 0, 2]
    visits[4] = 9  # does not count
    assert diagnostics.coverage(visits, pairs) == 0.25
    assert diagnostics.coverage(visits) == 7 / 24


def test_visit_counts_are_those_of_the_buffer():
    model = make(Chain(), learning_starts=1000, seed=0)
    model.learn(60)
    buffer = model.replay_buffer
    expected = np.zeros((5, 2), dtype=int)
    for state, action in zip(buffer.observations[:60, 0, 0], buffer.actions[:60, 0, 0], strict=True):
        expected[int(state), int(action)] += 1
    visits = diagnostics.visit_counts(model)
    assert (visits == expected).all()
    assert visits.sum() == 60
    vectorised = make(DummyVecEnv([Chain, Chain]), learning_starts=1000, buffer_size=40, seed=0).learn(80)
    assert diagnostics.visit_counts(vectorised).sum() == 40, "a full buffer holds no more"
    model.replay_buffer = None
    with pytest.raises(ValueError, match="load_replay_buffer"):
        diagnostics.visit_counts(model)


def test_predicted_transitions_are_the_mixture(monkeypatch):
    model = make(ThreeStateChain())
    members = [[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]

    def predict(belief, actions):
        # One-hot state and action: the second member rotates with the state, the first with the action
        states, taken = belief.raw.argmax(dim=1).tolist(), actions.argmax(dim=1).tolist()
        rows = [[np.roll(members[0], a) for a in taken], [np.roll(members[1], s) for s in states]]
        return CategoricalPrediction(th.as_tensor(np.array(rows)).log())

    monkeypatch.setattr(model.policy.world_model, "predict", predict)
    learned = diagnostics.predicted_transitions(model)
    for state in range(3):
        for action in range(3):
            expected = (np.roll(members[0], action) + np.roll(members[1], state)) / 2
            assert np.allclose(learned[:, state, action], expected)


def test_a_trained_model_believes_the_truth():
    # Episodes that end leave their last state unseen, so that the matrix is compared where they go on
    model = make(Chain(), learning_rate=1e-2, gradient_steps=2, seed=0, policy_kwargs=dict(net_arch=[32]))
    true = np.zeros((5, 5, 2))
    for state in range(5):
        for action in range(2):
            true[transition(state, action)[0], state, action] = 1.0
    before = diagnostics.categorical_divergence(true, diagnostics.predicted_transitions(model))[0]
    model.learn(1000)
    learned = diagnostics.predicted_transitions(model)
    tried = diagnostics.visit_counts(model) > 0
    assert diagnostics.argmax_accuracy(true, learned, tried) == 1.0
    assert diagnostics.categorical_divergence(true, learned, tried)[0] < 0.1 < before


def test_what_has_no_transition_matrix_is_named():
    with pytest.raises(ValueError, match=r"observation_space=Box.*one_step_error"):
        diagnostics.predicted_transitions(make("CartPole-v1"))
    with pytest.raises(ValueError, match=r"action_space=MultiBinary\(2\).*number them"):
        diagnostics.visit_counts(make(SampledEnv(spaces.Discrete(3), spaces.MultiBinary(2))))


@pytest.mark.parametrize(
    ("function", "arguments", "named"),
    [
        (diagnostics.categorical_divergence, (TRUE, TRUE[:, :, 0]), "learned_B of shape"),
        (diagnostics.categorical_divergence, (TRUE, 2 * LEARNED), "learned_B: give probabilities"),
        (diagnostics.argmax_accuracy, (TRUE, np.full((3, 3, 1), 1 / 3)), "one world"),
        (diagnostics.argmax_accuracy, (TRUE, LEARNED, np.ones((2, 1))), "pairs of shape.*float64.*mask"),
        (diagnostics.coverage, (np.zeros((2, 1)), np.zeros((2, 1), bool)), "not all False"),
        (diagnostics.reachable_pairs, (TRUE, 2), "start=2"),
        (diagnostics.reachable_pairs, (TRUE, 0, np.zeros(2)), "terminated of shape"),
    ],
)
def test_wrong_arguments_are_named(function, arguments, named):
    with pytest.raises(ValueError, match=named):
        function(*arguments)
