"""The commands of RL Zoo with DAI among its algorithms."""

import importlib.util
import itertools
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from stable_baselines3.common.buffers import NStepReplayBuffer
from zoo_runs import ENV_ID, Run, saved

from sb3_dai import DAI, MlpLstmPolicy, zoo
from sb3_dai.policy_hidden_states import HiddenStatesPolicy


def test_train_writes_what_the_zoo_writes(logs: Path) -> None:
    folder = logs / "dai" / f"{ENV_ID}_1"
    files = {f"{ENV_ID}.zip", "best_model.zip", "rl_model_100_steps.zip", "rl_model_200_steps.zip", "replay_buffer.pkl"}
    assert files <= {path.name for path in folder.iterdir()}
    assert np.load(folder / "evaluations.npz")["timesteps"].tolist() == [100, 200]
    assert DAI.load(folder / f"{ENV_ID}.zip").num_timesteps == 200


def test_saved_run_names_no_path_of_this_machine(logs: Path) -> None:
    args = saved(logs, "args.yml")
    assert args["conf_file"] == "sb3_dai.hyperparams.dai"
    source = yaml.safe_load(zoo.hyperparams_file("dai").read_text())
    assert saved(logs, "config.yml") == {**source[ENV_ID], "n_steps": 3, "buffer_size": 5000}


