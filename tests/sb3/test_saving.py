"""What a save brings back, and whether training goes on from it as if nothing had happened."""

import base64
import contextlib
import copy
import io
import json
import warnings
import zipfile

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import action_spaces, make
from saved import assert_same, make_model, write_files
from stable_baselines3 import DQN
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.save_util import save_to_zip_file
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.her import HerReplayBuffer
from worlds import BOX, DISCRETE, IMAGE, VECTOR, SampledEnv

from sb3_dai.dai import DAI
from sb3_dai.policy import MlpPolicy

OBSERVATIONS = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def trained():
    """A model with an optimizer state and a filled buffer; tests do not change it."""
    return make_model().learn(150)


@pytest.fixture(scope="module")
def files(trained, tmp_path_factory):
    """Its folder of files, which tests do not change."""
    return write_files(trained, tmp_path_factory.mktemp("files"))


def assert_predicts_the_same(left, right, observations=OBSERVATIONS):
    """Bit by bit, the most probable actions and samples alike."""
    for deterministic in (True, False):
        actions = []
        for model in (left, right):
            set_random_seed(1)
            actions.append(np.stack([model.predict(observations, deterministic=deterministic)[0] for _ in range(9)]))
        assert actions[0].dtype == actions[1].dtype
        assert actions[0].tobytes() == actions[1].tobytes()
        assert deterministic or len(np.unique(actions[0])) > 1, "one action only shows little"


def as_dict(value):
    return value if isinstance(value, dict) else {"": value}


def buffer_contents(buffer):
    parts = {(name, key): part for name, value in vars(buffer).items() for key, part in as_dict(value).items()}
    # Objects, such as the infos of a HER buffer, have no bytes but those of their address
    return {name: part.tobytes() for name, part in parts.items() if isinstance(part, np.ndarray) and part.dtype.kind != "O"}


# ----- What comes back -----


@pytest.mark.parametrize("kind", ["str", "path", "no suffix", "bytes", "file"])
def test_load_brings_the_model_back(trained, tmp_path, kind):
    path = tmp_path / "model.zip"
    with contextlib.ExitStack() as stack:
        target = {"str": str(path), "path": path, "no suffix": tmp_path / "model", "bytes": io.BytesIO()}.get(kind)
        if kind == "file":
            target = stack.enter_context(path.open("w+b"))
        trained.save(target)
        loaded = DAI.load(target, device="cpu")
        # A file object is the caller's to close
        assert kind not in ("bytes", "file") or not target.closed

    assert_same(loaded.get_parameters(), trained.get_parameters())
    assert loaded.get_parameters()["policy.optimizer"]["state"], "the optimizer has no state to compare"
    assert_predicts_the_same(loaded, trained)
    assert loaded.num_timesteps == 150
    assert loaded._n_updates == trained._n_updates > 0


OBSERVED = {
    "MlpPolicy": VECTOR,
    "CnnPolicy": IMAGE,
    "MultiInputPolicy": spaces.Dict(vector=VECTOR, discrete=DISCRETE, flags=spaces.MultiBinary(2)),
}


def write_and_load(model, folder, env, **kwargs):
    """The model that the files bring back."""
    write_files(model, folder)
    loaded = DAI.load(folder / "model", env=env, device="cpu", **kwargs)
    loaded.load_replay_buffer(folder / "buffer")
    return loaded


def in_step(models, act):
    """Do the same with each model, from the same state of the generators."""
    for model in models:
        set_random_seed(3)
        act(model)


@pytest.mark.parametrize("policy", OBSERVED)
@action_spaces()
def test_every_policy_comes_back_with_every_kind_of_action(tmp_path, policy, action_space):
    """The original itself trains on, so a state missing from the files shows."""
    space = copy.deepcopy(OBSERVED[policy])
    space.seed(0)
    model = make_model(SampledEnv(space, action_space), policy).learn(64)
    loaded = write_and_load(model, tmp_path, SampledEnv(space, action_space))
    assert_same(loaded.get_parameters(), model.get_parameters())
    # What is no part of the parameters must follow from the spaces
    assert_same(dict(loaded.policy.named_buffers()), dict(model.policy.named_buffers()))
    samples = [space.sample() for _ in range(20)]
    is_dict = isinstance(space, spaces.Dict)
    observations = {key: np.stack([sample[key] for sample in samples]) for key in space} if is_dict else np.stack(samples)
    assert_predicts_the_same(loaded, model, observations)
    assert_predicts_the_same(type(model.policy).load(tmp_path / "policy.pt", device="cpu"), model, observations)

    before = copy.deepcopy(model.get_parameters()["policy"])
    for one in (model, loaded):
        one.set_logger(Logger(None, []))
    in_step((model, loaded), lambda one: one.train(gradient_steps=3, batch_size=32))
    assert_same(loaded.get_parameters(), model.get_parameters())
    assert not th.equal(before["log_precision"], loaded.policy.log_precision)
    assert not th.equal(before["value_net.layers.0.weight"], loaded.policy.value_net.layers[0].weight)


