"""
Perceptrons and their gradients by native/perceptrons.cpp, which is made when the package is installed: one call for a whole
net. Torch's take a dozen for each layer, and its products of small matrices run at two fifths of an AMD processor's peak.
"""

import ctypes
import functools
import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch as th

from sb3_dai.products import WIDE, keep_freed_memory

FOLDER = Path(__file__).parent / "native"

EPS = 1e-5
"""Added to a variance by a layer norm, as torch's does."""

MUCH = 2**16
"""Numbers from which glibc asks the system for memory."""


class Nets(ctypes.Structure):
    """As in perceptrons.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n_members", "batch", "n_layers")),
        *((name, ctypes.c_void_p) for name in ("sizes", "layers", "inputs", "kept")),
    )


def source_hash(folder: Path = FOLDER) -> str:
    """
    :param folder: of the sources
    :return: what a library that is made of them says
    """
    sources = (folder / name for name in ("product.h", "perceptrons.cpp"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]


@functools.cache
def library() -> ctypes.CDLL | None:
    """
    :return: perceptrons.cpp as it was made for this processor when the package was installed; None if it was not, as where
        there was no compiler
    """
    path = FOLDER / f"perceptrons_{th.backends.cpu.get_cpu_capability()}.so"
    try:
        found = ctypes.CDLL(str(path))
    except OSError:
        return None
    found.perceptrons_source.restype = ctypes.c_char_p
    if found.perceptrons_source() != source_hash().encode():
        warnings.warn(f"{path.name} was made of another perceptrons.cpp, and torch does its work: install sb3_dai again")
        return None
    found.perceptrons_forward.argtypes = [ctypes.POINTER(Nets), ctypes.c_float, ctypes.c_void_p]
    found.perceptrons_backward.argtypes = [ctypes.POINTER(Nets), ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    found.perceptrons_forward.restype = found.perceptrons_backward.restype = None
    return found


def takes(inputs: th.Tensor, n_weights: int) -> bool:
    """
    :param inputs: shape (batch, input_dim)
    :param n_weights: of the largest layer of a member
    :return: whether to take the library. It has one thread: wide layers are left to torch where there are more.
    """
    return (
        type(inputs) is th.Tensor  # And no stand-in of a compiler
        and inputs.device.type == "cpu"
        and inputs.dtype == th.float32
        and inputs.numel() > 0
        and not th.compiler.is_compiling()
        and not th.jit.is_tracing()
        and (th.get_num_threads() == 1 or len(inputs) * n_weights < WIDE)
        and library() is not None
    )


def can_be_read(parameters: Sequence[th.Tensor]) -> bool:
    """
    :param parameters: of perceptrons
    :return: whether they lie in memory as the library reads them
    """
    return all(p.dtype == th.float32 and p.is_contiguous() and p.device.type == "cpu" for p in parameters)


def perceptrons(inputs: th.Tensor, parameters: Sequence[th.Tensor], normed: bool) -> th.Tensor:
    """
    Independent perceptrons of one shape on the same inputs, with rectified hidden layers.

    :param inputs: shape (batch, input_dim)
    :param parameters: of each layer the weight, shape (n_members, n_inputs, n_outputs), the bias, shape (n_members, 1,
        n_outputs), and of hidden ones the layer norm's gain and shift, if they have one, shapes as the bias
    :param normed: whether they have one
    :return: shape (n_members, batch, output_dim)
    """
    if th.is_grad_enabled():
        return Perceptrons.apply(inputs, normed, *parameters)
    return Perceptrons.forward(None, inputs, normed, *parameters)


class Perceptrons(th.autograd.Function):
    """As ``perceptrons``, with gradients."""

    @staticmethod
    def forward(ctx: Any, inputs: th.Tensor, normed: bool, *parameters: th.Tensor) -> th.Tensor:
        """
        :param ctx: for the backward pass, or None
        :param inputs: as in ``perceptrons``
        :param normed: the same
        :param parameters: the same
        :return: the same
        """
        lib = library()
        assert lib is not None
        inputs, batch = inputs.contiguous(), len(inputs)
        sizes = sizes_of(parameters, normed)
        hidden = sizes[1:-1]
        n_kept = len(parameters[0]) * batch * (2 * sum(hidden) + len(hidden) if normed else sum(hidden))
        if n_kept >= MUCH:
            keep_freed_memory()
        kept = th.empty(n_kept)
        outputs = th.empty(len(parameters[0]), batch, sizes[-1])
        with_layers = c_nets(inputs, kept, sizes, parameters, normed)
        lib.perceptrons_forward(with_layers[0], EPS, outputs.data_ptr())
        if ctx is not None:
            ctx.save_for_backward(inputs, kept, *parameters)
            ctx.normed = normed
        return outputs

    @staticmethod
    @th.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: th.Tensor) -> tuple[th.Tensor | None, ...]:
        """
        :param ctx: of the forward pass
        :param gradient: of its outputs
        :return: of its arguments
        """
        lib = library()
        assert lib is not None
        inputs, kept, *parameters = ctx.saved_tensors
        of_inputs = th.empty_like(inputs) if ctx.needs_input_grad[0] else None
        found = [th.empty_like(x) for x in parameters] if any(ctx.needs_input_grad[2:]) else []
        gradient, of_layers = gradient.contiguous(), c_layers(found, ctx.normed) if found else None
        with_layers = c_nets(inputs, kept, sizes_of(parameters, ctx.normed), parameters, ctx.normed)
        to_inputs = of_inputs if of_inputs is None else of_inputs.data_ptr()
        lib.perceptrons_backward(with_layers[0], gradient.data_ptr(), of_layers, to_inputs)
        nothing: list[th.Tensor | None] = [None] * len(parameters)
        return of_inputs, None, *(found or nothing)


def sizes_of(parameters: Sequence[th.Tensor], normed: bool) -> tuple[int, ...]:
    """
    :param parameters: as in ``perceptrons``
    :param normed: whether hidden layers are normalised
    :return: of the inputs and of each layer's outputs
    """
    weights = parameters[:: 4 if normed else 2]
    return (weights[0].shape[1], *[weight.shape[2] for weight in weights])


def c_layers(parameters: Sequence[th.Tensor], normed: bool) -> Any:
    """
    :param parameters: as in ``perceptrons``, or their gradients
    :param normed: whether hidden layers are normalised
    :return: as perceptrons.cpp reads them
    """
    places: list[int | None] = [tensor.data_ptr() for tensor in parameters]
    if not normed:
        places = [place for i in range(0, len(places), 2) for place in (places[i], places[i + 1], None, None)]
    return (ctypes.c_void_p * (len(places) + 2))(*places)


def c_nets(
    inputs: th.Tensor, kept: th.Tensor, sizes: tuple[int, ...], parameters: Sequence[th.Tensor], normed: bool
) -> tuple[Nets, Any]:
    """
    :param inputs: shape (batch, input_dim)
    :param kept: what the forward pass leaves for the backward pass
    :param sizes: of the inputs and of each layer's outputs
    :param parameters: as in ``perceptrons``
    :param normed: whether hidden layers are normalised
    :return: as perceptrons.cpp reads them, and what has to live as long
    """
    layers = c_layers(parameters, normed)
    numbers = len(parameters[0]), len(inputs), len(sizes) - 1
    places = ctypes.addressof(c_sizes(sizes)), ctypes.addressof(layers), inputs.data_ptr(), kept.data_ptr()
    return Nets(*numbers, *places), layers


@functools.cache
def c_sizes(sizes: tuple[int, ...]) -> Any:
    """
    :param sizes: any
    :return: as C reads them
    """
    return (ctypes.c_int64 * len(sizes))(*sizes)
