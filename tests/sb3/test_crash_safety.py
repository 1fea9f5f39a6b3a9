"""Where files are written, what a crash leaves behind and what a wrong file says."""

import io
import json
import os
import pickle
import signal
import stat
import subprocess
import sys
import zipfile

import gymnasium as gym
import pytest
import torch as th
from saved import assert_same, make_model, write_files
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.save_util import save_to_zip_file

from sb3_dai.dai import DAI
from sb3_dai.saving import atomic_write, write_json


@pytest.fixture(scope="module")
def trained():
    """A model with an optimizer state and a filled buffer; tests do not change it."""
    return make_model().learn(150)


@pytest.fixture(scope="module")
def files(trained, tmp_path_factory):
    """Its folder of files, which tests do not change."""
    return write_files(trained, tmp_path_factory.mktemp("files"))


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
from sb3_dai import DAI
from sb3_dai.saving import write_json

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
    with subprocess.Popen(
        [sys.executable, "-c", KILLED],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
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
