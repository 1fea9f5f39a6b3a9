"""
A folder of finished runs, one JSON file each: a run that was stopped leaves no file, and one that finished is not lost.

A file is written beside its place and renamed, so none is ever half written. Folders of several machines are merged by
copying their files together.
"""

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sb3_dai
from sb3_dai.saving import write_json

Row = dict[str, Any]

UNRELATED = ("diagnostics", "files.py", "saving.py", "zoo", "zoo.py")
"""Parts of the package that change no training."""


def code_digest() -> str:
    """
    :return: of the sources that train an agent of this package
    """
    folder = Path(sb3_dai.__file__).parent
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix in (".py", ".cpp", ".h")]
    digest = hashlib.sha256()
    for path in paths:
        name = path.relative_to(folder)
        if name.parts[0] not in UNRELATED:
            digest.update(name.as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


class Store:
    """
    :param folder: of the runs, made if absent
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: dict[str, Any]) -> Path:
        """
        :param key: what a run is one of: ``environment``, ``agent``, ``steps``, ``seed``
        :return: where its row is
        """
        environment = key["environment"].replace("/", "_")
        return self.folder / environment / key["agent"] / f"{key['steps']}_{key['seed']}.json"

    def read(self, key: dict[str, Any]) -> Row | None:
        """
        :param key: see :meth:`path`
        :return: the row, None if there is none
        :raises SystemExit: if its file is damaged
        """
        path = self.path(key)
        return self._read(path) if path.is_file() else None

    def _read(self, path: Path) -> Row:
        """See :meth:`read`. A file that was written here is whole; one that was copied need not be."""
        try:
            return json.loads(path.read_text())
        except ValueError as error:
            raise SystemExit(f"{path} is damaged ({error}): copy it again, or remove it") from None

    def write(self, key: dict[str, Any], row: Row) -> None:
        """
        :param key: see :meth:`path`
        :param row: what was found
        """
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, row)

    def rows(self) -> list[Row]:
        """
        :return: all that are there, by environment, agent and seed
        """
        rows = [self._read(path) for path in self.folder.glob("*/*/*_*.json")]
        return sorted(rows, key=lambda row: (row["env"], row["agent_name"], row["steps"], row["seed"]))

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """
        Keep another process from running the same jobs. A process that is killed gives the lock back.

        :raises SystemExit: if one does
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise SystemExit(
                    f"--store {self.folder}: another process is writing to it. Wait for it, or give another store"
                ) from None
            for path in self.folder.glob("*/*/.*.tmp"):  # Halves that a killed process left
                path.unlink()
            yield
