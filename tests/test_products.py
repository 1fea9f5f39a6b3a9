import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch as th

from sb3_dai import DAI
from sb3_dai.networks import BatchedLinear
from sb3_dai.products import WIDE, WideProduct, batched_product, keep_freed_memory, pays

pytestmark = pytest.mark.skipif(not th.backends.mkldnn.is_available(), reason="torch has no oneDNN here")


@pytest.mark.parametrize("n_members", [1, 3])
def test_the_product_and_its_gradients_are_those_of_baddbmm(n_members):
    layer, inputs = BatchedLinear(n_members, 160, 192), th.randn(n_members, 144, 160, requires_grad=True)
    found = {}
    for enabled in (True, False):
        with th.backends.mkldnn.flags(enabled=enabled):
            assert pays(inputs, layer.weight) == enabled
            outputs = layer(inputs)
            found[enabled] = outputs, *th.autograd.grad(outputs.square().sum(), [inputs, layer.bias, layer.weight])
    for ours, reference in zip(found[True], found[False], strict=True):
        assert ours.shape == reference.shape
        th.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5 * float(reference.detach().abs().max()))


@pytest.mark.parametrize("asked", [0, 1, 2])
def test_only_what_is_asked_for_is_multiplied(asked):
    """By hand: the output's gradient is one everywhere, the inputs are 2 and the weights 3."""
    tensors = th.full((2, 8, 5), 2.0), th.full((2, 5, 4), 3.0)
    context = SimpleNamespace(saved_tensors=tensors, needs_input_grad=[i == asked for i in range(3)])
    found = WideProduct.backward(context, th.ones(2, 8, 4))
    assert [gradient is not None for gradient in found] == context.needs_input_grad
    expected = [th.full((2, 1, 4), 8.0), th.full((2, 8, 5), 12.0), th.full((2, 5, 4), 16.0)]
    th.testing.assert_close(found[asked], expected[asked])


def test_transposed_matrices():
    left, right = th.randn(2, 5, 3), th.randn(2, 4, 5)
    th.testing.assert_close(batched_product(left.mT, right.mT), th.bmm(left.mT, right.mT))


@pytest.mark.parametrize(
    ("batch", "dtype", "expected"), [(64, th.float32, True), (63, th.float32, False), (64, th.float64, False)]
)
def test_where_it_pays(batch, dtype, expected):
    weight = th.zeros(1, 256, 256, dtype=dtype)
    assert 64 * weight.numel() == WIDE
    assert pays(th.zeros(1, batch, 256, dtype=dtype), weight) == expected


def test_an_exported_layer_takes_any_batch():
    layer, example = BatchedLinear(1, 256, 256), th.zeros(1, 128, 256)
    program = th.export.export(layer, (example,), dynamic_shapes=({1: th.export.Dim.DYNAMIC},))
    traced = th.jit.trace(layer, example)
    for batch in (3, 200):
        inputs = th.randn(1, batch, 256)
        th.testing.assert_close(program.module()(inputs), layer(inputs))
        th.testing.assert_close(traced(inputs), layer(inputs))
    assert "batched_product" not in str(program) + str(traced.graph)


def test_an_agent_of_wide_nets_learns_what_it_learnt_without():
    agents = []
    for enabled in (True, False):
        with th.backends.mkldnn.flags(enabled=enabled):
            agent = DAI(
                "MlpPolicy", "CartPole-v1", seed=0, learning_starts=20, batch_size=64, policy_kwargs={"net_arch": [256, 256]}
            )
            agents.append(agent.learn(24))
    for one, other in zip(*(agent.policy.parameters() for agent in agents), strict=True):
        th.testing.assert_close(one, other, rtol=0.0, atol=5e-3)  # Adam divides a gradient by its size: rounding is seen


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_freed_memory_is_kept():
    """A process that allocates and frees 8 MiB again and again takes its pages from the system once."""
    program = """
import resource
import numpy as np
from sb3_dai.products import keep_freed_memory

def page_faults():
    found = []
    for _ in range(21):
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
        arrays = [np.ones(2**15) for _ in range(32)]
        del arrays
    return found[-1] - found[1]

before = page_faults()
keep_freed_memory()
assert page_faults() < 0.1 * before, before
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_library_without_that_setting(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    keep_freed_memory.__wrapped__()
