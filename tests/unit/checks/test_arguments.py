"""What is refused, when, and whether the message says what it was and leaves the nets as they were."""

import contextlib
import copy
import math
import re

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_dai.checks import check_finite, check_losses, check_number, check_spaces
from sb3_dai.dai import DAI

NAN, INF = math.nan, math.inf
VECTOR = spaces.Box(-1.0, 1.0, (3,), np.float32)
DISCRETE = spaces.Discrete(2)


class ScriptedEnv(gym.Env):
    """Observes noise and rewards 1, but for the numbered steps of a script; episodes have ten steps. Step 0 is a reset."""

    action_space = DISCRETE

    def __init__(self, observations=None, rewards=None, as_dict=False, cut_off=False):
        self.observations, self.rewards, self.cut_off = observations or {}, rewards or {}, cut_off
        box = spaces.Box(-INF, INF, (3,), np.float32)
        self.as_dict = as_dict
        self.observation_space = spaces.Dict(a=VECTOR, b=box) if as_dict else box
        self.count = 0

    def observe(self, step):
        noise = self.np_random.normal(size=3).astype(np.float32)
        if step in self.observations:
            noise[1] = self.observations[step]
        return {"a": np.zeros(3, np.float32), "b": noise} if self.as_dict else noise

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observe(f"reset after {self.count}"), {}

    def step(self, action):
        self.count += 1
        done = self.count % 10 == 0
        reward = self.rewards.get(self.count, 1.0)
        return self.observe(self.count), reward, done and not self.cut_off, done and self.cut_off, {}


class SpaceEnv(gym.Env):
    """Has nothing but its spaces."""

    def __init__(self, observation_space=VECTOR, action_space=DISCRETE):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        raise AssertionError("no model should have come this far")

    step = reset


def make(env=None, **kwargs):
    small = dict(policy_kwargs=dict(net_arch=[16]), buffer_size=1000, learning_starts=50, batch_size=32, device="cpu", seed=0)
    small.update(gradient_steps=1, precision="auto")
    env = SpaceEnv() if env is None else env
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    return DAI(policy, env, **{**small, **kwargs})


def state_of(model):
    """Everything that a gradient step may change, as bytes so that NaN equals itself."""
    optimizer = model.policy.optimizer.state_dict()["state"]
    tensors = {
        **{f"parameter {name}": value for name, value in model.policy.named_parameters()},
        **{f"statistic {name}": value for name, value in model.policy.named_buffers()},
        **{f"optimizer {i} {name}": th.as_tensor(value) for i, part in optimizer.items() for name, value in part.items()},
    }
    return {name: value.detach().numpy().tobytes() for name, value in tensors.items()}


def learn_until_error(model, match, steps=100):
    """Train until the error, and return what had changed since the step before it and the message."""
    states = []
    with pytest.raises(ValueError, match=match) as caught:
        model.learn(steps, callback=lambda locals_, globals_: states.append(state_of(model)) or True, log_interval=None)
    now = state_of(model)
    return {name for name in now if now[name] != states[-1].get(name)} if states else set(), str(caught.value)


# ----- Numbers -----

FRACTIONS = (
    *("tau", "gamma", "epistemic_gamma", "bootstrap_entropy", "pessimism"),
    *("exploration_fraction", "exploration_initial_entropy", "exploration_final_entropy"),
)
AT_LEAST_ONE = ("buffer_size", "batch_size", "n_steps", "target_update_interval", "transition_delay", "policy_delay")
WHOLE = (*AT_LEAST_ONE, "gradient_steps")
NUMBERS = (
    *(*FRACTIONS, *WHOLE, "learning_rate", "learning_starts", "preference_weight", "epistemic_weight"),
    *("prediction_error_weight", "precision", "action_precision", "max_grad_norm"),
)
OPTIONAL = ("pessimism", "max_grad_norm", "target_update_interval", "transition_delay", "policy_delay")
BAD_ARGUMENTS = [
    *((name, value) for name in NUMBERS for value in (NAN, INF, -INF, "many", True, [1])),
    *((name, value) for name in FRACTIONS for value in (-0.1, 1.001)),
    *((name, value) for name in WHOLE for value in (-2, 1.5, np.float64(2.0))),
    *((name, 0) for name in AT_LEAST_ONE),
    *((name, 0) for name in ("precision", "max_grad_norm")),
    *((name, -1) for name in NUMBERS if name not in ("gradient_steps", "prediction_error_weight")),
    *((name, None) for name in NUMBERS if name not in OPTIONAL),
    ("exploration_fraction", 0),
    ("learning_rate", lambda progress: NAN),
    ("learning_rate", lambda progress: -progress),
    ("precision", "Auto"),
    ("n_steps", "3"),
    ("n_steps", "auto"),
    *(("train_freq", value) for value in (0, -1, (0, "episode"), (-1, "step"), True, (True, "step"))),
]