@pytest.mark.parametrize(
    ("policy", "action_space", "n_steps"),
    [
        *(("MlpPolicy", space, n_steps) for space in (DISCRETE, BOX) for n_steps in (1, 3)),
        # SB3 has no n-step returns for dictionaries
        *(("MultiInputPolicy", space, 1) for space in (DISCRETE, BOX)),
    ],
    ids=["discrete", "discrete, 3 steps", "box", "box, 3 steps", "dict, discrete", "dict, box"],
)
def test_interrupted_run_is_the_uninterrupted_one(tmp_path, policy, action_space, n_steps):
    """Files hold no environment: the resumed run gets a copy of the original's, in the midst of an episode."""
    model = make_model(SampledEnv(OBSERVED[policy], action_space), policy, n_steps=n_steps).learn(75)
    resumed = write_and_load(model, tmp_path, copy.deepcopy(model.get_env()), force_reset=False)
    in_step((model, resumed), lambda one: one.learn(40, reset_num_timesteps=False))
    assert resumed.num_timesteps == 115 and resumed._n_updates == model._n_updates == 65
    assert_same(resumed.get_parameters(), model.get_parameters())
    assert buffer_contents(resumed.replay_buffer) == buffer_contents(model.replay_buffer)
    assert resumed.lr_schedule(0.5) == model.lr_schedule(0.5)


def test_learn_continues_from_zip_and_buffer(files):
    model = DAI.load(files / "model", env=gym.make("CartPole-v1"), device="cpu")
    model.load_replay_buffer(files / "buffer")
    assert model.replay_buffer.size() == 150
    updates, steps = model._n_updates, [state["step"].item() for state in model.policy.optimizer.state.values()]
    model.learn(50, reset_num_timesteps=False)
    assert model.num_timesteps == model.replay_buffer.size() == 200
    assert model._n_updates == updates + 50
    assert [state["step"].item() for state in model.policy.optimizer.state.values()] == [step + 50 for step in steps]


def test_every_parameter_is_set_and_comes_back(files, tmp_path):
    model = DAI.load(files / "model", device="cpu")
    original = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    random = {"policy": {name: th.rand_like(tensor) for name, tensor in original.items()}}
    model.set_parameters(random, exact_match=False)
    for name, tensor in model.policy.state_dict().items():
        assert not th.equal(tensor, original[name]), f"{name} did not change"
    assert_same(dict(model.policy.state_dict()), random["policy"])
    model.set_parameters(str(files / "model"))
    assert_same(dict(model.policy.state_dict()), original)
    with pytest.raises(ValueError, match="Names of parameters do not match"):
        model.set_parameters(random)

    save_to_zip_file(tmp_path / "policy.zip", data=dict(epistemic_weight=1.0, policy_class=MlpPolicy), params=random)
    with pytest.raises(ValueError, match="Names of parameters do not match"):
        model.set_parameters(tmp_path / "policy")
    model.set_parameters(tmp_path / "policy", exact_match=False)
    assert_same(dict(model.policy.state_dict()), random["policy"])


def test_exclude_and_include(trained, tmp_path):
    trained.save(tmp_path / "model", exclude=["gamma", "epistemic_weight"], include=["replay_buffer"])
    loaded = DAI.load(tmp_path / "model", device="cpu", epistemic_weight=0.75)
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        names = set(json.loads(archive.read("data")))
    assert "gamma" not in names and "replay_buffer" in names and "tau" in names
    assert loaded.replay_buffer.size() == 150
    assert loaded.epistemic_weight == 0.75


def test_zip_holds_no_derived_tensors(files):
    """Tensors in the pickled part would be a second copy of the weights."""
    with zipfile.ZipFile(files / "model.zip") as archive:
        data = json.loads(archive.read("data"))
        assert {"policy.pth", "policy.optimizer.pth"} <= set(archive.namelist())
    assert not {"policy", "replay_buffer", "env"} & set(data)
    pickles = {name: item[":serialized:"] for name, item in data.items() if isinstance(item, dict) and ":serialized:" in item}
    assert pickles and [name for name, text in pickles.items() if b"_rebuild_tensor" in base64.b64decode(text)] == []


def test_custom_objects_replace_what_the_file_holds(files, tmp_path):
    model = make_model(learning_rate=lambda _: 1e-3)
    model.save(tmp_path / "model")
    loaded = DAI.load(tmp_path / "model", device="cpu", custom_objects=dict(learning_rate=0.5, gamma=0.5))
    assert loaded.lr_schedule(1) == loaded.gamma == 0.5