@pytest.mark.parametrize("which", [[], ["--load-best"], ["--load-checkpoint", "100"]])
def test_enjoy_scores_the_agent_without_its_buffer(
    logs: Path, run: Run, which: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    sizes = []
    allocate = NStepReplayBuffer.__init__
    monkeypatch.setattr(
        NStepReplayBuffer, "__init__", lambda self, size, *args, **kw: sizes.append(size) or allocate(self, size, *args, **kw)
    )
    run("enjoy", "--algo", "dai", "--env", ENV_ID, "-f", str(logs), "--no-render", "-n", "600", *which)
    assert "Mean reward" in capsys.readouterr().out
    assert sizes == [1]


def test_a_policy_with_a_memory_is_trained_and_enjoyed(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = ["--algo", "dai", "--env", "CartPoleNoVel-v1", "-f", str(tmp_path)]
    small = "policy_kwargs:dict(lstm_hidden_size=8,sequence_length=8,burn_in=2)"
    run("train", *options, "-n", "150", "--eval-freq", "75", "--eval-episodes", "1", "-params", small)
    model = DAI.load(tmp_path / "dai" / "CartPoleNoVel-v1_1" / "CartPoleNoVel-v1.zip")
    assert (type(model.policy), model.policy.lstm_hidden_size) == (MlpLstmPolicy, 8)
    run("enjoy", *options, "--no-render", "-n", "600")
    assert "Mean reward" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("env_id", "policy", "params"),
    [
        ("sb3_dai/TMaze-v0", HiddenStatesPolicy, []),
        ("sb3_dai/PassiveTMaze10-v0", MlpLstmPolicy, ["policy_kwargs:dict(lstm_hidden_size=8,net_arch=[8])"]),
    ],
)
def test_hidden_worlds_are_trained_enjoyed_and_filmed(
    env_id: str,
    policy: type,
    params: list[str],
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """With eight environments at once, and a belief that acting carries from step to step."""
    options = ["--algo", "dai", "--env", env_id, "-f", str(tmp_path)]
    run("train", *options, "-n", "160", "--eval-freq", "80", "--eval-episodes", "1", "-params", "n_envs:8", *params)
    predict, carried = policy.predict, []

    def watched(self, observation, state=None, *args, **kwargs):
        actions, after = predict(self, observation, state, *args, **kwargs)
        carried.append((state, after))
        return actions, after

    monkeypatch.setattr(policy, "predict", watched)
    run("enjoy", *options, "--no-render", "-n", "60")
    assert "Mean reward" in capsys.readouterr().out
    if importlib.util.find_spec("moviepy"):
        run("record_video", *options, "-n", "12", "-o", str(tmp_path / "videos"))
        assert list((tmp_path / "videos").glob("*.mp4"))
    assert len(carried) in (60, 72)
    for (_, after), (before, _) in itertools.pairwise(carried):
        assert before is None or before is after
    assert sum(before is None for before, _ in carried) == len(carried) // 36, "once a command"


def test_acting_load_leaves_the_rest_as_saved(tmp_path: Path) -> None:
    kwargs = dict(optimize_memory_usage=True, replay_buffer_kwargs=dict(handle_timeout_termination=False))
    DAI("MlpPolicy", ENV_ID, buffer_size=100, **kwargs).save(tmp_path / "model")
    model = zoo.ActingDAI.load(tmp_path / "model")
    assert (model.buffer_size, model.optimize_memory_usage) == (1, False)
    assert model.replay_buffer_kwargs == kwargs["replay_buffer_kwargs"]
    assert zoo.ActingDAI.load(tmp_path / "model", buffer_size=50).buffer_size == 50


@pytest.mark.parametrize("options", [[], ["tarin"]])
def test_unknown_command_lists_the_known_ones(run: Run, options: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as error:
        run(*options)
    assert error.value.code == 2
    message = capsys.readouterr().err
    assert all(command in message for command in zoo.COMMANDS)


def test_missing_package_names_the_extra(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "rl_zoo3.plots", raising=False)
    monkeypatch.delitem(sys.modules, "rl_zoo3.plots.all_plots", raising=False)
    monkeypatch.setitem(sys.modules, "seaborn", None)
    with pytest.raises(SystemExit, match=r'plot_train needs seaborn.*pip install "sb3-dai\[plots\]"'):
        run("plot_train")


def test_other_commands_start_through_this_module(logs: Path) -> None:
    script = "import sys; sys.exit(len(sys.argv))"
    assert zoo.call_through_here([sys.executable, "-c", script, "a"]) == 2
    assert zoo.call_through_here(["python", "-m", "rl_zoo3.record_video", "--algo", "dai", "--help"]) == 0
    enjoy = ["python", "enjoy.py", "--algo", "dai", "--env", ENV_ID, "-n", "5", "--no-render", "-f"]
    assert zoo.call_through_here([*enjoy, str(logs)]) == 0
    assert zoo.call_through_here([*enjoy, "nowhere"]) == 1


@pytest.mark.slow
def test_record_training(logs: Path, run: Run, tmp_path: Path) -> None:
    pytest.importorskip("moviepy")
    run("record_training", "--algo", "dai", "--env", ENV_ID, "-f", str(logs), "-n", "10", "-o", str(tmp_path / "videos"), "-g")
    assert {"training.mp4", "training.gif"} <= {path.name for path in (tmp_path / "videos").iterdir()}


def test_module_runs_from_any_folder(logs: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(zoo.__file__).parents[1])}
    command = [sys.executable, "-m", "sb3_dai.zoo", "train", "--algo", "dai", "--env", ENV_ID, "-n", "20"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=120)
    assert (tmp_path / "logs" / "dai" / f"{ENV_ID}_1" / f"{ENV_ID}.zip").is_file()


def test_minatar_is_registered(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("minatar")
    options = ["--algo", "dai", "--env", "MinAtar/Breakout-v1", "-f", str(tmp_path)]
    run("train", *options, "-n", "20", "--eval-freq", "-1", "-params", "buffer_size:100")
    run("enjoy", *options, "--no-render", "-n", "5")


def test_a_missing_package_of_worlds_names_the_extra(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "minatar.gym", raising=False)
    monkeypatch.setitem(sys.modules, "minatar", None)
    with pytest.raises(SystemExit, match=r'train needs minatar.*pip install "sb3-dai\[minatar\]"'):
        run("train", "--algo", "dai", "--env", "MinAtar/Breakout-v1")


def test_ffmpeg_is_that_of_imageio(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("imageio_ffmpeg")
    monkeypatch.setattr(shutil, "which", lambda command: None)
    with zoo.with_ffmpeg():
        assert subprocess.run(["ffmpeg", "-version"], stdout=subprocess.PIPE, check=True).stdout.startswith(b"ffmpeg version")


def test_missing_ffmpeg_names_the_extra(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda command: None)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(SystemExit, match=r'record_training needs imageio_ffmpeg.*pip install "sb3-dai\[video\]"'):
        run("record_training", "--algo", "dai")


def test_push_to_hub_names_the_cause(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the Zoo's own module can be imported."""
    with pytest.raises(SystemExit) as error:
        run("push_to_hub", "--help")
    message = error.value.code
    assert message == 0 or re.search(r"rl_zoo3 \d.*huggingface_sb3.*generate_metadata", str(message))


def test_the_console_script_is_main() -> None:
    pyproject = Path(zoo.__file__).parents[2] / "pyproject.toml"
    if not pyproject.is_file():
        pytest.skip("no source checkout")
    found = re.search(r'^sb3-dai-zoo = "(.*)"$', pyproject.read_text(), re.MULTILINE)
    assert found and pkgutil.resolve_name(found[1]) is zoo.main


def test_benchmark_finds_an_environment_with_a_slash(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its runs are in a folder with a dash, where the Zoo's own command does not look."""
    logs, scores, env_id = str(tmp_path / "logs"), tmp_path / "scores", "sb3_dai/DeepSea10-v0"
    run("train", "--algo", "dai", "--env", env_id, "-n", "110", "-f", logs, "--eval-freq", "-1")
    monkeypatch.chdir(tmp_path)
    run("benchmark", "--log-dir", logs, "--benchmark-dir", str(scores), "-n", "50", "--no-hub")
    assert re.search(r"\|dai *\|sb3_dai-DeepSea10-v0 *\|", (scores / "benchmark.md").read_text())
