import shutil

import pytest
import torch as th
from torch.fx.experimental.proxy_tensor import make_fx

from sb3_dai import native_products as module
from sb3_dai.native_products import NARROW, native_products

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")

SIZES = [
    (1, 1, 1, 1), (2, 8, 64, 32), (3, 13, 7, 16), (2, 9, 300, 33), (1, 5, 513, 70), (5, 128, 64, 8),
    (2, 3, 0, 4), (0, 2, 3, 4), (2, 0, 3, 4),
    (1, 5, 64, 528), (5, 256, 128, 40),
]  # fmt: skip
"""The last is enough for two threads."""


@needs_compiler
@pytest.mark.parametrize("n_threads", [1, 2])
def test_product_of_our_own(n_threads):
    """Blocks and what is left of them, rows and columns that are not next to each other, and one matrix for all members."""
    native_products()
    product, before = th.ops.sb3_dai.product, th.get_num_threads()
    th.set_num_threads(n_threads)
    try:
        for n_members, n_rows, depth, n_columns in SIZES:
            left, right = th.randn(n_members, n_rows, depth), th.randn(n_members, depth, n_columns)
            out = th.randn(n_members, n_rows, n_columns)
            pairs = [(left, right), (out, right.mT), (left.mT, out), (left[:1].expand(n_members, -1, -1), right)]
            for one, other in pairs if n_members else pairs[:3]:
                found = product(one, other)
                assert found.is_contiguous()
                th.testing.assert_close(found, th.bmm(one, other), rtol=1e-5, atol=1e-4)
    finally:
        th.set_num_threads(before)


@needs_compiler
def test_product_by_hand_and_bad_input():
    native_products()
    product = th.ops.sb3_dai.product
    assert product(th.tensor([[[1.0, 2.0]]]), th.tensor([[[3.0], [4.0]]])).tolist() == [[[11.0]]]
    assert product(th.ones(2, 3, 4, device="meta"), th.ones(2, 4, 5, device="meta")).shape == (2, 3, 5)
    for other in (th.ones(2, 2, 3), th.ones(1, 3, 2), th.ones(3, 2)):
        with pytest.raises(RuntimeError, match="have no product"):
            product(th.ones(2, 2, 3), other)
    with pytest.raises(RuntimeError, match="single precision alone"):
        product(th.ones(1, 2, 3).double(), th.ones(1, 3, 2).double())


@needs_compiler
def test_native_products_stand_for_torchs(monkeypatch):
    answers = iter([True, False])
    monkeypatch.setattr(module, "is_faster", lambda *args: next(answers))
    table = native_products.__wrapped__()
    assert len(table) == 3
    with monkeypatch.context() as patch:
        patch.setattr(module, "native_products", lambda: table)
        (declared,) = module.compiler_options()["aot_inductor.custom_ops_to_c_shims"].values()
        assert "aoti_torch_cpu_product(" in declared[0]
    assert native_products.__wrapped__() == {}, "not much faster"

    def both(bias, left, right):
        return th.baddbmm(bias, left, right) + th.bmm(left, right)

    single = th.ones(2, 1, 3), th.randn(2, 4, 5), th.randn(2, 5, 3)
    graph = make_fx(both, table)(*single)
    assert [str(node.target) for node in graph.graph.nodes].count("sb3_dai.product.default") == 2
    th.testing.assert_close(graph(*single), both(*single))
    double = [tensor.double() for tensor in single]
    assert "sb3_dai" not in str(make_fx(both, table)(*double).graph)
    assert "sb3_dai" not in str(make_fx(lambda *args: th.baddbmm(*args, beta=2.0), table)(*single).graph)


@needs_compiler
def test_results_of_few_columns_are_turned():
    """The gradient of a layer with few outputs has whole vectors as rows, the same numbers, and is recorded as a product."""
    inputs, gradient = th.randn(3, 20, 33), th.randn(3, 20, NARROW - 1)
    table = module.native_products()
    if not table:
        pytest.skip("torch's products are as fast here")
    product = table[th.ops.aten.bmm.default]
    turned = product(inputs.mT, gradient)
    assert turned.shape == (3, 33, NARROW - 1) and turned.stride(1) == 1, "it was made as its transpose"
    th.testing.assert_close(turned, th.bmm(inputs.mT, gradient), rtol=1e-5, atol=1e-5)
    assert product(inputs.mT, th.randn(3, 20, NARROW)).is_contiguous(), "wide enough as it is"
    assert product(inputs, th.randn(3, 33, 2)).is_contiguous(), "the inputs would have to be gathered"


@needs_compiler
@pytest.mark.parametrize(
    ("batch", "n_outputs", "turned"), [(20, NARROW - 1, True), (NARROW, 2, True), (20, NARROW, False), (4, 2, False)]
)
def test_each_of_a_few_outputs_lies_together(batch, n_outputs, turned):
    inputs, weight, bias = th.randn(3, batch, 33), th.randn(3, 33, n_outputs), th.randn(3, 1, n_outputs)
    table = module.native_products()
    if not table:
        pytest.skip("torch's products are as fast here")
    found = table[th.ops.aten.baddbmm.default](bias, inputs, weight)
    assert found.stride() == ((batch * n_outputs, 1, batch) if turned else (batch * n_outputs, n_outputs, 1))
    th.testing.assert_close(found, th.baddbmm(bias, inputs, weight), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("ours", "expected"), [(0.7, True), (0.9, False)])
def test_a_machine_is_timed_once(monkeypatch, tmp_path, ours, expected):
    times, timed = iter([ours, 1.0]), []

    def seconds(function):
        timed.append([tuple(product.shape) for product in function()])
        return next(times)

    monkeypatch.setattr(module, "seconds", seconds)
    random_state = th.get_rng_state()
    for _ in range(2):
        assert module.is_faster(th.bmm, tmp_path / "library.so") is expected
    assert timed == [[(5, 128, 64), (5, 128, 8)]] * 2, "wide and narrow"
    assert th.equal(random_state, th.get_rng_state()), "training must not depend on it"


def test_without_a_compiler_the_products_are_torchs(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no compiler here")

    monkeypatch.setattr("torch._inductor.codecache.CppCodeCache.load", fail)
    assert native_products.__wrapped__() == {}
    monkeypatch.setattr(module, "native_products", dict)
    assert module.compiler_options() == {}
