"""The precision and the entropy that it aims at."""

import numpy as np
import pytest
from gymnasium import spaces
from helpers import action_spaces, each_step, make
from stable_baselines3.common.utils import LinearSchedule
from worlds import CounterEnv, SampledEnv

from sb3_dai.dai import DAI


@pytest.mark.parametrize(
    ("target_entropy", "expected"),
    [
        ("auto", (0.45, 0.2, 0.2)),
        (LinearSchedule(0.7 * np.log(2), 0.0, 1.0), (0.525, 0.35, 0.175)),
        (0.1 * np.log(2), [0.1] * 3),
    ],
    ids=["auto", "schedule", "number"],
)
def test_target_entropy_follows_its_schedule(target_entropy, expected):
    model = make(CounterEnv(), learning_starts=0, target_entropy=target_entropy, seed=0)
    targets = {}

    def note():
        # What the gradient step before this step of the environment has logged
        targets[model.num_timesteps - 1] = model.logger.name_to_value["train/target_entropy"]

    model.learn(40, callback=each_step(note), log_interval=1000)
    assert [targets[step] for step in (10, 20, 30)] == pytest.approx([share * np.log(2) for share in expected])


@pytest.mark.parametrize(
    ("action_space", "target_entropy"),
    [
        (spaces.Discrete(4), 0.2 * np.log(4)),
        (spaces.MultiDiscrete([2, 3]), 0.2 * np.log(6)),
        (spaces.MultiBinary(3), 0.2 * np.log(8)),
        (spaces.Box(-1, 1, (1,)), -1.0),
        (spaces.Box(0, 9, (2, 3)), -6.0),
    ],
    ids=["discrete", "multi-discrete", "multi-binary", "box", "matrix"],
)
def test_by_default_the_target_entropy_is_that_of_the_action_space_in_the_end(action_space, target_entropy):
    model = make(SampledEnv(action_space=action_space), seed=0)
    model.learn(52, log_interval=1000)
    assert model.logger.name_to_value["train/target_entropy"] == pytest.approx(target_entropy)


@action_spaces()
def test_precision_is_learned_unless_it_is_given(action_space):
    small = dict(learning_starts=50, batch_size=32, gradient_steps=1, buffer_size=1000, learning_rate=1e-3)
    model = DAI("MlpPolicy", SampledEnv(action_space=action_space), seed=0, device="cpu", **small)
    model.learn(60, log_interval=1000)
    assert "train/precision_loss" in model.logger.name_to_value
    assert 0 < abs(model.policy.log_precision.item()) < 0.1, "ten steps from 1"
    model = make(SampledEnv(action_space=action_space), precision=5.0, seed=0)
    model.learn(60, log_interval=1000)
    assert "train/precision_loss" not in model.logger.name_to_value
    assert model.policy.precision.item() == pytest.approx(5.0)


@action_spaces("discrete", "box")
def test_learned_precision_comes_back_from_a_file(tmp_path, action_space):
    model = make(SampledEnv(action_space=action_space), precision="auto", seed=0).learn(60)
    model.save(tmp_path / "model")
    loaded = DAI.load(tmp_path / "model", env=SampledEnv(action_space=action_space), device="cpu")
    assert loaded.precision == "auto"
    assert loaded.policy.precision.item() == model.policy.precision.item() != 1.0
