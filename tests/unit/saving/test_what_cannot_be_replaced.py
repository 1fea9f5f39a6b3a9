"""Files that may be written to and cannot be replaced: links, pipes, devices, mounts, folders that are write-protected."""

import contextlib
import errno
import io
import os
import stat
import subprocess
import sys
import tempfile
import threading

import pytest
from disks import IS_ROOT, fail, unprivileged
from helpers import make

from sb3_dai import DAI, files
from sb3_dai.files import atomic_write, write_json

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links, pipes and permissions of POSIX")


@pytest.mark.parametrize("what", ["model", "buffer", "policy"])
def test_a_hard_link_keeps_its_names(tmp_path, what):
    model = make(buffer_size=100)
    path, other = tmp_path / "file.ext", tmp_path / "other"
    path.write_text("a longer text than nothing" * 1_000_000)
    os.link(path, other)
    {"model": model.save, "buffer": model.save_replay_buffer, "policy": model.policy.save}[what](path)
    assert path.samefile(other) and other.stat().st_size < 20_000_000, "what is left of the old content"
    {
        "model": lambda: DAI.load(other, device="cpu"),
        "buffer": lambda: make().load_replay_buffer(other),
        "policy": lambda: type(model.policy).load(other, device="cpu"),
    }[what]()
    assert sorted(os.listdir(tmp_path)) == ["file.ext", "other"]


def test_a_file_in_a_folder_that_is_write_protected(folder, temporary_files):
    (folder / "result.json").write_text("old and long" * 100)
    (folder / "result.json").chmod(0o666)
    folder.chmod(0o555)
    before = (folder / "result.json").stat()
    with unprivileged():
        write_json(folder / "result", [1, 2])
    assert (folder / "result.json").read_text() == "[\n1,\n2\n]\n"
    after = (folder / "result.json").stat()
    assert (after.st_ino, after.st_uid, after.st_mode) == (before.st_ino, before.st_uid, before.st_mode)


def test_a_file_that_may_be_written_and_not_read(folder, temporary_files):
    (folder / "result.json").write_text("old")
    (folder / "result.json").chmod(0o622 if IS_ROOT else 0o222)
    folder.chmod(0o555)
    with unprivileged():
        write_json(folder / "result", 1)
    (folder / "result.json").chmod(0o666)
    assert (folder / "result.json").read_text() == "1\n"


def test_a_new_file_in_a_folder_that_is_write_protected(folder, temporary_files):
    folder.chmod(0o555)
    with unprivileged(), pytest.raises(PermissionError) as error:
        write_json(folder / "result", 1)
    assert error.value.filename == str(folder / "result.json"), "the name that the user gave"
    with unprivileged(), pytest.raises(PermissionError), pytest.warns(UserWarning, match="Will create it"):
        write_json(folder / "new" / "result", 1)
    assert os.listdir(folder) == []


def test_a_write_protected_file_stays_wherever_it_is(folder, temporary_files):
    (folder / "best.json").write_text("1\n")
    (folder / "best.json").chmod(0o444)
    for mode in (0o777, 0o555):
        folder.chmod(mode)
        with unprivileged(), pytest.raises(PermissionError):
            write_json(folder / "best.json", 2)
    assert os.listdir(folder) == ["best.json"] and (folder / "best.json").read_text() == "1\n"


@pytest.mark.skipif(not IS_ROOT or sys.platform != "linux", reason="needs root")
def test_a_file_that_is_mounted(folder):
    """As ``docker run -v host.zip:/model.zip``."""
    for name in ("host.json", "result.json"):
        (folder / name).write_text("old")
    mount = subprocess.run(["mount", "--bind", folder / "host.json", folder / "result.json"], stderr=subprocess.DEVNULL)
    if mount.returncode:
        pytest.skip("mounts are not allowed")
    try:
        write_json(folder / "result", 1)
    finally:
        subprocess.run(["umount", folder / "result.json"], check=True)
    assert (folder / "host.json").read_text() == "1\n" and (folder / "result.json").read_text() == "old"
    assert sorted(os.listdir(folder)) == ["host.json", "result.json"]


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EXDEV, errno.EPERM, errno.EACCES])
def test_a_rename_that_is_refused(tmp_path, monkeypatch, number):
    write_json(tmp_path / "result", "old")
    before = (tmp_path / "result.json").stat().st_ino
    fail(monkeypatch, os, "replace", number)
    write_json(tmp_path / "result", 1)
    assert (tmp_path / "result.json").read_text() == "1\n" and os.listdir(tmp_path) == ["result.json"]
    assert (tmp_path / "result.json").stat().st_ino == before


