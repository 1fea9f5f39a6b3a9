"""Box actions of any bounds: there and back, and never beyond them."""

import warnings

import numpy as np
import pytest
from gymnasium import spaces

from sb3_dai.policy import MlpPolicy

BIG, BIGGEST = float(np.float32(3e38)), 1.7e308
BOXES = {
    "unit": spaces.Box(-1.0, 1.0, (3,), np.float32),
    "uneven": spaces.Box(np.float32([-0.1, 1 / 3, -7.0]), np.float32([0.3, 2 / 3, 1e-3])),
    "float32": spaces.Box(-BIG, BIG, (2,), np.float32),
    "one side of float32": spaces.Box(0.0, BIG, (2,), np.float32),
    "float64": spaces.Box(-BIGGEST, BIGGEST, (2,), np.float64),
    "far from 0": spaces.Box(1e6, 1e6 + 1, (2,), np.float64),
    "small": spaces.Box(-1e-30, 1e-30, (2,), np.float32),
    "float16": spaces.Box(-6e4, 6e4, (2,), np.float16),
    "small float16": spaces.Box(-0.1, 0.3, (2,), np.float16),
    "matrix": spaces.Box(np.float32([[-1, -2, -3], [0, 0, 0]]), np.float32([[1, 2, 3], [4, 5, 6]])),
}
NO_WIDTH = spaces.Box(np.float32([2.5, -1.0]), np.float32([2.5, 1.0]))


def policy_for(space):
    return MlpPolicy(spaces.Box(-1.0, 1.0, (3,)), space, lambda _: 1e-3, net_arch=[4], ensemble_size=1, n_critics=1)


@pytest.fixture(params=BOXES.values(), ids=BOXES.keys())
def box(request):
    return request.param


def test_scaling_there_and_back(box):
    policy, scaled = policy_for(box), np.random.default_rng(0).uniform(-1, 1, (50, *box.shape)).astype(np.float32)
    actions = policy.unscale_action(scaled)
    assert actions.shape == scaled.shape and actions.dtype == box.dtype
    again = policy.scale_action(actions)
    assert again.shape == scaled.shape and again.dtype == np.float32
    # A step of the type of the actions, in units of half the width
    step = np.spacing(np.maximum(abs(box.low), abs(box.high))).astype(np.float64) / (box.high / 2 - box.low / 2)
    assert (abs(again - scaled) <= step + 1e-6).all()


def test_unscaled_actions_are_within_the_space(box):
    policy = policy_for(box)
    for value in (-1.0, np.nextafter(np.float32(-1), 0), 0.0, 0.3, np.nextafter(np.float32(1), 0), 1.0):
        action = policy.unscale_action(np.full(box.shape, value, np.float32))
        assert box.contains(action), value


@pytest.mark.parametrize("width", [0.0, 1e-16, 1e-3])
def test_rounding_does_not_lead_beyond_the_bounds(width):
    space = spaces.Box(-0.9, -0.9 + width, (1000,), np.float64)
    scaled = np.random.default_rng(0).uniform(-1, 1, 1000)
    assert space.contains(policy_for(space).unscale_action(scaled))


def test_bounds_are_reached(box):
    policy = policy_for(box)
    for value, bound in ((-1.0, box.low), (1.0, box.high)):
        assert np.array_equal(policy.unscale_action(np.full(box.shape, value, np.float32)), bound)
        assert (policy.scale_action(bound) == value).all()


def test_scaling_is_linear():
    policy = policy_for(spaces.Box(-2.0, 6.0, (1,)))
    assert policy.unscale_action(np.array([[-1.0], [-0.5], [0.0], [0.5], [1.0]])).ravel().tolist() == [-2, 0, 2, 4, 6]
    assert policy.scale_action(np.array([[-2.0], [0.0], [2.0], [4.0], [6.0]])).ravel().tolist() == [-1, -0.5, 0, 0.5, 1]


def test_equal_bounds_leave_no_choice():
    policy = policy_for(NO_WIDTH)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        action = policy.unscale_action(np.array([0.7, 0.5], np.float32))
        scaled = policy.scale_action(action)
    assert action.tolist() == [2.5, 0.5]
    assert abs(scaled[0]) <= 1 and scaled[1] == 0.5


@pytest.mark.parametrize("deterministic", [True, False])
def test_predicted_actions_are_of_the_space(box, deterministic):
    policy = policy_for(box)
    observations = np.random.default_rng(0).uniform(-1, 1, (20, 3)).astype(np.float32)
    actions, _ = policy.predict(observations, deterministic=deterministic)
    assert actions.shape == (20, *box.shape) and actions.dtype == box.dtype
    assert all(box.contains(action) for action in actions)
    assert box.contains(policy.predict(observations[0], deterministic=deterministic)[0])
