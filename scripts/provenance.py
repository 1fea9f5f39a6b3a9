"""Where a result comes from (commit, versions, processor, date and command), and which results are there already."""

import datetime
import importlib.metadata
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = ("sb3_dai", "stable-baselines3", "sb3-contrib", "rl-zoo3", "gymnasium", "torch", "numpy")


def commit() -> str:
    """
    :return: of the repository that this file is in, with a plus where tracked files differ from it; "unknown" elsewhere
    """
    folder = Path(__file__).parent

    def git(*command: str) -> str:
        return subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # Results are written while others are made, and do not change what is run
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "../sb3_dai", "../hyperparams", "../scripts")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def processor() -> str:
    """
    :return: name of the processor and its family, which rounding depends on
    """
    facts: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            facts.setdefault(name.strip(), value.strip())
    except OSError:
        return platform.processor() or platform.machine()
    name, *numbers = (facts.get(key, "?") for key in ("model name", "cpu family", "model"))
    return f"{name}, family {numbers[0]}, model {numbers[1]}"


def machine() -> dict[str, Any]:
    """
    :return: versions of Python and packages, and the processor: what a result says of the machine that made it
    """
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"versions": versions, "processor": processor()}


def provenance() -> dict[str, Any]:
    """
    :return: what a result file says of its origin
    """
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    return {"commit": commit(), **machine(), "date": today, "command": command}


def finished(path: Path, origin: dict[str, Any]) -> list[dict[str, Any]]:
    """
    :param path: of the results
    :param origin: of those that are to be made
    :return: those that are there already, which are not made again
    :raises SystemExit: if they are of another commit
    """
    results = json.loads(path.read_text()) if path.is_file() else []
    others = {result.get("commit", "unknown") for result in results} - {origin["commit"]}
    if others:
        sys.exit(
            f"{path} has runs of commit {', '.join(sorted(others))}, and this is {origin['commit']}: give another --out, or "
            "--fresh to replace them"
        )
    return results
