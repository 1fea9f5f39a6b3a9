"""Predictions beside what was recorded: numbers worked out by hand, and the examples of docs/diagnostics.md."""

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
from worlds import BOX, IMAGE, TWO, Chain, CounterEnv, SampledEnv

from sb3_dai import diagnostics
from sb3_dai.world_model.gaussian import GaussianPrediction

PAGE = Path(__file__).parents[3] / "docs" / "diagnostics.md"


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
    model.policy.world_model.change_norm.var.copy_(th.tensor([4.0, 1.0]))
    weights = th.arange(model.policy.action_model.code_dim).float()  # of one-hot actions 0 and 1

    def predict(belief, actions):
        scale = (actions @ weights if actions.shape[1] > 1 else actions[:, 0])[None, :, None]
        mean = th.tensor(changes)[:, None, :] * scale
        return GaussianPrediction(mean, th.full_like(mean, log_var))

    monkeypatch.setattr(model.policy.world_model, "predict", predict)


def test_one_step_error_by_hand(monkeypatch):
    model = make(Drift())
    # Members say +0.5 and +1.5 deviations of 2: the mean is a change of 2, where the truth is 1
    believe(monkeypatch, model, [[0.5, 0.0], [1.5, 0.0]])
    observations = np.float32([[0.0, 5.0], [7.0, 5.0]])
    errors = diagnostics.one_step_error(
        model, observations, np.array([1, 0]), observations + np.float32([[1.0, 0.0], [0.0, 0.0]])
    )
    # Wrong by 1 and by 0; no change is wrong by 1 and by 0, too
    assert np.allclose(errors.rmse, [[math.sqrt(0.5), 0.0]], atol=1e-6)
    assert np.allclose(errors.no_change, [[math.sqrt(0.5), 0.0]])
    assert np.allclose(errors.relative, [1.0]), "what never changes does not count"


def test_k_step_error_by_hand(monkeypatch):
    model = make(Drift())
    believe(monkeypatch, model, [[0.75, 0.0], [0.75, 0.0]])  # 1.5 a step, where the truth is 1
    seen = np.float32([[i, 5.0] for i in (0, 1, 2, 2)])
    errors = diagnostics.k_step_error(model, [seen, seen[:2]], [np.array([1, 1, 0]), np.array([1])], n_steps=2)
    # Two windows: 0 -> 1.5 -> 3 beside 0, 1, 2, and 1 -> 2.5 -> 2.5 beside 1, 2, 2
    assert np.allclose(errors.rmse[:, 0], [0.5, math.sqrt((1.0 + 0.25) / 2)], atol=1e-6)
    assert np.allclose(errors.no_change[:, 0], [1.0, math.sqrt((4.0 + 1.0) / 2)])
    assert np.allclose(errors.relative, [0.5, 0.5], atol=1e-6)
    with pytest.raises(ValueError, match=r"n_steps=4.*longest has 3"):
        diagnostics.k_step_error(model, [seen], [np.array([1, 1, 0])], n_steps=4)
    with pytest.raises(ValueError, match="3 observations and 3 actions"):
        diagnostics.k_step_error(model, [seen[:3]], [np.array([1, 1, 0])], n_steps=1)


def test_box_actions_are_scaled_and_normalised_observations_unscaled(monkeypatch):
    bounds = spaces.Box(-4.0, 4.0, (1,), np.float32)
    env = VecNormalize(DummyVecEnv([lambda: Drift(bounds)]), norm_reward=False)
    model = make(env)
    env.obs_rms.mean[:], env.obs_rms.var[:] = [0.0, 5.0], [16.0, 1.0]
    # An action of 4 is coded 1. It is believed to move by 0.5 deviations of 2, which is 1 normalised and 4 raw
    believe(monkeypatch, model, [[0.5, 0.0]])
    observations, actions = np.float32([[0.0, 5.0], [4.0, 5.0]]), np.float32([[4.0], [-2.0]])
    errors = diagnostics.one_step_error(model, observations, actions, observations + np.float32([[4.0, 0.0], [-2.0, 0.0]]))
    assert np.allclose(errors.rmse, 0.0, atol=1e-5)
    assert np.allclose(errors.no_change, [[math.sqrt(10.0), 0.0]])


