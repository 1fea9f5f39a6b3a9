"""Studies of Optuna that several workers share, one of which is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from zoo_runs import ENV_ID

from sb3_dai import zoo


def trials_of(storage: str) -> list[optuna.trial.FrozenTrial]:
    """
    :param storage: as the Zoo takes it
    :return: the trials of the study so far, none where there is no study yet
    """
    journal = optuna.storages.journal
    kept = optuna.storages.JournalStorage(journal.JournalFileBackend(storage)) if storage.endswith(".log") else storage
    try:
        return optuna.load_study(study_name="s", storage=kept).get_trials()
    except KeyError:
        return []


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["sqlite:///{}/study.db", "{}/study.log"])
def test_a_study_survives_the_death_of_a_worker(tmp_path: Path, storage: str) -> None:
    storage = storage.format(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(Path(zoo.__file__).parents[2])}
    command = [sys.executable, "-m", "sb3_dai.zoo", "train", "--algo", "dai", "--env", ENV_ID, "-n", "400", "-optimize"]
    command += ["--eval-episodes", "1", "--n-evaluations", "1", "--no-optim-plots", "--pruner", "none"]
    command += ["--storage", storage, "--study-name", "s", "-f", str(tmp_path), "--n-trials"]

    def start(n_trials: int) -> subprocess.Popen:
        return subprocess.Popen([*command, str(n_trials)], env=environment, cwd=tmp_path)

    # The first makes the tables of the database
    victim = start(100)
    while not any(trial.state == TrialState.COMPLETE for trial in trials_of(storage)):
        assert victim.poll() is None
        time.sleep(0.1)
    survivor = start(3)
    # Until both are at a trial
    while sum(trial.state == TrialState.RUNNING for trial in trials_of(storage)) < 2:
        assert survivor.poll() is None
        time.sleep(0.02)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    before = {trial.number: trial.value for trial in trials_of(storage) if trial.state == TrialState.COMPLETE}
    assert survivor.wait() == 0
    # Resumed by the same command
    assert start(2).wait() == 0
    trials = trials_of(storage)
    complete = {trial.number: trial.value for trial in trials if trial.state == TrialState.COMPLETE}
    assert len(complete) >= len(before) + 2
    assert {number: complete[number] for number in before} == before
    # What the killed worker was at stays open, and nothing else
    assert len(trials) - len(complete) <= 1
    assert [trial.number for trial in trials] == [*range(len(trials))]
    # One of its trials trains
    trial = [
        "--storage",
        storage,
        "--study-name",
        "s",
        "--trial-id",
        str(min(complete)),
        "--eval-freq",
        "-1",
        "-f",
        str(tmp_path),
    ]
    again = [*command[: command.index("-optimize")], *trial]
    assert subprocess.run(again, env=environment, cwd=tmp_path).returncode == 0
