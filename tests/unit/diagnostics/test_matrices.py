"""What a world model believes beside the truth: numbers worked by hand, and models of known worlds."""

import math
import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import make
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from worlds import BOX, IMAGE, TWO, Chain, CounterEnv, SampledEnv, transition

from sb3_dai import beliefs
from sb3_dai.envs import GridWorld, ThreeStateChain
from sb3_dai.networks import RunningNorm
from sb3_dai.transitions import CategoricalPrediction, GaussianPrediction

PAGE = Path(__file__).parent.parent / "docs" / "beliefs.md"
#: Two states, one action: from 0 on to 1 for certain, from 1 back or not with equal chances. B[s', s, a]
TRUE = np.array([[[0.0], [0.5]], [[1.0], [0.5]]])
LEARNED = np.array([[[0.25], [0.75]], [[0.75], [0.25]]])


def test_divergence_by_hand():
    mean, each = beliefs.categorical_divergence(TRUE, LEARNED)
    # KL[(0, 1) || (1/4, 3/4)] = log 4/3; KL[(1/2, 1/2) || (3/4, 1/4)] = log(2/3)/2 + log(2)/2 = log(4/3)/2
    assert np.allclose(each, [[math.log(4 / 3)], [math.log(4 / 3) / 2]])
    assert mean == pytest.approx(0.75 * math.log(4 / 3))
    assert beliefs.categorical_divergence(TRUE, TRUE)[0] == 0.0


def test_divergence_of_some_pairs_and_of_the_impossible():
    surely_wrong = np.array([[[1.0], [0.75]], [[0.0], [0.25]]])
    assert beliefs.categorical_divergence(TRUE, surely_wrong)[0] == math.inf
    mean, each = beliefs.categorical_divergence(TRUE, surely_wrong, np.array([[False], [True]]))
    assert mean == pytest.approx(math.log(4 / 3) / 2)
    assert np.isnan(each[0, 0])


@pytest.mark.parametrize("visits", [0, 1, 10])
def test_divergence_of_a_dirichlet_posterior(visits):
    world = GridWorld().transition_matrix
    counts = 1 / 49 + visits * world
    mean, each = beliefs.categorical_divergence(world, counts / counts.sum(axis=0))
    assert mean == pytest.approx(-math.log((1 / 49 + visits) / (1 + visits)))
    assert np.allclose(each, mean)


def test_argmax_accuracy_by_hand():
    assert beliefs.argmax_accuracy(TRUE, LEARNED) == 1.0, "both outcomes of state 1 are the most probable"
    assert beliefs.argmax_accuracy(TRUE, TRUE) == 1.0
    assert beliefs.argmax_accuracy(TRUE, 1.0 - LEARNED) == 0.5
    assert beliefs.argmax_accuracy(TRUE, 1.0 - LEARNED, np.array([[True], [False]])) == 0.0
    world = GridWorld().transition_matrix
    assert beliefs.argmax_accuracy(world, np.full_like(world, 1 / 49)) == pytest.approx(1 / 49), "no guess is no knowledge"


def test_coverage_and_reachable_pairs():
    env = GridWorld(shape=(2, 3), start=(0, 0), walls=[(1, 1)], goal=(0, 2))
    pairs = beliefs.reachable_pairs(env.transition_matrix, env.start, env.termination_matrix)
    assert pairs.tolist() == [[True] * 4, [True] * 4, [False] * 4, [True] * 4, [False] * 4, [False] * 4]
    beyond = beliefs.reachable_pairs(env.transition_matrix, env.start)
    assert beyond[:, 0].tolist() == [True, True, True, True, False, True], "the corner behind the goal"
    visits = np.zeros((6, 4), dtype=int)
    visits[0] = [5, 1, 0, 2]
    visits[4] = 9  # does not count
    assert beliefs.coverage(visits, pairs) == 0.25
    assert beliefs.coverage(visits) == 7 / 24


def test_visit_counts_are_those_of_the_buffer():
    model = make(Chain(), learning_starts=1000, seed=0)
    model.learn(60)
    buffer = model.replay_buffer
    expected = np.zeros((5, 2), dtype=int)
    for state, action in zip(buffer.observations[:60, 0, 0], buffer.actions[:60, 0, 0], strict=True):
        expected[int(state), int(action)] += 1
    visits = beliefs.visit_counts(model)
    assert (visits == expected).all()
    assert visits.sum() == 60
    vectorised = make(DummyVecEnv([Chain, Chain]), learning_starts=1000, buffer_size=40, seed=0).learn(80)
    assert beliefs.visit_counts(vectorised).sum() == 40, "a full buffer holds no more"
    model.replay_buffer = None
    with pytest.raises(ValueError, match="load_replay_buffer"):
        beliefs.visit_counts(model)


