"""Products of wide matrices by oneDNN. Torch's are MKL's, which on an AMD processor with AVX-512 take twice as long."""

import contextlib
import ctypes
import functools
import os
from typing import Any

import torch as th

WIDE = 2**22
"""Multiplications of one member from which oneDNN's longer calls pay."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""

MALLOC_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")
"""Who has set one of them has decided about memory."""

HAS_ONEDNN = th.backends.mkldnn.is_available() and hasattr(th.ops.mkldnn, "_linear_pointwise")


def pays(inputs: th.Tensor, n_weights: int) -> bool:
    """
    :param inputs: shape (n_members, batch, input_dim)
    :param n_weights: input_dim times output_dim
    :return: whether to take ``batched_product``
    """
    batch = inputs.shape[1]
    return (
        type(batch) is int  # An exported policy is for batches of any size
        and batch * n_weights >= WIDE
        and inputs.device.type == "cpu"
        and inputs.dtype == th.float32
        and HAS_ONEDNN
        and bool(th.backends.mkldnn.enabled)
    )


@functools.cache
def keep_freed_memory() -> None:
    """
    Let the C library keep up to 256 MiB of what is freed. glibc's gives the system back what a gradient step of wide nets has
    used and gets it again, page by page, for the next one: up to a quarter of its time. Other libraries do as they did, and so
    does glibc where one of ``MALLOC_VARIABLES`` is set.
    """
    if any(name in os.environ for name in MALLOC_VARIABLES):
        return
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, 2**28)
        mallopt(M_MMAP_THRESHOLD, 2**25)


def _batched_product(left: th.Tensor, right: th.Tensor) -> th.Tensor:
    keep_freed_memory()
    linear = th.ops.mkldnn._linear_pointwise
    found = [linear(one, other.T, None, "none", [], "") for one, other in zip(left, right, strict=True)]
    return th.stack(found) if len(found) > 1 else found[0].unsqueeze(0)


def _setup_context(ctx: Any, inputs: tuple[th.Tensor, th.Tensor], output: th.Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, gradient: th.Tensor) -> tuple[th.Tensor | None, th.Tensor | None]:
    left, right = ctx.saved_tensors
    of_left, of_right = ctx.needs_input_grad
    return (
        batched_product(gradient, right.mT) if of_left else None,
        batched_product(left.mT, gradient) if of_right else None,
    )


# An operator of its own, because TorchInductor takes oneDNN's for constant weights alone
if not hasattr(th.ops.sb3_dai, "batched_product"):
    _library = th.library.Library("sb3_dai", "DEF")
    _library.define("batched_product(Tensor left, Tensor right) -> Tensor")
    _library.impl("batched_product", _batched_product, "CPU")
    th.library.register_fake("sb3_dai::batched_product", th.bmm, lib=_library)
    th.library.register_autograd("sb3_dai::batched_product", _gradients, setup_context=_setup_context, lib=_library)


def batched_product(left: th.Tensor, right: th.Tensor) -> th.Tensor:
    """
    As ``torch.bmm``, member by member.

    :param left: shape (n_members, n, k)
    :param right: shape (n_members, k, m). It may be transposed without a copy.
    :return: their matrix products, shape (n_members, n, m)
    """
    return th.ops.sb3_dai.batched_product(left, right)
