"""Schedules of training: functions of the progress remaining."""

import math
import re

import gymnasium as gym
import numpy as np
import pytest
from helpers import ACTIONS, action_spaces, each_step, make
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule
from worlds import SampledEnv

from sb3_dai.actions import make_action_model
from sb3_dai.checks import value_at
from sb3_dai.dai import DAI
from sb3_dai.learning.schedules import averaging_rate, target_entropy_at


def test_value_at():
    schedule = LinearSchedule(1.0, 5.0, 0.5)  # has reached 5 half-way
    assert [value_at(progress, "x", schedule, 0.0) for progress in (1.0, 0.75, 0.5, 0.0)] == [1.0, 3.0, 5.0, 5.0]
    assert value_at(0.3, "x", 2, 0.0) == 2.0
    assert type(value_at(0.3, "x", np.float32, 0.0)) is float


def test_the_average_of_iterates_weighs_the_last_most():
    # With eta = 19 the t-th weighs as the binomial (t + 18 over 19): 1, 20, 210
    average = 0.0
    for n, value in enumerate([5.0, 2.0, 8.0], start=1):
        average += averaging_rate(n) * (value - average)
    assert average == pytest.approx((5.0 + 20 * 2.0 + 210 * 8.0) / 231)
    assert averaging_rate(1) == 1.0 and averaging_rate(20_000) == pytest.approx(20 / 20_019)


@pytest.mark.parametrize(
    ("name", "at_start", "at_end"),
    [
        ("discrete", 0.7 * math.log(3), 0.2 * math.log(3)),
        ("multi-binary", 1.4 * math.log(2), 0.4 * math.log(2)),
        ("box", -2, -2),
    ],
)
def test_automatic_target_entropy(name, at_start, at_end):
    actions = make_action_model(ACTIONS[name])
    found = [target_entropy_at(progress, "auto", actions) for progress in (1.0, 0.75, 0.5, 0.0)]
    assert found == pytest.approx([at_start, (at_start + at_end) / 2, at_end, at_end])


def test_target_entropy_in_nats():
    actions = make_action_model(ACTIONS["discrete"])
    assert target_entropy_at(0.3, 0.4, actions) == 0.4
    assert target_entropy_at(0.25, LinearSchedule(1.0, 0.0, 1.0), actions) == 0.25
    assert target_entropy_at(0.5, -3.0, actions) == -3.0


@action_spaces()
def test_schedules_are_read_while_training_goes_on(action_space):
    seen = []
    model = make(
        SampledEnv(action_space=action_space),
        precision=LinearSchedule(1.0, 5.0, 1.0),
        epistemic_weight=LinearSchedule(0.8, 0.0, 1.0),
        pessimism=LinearSchedule(0.5, 0.0, 1.0),
        seed=0,
    )

    def note():
        if model._n_updates:
            policy = model.policy
            weight = policy.head_weights[policy.term_names.index("epistemic")].item()
            seen.append((model._current_progress_remaining, policy.precision.item(), weight, policy.pessimism.item()))

    model.learn(100, callback=each_step(note))
    # The callback comes after the environment step and before its gradient step
    precisions = [precision for _, precision, _, _ in seen]
    assert precisions == pytest.approx([1.0 + 4.0 * step / 100 for step in range(51, 51 + len(seen))], rel=1e-5)
    assert [weight for _, _, weight, _ in seen] == pytest.approx([0.8 * progress for progress, *_ in seen], rel=1e-5)
    shares = [0.5 * (1.0 - step / 100) for step in range(51, 51 + len(seen))]
    assert [share for *_, share in seen] == pytest.approx(shares, rel=1e-5)
    assert model.policy.precision.item() == pytest.approx(5.0)


def test_a_constant_schedule_is_the_number():
    def trained(**kwargs):
        return make(seed=0, **kwargs).learn(70).policy.state_dict()

    number = trained(precision=3.0, epistemic_weight=0.3)
    schedule = trained(precision=ConstantSchedule(3.0), epistemic_weight=lambda _: np.float64(0.3))
    assert all((number[name] == schedule[name]).all() for name in number)