def test_predicted_transitions_are_the_mixture(monkeypatch):
    model = make(ThreeStateChain())
    members = [[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]

    def predict(features, actions):
        # One-hot state and action: the second member rotates with the state, the first with the action
        states, taken = features.argmax(dim=1).tolist(), actions.argmax(dim=1).tolist()
        rows = [[np.roll(members[0], a) for a in taken], [np.roll(members[1], s) for s in states]]
        return CategoricalPrediction(th.as_tensor(np.array(rows)).log())

    monkeypatch.setattr(model.policy, "predict_outcome", predict)
    learned = beliefs.predicted_transitions(model)
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
    before = beliefs.categorical_divergence(true, beliefs.predicted_transitions(model))[0]
    model.learn(1000)
    learned = beliefs.predicted_transitions(model)
    tried = beliefs.visit_counts(model) > 0
    assert beliefs.argmax_accuracy(true, learned, tried) == 1.0
    assert beliefs.categorical_divergence(true, learned, tried)[0] < 0.1 < before


def test_running_norm_inverse():
    norm = RunningNorm(2)
    norm.update(th.tensor([[1.0, -4.0], [3.0, 4.0]]))
    data = th.tensor([[2.5, 1.0], [0.0, -3.0]])
    assert th.allclose(norm.inverse(norm(data)), data, atol=1e-6)
    assert th.allclose(norm.inverse(th.tensor([1.0, 1.0])), th.tensor([3.0, 4.0])), "mean 2 and 0, deviation 1 and 4"
    scale = RunningNorm(1, center=False)
    scale.update(th.tensor([[1.0], [3.0]]))
    assert scale.inverse(th.tensor([2.0])).item() == pytest.approx(2.0)


class Drift(gym.Env):
    """Two numbers: the first moves by the action, the second stays. Ten steps an episode."""

    def __init__(self, action_space=TWO):
        self.observation_space = spaces.Box(-100.0, 100.0, (2,), np.float32)
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.x = 0, np.float32([0.0, 5.0])
        return self.x, {}

    def step(self, action):
        self.t += 1
        self.x = self.x + np.float32([np.sum(action), 0.0])
        return self.x, 0.0, False, self.t == 10, {}


def believe(monkeypatch, model, changes, log_var=0.0):
    """Let the members predict these changes, times the action that was taken, in units of a deviation of 2 and 1."""
    model.policy.transition_model.change_norm.var.copy_(th.tensor([4.0, 1.0]))
    weights = th.arange(model.policy.action_model.code_dim).float()  # of one-hot actions 0 and 1

    def predict(features, actions):
        scale = (actions @ weights if actions.shape[1] > 1 else actions[:, 0])[None, :, None]
        mean = th.tensor(changes)[:, None, :] * scale
        return GaussianPrediction(mean, th.full_like(mean, log_var))

    monkeypatch.setattr(model.policy, "predict_outcome", predict)


def test_one_step_error_by_hand(monkeypatch):
    model = make(Drift())
    # Members say +0.5 and +1.5 deviations of 2: the mean is a change of 2, where the truth is 1
    believe(monkeypatch, model, [[0.5, 0.0], [1.5, 0.0]])
    observations = np.float32([[0.0, 5.0], [7.0, 5.0]])
    errors = beliefs.one_step_error(model, observations, np.array([1, 0]), observations + np.float32([[1.0, 0.0], [0.0, 0.0]]))
    # Wrong by 1 and by 0; no change is wrong by 1 and by 0, too
    assert np.allclose(errors.rmse, [[math.sqrt(0.5), 0.0]], atol=1e-6)
    assert np.allclose(errors.no_change, [[math.sqrt(0.5), 0.0]])
    assert np.allclose(errors.relative, [1.0]), "what never changes does not count"


def test_k_step_error_by_hand(monkeypatch):
    model = make(Drift())
    believe(monkeypatch, model, [[0.75, 0.0], [0.75, 0.0]])  # 1.5 a step, where the truth is 1
    seen = np.float32([[i, 5.0] for i in (0, 1, 2, 2)])
    errors = beliefs.k_step_error(model, [seen, seen[:2]], [np.array([1, 1, 0]), np.array([1])], n_steps=2)
    # Two windows: 0 -> 1.5 -> 3 beside 0, 1, 2, and 1 -> 2.5 -> 2.5 beside 1, 2, 2
    assert np.allclose(errors.rmse[:, 0], [0.5, math.sqrt((1.0 + 0.25) / 2)], atol=1e-6)
    assert np.allclose(errors.no_change[:, 0], [1.0, math.sqrt((4.0 + 1.0) / 2)])
    assert np.allclose(errors.relative, [0.5, 0.5], atol=1e-6)
    with pytest.raises(ValueError, match=r"n_steps=4.*longest has 3"):
        beliefs.k_step_error(model, [seen], [np.array([1, 1, 0])], n_steps=4)
    with pytest.raises(ValueError, match="3 observations and 3 actions"):
        beliefs.k_step_error(model, [seen[:3]], [np.array([1, 1, 0])], n_steps=1)


def test_box_actions_are_scaled_and_normalised_observations_unscaled(monkeypatch):
    bounds = spaces.Box(-4.0, 4.0, (1,), np.float32)
    env = VecNormalize(DummyVecEnv([lambda: Drift(bounds)]), norm_reward=False)
    model = make(env)
    env.obs_rms.mean[:], env.obs_rms.var[:] = [0.0, 5.0], [16.0, 1.0]
    # An action of 4 is coded 1. It is believed to move by 0.5 deviations of 2, which is 1 normalised and 4 raw
    believe(monkeypatch, model, [[0.5, 0.0]])
    observations, actions = np.float32([[0.0, 5.0], [4.0, 5.0]]), np.float32([[4.0], [-2.0]])
    errors = beliefs.one_step_error(model, observations, actions, observations + np.float32([[4.0, 0.0], [-2.0, 0.0]]))
    assert np.allclose(errors.rmse, 0.0, atol=1e-5)
    assert np.allclose(errors.no_change, [[math.sqrt(10.0), 0.0]])


def test_calibration_by_hand(monkeypatch):
    # One member, N(0, 1): the central half ends at 0.6745, the central 90 % at 1.645
    outcome = np.array([[0.0], [-0.6], [0.7], [2.0]])
    found = beliefs.mixture_calibration(np.zeros((1, 4, 1)), np.ones((1, 4, 1)), outcome, levels=(0.5, 0.9))
    assert found.inside.tolist() == [[0.5], [0.75]]
    assert np.allclose(found.squared_z, (0.36 + 0.49 + 4.0) / 4)
    # Two members far apart: hardly anything lies between them, and their mixture has variance 1 + 25
    apart = np.array([[[-5.0]], [[5.0]]])
    found = beliefs.mixture_calibration(apart, np.ones((2, 1, 1)), np.array([[4.0]]), levels=(0.15, 0.16))
    assert found.inside.tolist() == [[0.0], [1.0]], "the distribution function is 0.5 + 0.159 / 2 there"
    assert np.allclose(found.squared_z, 16 / 26)
    model = make(Drift())
    believe(monkeypatch, model, [[0.5, 0.0]], log_var=2 * math.log(0.5))  # 1 +- 1 and 0 +- 0.5
    observations = np.float32([[0.0, 5.0]])
    found = beliefs.calibration(model, observations, np.array([1]), np.float32([[3.0, 4.5]]), levels=(0.9,))
    assert np.allclose(found.squared_z, [4.0, 1.0], atol=1e-4)
    assert found.inside.tolist() == [[0.0, 1.0]]


def test_calibration_of_gaussian_noise():
    rng = np.random.default_rng(0)
    mean, std = rng.normal(size=(1, 20_000, 2)), np.exp(rng.normal(size=(1, 20_000, 2)))
    found = beliefs.mixture_calibration(mean, std, mean[0] + std[0] * rng.normal(size=(20_000, 2)))
    assert np.allclose(found.inside, found.levels[:, None], atol=0.015)
    assert np.allclose(found.squared_z, 1.0, atol=0.05)


def test_record():
    model = make(CounterEnv(length=4))
    observations, actions = beliefs.record(model, CounterEnv(length=4), 2)
    assert [seen.tolist() for seen in observations] == [[[0.0], [1.0], [2.0], [3.0], [4.0]]] * 2
    assert [len(taken) for taken in actions] == [4, 4]
    errors = beliefs.k_step_error(model, observations, actions, 3)
    assert np.allclose(errors.no_change[:, 0], [1.0, 2.0, 3.0])


@pytest.mark.parametrize("action_space", [spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2), BOX])
def test_other_actions(action_space):
    model = make(SampledEnv(action_space=action_space))
    observations, actions = beliefs.record(model, SampledEnv(action_space=action_space), 2, seed=0)
    errors = beliefs.k_step_error(model, observations, actions, 2)
    assert errors.rmse.shape == (2, 3)
    assert np.isfinite(errors.relative).all()


