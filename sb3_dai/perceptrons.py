"""
Perceptrons and their gradients by native/perceptrons.h: one call for a whole net. Torch makes a dozen of each layer, and its
products of small matrices run at two fifths of an AMD processor's peak.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch as th
from torch.autograd import forward_ad
from torch.nn import functional as F

from sb3_dai.native_library import c_sizes, library
from sb3_dai.products import WIDE, keep_freed_memory

EPS = 1e-5
"""Added to a variance by a layer norm, as torch's does."""

MUCH = 2**16
"""Numbers from which glibc asks the system for memory."""


class Nets(ctypes.Structure):
    """As in perceptrons.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n_members", "batch", "n_layers")),
        *((name, ctypes.c_void_p) for name in ("sizes", "layers", "inputs", "kept")),
    )


transforms_active = getattr(th._C, "_are_functorch_transforms_active", lambda: True)
"""Whether ``torch.func`` looks on, whose tensors have no memory; where torch does not say so the library is not taken."""


def takes(inputs: th.Tensor, n_weights: int) -> bool:
    """
    :param inputs: shape (batch, input_dim)
    :param n_weights: of the largest layer of a member
    :return: whether to take the library
    """
    return (
        type(inputs) is th.Tensor  # And no stand-in of a compiler
        and not transforms_active()
        and forward_ad._current_level < 0
        and not th.compiler.is_compiling()
        and not th.jit.is_tracing()
        and inputs.device.type == "cpu"
        and inputs.dtype == th.float32
        and inputs.numel() > 0
        and one_thread(inputs.shape[0] * n_weights)
        and library() is not None
    )


def one_thread(work: int) -> bool:
    """
    :param work: multiplications of the largest layer of a member
    :return: whether to do it in one thread, as the library does: torch has more for wide layers, if it may
    """
    return th.get_num_threads() == 1 or work < WIDE


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


def by_torch(inputs: th.Tensor, parameters: Sequence[th.Tensor], normed: bool) -> th.Tensor:
    """
    As ``perceptrons``, without the library.

    :param inputs: as there
    :param parameters: as there
    :param normed: as there
    :return: as there
    """
    outputs, rest = inputs.expand(parameters[0].shape[0], *inputs.shape), iter(parameters)
    for i in range(len(sizes_of(parameters, normed)) - 1):
        if i > 0 and normed:
            outputs = F.layer_norm(outputs, outputs.shape[-1:], eps=EPS) * next(rest) + next(rest)
        if i > 0:
            outputs = outputs.relu()
        weight, bias = next(rest), next(rest)
        outputs = th.baddbmm(bias, outputs, weight)
    return outputs


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
        inputs, batch = inputs.contiguous(), inputs.shape[0]
        sizes = sizes_of(parameters, normed)
        hidden = sizes[1:-1]
        n_members = parameters[0].shape[0]
        # An empty tensor lies nowhere, and nothing is kept
        n_kept = n_members * batch * (sum(hidden) + len(hidden) * normed) if ctx is not None else 0
        if n_kept >= MUCH:
            keep_freed_memory()
        kept, outputs = th.empty(n_kept), th.empty(n_members, batch, sizes[-1])
        with_layers = c_nets(inputs, kept, sizes, parameters, normed)
        lib.perceptrons_forward(ctypes.byref(with_layers[0]), EPS, outputs.data_ptr())
        if ctx is not None:
            ctx.save_for_backward(inputs, kept, *parameters)
            ctx.normed = normed
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: th.Tensor) -> tuple[th.Tensor | None, ...]:
        """
        :param ctx: of the forward pass
        :param gradient: of its outputs
        :return: of its arguments
        """
        inputs, kept, *parameters = ctx.saved_tensors
        if th.is_grad_enabled():  # Somebody wants a gradient of the gradient
            tensors, needed = (inputs, *parameters), (ctx.needs_input_grad[0], *ctx.needs_input_grad[2:])
            wanted = [tensor for tensor, needs in zip(tensors, needed, strict=True) if needs]
            outputs = by_torch(inputs, parameters, ctx.normed)
            gradients = iter(th.autograd.grad(outputs, wanted, gradient, create_graph=True))
            of_all = [next(gradients) if needs else None for needs in needed]
            return of_all[0], None, *of_all[1:]
        lib = library()
        assert lib is not None
        of_inputs = th.empty_like(inputs) if ctx.needs_input_grad[0] else None
        found = [th.empty_like(x) for x in parameters] if any(ctx.needs_input_grad[2:]) else []
        gradient, of_layers = gradient.contiguous(), c_layers(found, ctx.normed) if found else None
        with_layers = c_nets(inputs, kept, sizes_of(parameters, ctx.normed), parameters, ctx.normed)
        to_inputs = of_inputs if of_inputs is None else of_inputs.data_ptr()
        lib.perceptrons_backward(ctypes.byref(with_layers[0]), gradient.data_ptr(), of_layers, to_inputs)
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
    :return: as perceptrons.h reads them
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
    :return: as perceptrons.h reads them, and what has to live as long
    """
    layers = c_layers(parameters, normed)
    numbers = parameters[0].shape[0], inputs.shape[0], len(sizes) - 1
    places = ctypes.addressof(c_sizes(sizes)), ctypes.addressof(layers), inputs.data_ptr(), kept.data_ptr()
    return Nets(*numbers, *places), layers
