"""What a save brings back, what a crash leaves behind and what a wrong file says."""

import base64
import contextlib
import io
import json
import os
import pathlib
import pickle
import signal
import stat
import subprocess
import sys
import warnings
import zipfile

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.save_util import save_to_zip_file
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.her import HerReplayBuffer

from sb3_dai.dai import DAI
from sb3_dai.policies import MlpPolicy
from sb3_dai.saving import atomic_write, write_json

OBSERVATIONS = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)


def make_model(env="CartPole-v1", policy="MlpPolicy", **kwargs):
    return DAI(
        policy,
        env,
        policy_kwargs=dict(net_arch=[16]),
        buffer_size=1000,
        learning_starts=50,
        precision="auto",
        gradient_steps=1,
        batch_size=32,
        seed=0,
        device="cpu",
        **kwargs,
    )


@pytest.fixture(scope="module")
def trained():
    """A model with an optimizer state and a filled buffer; tests do not change it."""
    return make_model().learn(150)


@pytest.fixture(scope="module")
def files(trained, tmp_path_factory):
    """Its folder of files, which tests do not change."""
    folder = tmp_path_factory.mktemp("files")
    trained.save(folder / "model")
    trained.save_replay_buffer(folder / "buffer")
    trained.policy.save(folder / "policy.pt")
    return folder


def assert_same(left, right):
    """Compare nested states bit by bit."""
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    elif isinstance(left, th.Tensor):
        assert th.equal(left, right)
    else:
        assert left == right


def assert_predicts_the_same(left, right):
    for deterministic in (True, False):
        actions = []
        for model in (left, right):
            set_random_seed(1)
            actions.append(np.concatenate([model.predict(OBSERVATIONS, deterministic=deterministic)[0] for _ in range(9)]))
        assert np.array_equal(*actions)
        assert 0 < actions[0].mean() < 1, "one action only shows little"


def buffer_contents(buffer):
    return {name: value.tobytes() for name, value in vars(buffer).items() if isinstance(value, np.ndarray)}


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


def test_training_step_after_a_load_is_bit_equal(files):
    models = []
    for _ in range(2):
        model = DAI.load(files / "model", env=gym.make("CartPole-v1"), device="cpu")
        model.load_replay_buffer(files / "buffer")
        models.append(model)
    models[0].save(buffer := io.BytesIO())
    models[0] = DAI.load(buffer, env=gym.make("CartPole-v1"), device="cpu")
    models[0].load_replay_buffer(files / "buffer")
    for model in models:
        model.set_logger(Logger(None, []))
        set_random_seed(3)
        model.train(gradient_steps=3, batch_size=32)
    assert_same(models[0].get_parameters(), models[1].get_parameters())


def test_interrupted_training_takes_the_steps_of_an_uninterrupted_one(tmp_path):
    """The original itself trains on, so a state missing from the files shows."""
    model = make_model().learn(150)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    resumed = DAI.load(tmp_path / "model", env=gym.make("CartPole-v1"), device="cpu")
    resumed.load_replay_buffer(tmp_path / "buffer")
    before = model.get_parameters()["policy"]["log_precision"].clone()
    for one in (model, resumed):
        one.set_logger(Logger(None, []))
        set_random_seed(3)
        one.train(gradient_steps=3, batch_size=32)
    assert_same(resumed.get_parameters(), model.get_parameters())
    assert not th.equal(before, resumed.get_parameters()["policy"]["log_precision"])


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


def test_her_buffer_gets_its_environment_back(tmp_path):
    model = make_model(BitFlippingEnv(n_bits=4), "MultiInputPolicy", replay_buffer_class=HerReplayBuffer).learn(150)
    while (model.replay_buffer._current_ep_start == model.replay_buffer.pos).all():
        model.learn(1, reset_num_timesteps=False)
    model.save_replay_buffer(tmp_path / "buffer")
    old = model.replay_buffer
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


# ----- Where it is written -----