def test_schedules_are_saved_and_resumed(tmp_path):
    offset = 0.25
    model = make(precision=LinearSchedule(1.0, 5.0, 1.0), epistemic_weight=lambda progress: progress * 0.5 + offset, seed=0)
    model.learn(60).save(tmp_path / "model")
    loaded = DAI.load(tmp_path / "model", env=model.get_env(), device="cpu")
    assert loaded.precision(0.5) == 3.0 and loaded.epistemic_weight(1.0) == 0.75
    loaded.learn(60, reset_num_timesteps=False)
    assert loaded.policy.precision.item() == pytest.approx(5.0)


BAD = [
    ("precision", LinearSchedule(1.0, 0.0, 1.0), "=0.*: give a finite number of at least"),
    ("precision", lambda progress: math.nan if progress == 0.5 else 1.0, "0.5: value=nan: give"),
    ("precision", lambda progress: None, "progress_remaining=1 fails .*: give a function"),
    ("precision", lambda: 1.0, "progress_remaining=1 fails .*: give a function"),
    ("epistemic_weight", LinearSchedule(0.5, -0.1, 0.9), "progress_remaining=0: value=-0.1: give"),
    ("target_entropy", lambda progress: -math.inf, "progress_remaining=1: value=-inf: give"),
    ("target_entropy", "much", "give a finite number"),
    ("pessimism", LinearSchedule(0.5, 1.5, 0.5), "0.5: value=1.5: give a finite number between 0 and 1"),
    ("epistemic_weight", lambda progress: math.inf, "progress_remaining=1: value=inf: give"),
]


@pytest.mark.parametrize(("name", "schedule", "message"), BAD)
def test_a_bad_schedule_is_named_at_construction(name, schedule, message):
    with pytest.raises(ValueError) as caught:
        make(**{name: schedule})
    assert str(caught.value).startswith(name)
    assert repr(schedule) in str(caught.value)
    assert re.search(message, str(caught.value)), caught.value


def test_a_schedule_that_turns_bad_later_is_named_in_training():
    def schedule(progress):
        return -1.0 if 0.2 < progress < 0.3 else 1.0

    with pytest.raises(ValueError, match=r"^epistemic_weight.*=.*progress_remaining=0\.29: value=-1\.0"):
        make(epistemic_weight=schedule, seed=0).learn(100)


# ----- Past the end: steps overshoot total_timesteps, as whole episodes do -----


def linear(start):
    """As in the documentation of Stable-Baselines3: right on [0, 1], negative below 0."""
    return lambda progress: progress * start


PAST_THE_END = {
    "episodes": (lambda: gym.make("CartPole-v1"), dict(train_freq=(1, "episode"), epistemic_weight=linear(0.6))),
    "three environments": (lambda: make_vec_env("CartPole-v1", 3), dict(pessimism=lambda progress: 1 - progress)),
    "train_freq": (lambda: gym.make("CartPole-v1"), dict(train_freq=8, precision=lambda progress: 2 * progress + 1e-3)),
    "target entropy": (lambda: gym.make("CartPole-v1"), dict(train_freq=8, target_entropy=lambda progress: progress**0.5)),
    "learning rate": (
        lambda: gym.make("CartPole-v1"),
        dict(train_freq=8, learning_rate=linear(1e-3)),
    ),
}


@pytest.mark.parametrize(("env", "kwargs"), PAST_THE_END.values(), ids=PAST_THE_END)
def test_no_schedule_is_read_beyond_its_end(env, kwargs):
    model = make(env(), learning_starts=20, seed=0, **kwargs).learn(85)
    assert model.num_timesteps > 85 and model._n_updates > 0
    assert model._current_progress_remaining == 0.0
    assert model.policy.optimizer.param_groups[0]["lr"] >= 0.0


def test_value_at_is_within_training():
    assert value_at(-0.2, "x", linear(2.0), 0.0) == 0.0
    assert value_at(1.5, "x", linear(2.0), 0.0) == 2.0