@pytest.mark.skipif(not IS_ROOT, reason="needs root")
def test_owner_and_permissions_stay(folder):
    path = folder / "result.json"
    for by_root, mode in ((True, 0o640), (False, 0o666)):
        write_json(path, 0)
        os.chown(path, 1234 if by_root else 0, 4321 if by_root else 0)
        path.chmod(mode)
        before = path.stat()
        with contextlib.nullcontext() if by_root else unprivileged():
            write_json(path, 1)
        after = path.stat()
        assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
        assert (after.st_ino == before.st_ino) != by_root, "root can replace it, others must write to it"
        assert path.read_text() == "1\n"


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="no extended attributes")
def test_extended_attributes_stay(tmp_path):
    write_json(tmp_path / "result", 0)
    try:
        os.setxattr(tmp_path / "result.json", "user.note", b"mine")
    except OSError:
        pytest.skip("not on this file system")
    write_json(tmp_path / "result", 1)
    assert os.getxattr(tmp_path / "result.json", "user.note") == b"mine"


@pytest.mark.skipif(not IS_ROOT or sys.platform != "linux", reason="needs root")
def test_a_device_stays_a_device(folder, temporary_files):
    null, full = folder / "null", folder / "full"
    try:
        os.mknod(null, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        os.mknod(full, 0o666 | stat.S_IFCHR, os.makedev(1, 7))
        null.write_bytes(b"anything")
    except OSError:
        pytest.skip("devices are not allowed")
    make(buffer_size=100).policy.save(null)
    assert null.is_char_device() and sorted(os.listdir(folder)) == ["full", "null"]
    with pytest.raises(OSError, match="No space left"), atomic_write(full) as file:
        file.write(b"x" * 100_000)
    assert full.is_char_device()


def reader_of(open_pipe):
    """A thread that reads a pipe to its end, and what it reads."""
    content: list[bytes] = []

    def read():
        with open_pipe() as file:
            content.append(file.read())

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread, content


def test_a_pipe_gets_the_whole_file(tmp_path, temporary_files):
    path = tmp_path / "model.zip"
    os.mkfifo(path)
    thread, content = reader_of(lambda: path.open("rb"))
    make(buffer_size=100).save(path)
    thread.join(10)
    assert path.is_fifo() and os.listdir(tmp_path) == ["model.zip"]
    assert DAI.load(io.BytesIO(content[0]), device="cpu").buffer_size == 100


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="no names of open files")
def test_a_pipe_without_a_name(temporary_files):
    """As ``/dev/stdout``, or ``>(gzip)`` of a shell."""
    read, write = os.pipe()
    thread, content = reader_of(lambda: os.fdopen(read, "rb"))
    with atomic_write(f"/dev/fd/{write}") as file:
        file.write(b"x" * 100_000)
    os.close(write)
    thread.join(10)
    assert content == [b"x" * 100_000]


@pytest.mark.parametrize("letter", ["m", "ä"])
def test_a_name_of_250_letters(tmp_path, letter):
    name = letter * (250 // len(letter.encode()))
    for number in (1, 2):
        write_json(tmp_path / name, number)
        assert os.listdir(tmp_path) == [f"{name}.json"]
        assert (tmp_path / f"{name}.json").read_text() == f"{number}\n"
    with pytest.raises(OSError, match="name too long"):
        write_json(tmp_path / (letter * 256), 1)


def test_memory_where_no_folder_can_be_written_to(tmp_path, monkeypatch):
    write_json(tmp_path / "result", "old")
    fail(monkeypatch, files, "open_path", errno.EROFS)
    fail(monkeypatch, tempfile, "mkstemp", errno.ENOENT)
    write_json(tmp_path / "result", 1)
    assert (tmp_path / "result.json").read_text() == "1\n"
    with pytest.raises(OSError, match="Read-only"):
        write_json(tmp_path / "new", 1)