def test_names_follow_stable_baselines3(tmp_path):
    with pytest.warns(UserWarning, match="does not exist. Will create it"):
        write_json(tmp_path / "new" / "folders" / "result", {"score": 1})
    assert json.loads((tmp_path / "new" / "folders" / "result.json").read_text()) == {"score": 1}
    (tmp_path / "taken.json").mkdir()
    with pytest.warns(UserWarning, match="is a folder. Will save instead to .*taken.json_2"):
        write_json(str(tmp_path / "taken.json"), [])
    assert (tmp_path / "taken.json_2").read_text() == "[]\n"
    write_json(tmp_path / "kept.txt", None)
    assert sorted(os.listdir(tmp_path)) == ["kept.txt", "new", "taken.json", "taken.json_2"]


@pytest.mark.skipif(os.name == "nt", reason="Windows does not replace a file that is open")
def test_open_old_file_stays_whole(tmp_path):
    """A reader, such as an evaluation that polls for the best model, sees the old file or the new one, never a mixture."""
    write_json(tmp_path / "result", "old")
    with (tmp_path / "result.json").open() as reader:
        write_json(tmp_path / "result", "new")
        assert json.load(reader) == "old"
    assert json.loads((tmp_path / "result.json").read_text()) == "new"


def test_link_and_permissions_of_the_old_file_are_kept(tmp_path):
    (tmp_path / "disk").mkdir()
    real, link = tmp_path / "disk" / "real.json", tmp_path / "link.json"
    write_json(real, 1)
    link.symlink_to(real)
    real.chmod(0o640)
    write_json(link, 2)
    assert link.is_symlink() and real.read_text() == "2\n"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() == 0, reason="root may write anything")
def test_write_protected_file_stays(tmp_path):
    write_json(tmp_path / "best.json", 1)
    (tmp_path / "best.json").chmod(0o440)
    with pytest.raises(PermissionError):
        write_json(tmp_path / "best.json", 2)
    assert os.listdir(tmp_path) == ["best.json"] and (tmp_path / "best.json").read_text() == "1\n"


# ----- What a crash leaves -----


class _Unpicklable:
    """Fails in the middle of a pickle, when the arrays before it are already written."""

    def __getstate__(self):
        raise KeyboardInterrupt


@pytest.mark.parametrize("what", ["model", "buffer", "policy", "json"])
def test_failure_half_way_leaves_the_old_file(trained, tmp_path, monkeypatch, what):
    path = tmp_path / "file.ext"
    save = {
        "model": trained.save,
        "buffer": trained.save_replay_buffer,
        "policy": trained.policy.save,
        "json": lambda target: write_json(target, {"score": 1}),
    }[what]
    save(path)
    old = path.read_bytes()

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    if what == "model":
        # The last but one of its members
        monkeypatch.setattr("stable_baselines3.common.save_util.get_system_info", interrupt)
    elif what == "buffer":
        monkeypatch.setattr(trained.replay_buffer, "interrupt", _Unpicklable(), raising=False)
    elif what == "policy":
        monkeypatch.setattr(th.serialization, "_save", interrupt)
    else:
        monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(path)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["file.ext"], "a temporary file is left"


def test_error_in_the_body_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "result.json", 1)
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "result.json") as file:
        file.write(b"half")
        file.flush()
        assert (tmp_path / "result.json").read_text() == "1\n"
        _ = 1 / 0
    with pytest.raises(TypeError):
        write_json(tmp_path / "result.json", {"not JSON": object()})
    assert (tmp_path / "result.json").read_text() == "1\n" and os.listdir(tmp_path) == ["result.json"]


KILLED = """
import os, sys, threading, time, zipfile
from test_saving import DAI, write_json

class Slow:
    def __getstate__(self):
        stop("buffer")

def stop(what):
    os.write(1, f"{what}\\n".encode())
    time.sleep(600)

model = DAI.load("model.zip", device="cpu")
model.load_replay_buffer("buffer.pkl")
model.replay_buffer.slow = Slow()
write = zipfile.ZipFile.writestr
zipfile.ZipFile.writestr = lambda self, name, data: stop("model") if name.startswith("_") else write(self, name, data)
os.fsync = lambda _: stop("json")
for save in (
    lambda: model.save("model"),
    lambda: model.save_replay_buffer("buffer"),
    lambda: write_json("result", {"score": 2}),
):
    threading.Thread(target=save).start()
"""


