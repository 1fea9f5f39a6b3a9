"""Spaces that are refused before anything was changed, and their remedies."""

import copy
import math
import re

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from helpers import make
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv
from worlds import TWO, VECTOR, SpaceEnv

from sb3_dai.checks import check_spaces
from sb3_dai.dai import DAI

INF = math.inf


def box(low, high, shape=(1,), dtype=np.float32):
    return spaces.Box(low, high, shape, dtype)


# Each with its remedy
BAD_ACTIONS = {
    "integers": (box(0, 3, (2,), np.int64), "use MultiDiscrete"),
    "flags": (box(0, 1, (2,), np.bool_), "use MultiDiscrete"),
    "unbounded": (box(-INF, INF), "give it some"),
    "half-bounded": (spaces.Box(np.array([0.0, 0.0]), np.array([1.0, INF]), dtype=np.float64), "give it some"),
    "too wide": (box(-1.7e308, 1.7e308, dtype=np.float64), "rescale it"),
    "scalar": (box(-1.0, 1.0, ()), r"shape \(1,\)"),
    "empty": (box(-1.0, 1.0, (0,)), "at least one dimension"),
    "empty matrix": (box(-1.0, 1.0, (2, 0)), "at least one dimension"),
    "empty multi-discrete": (spaces.MultiDiscrete(np.zeros(0, np.int64)), "at least one dimension"),
    "matrix of choices": (spaces.MultiDiscrete([[2, 3], [2, 2]]), "flatten"),
    "matrix of flags": (spaces.MultiBinary([2, 2]), "flatten"),
    "list of flags": (spaces.MultiBinary([3]), r"MultiBinary\(n\)"),
    "start": (spaces.Discrete(3, start=1), "start at 0, wrap the environment to shift"),
    "long double": (box(-1.0, 1.0, dtype=np.longdouble), "use float32"),
    "foreign byte order": (box(-1.0, 1.0, dtype=np.dtype(np.float32).newbyteorder()), "use float32"),
}
BAD_OBSERVATIONS = {
    "tuple": (spaces.Tuple([VECTOR, TWO]), "wrap the environment to observe Box"),
    "empty dict": (spaces.Dict(), "at least one entry"),
    # torch's one-hot code and the flattening of SB3 break in the midst of training with these
    "start": (spaces.Discrete(3, start=2), "start at 0, wrap the environment to shift"),
    "matrix of choices": (spaces.MultiDiscrete([[3, 2], [2, 2]]), "flatten"),
    "scalar": (box(-1.0, 1.0, ()), r"shape \(1,\)"),
    "empty": (box(-1.0, 1.0, (0,)), "at least one dimension"),
    "empty matrix": (box(-1.0, 1.0, (0, 2)), "at least one dimension"),
    "beyond single precision": (spaces.Box(np.array([0.0, 1e300]), np.array([1.0, 2e300]), dtype=np.float64), "rescale it"),
    "far below": (box(-INF, -1e39, dtype=np.float64), "rescale it"),
    "long double": (box(-1.0, 1.0, dtype=np.longdouble), "use float32"),
    "foreign byte order": (box(-1.0, 1.0, dtype=np.dtype(np.float32).newbyteorder()), "use float32"),
}
if hasattr(spaces.MultiDiscrete([2]), "start"):
    BAD_ACTIONS["starts"] = spaces.MultiDiscrete([3, 2], start=[0, 1]), "start at 0, wrap the environment to shift"
    BAD_OBSERVATIONS["starts"] = spaces.MultiDiscrete([3, 2], start=[1, 0]), "start at 0, wrap the environment to shift"
BAD_ENTRIES = {
    **{case: row for case, row in BAD_OBSERVATIONS.items() if case != "empty dict"},
    "nested": (spaces.Dict(c=VECTOR), "flat Dict"),
    "text": (spaces.Text(5), "wrap the environment to observe Box"),
    "sequence": (spaces.Sequence(VECTOR), "wrap the environment to observe Box"),
}


@pytest.fixture(params=["environment", "vectorised", "id"])
def as_argument(request, monkeypatch):
    """The three ways in which an environment may be given."""

    def convert(env):
        if request.param == "environment":
            return env
        if request.param == "vectorised":
            return DummyVecEnv([lambda: env])
        monkeypatch.setitem(gym.registry, "OnlySpaces-v0", EnvSpec("OnlySpaces-v0", lambda: env, disable_env_checker=True))
        return "OnlySpaces-v0"

    return convert


