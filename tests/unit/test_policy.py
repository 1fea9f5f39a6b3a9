"""The policy as an object: its spaces, arguments and copies."""

import copy
import functools
import inspect
import pickle

import cloudpickle
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import (
    BatchNormDropout,
    action_spaces,
    differing,
    is_finite,
    make,
    policy_for,
    stack,
    state_of,
)
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.utils import LinearSchedule
from torch import nn
from worlds import BOX, DISCRETE, IMAGE, VECTOR, SampledEnv

from sb3_dai.dai import DAI
from sb3_dai.learning.schedules import LEARNING_RATE
from sb3_dai.policy import CnnPolicy, MlpPolicy, MultiInputPolicy


@pytest.mark.parametrize(
    ("alias", "policy_class", "space"),
    [
        ("MlpPolicy", MlpPolicy, VECTOR),
        ("CnnPolicy", CnnPolicy, IMAGE),
        ("MultiInputPolicy", MultiInputPolicy, spaces.Dict(a=VECTOR)),
    ],
)
def test_policy_by_name_is_the_policy_by_class(alias, policy_class, space):
    by_name, by_class = (make(SampledEnv(space), policy, seed=1) for policy in (alias, policy_class))
    assert type(by_name.policy) is type(by_class.policy) is policy_class
    assert not differing(state_of(by_name.policy), state_of(by_class.policy))


@pytest.mark.parametrize(
    "space",
    [
        VECTOR,
        spaces.Box(-1.0, 1.0, (2, 3), np.float64),
        spaces.Box(0, 5, (2,), np.int32),
        spaces.Discrete(5),
        spaces.MultiDiscrete([3, 4]),
        spaces.MultiBinary(4),
        spaces.MultiBinary([2, 3]),
        IMAGE,
        spaces.Dict(vector=VECTOR, one=spaces.Discrete(3), many=spaces.MultiDiscrete([2, 2]), flags=spaces.MultiBinary(2)),
        spaces.Dict(image=IMAGE, vector=VECTOR),
    ],
    ids=[
        "vector",
        "matrix",
        "integers",
        "discrete",
        "multi-discrete",
        "multi-binary",
        "binary-matrix",
        "image",
        "dict",
        "mixed",
    ],
)
@action_spaces("discrete", "box")
def test_observation_spaces(space, action_space):
    model = make(SampledEnv(space, action_space), policy_for(space), buffer_size=100, seed=0)
    before = state_of(model.policy)
    model.learn(54)
    assert model._n_updates == 4
    assert is_finite(model.policy)
    changed = differing(before, state_of(model.policy))
    # Every trained tensor has moved, those of the features extractor included
    trained = {name for name, value in model.policy.named_parameters() if value.requires_grad}
    # Only epistemic_weight="auto" learns its weight
    assert changed & {*trained, "log_epistemic_weight"} == trained - {"log_epistemic_weight"}


@pytest.mark.parametrize("policy", ["MlpPolicy", "CnnPolicy"])
def test_dictionaries_need_the_multi_input_policy(policy):
    with pytest.raises(ValueError, match="MultiInputPolicy"):
        make(SampledEnv(spaces.Dict(a=VECTOR)), policy)


@pytest.mark.parametrize(("normalize", "largest"), [(True, 1.0), (False, 255.0)])
def test_images_are_divided_by_255_unless_told_otherwise(normalize, largest):
    model = make(SampledEnv(IMAGE), "CnnPolicy", buffer_size=10, policy_kwargs=dict(normalize_images=normalize), seed=0)
    seen = []
    model.policy.features_extractor.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].max().item()))
    model.predict(np.full((2, 1, 36, 36), 255, np.uint8))
    assert seen == [largest]