@pytest.mark.parametrize(("name", "value"), BAD_ARGUMENTS, ids=lambda x: getattr(x, "__name__", str(x)))
def test_bad_argument_is_named_with_its_value(name, value):
    with pytest.raises(ValueError) as caught:
        make(**{name: value})
    message = str(caught.value)
    assert re.match(rf"{name}( \(.*\))?=", message), message
    # Of a pair (frequency, unit) the number alone is at fault
    assert repr(value[0] if isinstance(value, tuple) else value) in message
    # What to do instead
    assert re.search("give a |choose ", message)


@pytest.mark.parametrize(
    ("name", "value", "error", "match"),
    [
        ("train_freq", "often", ValueError, "train_freq.*often"),
        ("train_freq", 2.5, ValueError, r"train_freq.*2\.5"),
        ("train_freq", (2, "epoch"), ValueError, "train_freq.*epoch"),
        ("policy", "MlpPolicies", ValueError, "MlpPolicies"),
        ("device", "no such device", RuntimeError, "no such device"),
    ],
)
def test_bad_argument_that_stable_baselines3_refuses(name, value, error, match):
    with pytest.raises(error, match=match):
        DAI(**{"policy": "MlpPolicy", "env": SpaceEnv(), "buffer_size": 10, "device": "cpu", name: value})


BAD_POLICY_ARGUMENTS = [
    *(("net_arch", value) for value in (16, (16,), "16", [0], [16, -1], [1.5], [16, "16"], [None], [True], dict(pi=[16]))),
    *((name, value) for name in ("ensemble_size", "n_critics") for value in (0, -1, 2.0, NAN, "2", None, True, [2])),
    *(("lr_multipliers", dict(policy=value)) for value in (-0.5, NAN, INF, "2", None, True)),
    *(("lr_multipliers", {name: 1.0}) for name in ("critic", "policy_net", 0)),
]


@pytest.mark.parametrize(("name", "value"), BAD_POLICY_ARGUMENTS, ids=lambda x: str(x))
def test_bad_argument_of_the_policy_is_named_with_its_value(name, value):
    with pytest.raises(ValueError) as caught:
        make(policy_kwargs={name: value})
    message = str(caught.value)
    assert message.startswith(name), message
    if isinstance(value, dict) and name == "lr_multipliers":
        ((key, value),) = value.items()
        known = key == "policy"
        assert (key if known else repr(key)) in message
        assert (repr(value) if known else "transition") in message
    else:
        assert repr(value) in message
    assert re.search("give a |choose ", message)


@pytest.mark.parametrize("change", [dict(tau=2), dict(precision="hot"), dict(n_steps=0)], ids=str)
def test_a_load_refuses_the_same_arguments(tmp_path, change):
    make(buffer_size=10).save(tmp_path / "model")
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=rf"{name}.*={value!r}"):
        DAI.load(tmp_path / "model", device="cpu", **change)


@pytest.mark.parametrize(
    "arguments",
    [
        dict.fromkeys((*FRACTIONS, "learning_starts", "preference_weight", "epistemic_weight", "prediction_error_weight"), 1),
        dict(tau=0, gamma=0, epistemic_gamma=0, bootstrap_entropy=0, exploration_final_entropy=0, learning_rate=0),
        dict(epistemic_weight=0, preference_weight=0, prediction_error_weight=-2.5, exploration_fraction=1e-6),
        dict(max_grad_norm=None, target_update_interval=None, gradient_steps=-1, learning_starts=0, n_steps=1, batch_size=1),
        dict(precision=1e-3, max_grad_norm=1e-3, buffer_size=1),
        dict(train_freq=(3, "step"), learning_rate=lambda progress: 1e-3 * progress),
    ],
)
def test_values_at_the_bounds_train(arguments):
    model = make(ScriptedEnv(), **arguments).learn(60)
    assert model._n_updates > 0
    assert all(th.isfinite(parameter).all() for parameter in model.policy.parameters())


