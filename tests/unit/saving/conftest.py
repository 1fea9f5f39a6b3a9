"""Folders of tests of files."""

import os
import tempfile

import pytest
from disks import folder_of_everybody


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
