"""Arguments that are refused, and whether the message says what was wrong and what to do."""

import math
import re

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import action_spaces, make
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.vec_env import DummyVecEnv
from worlds import BOX, DISCRETE, VECTOR, SampledEnv, ScriptedEnv, SpaceEnv

from sb3_dai.checks import check_net_arch
from sb3_dai.dai import DAI
from sb3_dai.policy import MlpPolicy

NAN, INF = math.nan, math.inf
FRACTIONS = ("tau", "gamma", "bootstrap_entropy", "pessimism")
AT_LEAST_ONE = ("buffer_size", "batch_size", "n_steps", "target_update_interval", "policy_delay")
WHOLE = (*AT_LEAST_ONE, "gradient_steps")
ANY_SIGN = ("prediction_error_weight", "target_entropy")
NUMBERS = (
    *(*FRACTIONS, *WHOLE, *ANY_SIGN, "learning_rate", "learning_starts", "preference_weight", "epistemic_weight"),
    *("precision", "max_grad_norm"),
)
OPTIONAL = (
    "pessimism",
    "max_grad_norm",
    "target_update_interval",
    "policy_delay",
    "learning_rate",
    "batch_size",
    "tau",
    "gradient_steps",
)
BAD_ARGUMENTS = [
    *((name, value) for name in NUMBERS for value in (NAN, INF, "many", True, [1])),
    *((name, value) for name in FRACTIONS for value in (-0.1, 1.001)),
    *((name, value) for name in WHOLE for value in (-2, 1.5, np.float64(2.0))),
    *((name, 0) for name in (*AT_LEAST_ONE, "precision", "max_grad_norm")),
    *((name, -1) for name in NUMBERS if name not in ("gradient_steps", *ANY_SIGN)),
    *((name, None) for name in NUMBERS if name not in OPTIONAL),
    ("learning_rate", lambda progress: NAN),
    ("learning_rate", lambda progress: -progress),
    ("precision", "Auto"),
    ("target_entropy", -INF),
    ("n_steps", "auto"),
    *(("backend", value) for value in ("fast", None, True)),
    *(("train_freq", value) for value in (0, -1, (0, "episode"), (-1, "step"), True, (True, "step"))),
]


@pytest.mark.parametrize(("name", "value"), BAD_ARGUMENTS, ids=lambda x: getattr(x, "__name__", str(x)))
def test_bad_argument_is_named_with_its_value(name, value):
    with pytest.raises(ValueError) as caught:
        make(SpaceEnv(), **{name: value})
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
    *((name, value) for name in ("ensemble_size", "n_critics") for value in (0, -1, 2.0, NAN, "2", None, True, [2])),
    *(("transition_delay", value) for value in (0, -1, 2.0, "2", True)),
    *(("transition_model", "net"), ("novelty", "surprise"), ("greedy", "epistemic"), ("greedy", "habit")),
    *(("prior_count", 0), ("bootstrap_share", 0), ("bootstrap_share", 1.1), ("prior_scale", -1)),
    *(("deliberation", 1.1), ("deliberation", -0.1)),
    *(("lr_multipliers", dict(policy=value)) for value in (-0.5, NAN, INF, "2", None, True)),
    *(("lr_multipliers", {name: 1.0}) for name in ("critic", "policy_net", 0)),
]


@pytest.mark.parametrize(("name", "value"), BAD_POLICY_ARGUMENTS, ids=lambda x: str(x))
def test_bad_argument_of_the_policy_is_named_with_its_value(name, value):
    with pytest.raises(ValueError) as caught:
        make(SpaceEnv(), policy_kwargs={name: value})
    message = str(caught.value)
    assert re.match(rf"{name}( \(.*\))?=|{name}[ \[]", message), message
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
    make(SpaceEnv(), buffer_size=10).save(tmp_path / "model")
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=rf"{name}.*={value!r}"):
        DAI.load(tmp_path / "model", device="cpu", **change)


@pytest.mark.parametrize(
    "arguments",
    [
        dict.fromkeys((*FRACTIONS, "learning_starts", "preference_weight", "epistemic_weight", "prediction_error_weight"), 1),
        dict(tau=0, gamma=0, bootstrap_entropy=0, target_entropy=0, learning_rate=0),
        dict(epistemic_weight=0, preference_weight=0, prediction_error_weight=-2.5, target_entropy=-10.0),
        dict(max_grad_norm=None, target_update_interval=None, gradient_steps=-1, learning_starts=0, n_steps=1, batch_size=1),
        dict(precision=1e-3, max_grad_norm=1e-3, buffer_size=1),
        dict(train_freq=(3, "step"), learning_rate=lambda progress: 1e-3 * progress),
    ],
)
def test_values_at_the_bounds_train(arguments):
    model = make(ScriptedEnv(), **arguments, seed=0).learn(60)
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
        **dict(net_arch=[np.int64(8)], ensemble_size=np.int64(2), n_critics=np.int32(1), transition_delay=np.int8(2)),
        **dict(lr_multipliers=dict(value=np.float32(0.5)), action_precision=np.float32(2.0)),
    )
    model = make(ScriptedEnv(), seed=0, **whole, **real, **others, policy_kwargs=policy_kwargs).learn(60)
    assert model._n_updates == 80
    assert all(th.isfinite(parameter).all() for parameter in model.policy.parameters())