def test_policy_alone_comes_back(trained, files):
    policy = type(trained.policy).load(files / "policy.pt", device="cpu")
    assert_same(dict(policy.state_dict()), dict(trained.policy.state_dict()))
    assert_predicts_the_same(policy, trained)
    trained.policy.save(file := io.BytesIO())
    file.seek(0)
    assert_same(dict(type(policy).load(file, device="cpu").state_dict()), dict(policy.state_dict()))


@pytest.mark.parametrize("kind", ["path", "bytes"])
def test_replay_buffer_comes_back(trained, files, tmp_path, kind):
    target = io.BytesIO() if kind == "bytes" else tmp_path / "buffer"
    trained.save_replay_buffer(target)
    if kind == "bytes":
        target.seek(0)
    model = make_model()
    model.load_replay_buffer(target)
    assert buffer_contents(model.replay_buffer) == buffer_contents(trained.replay_buffer)
    assert model.replay_buffer.size() == 150


def test_replay_buffer_follows_the_model_to_its_device(trained, tmp_path):
    trained.save_replay_buffer(tmp_path / "buffer")
    model = make_model()
    model.device = th.device("meta")
    model.load_replay_buffer(tmp_path / "buffer")
    assert model.replay_buffer.device == th.device("meta")


@pytest.fixture
def her_model(tmp_path):
    """A model that is in the midst of an episode, its buffer saved."""
    model = make_model(BitFlippingEnv(n_bits=4), "MultiInputPolicy", replay_buffer_class=HerReplayBuffer).learn(150)
    while (model.replay_buffer._current_ep_start == model.replay_buffer.pos).all():
        model.learn(1, reset_num_timesteps=False)
    model.save_replay_buffer(tmp_path / "buffer")
    return model


def test_her_buffer_gets_its_environment_back(her_model, tmp_path):
    model, old = her_model, her_model.replay_buffer
    with pytest.warns(UserWarning, match="last trajectory in the replay buffer will be truncated"):
        model.load_replay_buffer(tmp_path / "buffer")
    assert model.replay_buffer is not old and model.replay_buffer.env is model.env
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.load_replay_buffer(tmp_path / "buffer", truncate_last_traj=False)
    model.learn(50, reset_num_timesteps=False)
    # An error of SB3's own, after the unpickling
    model.env = None
    with pytest.raises(AssertionError, match="must pass an environment at load time"):
        model.load_replay_buffer(tmp_path / "buffer")


@pytest.mark.filterwarnings("ignore:The last trajectory")
@pytest.mark.parametrize("truncate", [True, False])
def test_her_training_goes_on_from_the_files(her_model, tmp_path, truncate):
    """An episode that was cut by the end of the process ends there, as in SB3, and gives goals to learn from."""
    her_model.save(tmp_path / "model")
    resumed = DAI.load(tmp_path / "model", env=BitFlippingEnv(n_bits=4), device="cpu")
    peer = DQN("MultiInputPolicy", BitFlippingEnv(n_bits=4), replay_buffer_class=HerReplayBuffer, buffer_size=1000)
    for model in (resumed, peer):
        model.load_replay_buffer(tmp_path / "buffer", truncate_last_traj=truncate)
    buffer = resumed.replay_buffer
    assert buffer_contents(buffer) == buffer_contents(peer.replay_buffer)
    assert (buffer._current_ep_start == buffer.pos).all() == truncate
    size, updates = buffer.size(), resumed._n_updates
    resumed.learn(50, reset_num_timesteps=False)
    assert buffer.size() == size + 50 and resumed._n_updates == updates + 50
    assert all(th.isfinite(value).all() for value in resumed.policy.state_dict().values())


def test_a_name_will_do_for_the_environment_and_numpy_for_a_number(files):
    model = DAI.load(files / "model", env="CartPole-v1", device="cpu", learning_rate=np.float32(1e-5))
    assert model.learn(10, reset_num_timesteps=False).policy.optimizer.param_groups[0]["lr"] == pytest.approx(1e-5)


def test_parameters_of_another_model_are_copied():
    """Torch gives both optimizers the same moments."""
    models = [make(seed=seed).learn(60) for seed in (0, 1)]
    models[1].set_parameters(models[0].get_parameters())
    before = [value.clone() for state in models[0].policy.optimizer.state.values() for value in state.values()]
    models[1].train(gradient_steps=2, batch_size=32)
    after = [value for state in models[0].policy.optimizer.state.values() for value in state.values()]
    assert all(map(th.equal, before, after))
