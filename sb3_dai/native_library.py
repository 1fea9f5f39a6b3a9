"""The library of native/library.cpp, which is made when the package is installed."""

import ctypes
import functools
import hashlib
import warnings
from pathlib import Path
from typing import Any

import torch as th

FOLDER = Path(__file__).parent / "native"

SOURCES = ("product.h", "perceptrons.h", "update.h", "choice.h", "gaussian.h", "library.cpp")


def source_hash(folder: Path = FOLDER) -> str:
    """
    :param folder: of the sources
    :return: what a library that is made of them says
    """
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in SOURCES)).hexdigest()[:16]


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
    place = ctypes.c_void_p
    found.perceptrons_forward.argtypes = [place, ctypes.c_float, place]
    found.perceptrons_backward.argtypes = [place, place, place, place]
    found.gradient_step.argtypes = [place]
    for function in (found.perceptrons_forward, found.perceptrons_backward):
        function.restype = None
    return found


@functools.cache
def c_sizes(sizes: tuple[int, ...]) -> Any:
    """
    :param sizes: any
    :return: as C reads them
    """
    return (ctypes.c_int64 * len(sizes))(*sizes)
