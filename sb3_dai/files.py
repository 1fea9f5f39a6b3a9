"""Files that take the place of old ones only once they are complete."""

import errno
import io
import json
import os
import pathlib
import shutil
import stat
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from stable_baselines3.common.save_util import open_path

REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.EXDEV, errno.ENAMETOOLONG, errno.ENOTSUP)
"""What a system says that lets nobody make or rename a file there: the file itself may be written to all the same."""

NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What a system says of a write to a file, such as on a full disk."""


@contextmanager
def atomic_write(path: str | pathlib.Path | io.BufferedIOBase, suffix: str | None = None) -> Iterator[io.BufferedIOBase]:
    """
    Open a file for writing that takes its place only once it is complete: whatever happens before, the old file
    stays whole. Names follow ``open_path`` of Stable-Baselines3.

    What cannot be replaced is written to once the file is complete: a device, a pipe, a file with another name (a hard
    link) or an owner that a new one cannot be given, a mount point, and a file in a folder that is write-protected.

    :param path: where to write. Missing parent folders are created, and a folder ``path`` becomes ``path_2``.
        A file object is given back as it is: what it is written to cannot be swapped.
    :param suffix: added to a path that has none
    :return: the binary file to write into
    :raises PermissionError: if the file there is write-protected, or there is none and the folder is
    :raises OSError: that names the path, if the disk is full
    """
    if not isinstance(path, (str, pathlib.Path)):
        yield path
        return
    path, old = _resolve(pathlib.Path(path), suffix)
    with _named(path), _open_new(path, old) as file:
        yield file


@contextmanager
def _named(path: pathlib.Path) -> Iterator[None]:
    """
    A failed write does not say to which file, and serialisers answer it with errors of their own: torch with a RuntimeError
    about positions in an archive.

    :param path: what is written
    :raises OSError: that names the path, in the place of an error that a failed write led to
    """
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not (isinstance(cause, OSError) and cause.errno in NOT_WRITTEN):
            cause = cause.__cause__ or cause.__context__
        if not isinstance(cause, OSError) or cause.filename is not None:
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from error


@contextmanager
def _open_new(path: pathlib.Path, old: os.stat_result | None) -> Iterator[io.BufferedIOBase]:
    """
    :param path: what will be written, as :func:`_resolve` found it
    :param old: what is known of the file there, None if there is none
    :return: see :func:`atomic_write`
    """
    is_special = old is not None and not stat.S_ISREG(old.st_mode)
    if old is not None and not is_special:
        _open_as_it_is(path).close()  # A rename asks only the folder for permission: ask the file, too
    file, temporary = _open_temporary(path, old is not None, is_special)
    is_needed = False

    def discard() -> None:
        if temporary is not None and not is_needed:
            temporary.unlink(missing_ok=True)

    with ExitStack() as stack:
        stack.callback(discard)
        stack.enter_context(file)
        yield file
        file.flush()
        if temporary is not None:
            # Else a power cut could leave the new name on data that never reached the disk
            os.fsync(file.fileno())
            file.close()
            if not is_special and _replace(temporary, path, old):
                return
            file = stack.enter_context(temporary.open("rb"))
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        with _open_as_it_is(path, old is None) as target:
            if is_special:
                shutil.copyfileobj(file, target)
                return
            _reserve(target, size)
            is_needed = True  # The old content goes
            try:
                shutil.copyfileobj(file, target)
                target.truncate()
                target.flush()
                os.fsync(target.fileno())
            except BaseException:
                if temporary is not None:
                    warnings.warn(f"'{path}' is incomplete. '{temporary}' is whole: copy it there.")
                raise
            is_needed = False


def _resolve(path: pathlib.Path, suffix: str | None) -> tuple[pathlib.Path, os.stat_result | None]:
    """
    :param path: where a user wants to write
    :param suffix: added to a path that has none
    :return: the file that a plain write would write to, and what is known of it, None if there is none
    """
    if suffix and path.suffix == "":
        path = pathlib.Path(f"{path}.{suffix}")
    while path.is_dir():
        warnings.warn(f"Path '{path}' is a folder. Will save instead to {path}_2")
        path = pathlib.Path(f"{path}_2")
    # Through a symbolic link, as a plain write goes, instead of in its place
    target = pathlib.Path(os.path.realpath(path))
    try:
        old = path.stat()
    except FileNotFoundError:
        return target, None
    # A link such as /dev/stdout may lead to a pipe, which has no name
    return (target if stat.S_ISREG(old.st_mode) and target.exists() else path), old


def _open_as_it_is(path: pathlib.Path, create: bool = False) -> io.BufferedWriter:
    """
    :param path: a file, a pipe or a device
    :param create: whether it is not there and is to be made
    :return: the same, open for writing from its start, its content not yet lost
    """
    unwanted = os.O_TRUNC | (0 if create else os.O_CREAT)
    return open(path, "wb", opener=lambda name, flags: os.open(name, flags & ~unwanted, 0o666))


def _open_temporary(path: pathlib.Path, exists: bool, is_special: bool) -> tuple[io.BufferedIOBase, pathlib.Path | None]:
    """
    :param path: what will be written
    :param exists: whether there is something by that name
    :param is_special: whether it is not a file
    :return: a new file, and its name: beside it if possible, because a rename across file systems is a copy. Where no folder
        can be written to it is in memory, and has none
    """
    if not is_special:
        # A name has at most 255 bytes, on some file systems 143
        name = os.fsencode(path.name)[:100].decode(errors="ignore")
        temporary = path.with_name(f".{name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            return open_path(temporary, "w"), temporary
        except OSError as error:
            if not exists or error.errno not in REFUSED:
                # The name that the user gave, and not one that was made up
                raise OSError(error.errno, error.strerror, str(path)) from error
    try:
        number, name = tempfile.mkstemp(".tmp", "sb3_dai_")
    except FileNotFoundError:  # No folder for temporary files
        return io.BytesIO(), None
    return open(number, "wb"), pathlib.Path(name)


def _replace(temporary: pathlib.Path, path: pathlib.Path, old: os.stat_result | None) -> bool:
    """
    Rename a file, which gets the owner and the permissions of the one whose place it takes.

    :param temporary: a complete file
    :param path: its place
    :param old: what is known of the file there, None if there is none
    :return: whether it could be done, and nobody else would miss the old file
    """
    if old is not None and old.st_nlink > 1:
        return False
    try:
        if old is not None:
            new = temporary.stat()
            if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
                os.chown(temporary, old.st_uid, old.st_gid)
            shutil.copymode(path, temporary)
            for name in _attributes(path):
                os.setxattr(temporary, name, os.getxattr(path, name))
        os.replace(temporary, path)
    except OSError as error:
        if old is None or error.errno not in REFUSED:
            raise
        return False
    return True


def _attributes(path: pathlib.Path) -> list[str]:
    """
    :param path: a file
    :return: names of its extended attributes, such as an access control list, without those of the system
    """
    try:
        return [name for name in os.listxattr(path) if not name.startswith("security.")]
    except (AttributeError, OSError):  # There are none on this system, or on this file system
        return []


def _reserve(file: io.BufferedWriter, size: int) -> None:
    """
    Ask for room on the disk before a byte of the old content is overwritten.

    :param file: open for writing
    :param size: that it is going to have
    :raises OSError: if there is not enough; it is then as long as it was
    """
    before = os.fstat(file.fileno()).st_size
    if size <= before or not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file.fileno(), before, size - before)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENODEV, errno.ENOSYS, errno.EOPNOTSUPP):  # The file system cannot tell
            return
        os.ftruncate(file.fileno(), before)
        raise


def write_json(path: str | pathlib.Path, data: Any) -> None:
    """
    Write results as JSON, atomically, with a line for each element of a list, or for each key of a dictionary.

    :param path: where to write, with ".json" added if there is no suffix
    :param data: what ``json.dumps`` accepts
    """
    with atomic_write(path, "json") as file:
        if isinstance(data, dict) and data:
            text = "{\n" + ",\n".join(f"  {json.dumps(str(key))}: {json.dumps(value)}" for key, value in data.items()) + "\n}"
        elif isinstance(data, list) and data:
            text = "[\n" + ",\n".join(map(json.dumps, data)) + "\n]"
        else:
            text = json.dumps(data)
        file.write(f"{text}\n".encode())