@pytest.mark.parametrize(
    "policy_kwargs",
    [
        dict(net_arch=[]),
        dict(net_arch=[16]),
        dict(net_arch=[8, 12, 4]),
        dict(net_arch=[16], activation_fn=nn.Tanh),
        dict(net_arch=[16], layer_norm=False),
        dict(net_arch=[16], ensemble_size=1),
        dict(net_arch=[16], n_critics=1),
        dict(net_arch=[16], n_critics=3),
        dict(net_arch=[16], optimizer_class=th.optim.RMSprop, optimizer_kwargs=dict(alpha=0.9)),
        dict(net_arch=[16], optimizer_class=th.optim.AdamW, optimizer_kwargs=dict(weight_decay=0.1)),
        dict(net_arch=[16], optimizer_class=th.optim.SGD),
        dict(net_arch=[16], optimizer_kwargs=dict(eps=1e-5, betas=(0.5, 0.9))),
        dict(net_arch=[16], features_extractor_class=BatchNormDropout, features_extractor_kwargs=dict(features_dim=5)),
    ],
    ids=lambda kwargs: "-".join(getattr(value, "__name__", str(value)) for value in kwargs.values()),
)
@action_spaces("discrete", "box")
def test_policy_kwargs_are_honoured_and_left_alone(policy_kwargs, action_space):
    given = copy.deepcopy(policy_kwargs)
    model = make(SampledEnv(action_space=action_space), policy_kwargs=policy_kwargs, seed=0)
    policy, before = model.policy, state_of(model.policy)
    model.learn(70)
    # Adam has momentum, so even the bias of a dead unit moves; RMSprop and SGD would not show it
    changed = differing(before, state_of(policy))
    assert {f"{net}.layers.0.weight" for net in ("world_model.net", "policy_net", "value_net")} <= changed
    assert is_finite(policy)
    assert policy_kwargs == given and model.policy_kwargs.items() >= given.items()

    weights = [layer for layer in policy.policy_net.layers if hasattr(layer, "weight")]
    sizes = [layer.weight.shape[-1] for layer in weights[:: 2 if policy.layer_norm else 1]]
    assert sizes == [*given["net_arch"], policy.action_model.policy_dim]
    assert policy.value_net.n_members == given.get("n_critics", policy.n_critics)
    assert policy.world_model.net.n_members == given.get("ensemble_size", policy.ensemble_size)
    assert any(isinstance(layer, given.get("activation_fn", nn.ReLU)) for layer in policy.value_net.layers) == bool(sizes[:-1])
    assert type(policy.optimizer) is given.get("optimizer_class", th.optim.Adam)
    assert policy.optimizer.defaults.items() >= given.get("optimizer_kwargs", {}).items()
    assert policy.features_extractor.features_dim == given.get("features_extractor_kwargs", {}).get("features_dim", 3)


@pytest.mark.parametrize("normalize_images", [True, False])
def test_dictionaries_of_the_user_are_not_written_into(tmp_path, normalize_images):
    extractor_kwargs, optimizer_kwargs, multipliers = dict(features_dim=32), dict(eps=1e-5), dict(policy=0.5)
    policy_kwargs = dict(
        normalize_images=normalize_images,
        features_extractor_kwargs=extractor_kwargs,
        optimizer_kwargs=optimizer_kwargs,
        lr_multipliers=multipliers,
    )
    buffer_kwargs = dict(handle_timeout_termination=True)
    given = copy.deepcopy((policy_kwargs, buffer_kwargs))
    model = make(
        SampledEnv(IMAGE), "CnnPolicy", policy_kwargs=policy_kwargs, replay_buffer_kwargs=buffer_kwargs, buffer_size=100
    )
    model.learn(52)
    model.save(tmp_path / "model")
    assert (policy_kwargs, buffer_kwargs) == given
    # The user writes into them afterwards: the model has its own
    multipliers["policy"] = policy_kwargs["n_critics"] = buffer_kwargs["handle_timeout_termination"] = 7
    assert model.policy.lr_multipliers == dict(policy=0.5)
    assert "n_critics" not in model.policy_kwargs
    assert model.replay_buffer_kwargs["handle_timeout_termination"] is True


@pytest.mark.parametrize("space", [VECTOR, IMAGE], ids=["vector", "image"])
@action_spaces("discrete", "box")
def test_targets_begin_as_copies(space, action_space):
    policy = make(SampledEnv(space, action_space), policy_for(space), buffer_size=10).policy
    for name in ("value_net", "policy_net", "features_extractor"):
        online, target = getattr(policy, name), getattr(policy, f"{name}_target")
        assert not differing(state_of(online), state_of(target))
        assert {id(parameter) for parameter in online.parameters()}.isdisjoint(map(id, target.parameters()))
        assert not any(parameter.requires_grad for parameter in target.parameters())