def test_wrong_spaces_are_named():
    numbered, vector = make(Chain()), make("CartPole-v1")
    with pytest.raises(ValueError, match=r"observation_space=Box.*one_step_error"):
        beliefs.predicted_transitions(vector)
    with pytest.raises(ValueError, match=r"action_space=MultiBinary\(2\).*number them"):
        beliefs.visit_counts(make(SampledEnv(spaces.Discrete(3), spaces.MultiBinary(2))))
    with pytest.raises(ValueError, match=r"observation_space=Discrete\(5\).*predicted_transitions"):
        beliefs.one_step_error(numbered, np.zeros(2, int), np.zeros(2, int), np.zeros(2, int))
    image = make(SampledEnv(IMAGE), "CnnPolicy", policy_kwargs={})
    with pytest.raises(ValueError, match=r"observation_space=Box.*NatureCNN"):
        beliefs.k_step_error(image, *beliefs.record(image, SampledEnv(IMAGE), 1), 1)


@pytest.mark.parametrize(
    ("function", "arguments", "named"),
    [
        (beliefs.categorical_divergence, (TRUE, TRUE[:, :, 0]), "learned_B of shape"),
        (beliefs.categorical_divergence, (TRUE, 2 * LEARNED), "learned_B: give probabilities"),
        (beliefs.argmax_accuracy, (TRUE, np.full((3, 3, 1), 1 / 3)), "one world"),
        (beliefs.argmax_accuracy, (TRUE, LEARNED, np.ones((2, 1))), "pairs of shape.*float64.*mask"),
        (beliefs.coverage, (np.zeros((2, 1)), np.zeros((2, 1), bool)), "not all False"),
        (beliefs.reachable_pairs, (TRUE, 2), "start=2"),
        (beliefs.reachable_pairs, (TRUE, 0, np.zeros(2)), "terminated of shape"),
        (beliefs.mixture_calibration, (np.zeros((1, 1, 1)), np.ones((1, 1, 1)), np.zeros((1, 1)), (1.5,)), "levels=1.5"),
    ],
)
def test_wrong_arguments_are_named(function, arguments, named):
    with pytest.raises(ValueError, match=named):
        function(*arguments)


