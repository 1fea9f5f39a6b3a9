"""Weights that change as training goes on."""

import math
import re

import numpy as np
import pytest
from helpers import action_spaces, make
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule
from worlds import SampledEnv

from sb3_dai.checks import value_at
from sb3_dai.dai import DAI


def test_value_at():
    schedule = LinearSchedule(1.0, 5.0, 0.5)  # has reached 5 half-way
    assert [value_at(progress, "x", schedule, 0.0) for progress in (1.0, 0.75, 0.5, 0.0)] == [1.0, 3.0, 5.0, 5.0]
    assert value_at(0.3, "x", 2, 0.0) == 2.0
    assert type(value_at(0.3, "x", np.float32, 0.0)) is float


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

    def note(locals_, globals_):
        if model._n_updates:
            policy = model.policy
            weight = model._head_weights()[1].item()
            seen.append((model._current_progress_remaining, policy.precision.item(), weight, policy.pessimism.item()))
        return True

    model.learn(100, callback=note)
    # The callback comes before the gradient step of the same environment step
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

    with pytest.raises(ValueError, match=r"epistemic_weight=.*progress_remaining=0\.29: value=-1\.0"):
        make(epistemic_weight=schedule, seed=0).learn(100)
