"""The library of library.cpp, which is made when the package is installed."""

import ctypes
import functools
import hashlib
import warnings
from pathlib import Path

import torch as th

from sb3_dai.acceleration.native import structures

FOLDER = Path(__file__).parent


def source_hash(folder: Path = FOLDER) -> str:
    """
    :param folder: of the sources
    :return: what a library that is made of them says
    """
    sources = sorted(path for path in folder.iterdir() if path.suffix in (".h", ".cpp"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]


@functools.cache
def library() -> ctypes.CDLL | None:
    """
    :return: it as it was made for this processor when the package was installed; None if it was not, as where
        there was no compiler
    """
    path = FOLDER / f"native_{th.backends.cpu.get_cpu_capability()}.so"
    if not path.is_file():
        return None
    try:
        found = ctypes.CDLL(str(path))
    except OSError as error:
        warnings.warn(
            f"{path.name} cannot be loaded ({error}), and torch does its work: install sb3_dai again on this machine"
        )
        return None
    found.source.restype = ctypes.c_char_p
    if found.source() != source_hash().encode():
        warnings.warn(f"{path.name} was made of other sources, and torch does its work: install sb3_dai again")
        return None
    found.sizes.argtypes, found.sizes.restype = [ctypes.c_int64], ctypes.c_int64
    for i, structure in enumerate(structures.ALL):
        assert found.sizes(i) == ctypes.sizeof(structure), structure.__name__
    assert found.sizes(len(structures.ALL)) == len(structures.TERMS)
    found.gradients.argtypes, found.gradients.restype = [ctypes.c_void_p], ctypes.c_int
    found.optimize.argtypes, found.optimize.restype = [ctypes.c_void_p], None
    return found