def test_numbers_of_numpy_are_numbers():
    whole = dict.fromkeys(("batch_size", "target_update_interval"), np.int64(8))
    real = dict.fromkeys((*FRACTIONS, "preference_weight", "epistemic_weight", "prediction_error_weight"), np.float32(0.5))
    others = dict(
        buffer_size=np.int32(300),
        gradient_steps=np.uint8(2),
        n_steps=np.int64(2),
        learning_rate=np.float32(1e-3),
        learning_starts=np.int16(20),
        precision=np.float64(2.0),
        max_grad_norm=np.float32(1.0),
    )
    policy_kwargs = dict(
        net_arch=[np.int64(8)], ensemble_size=np.int64(2), n_critics=np.int32(1), lr_multipliers=dict(value=np.float32(0.5))
    )
    model = make(ScriptedEnv(), **whole, **real, **others, policy_kwargs=policy_kwargs).learn(60)
    assert model._n_updates == 80
    assert all(th.isfinite(parameter).all() for parameter in model.policy.parameters())


@pytest.mark.parametrize(
    ("kwargs", "good", "bad"),
    [
        (
            dict(low=0, high=1),
            (0, 1, 0.5, np.float32(0.5), np.int8(1)),
            (-1e-9, 1 + 1e-9, NAN, "0.5", None, False, 0j, np.bool_(True)),
        ),
        (dict(low=-1, whole=True), (-1, 0, 10**12, np.uint8(3)), (-2, 0.0, 1.0, np.float64(1.0), True, INF)),
        (dict(low=-INF), (-1e300, 0, 1e300), (-INF, INF, NAN)),
    ],
)
def test_check_number(kwargs, good, bad):
    for value in good:
        check_number("name", value, **kwargs)
    for value in bad:
        with pytest.raises(ValueError, match=re.escape(f"name={value!r}: give a")):
            check_number("name", value, **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "bounds"),
    [
        (dict(low=0, high=1), "give a finite number between 0 and 1"),
        (dict(low=2, whole=True), "give a whole number of at least 2"),
        (dict(low=-INF), "give a finite number"),
    ],
)
def test_check_number_tells_the_bounds(kwargs, bounds):
    with pytest.raises(ValueError, match=f"{bounds}$"):
        check_number("name", NAN, **kwargs)


# ----- Spaces -----


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
    "tuple": (spaces.Tuple([VECTOR, DISCRETE]), "wrap the environment to observe Box"),
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


@pytest.mark.parametrize("space", [spaces.Tuple([DISCRETE]), spaces.Text(3), spaces.Dict(a=DISCRETE)], ids=str)
def test_actions_that_no_algorithm_takes_get_the_standard_error(space, as_argument):
    with pytest.raises(AssertionError, match=r"The algorithm only supports .*Box.* as action spaces but") as caught:
        DAI("MlpPolicy", as_argument(SpaceEnv(action_space=space)))
    assert str(space) in str(caught.value)


def test_state_dependent_exploration_is_refused(as_argument):
    message = refuse(as_argument(SpaceEnv(action_space=box(-1.0, 1.0))), use_sde=True)
    assert message.startswith("use_sde=True: ") and "action_noise" in message


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
        make(SpaceEnv(spaces.Dict(parts)), buffer_size=10)


def test_check_spaces_names_the_key():
    check_spaces(spaces.Dict(a=VECTOR, b=DISCRETE, c=spaces.MultiBinary(2), d=spaces.MultiDiscrete([2, 2])), DISCRETE)
    with pytest.raises(ValueError, match=r"observation_space\['b'\]=Text\(.*wrap the environment"):
        check_spaces(spaces.Dict(a=VECTOR, b=spaces.Text(5)), DISCRETE)


# ----- What the environment returns -----