COPIES = {
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "cloudpickle": lambda x: pickle.loads(cloudpickle.dumps(x)),
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("extractor", [None, BatchNormDropout])
@pytest.mark.parametrize("clone", COPIES.values(), ids=COPIES)
@action_spaces("multi-discrete", "box")
def test_policy_can_be_pickled(clone, extractor, action_space):
    policy_kwargs = dict(net_arch=[16], **(dict(features_extractor_class=extractor) if extractor else {}))
    policy = make(SampledEnv(action_space=action_space), policy_kwargs=policy_kwargs, seed=0).learn(60).policy
    twin = clone(policy)
    assert not differing(state_of(policy), state_of(twin))
    assert np.array_equal(*(one.predict(stack(VECTOR, 60), deterministic=True)[0] for one in (policy, twin)))
    # Its optimizer trains its own parameters, not the original's
    own = {id(parameter) for parameter in twin.parameters()}
    assert {id(parameter) for group in twin.optimizer.param_groups for parameter in group["params"]} <= own
    assert own.isdisjoint({id(parameter) for parameter in policy.parameters()})


@pytest.mark.parametrize(
    ("schedule", "copies"),
    [
        (LEARNING_RATE, COPIES),
        (LinearSchedule(1e-3, 1e-4, 0.5), COPIES),
        (1e-3, COPIES),
        (lambda progress: 1e-3 * progress, ("cloudpickle", "deepcopy")),  # pickle takes no function without a name
    ],
    ids=["default", "linear", "constant", "own"],
)
def test_learning_rate_schedule_of_a_model_can_be_pickled(schedule, copies):
    model = make(SampledEnv(action_space=BOX), learning_rate=schedule, seed=0).learn(60)
    for name in copies:
        twin = COPIES[name](model.lr_schedule)
        for progress in (1.0, 0.7, 0.0):
            expected = schedule(progress) if callable(schedule) else schedule
            assert twin(progress) == model.lr_schedule(progress) == pytest.approx(expected)


@action_spaces()
def test_code_of_actions_is_no_part_of_what_is_saved(action_space):
    """Padding and bounds follow from the space."""
    policy = make(SampledEnv(action_space=action_space), buffer_size=10).policy
    assert {name.split(".")[0] for name in policy.state_dict()} == {
        *("features_norm", "world_model", "terms", "log_precision", "log_epistemic_weight", "head_weights", "pessimism"),
        *("policy_net", "policy_net_target", "policy_net_average", "value_net", "value_net_target"),
    }


@pytest.mark.parametrize(
    ("action_space", "value_inputs", "value_outputs"), [(DISCRETE, 3, 2 * 3), (BOX, 3 + 2, 2)], ids=["discrete", "box"]
)
def test_critics_read_actions_that_cannot_be_listed(action_space, value_inputs, value_outputs):
    policy = make(SampledEnv(action_space=action_space), buffer_size=10).policy
    for net in (policy.value_net, policy.value_net_target):
        assert net.layers[0].weight.shape[1] == value_inputs
        assert net.layers[-1].weight.shape[2] == value_outputs


def test_arguments_stand_where_those_of_sac_and_dqn_stand():
    sac, dqn, ours = ([*inspect.signature(cls.__init__).parameters] for cls in (SAC, DQN, DAI))
    length = ours.index("n_steps") + 1
    assert ours[:length] == sac[:length]
    for theirs in (sac, dqn):
        last = [name for name in theirs if name in ours and name not in sac[:length]]
        assert last == [name for name in ours if name in theirs and name not in sac[:length]]
    assert set(dqn) - set(ours) == {name for name in dqn if name.startswith("exploration_")}, "target_entropy instead"
    assert [*inspect.signature(DAI.learn).parameters] == [*inspect.signature(DQN.learn).parameters]
    assert inspect.signature(DAI.learn).parameters["tb_log_name"].default == "DAI"


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.int64], ids=lambda dtype: dtype.__name__)
def test_vectors_are_read_as_stable_baselines_reads_them(dtype):
    space = spaces.Box(0, 200, (3,), dtype)
    policy = make(SampledEnv(space), seed=0).policy
    obs, _ = policy.obs_to_tensor(np.array([space.sample() for _ in range(4)]))
    theirs = BaseModel.extract_features(policy, obs, policy.features_extractor)
    assert policy.reads_vectors and theirs.dtype == th.float32
    th.testing.assert_close(policy.extract_features(obs), theirs, rtol=0.0, atol=0.0)
    assert not make(SampledEnv(spaces.Box(0, 1, (2, 3), dtype)), seed=0).policy.reads_vectors


def test_an_optimizer_may_be_any_function_that_makes_one():
    optimizer_class = functools.partial(th.optim.Adam, weight_decay=0.01)
    model = make(policy_kwargs=dict(net_arch=[16], optimizer_class=optimizer_class)).learn(60)
    assert model.policy.optimizer.param_groups[0]["weight_decay"] == 0.01
    assert make().policy.optimizer.param_groups[0]["fused"]
    one_by_one = dict(net_arch=[16], optimizer_kwargs=dict(foreach=True))
    assert not make(policy_kwargs=one_by_one).policy.optimizer.param_groups[0]["fused"]
