"""Disks that are full, and saving that is cut off: the old content stays."""

import contextlib
import errno
import io
import os
import shutil
import subprocess
import sys

import pytest
from disks import IS_ROOT, fail, unprivileged
from helpers import make

from sb3_dai import files
from sb3_dai.files import atomic_write, write_json

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links, pipes and permissions of POSIX")


@pytest.fixture(params=["replaced", "in place"])
def old(request, tmp_path):
    """A file of either kind."""
    write_json(tmp_path / "result", "old")
    if request.param == "in place":
        (tmp_path / "names").mkdir()
        os.link(tmp_path / "result.json", tmp_path / "names" / "other.json")
    return tmp_path / "result.json"


def assert_whole(old):
    assert old.read_text() == '"old"\n'
    assert {*os.listdir(old.parent)} <= {"result.json", "names"}, "a temporary file is left"


class FullDisk(io.RawIOBase):
    """A file on a disk with room for so many bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def writable(self):
        return True

    def fileno(self):
        return self.file.fileno()

    def write(self, data):
        if len(data) > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= len(data)
        return self.file.write(data)

    def close(self):
        self.file.close()
        super().close()


@pytest.mark.parametrize("room", [0, 10, 8000, 50_000])
def test_full_disk_while_it_is_written(old, monkeypatch, room):
    """At the first byte, later, and when what is buffered is flushed at the end."""
    monkeypatch.setattr(files, "open_path", lambda path, _: io.BufferedWriter(FullDisk(io.FileIO(path, "w"), room)))
    with pytest.raises(OSError, match="No space left") as error:
        write_json(old, list(range(10_000)))
    assert error.value.filename == str(old), "a failed write does not know the name"
    assert_whole(old)


@pytest.mark.parametrize("what", ["model", "buffer", "policy"])
def test_full_disk_whatever_the_serialiser_makes_of_it(tmp_path, monkeypatch, what):
    """torch answers some failed writes with a RuntimeError about positions in an archive."""
    model, path = make(buffer_size=100), tmp_path / "file.ext"
    save = {"model": model.save, "buffer": model.save_replay_buffer, "policy": model.policy.save}[what]
    save(path)
    old = path.read_bytes()
    for share in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        room = int(share * len(old))
        monkeypatch.setattr(
            files, "open_path", lambda name, _, room=room: io.BufferedWriter(FullDisk(io.FileIO(name, "w"), room), 512)
        )
        with pytest.raises(OSError, match="No space left") as error:
            save(path)
        assert error.value.filename == str(path)
        assert path.read_bytes() == old and os.listdir(tmp_path) == ["file.ext"]


def test_an_error_that_is_not_of_the_disk_stays_as_it_is(old):
    with pytest.raises(FileNotFoundError, match="no such thing") as error, atomic_write(old):
        raise FileNotFoundError(errno.ENOENT, "no such thing")
    assert error.value.filename is None
    with pytest.raises(OSError, match="another file"), atomic_write(old):
        raise OSError(errno.ENOSPC, "no room", "another file")
    assert_whole(old)


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_full_disk_when_it_is_complete(tmp_path, monkeypatch, function):
    write_json(tmp_path / "result", "old")
    fail(monkeypatch, os, function, errno.ENOSPC)
    with pytest.raises(OSError, match="No space left"):
        write_json(tmp_path / "result", list(range(10_000)))
    assert_whole(tmp_path / "result.json")


def test_no_room_for_a_temporary_file(old, monkeypatch):
    fail(monkeypatch, files, "open_path", errno.ENOSPC)
    with pytest.raises(OSError, match="No space left") as error:
        write_json(old, 1)
    assert error.value.filename == str(old)
    assert_whole(old)


def test_no_room_for_a_longer_content(tmp_path, monkeypatch):
    """It is found out before the first byte of the old content is overwritten."""
    write_json(tmp_path / "result", "old")
    (tmp_path / "names").mkdir()
    os.link(tmp_path / "result.json", tmp_path / "names" / "other.json")

    def half(number, offset, length):
        os.ftruncate(number, offset + length // 2)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", half, raising=False)
    with pytest.raises(OSError, match="No space left"):
        write_json(tmp_path / "result", list(range(10_000)))
    assert_whole(tmp_path / "result.json")


def test_a_file_system_that_cannot_tell_its_room(tmp_path, monkeypatch):
    write_json(tmp_path / "result", "old")
    os.link(tmp_path / "result.json", tmp_path / "other.json")
    fail(monkeypatch, os, "posix_fallocate", errno.EOPNOTSUPP)
    write_json(tmp_path / "result", [1])
    assert (tmp_path / "other.json").read_text() == "[\n1\n]\n"


@pytest.mark.skipif(not IS_ROOT or sys.platform != "linux", reason="needs root")
@pytest.mark.parametrize("in_place", [False, True], ids=["replaced", "in place"])
def test_a_disk_that_is_full(folder, temporary_files, in_place):
    disk = folder / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", disk], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("mounts are not allowed")
    try:
        (disk / "result.json").write_text("old")
        if in_place:
            (disk / "result.json").chmod(0o666)
            disk.chmod(0o555)
        with contextlib.nullcontext() if not in_place else unprivileged(), pytest.raises(OSError, match="No space left"):
            write_json(disk / "result", list(range(100_000)))
        assert (disk / "result.json").read_text() == "old" and os.listdir(disk) == ["result.json"]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_serialiser_that_fails(old):
    with pytest.raises(ZeroDivisionError), atomic_write(old) as file:
        file.write(b"half" * 100_000)
        _ = 1 / 0
    assert_whole(old)


def test_the_whole_content_stays_when_the_last_step_is_cut_off(tmp_path, monkeypatch):
    """In place, the old content is lost by then."""
    write_json(tmp_path / "result", "old")
    os.link(tmp_path / "result.json", tmp_path / "other.json")

    def cut(source, target):
        target.write(source.read(3))
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfileobj", cut)
    with pytest.raises(KeyboardInterrupt), pytest.warns(UserWarning, match=r"result\.json' is incomplete.*copy it there"):
        write_json(tmp_path / "result", "new")
    (whole,) = (path for path in tmp_path.iterdir() if path.suffix == ".tmp")
    assert whole.read_text() == '"new"\n'
