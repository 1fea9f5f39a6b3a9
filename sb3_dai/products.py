"""Products of wide matrices. Torch's are of MKL, half as fast as oneDNN's where the processor is not of Intel."""

import contextlib
import ctypes
import functools
from typing import Any

import torch as th

WIDE = 2**22
"""Multiplications of one member from which oneDNN's longer calls pay."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""


def pays(inputs: th.Tensor, weight: th.Tensor) -> bool:
    """
    :param inputs: shape (n_members, batch, input_dim)
    :param weight: shape (n_members, input_dim, output_dim)
    :return: whether ``WideProduct`` can be had, and is the faster
    """
    batch = inputs.shape[1]
    return (
        type(batch) is int  # An exported policy is for batches of any size
        and batch * weight.shape[1] * weight.shape[2] >= WIDE
        and inputs.device.type == "cpu"
        and inputs.dtype == weight.dtype == th.float32
        and th.backends.mkldnn.is_available()
        and bool(th.backends.mkldnn.enabled)
    )


@functools.cache
def keep_freed_memory() -> None:
    """
    Let the C library keep up to 256 MiB of what is freed. glibc's gives the system back what a gradient step of wide nets has
    used and gets it again, page by page, for the next one: up to a quarter of the time. Others do as they did.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, 2**28)
        mallopt(M_MMAP_THRESHOLD, 2**25)


def batched_product(left: th.Tensor, right: th.Tensor) -> th.Tensor:
    """
    :param left: shape (n_members, n, k)
    :param right: shape (n_members, k, m)
    :return: their matrix products, shape (n_members, n, m). Both may be transposed: no copy is made.
    """
    keep_freed_memory()
    linear = th.ops.mkldnn._linear_pointwise
    found = [linear(one, other.T, None, "none", [], "") for one, other in zip(left, right, strict=True)]
    return th.stack(found) if len(found) > 1 else found[0].unsqueeze(0)


# An operator of its own, because TorchInductor takes oneDNN's for constant weights alone
_library = th.library.Library("sb3_dai", "DEF")
_library.define("batched_product(Tensor left, Tensor right) -> Tensor")
_library.impl("batched_product", batched_product, "CPU")
th.library.register_fake("sb3_dai::batched_product", th.bmm, lib=_library)


class WideProduct(th.autograd.Function):
    """``baddbmm`` by oneDNN, member by member."""

    @staticmethod
    def forward(bias: th.Tensor, inputs: th.Tensor, weight: th.Tensor) -> th.Tensor:
        """
        :param bias: shape (n_members, 1, output_dim)
        :param inputs: shape (n_members, batch, input_dim)
        :param weight: shape (n_members, input_dim, output_dim)
        :return: shape (n_members, batch, output_dim)
        """
        return th.ops.sb3_dai.batched_product(inputs, weight) + bias

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[th.Tensor, th.Tensor, th.Tensor], output: th.Tensor) -> None:
        """
        :param ctx: keeps what ``backward`` needs
        :param inputs: of ``forward``
        :param output: of ``forward``
        """
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, gradient: th.Tensor) -> tuple[th.Tensor | None, ...]:
        """
        :param ctx: as ``setup_context`` left it
        :param gradient: of the output, shape (n_members, batch, output_dim)
        :return: those of ``forward``'s arguments, None where nobody asks
        """
        inputs, weight = ctx.saved_tensors
        of_bias, of_inputs, of_weight = ctx.needs_input_grad
        return (
            gradient.sum(dim=1, keepdim=True) if of_bias else None,
            th.ops.sb3_dai.batched_product(gradient, weight.mT) if of_inputs else None,
            th.ops.sb3_dai.batched_product(inputs.mT, gradient) if of_weight else None,
        )
