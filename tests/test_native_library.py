"""The library that installation makes is loaded if it is made of the sources that lie beside it."""

import ctypes
import shutil

import pytest
import torch as th

from sb3_dai import native_library
from sb3_dai.native_library import FOLDER, SOURCES, library, source_hash


def test_what_was_made_is_taken():
    """Else every test of it would be left out, and nobody would see."""
    made = FOLDER / f"native_{th.backends.cpu.get_cpu_capability()}.so"
    assert (library() is not None) == made.is_file(), "install sb3_dai again"


@pytest.mark.skipif(library() is None, reason="the library was not made")
def test_a_library_of_other_sources_is_not_taken(monkeypatch, tmp_path):
    for name in SOURCES:
        shutil.copy(FOLDER / name, tmp_path)
    for made in FOLDER.glob("*.so"):
        shutil.copy(made, tmp_path)
    monkeypatch.setattr(native_library, "FOLDER", tmp_path)
    monkeypatch.setattr(native_library, "source_hash", lambda: source_hash(tmp_path))
    assert isinstance(library.__wrapped__(), ctypes.CDLL)
    (tmp_path / "update.h").write_text("// Another")
    with pytest.warns(UserWarning, match="was made of other sources, and torch does its work: install sb3_dai again"):
        assert library.__wrapped__() is None
    monkeypatch.setattr(native_library, "FOLDER", tmp_path / "nothing")
    assert library.__wrapped__() is None, "as where there is no compiler"
