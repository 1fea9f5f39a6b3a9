"""Files that may be written to and cannot be replaced, and disks that are full."""

import contextlib
import errno
import io
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from helpers import make

from sb3_dai import DAI, files
from sb3_dai.files import atomic_write, write_json

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links, pipes and permissions of POSIX")
IS_ROOT = getattr(os, "geteuid", lambda: 1)() == 0
NOBODY = 65534


@contextlib.contextmanager
def unprivileged():
    """Permissions do not bind root."""
    if IS_ROOT:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if IS_ROOT:
            os.seteuid(0)


@contextlib.contextmanager
def folder_of_everybody():
    """Those of pytest are for one user only."""
    path = Path(os.path.realpath(tempfile.mkdtemp()))
    path.chmod(0o777)
    try:
        with unprivileged():
            try:
                os.listdir(path)
            except PermissionError:
                pytest.skip("temporary files are for one user only")
        yield path
    finally:
        path.chmod(0o777)
        shutil.rmtree(path)


@pytest.fixture
def folder():
    with folder_of_everybody() as path:
        yield path


@pytest.fixture
def temporary_files(monkeypatch):
    """The folder of temporary files, which is to be empty after the test."""
    with folder_of_everybody() as path:
        monkeypatch.setattr(tempfile, "tempdir", str(path))
        yield path
        assert os.listdir(path) == []


def fail(monkeypatch, owner, name, number, when=lambda *args: True):
    """Let a function of the system fail."""
    function = getattr(owner, name)

    def failing(*args, **kwargs):
        if when(*args):
            raise OSError(number, os.strerror(number))
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, failing)


# ----- What cannot be replaced -----


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


# ----- What fails -----


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
