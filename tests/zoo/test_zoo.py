"""The commands of RL Zoo with DAI among its algorithms."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("rl_zoo3", reason='pip install "sb3-dai[zoo]"')
import optuna
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
from stable_baselines3.common.buffers import NStepReplayBuffer

from sb3_dai import DAI, RewardPreference, zoo

ENV_ID = "CartPole-v1"
Run = Callable[..., None]


def run_zoo(monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.setattr(sys, "argv", ["zoo", *options])
    zoo.main()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    return lambda *options: run_zoo(monkeypatch, *options)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run with checkpoints, evaluations, a replay buffer and n-step returns."""
    folder = tmp_path_factory.mktemp("logs")
    options = ["--env", ENV_ID, "-f", str(folder), "-n", "200", "--seed", "1"]
    options += ["--save-freq", "100", "--save-replay-buffer", "--eval-freq", "100", "--eval-episodes", "1"]
    with pytest.MonkeyPatch.context() as monkeypatch:
        run_zoo(monkeypatch, "train", "--algo", "dai", *options, "-params", "n_steps:3", "buffer_size:5000")
    return folder


def saved(folder: Path, name: str, run_id: int = 1) -> dict:
    return dict(yaml.unsafe_load((folder / "dai" / f"{ENV_ID}_{run_id}" / ENV_ID / name).read_text()))


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


def test_acting_load_leaves_the_rest_as_saved(tmp_path: Path) -> None:
    kwargs = dict(optimize_memory_usage=True, replay_buffer_kwargs=dict(handle_timeout_termination=False))
    DAI("MlpPolicy", ENV_ID, buffer_size=100, **kwargs).save(tmp_path / "model")
    model = zoo.ActingDAI.load(tmp_path / "model")
    assert (model.buffer_size, model.optimize_memory_usage) == (1, False)
    assert model.replay_buffer_kwargs == kwargs["replay_buffer_kwargs"]
    assert zoo.ActingDAI.load(tmp_path / "model", buffer_size=50).buffer_size == 50


def test_resume_goes_on_from_the_zip_and_its_buffer(logs: Path, run: Run, tmp_path: Path) -> None:
    trained = logs / "dai" / f"{ENV_ID}_1" / f"{ENV_ID}.zip"
    options = ["--env", ENV_ID, "-n", "110", "--eval-freq", "-1", "-i", str(trained), "-params", "n_steps:3"]
    run("train", "--algo", "dai", *options, "--save-replay-buffer", "-f", str(tmp_path))
    resumed = DAI.load(tmp_path / "dai" / f"{ENV_ID}_1" / f"{ENV_ID}.zip")
    resumed.load_replay_buffer(tmp_path / "dai" / f"{ENV_ID}_1" / "replay_buffer.pkl")
    assert resumed._n_updates > DAI.load(trained)._n_updates
    assert (resumed.replay_buffer.size(), resumed.buffer_size) == (310, 5000)


@pytest.mark.parametrize("name", ["himst", "seed", "sb3_dai.hyperparams.seed"])
def test_bare_name_of_a_packaged_file(run: Run, tmp_path: Path, name: str) -> None:
    run("train", "--algo", "dai", "--env", ENV_ID, "-n", "20", "--eval-freq", "-1", "-f", str(tmp_path), "-conf", name)
    bare = name.rpartition(".")[2]
    assert saved(tmp_path, "args.yml")["conf_file"] == f"sb3_dai.hyperparams.{bare}"
    source = yaml.safe_load(zoo.hyperparams_file(bare).read_text())
    assert saved(tmp_path, "config.yml") == source[ENV_ID]


def test_options_of_the_user_stay() -> None:
    assert zoo.complete_train_options(["--algo", "ppo"]) == ["--algo", "ppo"]
    options = ["--algo=dai", "--num-threads", "2", "--conf-file", "mine.yml", "-params", "tau:1.0"]
    assert zoo.complete_train_options(options) == options


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


def test_every_sampled_trial_builds_a_model(run: Run) -> None:
    with pytest.raises(SystemExit):
        run("train", "--help")  # registers
    additional_args: dict[str, Any] = {"using_her_replay_buffer": False, "her_kwargs": {}}
    seen = []

    def objective(trial: optuna.Trial) -> float:
        seen.append(HYPERPARAMS_SAMPLER["dai"](trial, 0, 1, additional_args))
        return 0.0

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=8)
    assert {sampled["precision"] == "auto" for sampled in seen} == {True, False}
    for trial, sampled in zip(study.trials, seen, strict=True):
        assert HYPERPARAMS_CONVERTER["dai"](trial.params) == sampled
        model = DAI("MlpPolicy", ENV_ID, buffer_size=10, **sampled)
        assert [*model.policy.net_arch.values()] == [sampled["policy_kwargs"]["net_arch"]] * 3
        assert model.batch_size == 2 ** trial.params["batch_size_pow"]


