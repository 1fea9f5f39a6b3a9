"""What `train` does beside training: checkpoints, going on from one, and the time it takes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from zoo_runs import ENV_ID, Run

from sb3_dai import DAI
from sb3_dai.zoo import training_time
from sb3_dai.zoo.training_time import TrainingTime, readable


def test_resume_goes_on_from_the_zip_and_its_buffer(logs: Path, run: Run, tmp_path: Path) -> None:
    trained = logs / "dai" / f"{ENV_ID}_1" / f"{ENV_ID}.zip"
    options = ["--env", ENV_ID, "-n", "110", "--eval-freq", "-1", "-i", str(trained), "-params", "n_steps:3"]
    run("train", "--algo", "dai", *options, "--save-replay-buffer", "-f", str(tmp_path))
    resumed = DAI.load(tmp_path / "dai" / f"{ENV_ID}_1" / f"{ENV_ID}.zip")
    resumed.load_replay_buffer(tmp_path / "dai" / f"{ENV_ID}_1" / "replay_buffer.pkl")
    assert resumed._n_updates > DAI.load(trained)._n_updates
    assert (resumed.replay_buffer.size(), resumed.buffer_size) == (310, 5000)


def test_a_checkpoint_carries_its_own_buffer(logs: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    trained = logs / "dai" / f"{ENV_ID}_1" / "rl_model_100_steps.zip"
    options = ["--env", ENV_ID, "-n", "20", "--eval-freq", "-1", "-i", str(trained), "-params", "n_steps:3"]
    run("train", "--algo", "dai", *options, "-f", str(tmp_path))
    told = capsys.readouterr().out
    assert "trained for 100 steps" in told
    # Callbacks are called before the transition is stored
    assert "has 99 transitions of rl_model_replay_buffer_100_steps.pkl" in told


def test_going_on_without_a_buffer_says_so(logs: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    trained = tmp_path / "rl_model_100_steps.zip"
    trained.write_bytes((logs / "dai" / f"{ENV_ID}_1" / trained.name).read_bytes())
    run("train", "--algo", "dai", "--env", ENV_ID, "-n", "20", "--eval-freq", "-1", "-i", str(trained), "-f", str(tmp_path))
    assert "is empty (--save-replay-buffer saves it)" in capsys.readouterr().out


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (9000, "2.5 h")])
def test_durations_in_words(seconds: float, text: str) -> None:
    assert readable(seconds) == text


def test_the_time_of_a_training_is_said_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Half a second a step, of which the first ten have no gradient step and count for nothing."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(training_time, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    callback = TrainingTime()
    model: Any = SimpleNamespace(_n_updates=0, _total_timesteps=100, num_timesteps=0)
    callback.model = model
    callback._on_training_start()
    for step in range(1, 101):
        clock.now += 0.5 if step > 10 else 0.001
        callback.num_timesteps = step
        model._n_updates = max(0, step - 10)
        assert callback._on_step()
    # From step 11 to step 17 it took three seconds
    assert capsys.readouterr().out == "About 42 s to go: 83 environment steps at 500.0 ms each, as the last 6 took\n"


def test_train_measures_its_time(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(TrainingTime.__init__, "__defaults__", (0.01,))
    run("train", "--algo", "dai", "--env", ENV_ID, "-n", "150", "--eval-freq", "-1", "-f", str(tmp_path))
    assert capsys.readouterr().out.count(" to go: ") == 1
