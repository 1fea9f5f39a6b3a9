"""Folders that everybody may write to, users who may not, and functions of the system that fail."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest

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


def fail(monkeypatch, owner, name, number, when=lambda *args: True):
    """Let a function of the system fail."""
    function = getattr(owner, name)

    def failing(*args, **kwargs):
        if when(*args):
            raise OSError(number, os.strerror(number))
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, failing)