# ----- Sizes of the nets -----


@pytest.mark.parametrize(
    ("net_arch", "expected"),
    [
        (None, dict(pi=[4], qf=[4], transition=[4])),
        ([], dict(pi=[], qf=[], transition=[])),
        ([8, 16], dict(pi=[8, 16], qf=[8, 16], transition=[8, 16])),
        (dict(pi=[8], qf=[16, 16]), dict(pi=[8], qf=[16, 16], transition=[16, 16])),
        (dict(pi=[], qf=[16], transition=[32]), dict(pi=[], qf=[16], transition=[32])),
    ],
    ids=str,
)
def test_sizes_of_each_net(net_arch, expected):
    """The world model has the sizes of the critics unless it is given its own."""
    assert check_net_arch(net_arch, default=[4]) == expected


def test_sizes_are_copied():
    given, shared = dict(pi=[8], qf=[16]), [8]
    found = check_net_arch(given, default=[])
    found["qf"].append(1)
    check_net_arch(shared, default=[])["pi"].append(1)
    assert given == dict(pi=[8], qf=[16]) and found["transition"] == [16] and shared == [8]


@pytest.mark.parametrize(
    ("net_arch", "remedy"),
    [
        *((value, "give a list of positive layer sizes") for value in (16, (16,), "16")),
        *((value, "size.*give a whole number of at least 1") for value in ([0], [16, -1], [1.5], [16, "16"], [None], [True])),
        (dict(pi=[16]), r"lacks \['qf'\]: give"),
        (dict(transition=[16]), r"lacks \['pi', 'qf'\]: give"),
        (dict(pi=[16], qf=[16], vf=[16]), r"unknown nets \['vf'\]: choose from \('pi', 'qf', 'transition'\)"),
        (dict(pi=16, qf=[16]), "give a list of positive layer sizes"),
        (dict(pi=[16], qf=[0]), "size.*0: give a whole number"),
    ],
    ids=str,
)
def test_bad_sizes_are_named(net_arch, remedy):
    with pytest.raises(ValueError, match=remedy) as caught:
        make(SpaceEnv(), policy_kwargs=dict(net_arch=net_arch))
    assert str(caught.value).startswith(f"net_arch={net_arch!r}")


@action_spaces("discrete", "box")
def test_nets_have_their_sizes_and_train(tmp_path, action_space):
    net_arch = dict(pi=[5], qf=[6, 7], transition=[])
    model = make(SampledEnv(VECTOR, action_space), policy_kwargs=dict(net_arch=net_arch), seed=0).learn(60)
    model.save(tmp_path / "model")

    def hidden(net):
        layers = [layer for layer in net.layers if type(layer).__name__ == "BatchedLinear"]
        return [layer.weight.shape[-1] for layer in layers[:-1]]

    for policy in (model.policy, DAI.load(tmp_path / "model", device="cpu").policy):
        assert hidden(policy.policy_net) == hidden(policy.policy_net_target) == hidden(policy.policy_net_average) == [5]
        assert hidden(policy.value_net) == hidden(policy.value_net_target) == [6, 7]
        assert hidden(policy.world_model.net) == []
        assert policy.net_arch == net_arch
    assert model.policy_kwargs["net_arch"] == net_arch


def test_sizes_by_default():
    arguments = dict(lr_schedule=lambda _: 1e-3)
    assert MlpPolicy(VECTOR, DISCRETE, **arguments).net_arch["qf"] == [64, 64]
    image = MlpPolicy(spaces.Box(0, 255, (1, 36, 36), np.uint8), DISCRETE, features_extractor_class=NatureCNN, **arguments)
    assert image.net_arch["qf"] == []


# ----- Arguments that do not go together -----


def test_deliberation_is_for_choices_without_a_habit_prior():
    with pytest.raises(ValueError, match=r"deliberation=0\.5 is for choices, not for Box"):
        make(SpaceEnv(action_space=BOX), policy_kwargs=dict(deliberation=0.5))
    with pytest.raises(ValueError, match=r"habit_prior=.* with deliberation=0\.5 in policy_kwargs.*Leave one of them out"):
        make(SpaceEnv(), habit_prior=[0.5, 0.5], precision=1.0, policy_kwargs=dict(deliberation=0.5))


def test_more_environments_than_the_interval_of_the_target_are_warned_of():
    with pytest.warns(UserWarning, match=r"greater than the target network update interval \(2 > 1\)"):
        make(DummyVecEnv([SampledEnv] * 2), target_update_interval=1)