def test_calibration_by_hand(monkeypatch):
    # One member, N(0, 1): the central half ends at 0.6745, the central 90 % at 1.645
    outcome = np.array([[0.0], [-0.6], [0.7], [2.0]])
    found = diagnostics.mixture_calibration(np.zeros((1, 4, 1)), np.ones((1, 4, 1)), outcome, levels=(0.5, 0.9))
    assert found.inside.tolist() == [[0.5], [0.75]]
    assert np.allclose(found.squared_z, (0.36 + 0.49 + 4.0) / 4)
    # Two members far apart: hardly anything lies between them, and their mixture has variance 1 + 25
    apart = np.array([[[-5.0]], [[5.0]]])
    found = diagnostics.mixture_calibration(apart, np.ones((2, 1, 1)), np.array([[4.0]]), levels=(0.15, 0.16))
    assert found.inside.tolist() == [[0.0], [1.0]], "the distribution function is 0.5 + 0.159 / 2 there"
    assert np.allclose(found.squared_z, 16 / 26)
    model = make(Drift())
    believe(monkeypatch, model, [[0.5, 0.0]], log_var=2 * math.log(0.5))  # 1 +- 1 and 0 +- 0.5
    observations = np.float32([[0.0, 5.0]])
    found = diagnostics.calibration(model, observations, np.array([1]), np.float32([[3.0, 4.5]]), levels=(0.9,))
    assert np.allclose(found.squared_z, [4.0, 1.0], atol=1e-4)
    assert found.inside.tolist() == [[0.0, 1.0]]


def test_calibration_of_gaussian_noise():
    rng = np.random.default_rng(0)
    mean, std = rng.normal(size=(1, 20_000, 2)), np.exp(rng.normal(size=(1, 20_000, 2)))
    found = diagnostics.mixture_calibration(mean, std, mean[0] + std[0] * rng.normal(size=(20_000, 2)))
    assert np.allclose(found.inside, found.levels[:, None], atol=0.015)
    assert np.allclose(found.squared_z, 1.0, atol=0.05)


def test_record():
    model = make(CounterEnv(length=4))
    observations, actions = diagnostics.record(model, CounterEnv(length=4), 2)
    assert [seen.tolist() for seen in observations] == [[[0.0], [1.0], [2.0], [3.0], [4.0]]] * 2
    assert [len(taken) for taken in actions] == [4, 4]
    errors = diagnostics.k_step_error(model, observations, actions, 3)
    assert np.allclose(errors.no_change[:, 0], [1.0, 2.0, 3.0])


@pytest.mark.parametrize("action_space", [spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2), BOX])
def test_other_actions(action_space):
    model = make(SampledEnv(action_space=action_space))
    observations, actions = diagnostics.record(model, SampledEnv(action_space=action_space), 2, seed=0)
    errors = diagnostics.k_step_error(model, observations, actions, 2)
    assert errors.rmse.shape == (2, 3)
    assert np.isfinite(errors.relative).all()


def test_wrong_shapes_are_named():
    model = make("CartPole-v1")
    rows, actions = np.zeros((2, 4), np.float32), np.zeros(2, int)
    with pytest.raises(ValueError, match=r"observations of shape \(2, 3\): give \(n, 4\)"):
        diagnostics.one_step_error(model, rows[:, :3], actions, rows[:, :3])
    with pytest.raises(ValueError, match=r"next_observations of shape \(1, 4\)"):
        diagnostics.one_step_error(model, rows, actions, rows[:1])
    with pytest.raises(ValueError, match=r"actions of shape \(2, 1\).*Discrete\(2\)"):
        diagnostics.calibration(model, rows, actions[:, None], rows)


def test_what_is_no_vector_is_named():
    with pytest.raises(ValueError, match=r"observation_space=Discrete\(5\).*predicted_transitions"):
        diagnostics.one_step_error(make(Chain()), np.zeros(2, int), np.zeros(2, int), np.zeros(2, int))
    image = make(SampledEnv(IMAGE), "CnnPolicy", policy_kwargs={})
    with pytest.raises(ValueError, match=r"observation_space=Box.*NatureCNN"):
        diagnostics.k_step_error(image, *diagnostics.record(image, SampledEnv(IMAGE), 1), 1)


def test_levels_are_probabilities():
    with pytest.raises(ValueError, match=r"levels=1\.5"):
        diagnostics.mixture_calibration(np.zeros((1, 1, 1)), np.ones((1, 1, 1)), np.zeros((1, 1)), (1.5,))


@pytest.mark.parametrize("example", ["numbered states", "hidden states", "vectors"])
def test_examples_of_the_page(example, capsys):
    section = re.search(rf"^## {example}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.DOTALL | re.M | re.I).group(1)
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    names = {}
    exec(re.sub(r"learn\(\w+\)", "learn(150)", code), names)
    if example == "numbered states":
        assert names["divergence"] == pytest.approx(names["of_each_pair"].mean())
        assert 0 < names["tried"] < 1
        assert names["learned"].shape == (49, 49, 4)
    elif example == "hidden states":
        assert "transitions 0.0" in capsys.readouterr().out, "the numbers of the states are found"
        assert sorted(names["match"]) == list(range(8))
    else:
        assert names["ahead"].rmse.shape == (5, 4)
        assert names["found"].inside.shape == (5, 4)
        rows = names["pairs"]
        assert len(rows[0]) == len(rows[1]) == len(rows[2]) > 10
        assert np.isfinite(names["once"].relative).all()