def test_killed_half_way_leaves_the_old_files(trained, tmp_path):
    """Three saves are stopped in their middle and the process is killed: no handler of ours can run."""
    trained.save(tmp_path / "model")
    trained.save_replay_buffer(tmp_path / "buffer")
    write_json(tmp_path / "result", {"score": 1})
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    path = os.pathsep.join([str(pathlib.Path(__file__).parent), *sys.path])
    with subprocess.Popen(
        [sys.executable, "-c", KILLED],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert {process.stdout.readline().strip() for _ in range(3)} == {"model", "buffer", "json"}
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL
    assert {name: (tmp_path / name).read_bytes() for name in old} == old
    # The halves lie beside them, under names that no load looks for
    halves = sorted(path.name for path in tmp_path.iterdir() if path.name not in old)
    assert [name.rsplit(".", 2)[0] for name in halves] == [".buffer.pkl", ".model.zip", ".result.json"]
    model = DAI.load(tmp_path / "model", device="cpu")
    model.load_replay_buffer(tmp_path / "buffer")
    assert model.replay_buffer.size() == 150


# ----- What a wrong file says -----


def load_all_ways(target):
    """Everything that reads a model's zip."""
    return [lambda: DAI.load(target, device="cpu"), lambda: make_model().set_parameters(target)]


def test_missing_files(tmp_path):
    for load in [*load_all_ways(tmp_path / "none"), lambda: make_model().load_replay_buffer(tmp_path / "none")]:
        with pytest.raises(FileNotFoundError, match="none"):
            load()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.99])
def test_truncated_model(files, tmp_path, share):
    whole = (files / "model.zip").read_bytes()
    (tmp_path / "short.zip").write_bytes(whole[: int(share * len(whole))])
    for load in load_all_ways(tmp_path / "short"):
        with pytest.raises(ValueError, match=r"short\.zip is not a zip-file or is damaged .*earlier checkpoint"):
            load()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8, 0.95])
def test_corrupt_model(files, tmp_path, share):
    content = bytearray((files / "model.zip").read_bytes())
    content[int(share * len(content))] ^= 0xFF
    (tmp_path / "corrupt.zip").write_bytes(content)
    for load in [*load_all_ways(tmp_path / "corrupt.zip"), *load_all_ways(io.BytesIO(content))]:
        with pytest.raises(ValueError, match=r"(corrupt\.zip|BytesIO).* is damaged"):
            load()
    with pytest.raises(ValueError, match=r"corrupt\.zip"):
        DAI.load(str(tmp_path / "corrupt.zip"))


def test_text_file_instead_of_a_model(tmp_path):
    (tmp_path / "model.zip").write_text("no zip")
    for load in load_all_ways(tmp_path / "model"):
        with pytest.raises(ValueError, match=r"model\.zip is not a zip-file"):
            load()


def test_zips_of_others(files, tmp_path):
    PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu").save(tmp_path / "ppo")
    DQN("MlpPolicy", "CartPole-v1", buffer_size=8, device="cpu").save(tmp_path / "dqn")
    with zipfile.ZipFile(tmp_path / "random.zip", "w") as archive:
        archive.writestr("holiday.txt", "sun")
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("data", "[1, 2]")
    with zipfile.ZipFile(tmp_path / "binary.zip", "w") as archive:
        archive.writestr("data", b"\xff\x00")
    nobody = "was saved by something other than Stable-Baselines3"
    for path, origin in (
        (tmp_path / "ppo.zip", r"was saved by PPO, A2C or .*stable_baselines3\.common\.policies\.ActorCriticPolicy"),
        (tmp_path / "dqn.zip", r"was saved by DQN, probably .*stable_baselines3\.dqn\.policies\.DQNPolicy"),
        (tmp_path / "random.zip", nobody),
        (tmp_path / "data.zip", nobody),
        (tmp_path / "binary.zip", "is damaged"),
        (files / "policy.pt", f"{nobody}.*policy.save"),
    ):
        for load in load_all_ways(path):
            with pytest.raises(ValueError, match=rf"(?s){path.name}.*{origin}"):
                load()
    # A file object's place does not matter
    with (tmp_path / "dqn.zip").open("rb") as file:
        file.seek(0, io.SEEK_END)
        with pytest.raises(ValueError, match="was saved by DQN"):
            DAI.load(file)