BAD_RETURNS = {
    "observation": dict(observations={75: NAN}),
    "observation at the end": dict(observations={80: NAN}),
    "observation at a timeout": dict(observations={80: INF}, cut_off=True),
    "observation in a dictionary": dict(observations={75: -INF}, as_dict=True),
    "observation at the end in a dictionary": dict(observations={80: NAN}, as_dict=True),
    "observation after the end": dict(observations={"reset after 80": INF}),
    "reward": dict(rewards={75: NAN}),
    "reward of infinity": dict(rewards={75: -INF}),
}


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("case", BAD_RETURNS)
def test_non_finite_return_is_not_stored(case, n_envs):
    script = BAD_RETURNS[case]
    steps = max(int(str(step).split()[-1]) for part in ("observations", "rewards") for step in script.get(part, {}))
    # The last environment is the broken one
    envs = [ScriptedEnv(as_dict=script.get("as_dict", False)) for _ in range(n_envs - 1)] + [ScriptedEnv(**script)]
    env = DummyVecEnv([lambda env=env: env for env in envs])
    model = make(env, learning_starts=50 * n_envs)
    changed, message = learn_until_error(model, f"non-finite .*{case.split()[0]}", steps=100 * n_envs)
    # The callback sees the state before a step is stored, so a gradient step behind it would show
    assert changed == set()
    assert model.replay_buffer.pos == steps - 1
    assert model.num_timesteps == steps * n_envs
    assert "nan" in message or "inf" in message
    if "dictionary" in case:
        assert "'b'" in message
    arrays = [value for value in vars(model.replay_buffer).values() if isinstance(value, (np.ndarray, dict))]
    parts = [part for value in arrays for part in (value.values() if isinstance(value, dict) else [value])]
    assert all(np.isfinite(part).all() for part in parts)


def test_training_goes_on_once_the_environment_is_mended():
    model = make(ScriptedEnv(observations={75: NAN}))
    learn_until_error(model, "non-finite observation")
    model.learn(60, reset_num_timesteps=False)
    assert model.num_timesteps == 135
    assert model._n_updates == 24 + 60
    assert all(th.isfinite(value).all() for value in model.policy.state_dict().values())


@pytest.mark.parametrize("as_dict", [False, True])
def test_non_finite_reset(as_dict):
    model = make(ScriptedEnv(observations={"reset after 0": NAN}, as_dict=as_dict))
    changed, message = learn_until_error(model, "non-finite observation at reset")
    assert changed == set()
    assert ("'b'" in message) == as_dict
    assert model.num_timesteps == model.replay_buffer.pos == 0


@pytest.mark.parametrize(
    "script", [dict(observations={75: NAN}), dict(observations={75: INF}), dict(rewards={75: NAN})], ids=str
)
def test_non_finite_return_behind_vec_normalize(script):
    model = make(VecNormalize(DummyVecEnv([lambda: ScriptedEnv(**script)])))
    with np.errstate(invalid="ignore"):  # of infinity less infinity, in VecNormalize
        changed, _ = learn_until_error(model, "non-finite")
    assert changed == set()
    assert model.replay_buffer.pos == 74


def test_reward_beyond_single_precision_is_infinite():
    model = make(ScriptedEnv(rewards={75: 1e39}))
    with np.errstate(over="ignore"):
        changed, _ = learn_until_error(model, r"non-finite reward: \[inf\]")
    assert changed == set()


def test_observation_beyond_single_precision_is_infinite():
    """It is finite to the environment, but not to the nets."""
    env = ScriptedEnv()
    env.observation_space = spaces.Box(-INF, INF, (3,), np.float64)
    env.observe = lambda step: np.full(3, -1e39 if step == 75 else 1.0)
    changed, message = learn_until_error(make(env), "non-finite observation")
    assert changed == set()
    assert "-1.e+39" in message and "single precision" in message


def test_check_finite():
    check_finite("x", np.array([1, 2], np.uint8))
    check_finite("x", {"a": np.zeros(2), "b": np.array(True)})
    with pytest.raises(ValueError, match=r"non-finite x: \[ 0\. inf\]"):
        check_finite("x", np.array([0, INF]))
    with pytest.raises(ValueError, match=r"non-finite x\['b'\]: nan"):
        check_finite("x", {"a": np.zeros(2), "b": np.float32(NAN)})
    with pytest.raises(ValueError, match=r"non-finite x\[''\]: nan"):
        check_finite("x", {"": np.float32(NAN)})
    check_finite("x", np.array([-3.4e38]))
    with pytest.raises(ValueError, match=r"non-finite x: \[-3\.5e\+38\] in single precision"):
        check_finite("x", np.array([-3.5e38]))


