import ctypes
import importlib
import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch as th
from torch.fx.experimental.proxy_tensor import make_fx

from sb3_dai import DAI, products
from sb3_dai.networks import BatchedLinear
from sb3_dai.products import HAS_ONEDNN, MALLOC_VARIABLES, WIDE, batched_product, keep_freed_memory, pays

pytestmark = pytest.mark.skipif(not HAS_ONEDNN, reason="torch has no oneDNN here")


@pytest.mark.parametrize("n_members", [1, 3])
def test_the_product_and_its_gradients_are_those_of_baddbmm(n_members):
    layer, inputs = BatchedLinear(n_members, 160, 192), th.randn(n_members, 144, 160, requires_grad=True)
    found = {}
    for enabled in (True, False):
        with th.backends.mkldnn.flags(enabled=enabled):
            assert pays(inputs, 160 * 192) == enabled
            outputs = layer(inputs)
            found[enabled] = outputs, *th.autograd.grad(outputs.square().sum(), [inputs, layer.bias, layer.weight])
    for ours, reference in zip(found[True], found[False], strict=True):
        assert ours.shape == reference.shape
        th.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5 * float(reference.detach().abs().max()))


@pytest.mark.parametrize("asked", [0, 1])
def test_only_what_is_asked_for_is_multiplied(asked):
    """By hand: the product's gradient is one everywhere, the left matrices are 2 and the right ones 3."""
    tensors = th.full((2, 8, 5), 2.0), th.full((2, 5, 4), 3.0)
    context = SimpleNamespace(saved_tensors=tensors, needs_input_grad=[i == asked for i in range(2)])
    found = products._gradients(context, th.ones(2, 8, 4))
    assert [gradient is not None for gradient in found] == context.needs_input_grad
    expected = [th.full((2, 8, 5), 12.0), th.full((2, 5, 4), 16.0)]
    th.testing.assert_close(found[asked], expected[asked])


def test_gradients_have_gradients():
    tensors = [th.randn(2, 8, 5, requires_grad=True), th.randn(2, 5, 4, requires_grad=True)]
    second = []
    for function in (batched_product, th.bmm):
        first = th.autograd.grad(function(*tensors).square().sum(), tensors, create_graph=True)
        second.append(th.autograd.grad(sum(gradient.square().sum() for gradient in first), tensors))
    for ours, reference in zip(*second, strict=True):
        th.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-4 * float(reference.abs().max()))


def test_it_is_recorded_as_a_compiler_does():
    layer, inputs = BatchedLinear(2, 256, 256), th.randn(2, 64, 256)

    def gradient(weight, bias, inputs):
        leaf = weight.detach().requires_grad_()
        outputs = th.func.functional_call(layer, {"weight": leaf, "bias": bias}, inputs)
        return outputs, *th.autograd.grad(outputs.square().sum(), leaf)

    given = layer.weight.detach(), layer.bias.detach(), inputs
    graph = make_fx(gradient, tracing_mode="fake")(*given)
    assert [str(node.target) for node in graph.graph.nodes].count("sb3_dai.batched_product.default") == 2
    for ours, reference in zip(graph(*given), gradient(*given), strict=True):
        th.testing.assert_close(ours, reference)


def test_the_module_can_be_loaded_again():
    left, right = th.randn(2, 5, 3), th.randn(2, 3, 4)
    th.testing.assert_close(importlib.reload(products).batched_product(left, right), th.bmm(left, right))


def test_transposed_matrices():
    left, right = th.randn(2, 5, 3), th.randn(2, 4, 5)
    th.testing.assert_close(batched_product(left.mT, right.mT), th.bmm(left.mT, right.mT))


@pytest.mark.parametrize(
    ("batch", "dtype", "expected"), [(64, th.float32, True), (63, th.float32, False), (64, th.float64, False)]
)
def test_where_it_pays(batch, dtype, expected):
    assert WIDE == 64 * 256**2
    assert pays(th.zeros(1, batch, 256, dtype=dtype), 256**2) == expected


def test_spaces_have_sizes_in_bytes():
    """The largest signed byte is 127."""
    layer = BatchedLinear(1, np.int8(100), 2**16)
    assert layer.n_weights == 100 * 2**16 and pays(th.zeros(1, 1, 100), layer.n_weights)


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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
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
    environ = {name: value for name, value in os.environ.items() if name not in MALLOC_VARIABLES}
    subprocess.run([sys.executable, "-c", program], check=True, env=environ)


def test_a_library_without_that_setting(monkeypatch):
    for name in MALLOC_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    keep_freed_memory.__wrapped__()


def test_who_decided_about_memory_is_heard(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("asked for the C library"))
    keep_freed_memory.__wrapped__()
