"""Every pair of an observation and an action space either trains, saves and acts within its bounds, or is refused by name."""

import io
import re
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as check_env_of_sb3
from stable_baselines3.common.utils import set_random_seed

from sb3_dai.dai import DAI

LARGEST = float(np.finfo(np.float32).max)


def draw(space, rng):
    """A sample of any size that single precision can hold; spaces draw from a few sizes only, and fail at the largest."""
    if isinstance(space, spaces.Dict):
        return {key: draw(part, rng) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Discrete):
        return np.int64(space.start + rng.integers(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return (space.start + rng.integers(space.nvec)).astype(space.dtype)
    if isinstance(space, spaces.MultiBinary):
        return rng.integers(2, size=space.shape, dtype=np.int8)
    if not isinstance(space, spaces.Box):
        return space.sample()
    if not np.issubdtype(space.dtype, np.floating):
        return rng.integers(space.low, space.high, endpoint=True, dtype=space.dtype)
    unbounded = rng.normal(size=space.shape) * 10.0 ** rng.integers(-3, 4)
    low, high = (np.clip(bound.astype(np.float64), -LARGEST, LARGEST) for bound in (space.low, space.high))
    share = rng.random(space.shape)
    bounded = low * (1 - share) + high * share
    value = np.where(np.isfinite(space.low) & np.isfinite(space.high), bounded, unbounded)
    return np.clip(value, low, high).astype(space.dtype).clip(space.low, space.high)


class AnySpaceEnv(gym.Env):
    """Observes and rewards at random, ends now and then, is cut off after ten steps, and takes no action but its own."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return draw(self.observation_space, self.np_random), {}

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.t += 1
        terminated = bool(self.np_random.random() < 0.05)
        reward = float(self.np_random.normal())
        return draw(self.observation_space, self.np_random), reward, terminated, self.t == 10 and not terminated, {}


def is_image(space):
    return isinstance(space, spaces.Box) and len(space.shape) == 3 and space.dtype == np.uint8 and (space.high == 255).all()


def policy_for(space):
    if isinstance(space, spaces.Dict):
        return "MultiInputPolicy"
    return "CnnPolicy" if is_image(space) and sorted(space.shape)[1] >= 10 else "MlpPolicy"


def make(env):
    return DAI(
        policy_for(env.observation_space),
        env,
        policy_kwargs=dict(net_arch=[8], ensemble_size=2),
        buffer_size=100,
        learning_starts=20,
        batch_size=8,
        train_freq=16,
        gradient_steps=2,
        seed=0,
        device="cpu",
    )


def assert_trains_and_comes_back(model, env, steps):
    """The environment itself refuses actions beyond its space while the model learns."""
    model.learn(steps, log_interval=None)
    assert model._n_updates > 0
    assert all(th.isfinite(value).all() for value in model.policy.state_dict().values())

    model.save(file := io.BytesIO())
    loaded = DAI.load(file, device="cpu")
    for seed in range(4):
        observation = draw(env.observation_space, np.random.default_rng(seed))
        for deterministic in (True, False):
            actions = []
            for each in (model, loaded):
                set_random_seed(seed)
                actions.append(each.predict(observation, deterministic=deterministic)[0])
            action = actions[0] if env.action_space.shape else actions[0][()]
            assert env.action_space.contains(action), f"{action!r} is not in {env.action_space}"
            assert np.isfinite(action).all()
            assert actions[0].dtype == actions[1].dtype == env.action_space.dtype
            assert actions[0].tobytes() == actions[1].tobytes(), "another action after the load"


# ----- Every pair of kinds -----

IMAGE = spaces.Box(0, 255, (36, 40, 1), np.uint8)
OBSERVATIONS = {
    "vector": spaces.Box(-1.0, 1.0, (3,), np.float32),
    "unbounded": spaces.Box(-np.inf, np.inf, (3,), np.float64),
    "half-bounded": spaces.Box(np.array([-np.inf, 0.0], np.float32), np.array([1.0, np.inf], np.float32)),
    "matrix": spaces.Box(-5.0, 5.0, (2, 3), np.float16),
    "integers": spaces.Box(-5, 300, (3,), np.int64),
    "flags": spaces.Box(0, 1, (3,), np.bool_),
    "image": IMAGE,
    "image, channels first": spaces.Box(0, 255, (1, 36, 40), np.uint8),
    "small image": spaces.Box(0, 255, (10, 10, 4), np.uint8),
    "discrete": spaces.Discrete(5),
    "multi-discrete": spaces.MultiDiscrete([2, 4]),
    "multi-binary": spaces.MultiBinary(3),
    "binary matrix": spaces.MultiBinary([2, 3]),
    "dict": spaces.Dict(
        box=spaces.Box(-1.0, 1.0, (2, 2), np.float32),
        discrete=spaces.Discrete(3),
        many=spaces.MultiDiscrete([3, 2]),
        flags=spaces.MultiBinary([2, 2]),
        image=IMAGE,
    ),
}
ACTIONS = {
    "discrete": spaces.Discrete(3),
    "one option": spaces.Discrete(1),
    "multi-discrete": spaces.MultiDiscrete([2, 5, 1]),
    "small multi-discrete": spaces.MultiDiscrete([2, 5], dtype=np.int8),
    "multi-binary": spaces.MultiBinary(3),
    "box": spaces.Box(-1.0, 1.0, (2,), np.float32),
    "uneven box": spaces.Box(np.array([[-3.0, 0.0], [-1e-3, 5.0]]), np.array([[1.0, 1e6], [1e-3, 5.0]]), dtype=np.float64),
    "half precision": spaces.Box(0.0, 1.0, (1,), np.float16),
}
# What the checkers have to say about sound spaces that they would have chosen otherwise
ADVICE = "|".join(
    (
        "A Box observation space (minimum|maximum) value is",
        "For Box action spaces, we recommend",
        "A Box action space maximum and minimum values are equal",
        "We recommend you to (use a symmetric|flatten)",
        "your observation .* is an image",
        "recommend using np.float32",
        "The minimal resolution",
        "Box high's precision",
    )
)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_every_pair_of_kinds(observation, action):
    env = AnySpaceEnv(OBSERVATIONS[observation], ACTIONS[action])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=rf"(?s).*({ADVICE})")
        check_env(env, skip_render_check=True)
        check_env_of_sb3(env)
    assert_trains_and_comes_back(make(env), env, steps=200)


# ----- Spaces that nobody thought of -----


@st.composite
def boxes(draw_from, dtypes, min_dims=1, unlimited=True):
    """Of any bounds that the type has: extreme, half-infinite, a hair's breadth apart, equal."""
    dtype = np.dtype(draw_from(st.sampled_from(dtypes)))
    shape = tuple(draw_from(st.lists(st.integers(1, 3), min_size=min_dims, max_size=3)))
    if dtype.kind == "f":
        info = np.finfo(dtype)
        sizes = [0.0, 1e-3, 0.3, 1.0, 100.0, 6e4]
        sizes += [float(size) for size in (info.smallest_subnormal, info.tiny, info.max / 2, info.max)]
        numbers = st.sampled_from(sizes + [-size for size in sizes]) | st.floats(-50, 50, width=16)
    elif dtype.kind == "b":
        numbers = st.booleans()
    else:
        info = np.iinfo(dtype)
        # The largest that a Box takes
        numbers = st.sampled_from([info.min, 0, 1, 100, min(info.max, 2**63 - 2)]) | st.integers(max(info.min, -5), 5)
    size = int(np.prod(shape))
    pairs = np.array(draw_from(st.lists(st.tuples(numbers, numbers).map(sorted), min_size=size, max_size=size)), dtype)
    low, high = pairs.reshape(*shape, 2)[..., 0].copy(), pairs.reshape(*shape, 2)[..., 1].copy()
    if dtype.kind == "f" and draw_from(st.booleans()):
        with np.errstate(over="ignore"):
            near = np.nextafter(low, dtype.type(np.inf))
        high[...] = np.where(np.isfinite(near), near, low)
    if dtype.kind == "f" and unlimited and draw_from(st.integers(0, 2)) == 0:
        first = np.arange(size).reshape(shape) == 0
        masks = st.sampled_from([first, ~first, np.ones_like(first)])
        low[draw_from(masks)] = -np.inf
        high[draw_from(masks)] = np.inf
    return spaces.Box(low, high, dtype=dtype)


FLOATS = [np.float16, np.float32, np.float64]
INTEGERS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16]
SMALL = st.integers(1, 4)
STARTS = st.sampled_from([0, 0, 0, 0, 1, -2])
discretes = st.builds(lambda n, start: spaces.Discrete(n, start=start), SMALL, STARTS)
multi_discretes = st.builds(
    spaces.MultiDiscrete,
    st.lists(SMALL, min_size=1, max_size=4) | st.sampled_from([[[2, 3], [4, 1]], [[5]], np.array([3, 2], np.uint8)]),
    dtype=st.sampled_from([np.int64, np.int64, np.int32, np.int8]),
)
multi_binaries = st.builds(spaces.MultiBinary, SMALL | st.lists(SMALL, min_size=1, max_size=3))
simple = st.one_of(
    *(boxes(FLOATS), boxes(FLOATS), boxes(FLOATS, min_dims=0), boxes([*INTEGERS, np.bool_])),
    *(discretes, multi_discretes, multi_binaries),
)
images = st.sampled_from(
    [
        IMAGE,
        spaces.Box(0, 255, (3, 36, 36), np.uint8),
        # Too small for convolutions, and no way to tell which axis has the channels
        spaces.Box(0, 255, (4, 2, 5), np.uint8),
        spaces.Box(0, 255, (3, 3, 3), np.uint8),
    ]
)
keys = st.sampled_from(["a", "b", "observation", "desired goal", "type", "x.y", ""])
dicts = st.builds(spaces.Dict, st.dictionaries(keys, simple, max_size=3))
nested = st.one_of(
    st.builds(lambda part: spaces.Dict(a=part), dicts | st.builds(lambda one: spaces.Tuple([one]), simple)),
    st.builds(lambda one, other: spaces.Tuple([one, other]), simple, simple),
    st.builds(lambda image, other: spaces.Dict(image=image, other=other), images, simple | images),
    st.just(spaces.Text(4)),
)
observations = st.one_of(simple, simple, simple, simple, dicts, dicts, nested, images)
actions = st.one_of(
    *(discretes, multi_discretes, multi_binaries, boxes(FLOATS, unlimited=False), boxes(FLOATS, unlimited=False)),
    *(boxes(FLOATS), boxes(FLOATS, min_dims=0), boxes(INTEGERS)),
    st.sampled_from([spaces.Tuple([spaces.Discrete(2)]), spaces.Text(3), spaces.Dict(a=spaces.Discrete(2))]),
)


def starts_at_zero(space):
    return not np.any(getattr(space, "start", 0))


def can_act(space):
    """Whether an action space is one of those that the documentation promises."""
    if isinstance(space, spaces.Box):
        with np.errstate(over="ignore"):
            width = space.high.astype(np.float64) - space.low.astype(np.float64)
        # NumPy draws neither from a width that overflows nor between 0.0 and -0.0
        return bool(space.dtype.kind == "f" and space.shape and np.all(np.isfinite(width) & ~np.signbit(width)))
    if isinstance(space, spaces.MultiBinary):
        return isinstance(space.n, int)
    return isinstance(space, spaces.Discrete | spaces.MultiDiscrete) and starts_at_zero(space) and len(space.shape) < 2


def can_observe(space, part=False):
    """Whether an observation space is one of those that the documentation promises."""
    if isinstance(space, spaces.Dict) and not part:
        named = len(space.spaces) > 0 and all(key and "." not in key and key != "type" for key in space.spaces)
        # SB3 turns round all of the images or none
        one_convention = len({np.argmin(each.shape) == 0 for each in space.spaces.values() if is_image(each)}) < 2
        return named and one_convention and all(can_observe(each, part=True) for each in space.spaces.values())
    if isinstance(space, spaces.Box):
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        readable = not part or not is_image(space) or sorted(space.shape)[1] >= 36
        return space.shape != () and readable and bool(np.all((low <= LARGEST) & (high >= -LARGEST)))
    if isinstance(space, spaces.MultiBinary):
        return True
    return isinstance(space, spaces.Discrete | spaces.MultiDiscrete) and starts_at_zero(space) and len(space.shape) < 2


def assert_refused_by_name(observation_space, action_space):
    with pytest.raises((ValueError, AssertionError, NotImplementedError)) as caught:
        make(AnySpaceEnv(observation_space, action_space))
    message = str(caught.value)
    if f"action_space={action_space}" in message or f"{action_space} was provided" in message:
        assert not can_act(action_space)
        return
    assert not can_observe(observation_space)
    # By its key, where the rest of the dictionary is sound; SB3 has turned images round by the time that nets are made
    keys = list(observation_space.spaces) if isinstance(observation_space, spaces.Dict) else []
    names = [re.escape(f"observation_space={observation_space}"), *(f"'{key}'| {key} must" for key in keys)]
    assert any(re.search(name, message) for name in names), message


COMMON = dict(deadline=None, database=None, suppress_health_check=list(HealthCheck))


@settings(max_examples=200, derandomize=True, **COMMON)
@given(observations.filter(can_observe), actions.filter(can_act))
def test_any_sound_pair_trains(observation_space, action_space):
    env = AnySpaceEnv(observation_space, action_space)
    assert_trains_and_comes_back(make(env), env, steps=70)


@settings(max_examples=200, derandomize=True, **COMMON)
@given(observations, actions)
def test_any_other_pair_is_refused_by_name(observation_space, action_space):
    assume(not (can_observe(observation_space) and can_act(action_space)))
    assert_refused_by_name(observation_space, action_space)


@pytest.mark.slow
@settings(max_examples=1000, print_blob=True, **COMMON)
@given(observations, actions)
def test_new_pairs_each_time(observation_space, action_space):
    if can_observe(observation_space) and can_act(action_space):
        env = AnySpaceEnv(observation_space, action_space)
        assert_trains_and_comes_back(make(env), env, steps=300)
    else:
        assert_refused_by_name(observation_space, action_space)
