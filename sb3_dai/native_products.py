"""
Products of batches of small matrices by product.cpp, which a compiled update takes in place of torch's where they are slower:
MKL's run at two fifths of the peak of some AMD processors, of those that were measured at a tenth if results are narrow, and
oneDNN's calls are too long for layers of 64.
"""

import ctypes
import functools
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch as th

from sb3_dai.native_library import FOLDER
from sb3_dai.saving import atomic_write

NARROW = 16
"""Columns that fill a vector of product.cpp with AVX-512, and two with AVX2."""


@functools.cache
def native_products() -> dict[Any, Any]:
    """
    What a compiled update takes in place of torch's products where that is at least a fifth faster: product.cpp, which the
    compiler makes for this machine's instructions.

    :return: functions by operators that they stand for; none if there is no compiler, or torch's products are as good
    """
    try:
        from torch._inductor.codecache import CppCodeCache

        header, operator = ((FOLDER / name).read_text() for name in ("product.h", "product.cpp"))
        source = operator.replace('#include "product.h"', header)
        library = CppCodeCache.load(source, device_type="cpu", extra_flags=("-ffp-contract=fast",), needs_vec_isa=True)
        # Compiled code finds it by its name
        ctypes.CDLL(library._name, mode=ctypes.RTLD_GLOBAL)
        product, aten = th.ops.sb3_dai.product.default, th.ops.aten
        if not is_faster(product, Path(library._name)):
            return {}
    except Exception:  # It is a part of torch that may change, and only a matter of speed
        return {}

    def batched(left: th.Tensor, right: th.Tensor) -> th.Tensor:
        if left.dtype != th.float32:
            return NotImplemented
        # The gradient of a layer with few outputs: whole vectors of its inputs instead
        if right.shape[2] < NARROW and left.stride(1) == 1 < left.stride(2):
            return product(right.mT, left.mT).mT
        return product(left, right)

    def with_bias(bias: th.Tensor, left: th.Tensor, right: th.Tensor, *, beta: float = 1, alpha: float = 1) -> th.Tensor:
        if left.dtype != th.float32 or not beta == alpha == 1:
            return NotImplemented
        # Each of a few outputs lies together for the whole batch: what is computed of them fills whole vectors
        if right.shape[2] < NARROW <= left.shape[1]:
            return bias + product(right.mT, left.mT).mT
        return bias + product(left, right)

    return {
        aten.bmm.default: batched,
        aten.baddbmm.default: with_bias,
        th.ops.sb3_dai.batched_product.default: batched,
    }


def compiler_options() -> dict[str, Any]:
    """
    :return: what lets TorchInductor call the product without torch's dispatcher, a microsecond each time; nothing where it is
        not taken or cannot be called so
    """
    from torch._inductor import config

    if not native_products() or not (
        hasattr(config.aot_inductor, "custom_ops_to_c_shims") and hasattr(config, "_cache_config_ignore_prefix")
    ):
        return {}
    handles = "AtenTensorHandle left, AtenTensorHandle right, AtenTensorHandle* out"
    declaration = f"AOTITorchError aoti_torch_cpu_product({handles})"
    shims = "aot_inductor.custom_ops_to_c_shims"
    return {
        shims: {th.ops.sb3_dai.product.default: [declaration]},
        # An operator has no name in the keys of TorchInductor's cache, which would not keep the graph
        "_cache_config_ignore_prefix": [*config._cache_config_ignore_prefix, shims],
    }


def is_faster(product: Callable[..., th.Tensor], library: Path) -> bool:
    """
    Timed once a machine, so that all runs on it compute the same.

    :param product: ours
    :param library: its file, beside which the answer is kept
    :return: whether it takes at most four fifths of the time of torch's for a hidden layer and one of few outputs
    """
    kept = library.with_suffix(".taken")
    if not kept.is_file():
        inputs, hidden, last = th.ones(5, 128, 64), th.ones(5, 64, 64), th.ones(5, 64, 8)
        ours = seconds(lambda: (product(inputs, hidden), product(inputs, last)))
        found = ours <= 0.8 * seconds(lambda: (th.bmm(inputs, hidden), th.bmm(inputs, last)))
        with atomic_write(kept) as file:
            file.write(b"yes" if found else b"no")
    return kept.read_bytes() == b"yes"


def seconds(function: Callable[[], Any]) -> float:
    """
    :param function: something short
    :return: the least that it took in a few tries
    """
    return min(timeit.repeat(function, number=20, repeat=10))
