"""Lines that trials print, and a file that keeps them."""

import json
from pathlib import Path
from typing import Any

from provenance import provenance

from sb3_dai.saving import write_json

SAID: list[str] = []
"""Lines of the trials of this process, and their summary."""


def say(line: str) -> None:
    """
    :param line: to print and to keep
    """
    print(line, flush=True)
    SAID.append(line)


def keep(path: Path, name: str, options: dict[str, Any], hyperparameters: dict[str, Any]) -> None:
    """
    :param path: JSON file of what was found
    :param name: of the subcommand, whose entry is replaced
    :param options: that it was called with
    :param hyperparameters: of the agents
    """
    known = json.loads(path.read_text()) if path.exists() else []
    entry = {"fault": name, "options": options, "hyperparameters": hyperparameters, "lines": SAID, **provenance()}
    write_json(path, sorted([*(other for other in known if other["fault"] != name), entry], key=lambda other: other["fault"]))
