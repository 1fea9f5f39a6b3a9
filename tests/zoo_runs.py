"""Run a command of the Zoo inside a test, and read what it wrote."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from sb3_dai import zoo

ENV_ID = "CartPole-v1"
Run = Callable[..., None]


def run_zoo(monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.setattr(sys, "argv", ["zoo", *options])
    zoo.main()


def saved(folder: Path, name: str, run_id: int = 1) -> dict:
    return dict(yaml.unsafe_load((folder / "dai" / f"{ENV_ID}_{run_id}" / ENV_ID / name).read_text()))