# ----- Losses -----


def make_trained():
    return make(ScriptedEnv(), n_steps=1).learn(60)


@pytest.mark.parametrize(
    ("net", "broken"),
    [
        ("transition_net", "transition_loss, value_loss"),  # which gives the values their novelty
        ("policy_net", "value_loss, policy_loss, precision_loss"),  # which the values bootstrap over
        ("value_net", "value_loss, policy_loss"),
        ("value_net_target", "value_loss"),
    ],
)
@pytest.mark.parametrize("value", [NAN, INF])
def test_broken_net_stops_training_by_name(net, broken, value):
    model = make_trained()
    next(getattr(model.policy, net).parameters()).data[0, 0, 0] = value
    before = state_of(model)
    with pytest.raises(ValueError, match=f"Training stopped: {broken} is not finite") as caught:
        model.train(gradient_steps=3, batch_size=32)
    after = state_of(model)
    assert {name for name in after if after[name] != before[name] and not name.startswith("statistic")} == set()
    assert "learning_rate" in str(caught.value)
    assert model._n_updates == 10


@pytest.mark.parametrize(
    ("kwargs", "script", "broken"),
    [
        (dict(), dict(rewards=dict.fromkeys(range(70, 200), 1e25)), "value_loss"),
        (dict(precision=1e38, preference_weight=1e38), dict(), "policy_loss|value_loss"),
        (dict(prediction_error_weight=-3e38), dict(), "policy_loss|value_loss"),
    ],
    ids=["huge reward", "huge precision", "huge weight"],
)
def test_overflow_stops_training_with_finite_nets(kwargs, script, broken):
    model = make(ScriptedEnv(**script), **kwargs)
    changed, message = learn_until_error(model, f"Training stopped: .*({broken}).* is not finite")
    assert all(th.isfinite(value).all() for value in model.policy.parameters())
    # A fixed precision is entered when training begins
    assert {name for name in changed if not name.startswith("statistic")} <= {"parameter log_precision"}
    assert "VecNormalize" in message


@pytest.mark.parametrize("value", [1e25, 3e38, -3e38])
@pytest.mark.parametrize("policy_kwargs", [dict(), dict(layer_norm=False)], ids=["layer norm", "plain"])
def test_observation_whose_square_overflows_leaves_finite_numbers(policy_kwargs, value):
    """
    Whether the gradient step is taken or refused. A running statistic of infinity would never come back, and silently:
    what it scales is 0 from then on.
    """
    model = make(ScriptedEnv(), policy_kwargs=dict(net_arch=[16], **policy_kwargs)).learn(60)
    good = model.replay_buffer.next_observations[30].copy()
    model.replay_buffer.next_observations[30] = value
    model.replay_buffer.observations[31] = value
    with contextlib.suppress(ValueError):
        model.train(gradient_steps=1, batch_size=1000)  # large enough to have it in the batch
    model.replay_buffer.next_observations[30] = model.replay_buffer.observations[31] = good
    model.train(gradient_steps=1, batch_size=1000)
    assert all(th.isfinite(tensor).all() for tensor in model.policy.state_dict().values())


def test_check_losses():
    names = ("loss", "one_loss", "two_loss", "three_loss", "entropy")
    check_losses(names, th.tensor([3.0, 1.0, 1.0, 1.0, NAN]))
    message = r"two_loss, three_loss is not finite \(\{'one_loss': 1\.0, 'two_loss': nan, 'three_loss': -inf\}\)"
    with pytest.raises(ValueError, match=message):
        check_losses(names, th.tensor([NAN, 1.0, NAN, -INF, 0.5]))
    # Terms that are finite each and overflow together
    with pytest.raises(ValueError, match="one_loss, two_loss is not finite"):
        check_losses(("loss", "one_loss", "two_loss"), th.tensor([INF, 3e38, 3e38]))