def test_search_then_train_its_trial(run: Run, tmp_path: Path) -> None:
    study = ["--storage", str(tmp_path / "study.log"), "--study-name", "s", "--algo", "dai", "--env", ENV_ID]
    options = ["-n", "120", "--seed", "1", "-f", str(tmp_path), "--eval-episodes", "1"]
    run("train", *study, *options, "-optimize", "--n-trials", "2", "--n-evaluations", "1", "--no-optim-plots")
    run("train", *study, *options, "--trial-id", "1")
    config = saved(tmp_path, "config.yml", run_id=2)  # the search itself was the first
    assert {"batch_size", "gamma", "policy_kwargs", "n_timesteps"} <= set(config)
    assert not {"batch_size_pow", "one_minus_gamma", "auto_precision"} & set(config)


def test_a_search_survives_what_does_not_go_with_the_entry(run: Run, tmp_path: Path) -> None:
    """An automatic precision, which half of the trials draw, and a habit prior."""
    study = ["--storage", str(tmp_path / "study.log"), "--study-name", "s", "--algo", "dai", "--env", "sb3_dai/GridWorld-v0"]
    options = ["-n", "110", "--seed", "1", "-f", str(tmp_path), "--eval-episodes", "1", "-conf", "goals", "--no-optim-plots"]
    run("train", *study, *options, "-optimize", "--n-trials", "6", "--n-evaluations", "1")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.log")))
    states = [trial.state.name for trial in optuna.load_study(study_name="s", storage=storage).trials]
    assert set(states) == {"PRUNED", "COMPLETE"}


def test_a_search_ends_with_the_error_of_an_entry_that_makes_no_agent(run: Run, tmp_path: Path) -> None:
    """Else all trials would be pruned, and the error of the user's would be a line among many."""
    options = ["--algo", "dai", "--env", ENV_ID, "-n", "110", "-f", str(tmp_path), "--no-optim-plots"]
    with pytest.raises(ValueError, match=r"pessimism.*=2"):
        run("train", *options, "-optimize", "--n-trials", "2", "-params", "pessimism:2")


def test_trials_of_other_algorithms_are_left_alone() -> None:
    def objective(manager: Any, trial: Any) -> float:
        raise ValueError("as the Zoo has it")

    with pytest.raises(ValueError, match="as the Zoo has it"):
        zoo.pruning(objective)(SimpleNamespace(algo="ppo"), None)


@pytest.mark.parametrize("text", ["0.3", "auto", "LinearSchedule(0.7, 0.2, 0.5)", "ConstantSchedule(0.1)"])
def test_target_entropy_is_an_expression(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.yml").write_text(yaml.safe_dump({ENV_ID: {"target_entropy": text}, "other": {"gamma": 0.5}}))
    entries = zoo.read_hyperparams(tmp_path / "mine.yml")
    assert entries["other"] == {"gamma": 0.5}
    found = entries[ENV_ID]["target_entropy"]
    schedules = {"LinearSchedule(0.7, 0.2, 0.5)": [0.7, 0.2], "ConstantSchedule(0.1)": [0.1, 0.1]}
    if text in schedules:
        assert [found(progress) for progress in (1.0, 0.25)] == pytest.approx(schedules[text])
    else:
        assert found == ("auto" if text == "auto" else 0.3)


@pytest.mark.parametrize("env_id", ["sb3_dai/DeepSea10-v0", "Acrobot-v1"])
def test_packaged_schedules_reach_the_agent(run: Run, tmp_path: Path, env_id: str) -> None:
    conf = "goals" if env_id == "Acrobot-v1" else "dai"
    run("train", "--algo", "dai", "--env", env_id, "-n", "20", "--eval-freq", "-1", "-f", str(tmp_path), "-conf", conf)
    trained = DAI.load(next(tmp_path.glob("dai/**/*.zip")))
    share, n_actions = {"dai": ((0.3, 0.02), 2), "goals": ((0.7, 0.3), 3)}[conf]
    ends = [trained.target_entropy(progress) / np.log(n_actions) for progress in (1.0, 0.0)]
    assert ends == pytest.approx(share, rel=2e-3)


def test_other_commands_start_through_this_module(monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import sys; sys.exit(len(sys.argv))"
    assert zoo.call_through_here([sys.executable, "-c", script, "a"]) == 2
    assert zoo.call_through_here(["python", "-m", "rl_zoo3.record_video", "--algo", "dai", "--help"]) == 0


def test_module_runs_from_any_folder(logs: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(zoo.__file__).parents[1])}
    command = [sys.executable, "-m", "sb3_dai.zoo", "train", "--algo", "dai", "--env", ENV_ID, "-n", "20"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=120)
    assert (tmp_path / "logs" / "dai" / f"{ENV_ID}_1" / f"{ENV_ID}.zip").is_file()


@pytest.mark.parametrize("env_id", list(zoo.read_hyperparams(zoo.hyperparams_file("goals"))))
def test_goals_are_objects(run: Run, tmp_path: Path, env_id: str) -> None:
    run("train", "--algo", "dai", "--env", env_id, "-n", "110", "--eval-freq", "-1", "-f", str(tmp_path), "-conf", "goals")
    trained = DAI.load(next(tmp_path.glob("dai/**/*.zip")))
    entry = zoo.read_hyperparams(zoo.hyperparams_file("goals"))[env_id]
    assert type(trained.preference) is type(entry.get("preference", RewardPreference()))
    assert trained.policy.bootstrap_share == entry.get("policy_kwargs", {}).get("bootstrap_share", 1.0)
    assert (trained.action_noise is not None) == ("noise_type" in entry)