def test_wrong_shapes_are_named():
    model = make("CartPole-v1")
    rows, actions = np.zeros((2, 4), np.float32), np.zeros(2, int)
    with pytest.raises(ValueError, match=r"observations of shape \(2, 3\): give \(n, 4\)"):
        beliefs.one_step_error(model, rows[:, :3], actions, rows[:, :3])
    with pytest.raises(ValueError, match=r"next_observations of shape \(1, 4\)"):
        beliefs.one_step_error(model, rows, actions, rows[:1])
    with pytest.raises(ValueError, match=r"actions of shape \(2, 1\).*Discrete\(2\)"):
        beliefs.calibration(model, rows, actions[:, None], rows)


@pytest.mark.parametrize("example", [0, 1], ids=["numbered states", "vectors"])
def test_examples_of_the_page(example):
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[example]
    names = {}
    exec(re.sub(r"learn\(\w+\)", "learn(150)", code), names)
    if example == 0:
        assert names["divergence"] == pytest.approx(names["of_each_pair"].mean())
        assert 0 < names["tried"] < 1
        assert names["learned"].shape == (49, 49, 4)
    else:
        assert names["ahead"].rmse.shape == (5, 4)
        assert names["found"].inside.shape == (5, 4)
        rows = names["pairs"]
        assert len(rows[0]) == len(rows[1]) == len(rows[2]) > 10
        assert np.isfinite(names["once"].relative).all()
