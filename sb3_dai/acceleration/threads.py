"""Number of threads: products of small nets lose more by sharing them than they gain, most of all where cores are busy."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch as th

from sb3_dai.nets.ensembles import BatchedLinear

WIDE = 2**22
"""Multiplications of a layer of one member from which several threads pay."""

VERY_WIDE = 2**24
"""
Multiplications of a layer of one member up to which the native step, which has one thread, is as fast as torch with any
number: half of an eager step are then calls that threads do not share (docs/speed.md).
"""


def is_small(policy: Any, batch_size: int) -> bool:
    """
    :param policy: the nets
    :param batch_size: number of transitions of a gradient step
    :return: whether one thread is as fast as several
    """
    if any(isinstance(module, th.nn.modules.conv._ConvNd) for module in policy.features_extractor.modules()):
        return False
    layers = [module for module in policy.modules() if isinstance(module, BatchedLinear | th.nn.Linear)]
    largest = max((parameter.numel() for layer in layers for parameter in layer.parameters()), default=0)
    widest = max((layer.weight[0].numel() for layer in layers if isinstance(layer, BatchedLinear)), default=0)
    linear = max((layer.weight.numel() for layer in layers if isinstance(layer, th.nn.Linear)), default=0)
    return largest == 0 or batch_size * max(widest, linear) < WIDE


@contextmanager
def one_thread(when: bool = True) -> Iterator[None]:
    """
    Compute in one thread, and give the caller's number back.

    :param when: whether to do so
    """
    before = th.get_num_threads()
    if not when or before == 1:
        yield
        return
    th.set_num_threads(1)
    try:
        yield
    finally:
        th.set_num_threads(before)