def refuse(env, policy="MlpPolicy", **kwargs):
    """The message of the ValueError, which has drawn no number and changed nothing that it was given."""
    before = dict(vars(env)) if isinstance(env, gym.Env | DummyVecEnv) else {}
    kwargs = dict(policy_kwargs=dict(net_arch=[8]), replay_buffer_kwargs=dict(), **kwargs)
    arguments = copy.deepcopy(kwargs)
    states = np.random.get_state()[1].tobytes(), th.get_rng_state().numpy().tobytes()
    with pytest.raises(ValueError) as caught:
        DAI(policy, env, seed=0, device="cpu", **kwargs)
    assert (np.random.get_state()[1].tobytes(), th.get_rng_state().numpy().tobytes()) == states
    assert kwargs == arguments
    after = vars(env) if isinstance(env, gym.Env | DummyVecEnv) else {}
    assert before.keys() == after.keys() and all(before[name] is after[name] for name in before)
    return str(caught.value)


@pytest.mark.parametrize("case", BAD_ACTIONS)
def test_unsupported_actions_are_named_with_their_remedy(case, as_argument):
    space, remedy = BAD_ACTIONS[case]
    message = refuse(as_argument(SpaceEnv(action_space=space)))
    assert message.startswith(f"action_space={space}: ")
    assert re.search(remedy, message), message
    assert getattr(space, "_np_random", None) is None, "a random action was drawn from the user's own space"


@pytest.mark.parametrize("case", BAD_OBSERVATIONS)
def test_unsupported_observations_are_named_with_their_remedy(case, as_argument):
    space, remedy = BAD_OBSERVATIONS[case]
    message = refuse(as_argument(SpaceEnv(space)))
    assert re.match(rf"observation_space={re.escape(str(space))}(:| is not supported:) ", message), message
    assert re.search(remedy, message), message


@pytest.mark.parametrize("key", ["b", ""])
@pytest.mark.parametrize("case", BAD_ENTRIES)
def test_unsupported_entry_of_a_dictionary_is_named_by_its_key(case, key):
    space, remedy = BAD_ENTRIES[case]
    message = refuse(SpaceEnv(spaces.Dict({"a": VECTOR, key: space})), "MultiInputPolicy")
    assert message.startswith(f"observation_space[{key!r}]={space}")
    assert re.search(remedy, message), message


def test_a_policy_of_dictionaries_needs_a_dictionary():
    with pytest.raises(ValueError, match=r'^observation_space=.*: CombinedExtractor reads .* Give "MlpPolicy"'):
        DAI("MultiInputPolicy", SpaceEnv())


def test_an_environment_is_needed():
    with pytest.raises(ValueError, match=r"^env=None: give an environment, or the id of one"):
        DAI("MlpPolicy", None)


@pytest.mark.parametrize("space", [spaces.Tuple([TWO]), spaces.Text(3), spaces.Dict(a=TWO)], ids=str)
def test_actions_that_no_algorithm_takes_get_the_standard_error(space, as_argument):
    with pytest.raises(AssertionError, match=r"The algorithm only supports .*Box.* as action spaces but") as caught:
        DAI("MlpPolicy", as_argument(SpaceEnv(action_space=space)))
    assert str(space) in str(caught.value)


def test_state_dependent_exploration_is_refused(as_argument):
    message = refuse(as_argument(SpaceEnv(action_space=box(-1.0, 1.0))), use_sde=True)
    assert message.startswith("use_sde=True ") and "leave it out" in message and "action_noise" in message


def test_noise_on_actions_that_can_be_counted_is_refused():
    with pytest.raises(ValueError, match=r"^action_noise=.*Discrete\(.*Leave it out"):
        DAI("MlpPolicy", SpaceEnv(), action_noise=NormalActionNoise(np.zeros(1), np.ones(1)), device="cpu")


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ({"image": box(0, 255, (12, 12, 3), np.uint8), "vector": VECTOR}, r"NatureCNN|CombinedExtractor.*36x36"),
        ({"robot.arm": VECTOR}, r"'robot\.arm'.*rename its keys"),
        ({"type": VECTOR}, "'type'.*rename its keys"),
    ],
    ids=["small image", "dot", "taken"],
)
def test_dictionaries_that_the_extractor_cannot_read_are_named(parts, named):
    with pytest.raises(ValueError, match=rf"(?s)observation_space=Dict\(.*{named}"):
        make(SpaceEnv(spaces.Dict(parts)), "MultiInputPolicy", buffer_size=10)


def test_check_spaces_names_the_key():
    check_spaces(spaces.Dict(a=VECTOR, b=TWO, c=spaces.MultiBinary(2), d=spaces.MultiDiscrete([2, 2])), TWO)
    with pytest.raises(ValueError, match=r"observation_space\['b'\]=Text\(.*wrap the environment"):
        check_spaces(spaces.Dict(a=VECTOR, b=spaces.Text(5)), TWO)