class _Payload:
    """Unpickling it makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_checks_and_set_parameters_unpickle_nothing(trained, tmp_path):
    folder = tmp_path / "it ran"
    save_to_zip_file(tmp_path / "foreign.zip", data={"policy_class": _Payload(folder)}, params=trained.get_parameters())
    with pytest.raises(ValueError, match="is not a DAI model"):
        DAI.load(tmp_path / "foreign.zip")
    data = {"epistemic_weight": 1.0, "policy_class": _Payload(folder)}
    save_to_zip_file(tmp_path / "posing.zip", data=data, params=trained.get_parameters())
    model = make_model()
    model.set_parameters(tmp_path / "posing.zip")
    assert_same(model.get_parameters(), trained.get_parameters())
    assert not folder.exists()
    # What no check can tell: docs/saving.md warns of it
    with pytest.raises(KeyError):
        DAI.load(tmp_path / "posing.zip")
    assert folder.exists()


def test_wrong_environment(files):
    with pytest.raises(ValueError, match=r"Observation spaces do not match: Box.*\(4,\).* != Box.*\(6,\)"):
        DAI.load(files / "model", env=gym.make("Acrobot-v1"))


def test_errors_of_stable_baselines3_are_not_masked(trained, files, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="policy kwargs do not equal"):
        DAI.load(files / "model", policy_kwargs=dict(net_arch=[8]))
    trained.save(tmp_path / "model", exclude=["observation_space"])
    with pytest.raises(KeyError, match="observation_space and action_space were not given"):
        DAI.load(tmp_path / "model")
    with pytest.raises(TypeError, match="invalid type"):
        DAI.load(3)

    def too_big(*_):
        raise MemoryError("Unable to allocate 5 GiB")

    monkeypatch.setattr("stable_baselines3.common.off_policy_algorithm.load_from_pkl", too_big)
    with pytest.raises(MemoryError, match="5 GiB"):
        make_model().load_replay_buffer(files / "buffer")


def test_damaged_replay_buffers(files, tmp_path):
    whole = (files / "buffer.pkl").read_bytes()
    (tmp_path / "text.pkl").write_text("no pickle")
    (tmp_path / "empty.pkl").write_bytes(b"")
    (tmp_path / "short.pkl").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "class.pkl").write_bytes(b"cno_such_module\nThing\n.")
    model = make_model()
    old = model.replay_buffer
    for name in ("text", "empty", "short", "class"):
        with pytest.raises(ValueError, match=rf"{name}\.pkl holds no complete pickle.*save_replay_buffer"):
            model.load_replay_buffer(tmp_path / name)
    (tmp_path / "dict.pkl").write_bytes(pickle.dumps({}))
    with pytest.raises(ValueError, match=r"dict\.pkl holds a dict instead of a replay buffer"):
        model.load_replay_buffer(tmp_path / "dict.pkl")
    file = io.BytesIO(whole)
    file.seek(0, io.SEEK_END)
    with pytest.raises(ValueError, match="rewind a file object"):
        model.load_replay_buffer(file)
    assert model.replay_buffer is old


def test_replay_buffers_of_other_models(tmp_path):
    cartpole, acrobot = (gym.make(name) for name in ("CartPole-v1", "Acrobot-v1"))
    model = make_model()
    old = model.replay_buffer
    for observation_env, action_env, n_envs, message in (
        (acrobot, cartpole, 1, r"observation_space is Box.*\(6,\).* in the file and Box.*\(4,\).* in the model"),
        (cartpole, acrobot, 1, r"action_space is Discrete\(3\) in the file and Discrete\(2\) in the model"),
        (cartpole, cartpole, 2, "n_envs is 2 in the file and 1 in the model"),
    ):
        buffer = ReplayBuffer(100, observation_env.observation_space, action_env.action_space, n_envs=n_envs)
        (tmp_path / "buffer.pkl").write_bytes(pickle.dumps(buffer))
        with pytest.raises(ValueError, match=rf"buffer\.pkl does not fit the model: {message}"):
            model.load_replay_buffer(tmp_path / "buffer")
    assert model.replay_buffer is old
    two = make_model(make_vec_env("CartPole-v1", 2))
    two.load_replay_buffer(tmp_path / "buffer")
    assert two.replay_buffer.n_envs == 2
