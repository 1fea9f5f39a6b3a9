"""Runs of the Zoo that several tests share."""

from pathlib import Path

import pytest

pytest.importorskip("rl_zoo3", reason='pip install "sb3-dai[zoo]"')
from zoo_runs import ENV_ID, Run, run_zoo


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    return lambda *options: run_zoo(monkeypatch, *options)


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run with checkpoints, evaluations, a replay buffer and n-step returns."""
    folder = tmp_path_factory.mktemp("logs")
    options = ["--env", ENV_ID, "-f", str(folder), "-n", "200", "--seed", "1"]
    options += ["--save-freq", "100", "--save-replay-buffer", "--eval-freq", "100", "--eval-episodes", "1"]
    with pytest.MonkeyPatch.context() as monkeypatch:
        run_zoo(monkeypatch, "train", "--algo", "dai", *options, "-params", "n_steps:3", "buffer_size:5000")
    return folder
