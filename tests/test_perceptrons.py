"""The library's perceptrons and their gradients are torch's, and taken only where they are."""

import pytest
import torch as th
from torch import nn

from sb3_dai import perceptrons
from sb3_dai.native_library import library
from sb3_dai.networks import BatchedLinear, EnsembleMLP
from sb3_dai.perceptrons import Perceptrons
from sb3_dai.products import WIDE

pytestmark = pytest.mark.skipif(library() is None, reason="the library was not made")

SHAPES = [
    (5, 128, 6, [64, 64], 8), (2, 128, 4, [64, 64], 6), (1, 1, 4, [64, 64], 2), (3, 7, 4, [33, 17, 20], 3), (2, 9, 3, [1], 5),
    (1, 300, 5, [40], 1), (4, 2, 70, [300], 35), (2, 17, 1, [1, 1], 1), (2, 1, 300, [260, 128], 130),
    (2, 20, 3, [100, 70], 40),
]  # fmt: skip
"""Members, batch, inputs, hidden layers, outputs: whole blocks of the products, and what is left of them."""


def by_both(monkeypatch, function):
    """What a function of nets returns by the library and by torch, pairwise."""
    ours = function()
    with monkeypatch.context() as patch:
        patch.setattr(perceptrons, "library", lambda: None)
        return zip(ours, function(), strict=True)


def both(monkeypatch, net, inputs, *wanted):
    """Outputs of a net and gradients of a weighted sum of them, by the library and by torch."""

    def compute():
        outputs = net(inputs)
        weights = th.linspace(-1.0, 2.0, outputs.numel()).reshape(outputs.shape)
        return outputs, *th.autograd.grad((outputs * weights).sum(), wanted)

    assert is_native(net, inputs)
    return by_both(monkeypatch, compute)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_outputs_and_gradients_are_torchs(monkeypatch, shape, layer_norm):
    n_members, batch, n_inputs, net_arch, n_outputs = shape
    net = EnsembleMLP(n_members, n_inputs, n_outputs, net_arch, layer_norm=layer_norm)
    for parameter in net.parameters():
        parameter.data.add_(th.randn_like(parameter), alpha=0.1)
    inputs = th.randn(batch, n_inputs, requires_grad=True)
    for ours, torchs in both(monkeypatch, net, inputs, inputs, *net.parameters()):
        th.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-5 + 1e-4 * float(torchs.abs().max()))
    with th.no_grad():
        th.testing.assert_close(net(inputs), net(inputs.double().float()))


def test_a_net_by_hand():
    net = EnsembleMLP(1, 2, 1, [2], layer_norm=False)
    first, _, last = net.layers
    with th.no_grad():
        first.weight.copy_(th.tensor([[[1.0, -1.0], [2.0, 1.0]]]))
        first.bias.copy_(th.tensor([[[0.5, 0.0]]]))
        last.weight.copy_(th.tensor([[[3.0], [5.0]]]))
        last.bias.fill_(0.25)
    inputs = th.tensor([[1.0, 1.0], [2.0, 1.0]], requires_grad=True)
    # Hidden: (3.5, 0) and (4.5, -1), rectified (3.5, 0) and (4.5, 0); 0 passes no gradient on
    outputs = net(inputs)
    assert outputs.tolist() == [[[10.75], [13.75]]]
    outputs.sum().backward()
    assert inputs.grad.tolist() == [[3.0, 6.0], [3.0, 6.0]]
    assert last.weight.grad.tolist() == [[[8.0], [0.0]]] and last.bias.grad.tolist() == [[[2.0]]]
    assert first.weight.grad.tolist() == [[[9.0, 0.0], [6.0, 0.0]]] and first.bias.grad.tolist() == [[[6.0, 0.0]]]


def test_only_what_is_wanted_has_a_gradient(monkeypatch):
    net = EnsembleMLP(2, 3, 4, [8])
    inputs = th.randn(5, 3, requires_grad=True)
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    for ours, torchs in both(monkeypatch, net, inputs, inputs):
        th.testing.assert_close(ours, torchs)
    net.requires_grad_(True)
    for ours, torchs in both(monkeypatch, net, inputs.detach(), *net.parameters()):
        th.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_gradients_of_gradients(monkeypatch, layer_norm):
    """A penalty of the gradient, which torch computes."""
    net = EnsembleMLP(2, 3, 4, [8, 8], layer_norm=layer_norm)
    inputs = th.randn(5, 3, requires_grad=True)

    def compute():
        outputs = net(inputs)
        (gradient,) = th.autograd.grad(outputs.square().sum(), inputs, create_graph=True)
        return th.autograd.grad(outputs.sum() + 10.0 * gradient.square().sum(), [inputs, *net.parameters()], allow_unused=True)

    for ours, torchs in by_both(monkeypatch, compute):
        th.testing.assert_close(ours, torchs, rtol=1e-3, atol=1e-3)


def test_transforms_of_functions():
    """``torch.func`` and forward derivatives, whose tensors are no tensors of the library."""
    net, inputs = EnsembleMLP(2, 3, 4, [8]), th.randn(5, 3)
    jacobian = th.func.jacrev(net)(inputs)
    assert jacobian.shape == (2, 5, 4, 5, 3)
    with th.no_grad():
        mapped = th.vmap(net)(inputs.expand(6, 5, 3))
    th.testing.assert_close(mapped[0], net(inputs).detach())
    with th.autograd.forward_ad.dual_level():
        dual = th.autograd.forward_ad.make_dual(inputs, th.ones_like(inputs))
        tangent = th.autograd.forward_ad.unpack_dual(net(dual)).tangent
    th.testing.assert_close(tangent, jacobian.sum(dim=-1).diagonal(dim1=1, dim2=3).permute(0, 2, 1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(5, 2), (5, 4), (3,), (1, 5, 3)])
def test_inputs_of_another_shape_are_torchs_to_judge(shape):
    net = EnsembleMLP(1, 3, 4, [8])
    if shape == (1, 5, 3):
        assert net(th.randn(5, 3)).shape == (1, 5, 4)
        return
    with pytest.raises((RuntimeError, IndexError)):
        net(th.randn(shape))


def test_strided_inputs_and_gradients(monkeypatch):
    net = EnsembleMLP(2, 3, 4, [8])
    inputs = th.randn(3, 6, 2)[:, :, 0].T
    assert not inputs.is_contiguous()
    outputs = net(inputs)
    th.testing.assert_close(outputs, net(inputs.contiguous()))
    found = th.autograd.grad(outputs.mT.sum(), [*net.parameters()], retain_graph=True)
    for one, other in zip(found, th.autograd.grad(outputs, [*net.parameters()], th.ones_like(outputs)), strict=True):
        th.testing.assert_close(one, other)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_what_is_not_finite_stays_so(layer_norm):
    net = EnsembleMLP(2, 3, 4, [8, 8], layer_norm=layer_norm)
    inputs = th.zeros(5, 3)
    inputs[1, 2] = float("nan")
    outputs = net(inputs)
    assert outputs[:, 1].isnan().all() and outputs[:, [0, 2, 3, 4]].isfinite().all()
    (gradient,) = th.autograd.grad(outputs.sum(), net.layers[0].weight)
    assert gradient[:, 2].isnan().all()


def is_native(net, inputs):
    return type(net(inputs).grad_fn).__name__ == "PerceptronsBackward"


def test_what_the_library_does_not_know(monkeypatch):
    inputs = th.randn(5, 3)
    net = EnsembleMLP(2, 3, 4, [8])
    assert is_native(net, inputs)
    assert not is_native(net, inputs[:0]), "nothing"
    assert not is_native(net.double(), inputs.double())
    net.float()
    assert not is_native(EnsembleMLP(2, 3, 4, [8], nn.Tanh), inputs)
    assert not is_native(EnsembleMLP(2, 5, 4, [8], numbered=True), th.arange(5))
    handle = net.layers[2].register_full_backward_hook(lambda *args: None)
    assert not is_native(net, inputs)
    handle.remove()
    assert is_native(net, inputs)
    net.layers[0].weight.data = th.randn(2, 8, 3).mT
    assert not is_native(net, inputs), "not as it lies in memory"
    net.layers[0] = BatchedLinear(2, 3, 8)
    assert is_native(net, inputs)
    net.layers[0], net.layers[3] = BatchedLinear(2, 3, 9), BatchedLinear(2, 9, 4)
    with pytest.raises(RuntimeError):
        net(inputs)  # The layer norm between is of another size, which torch says
    net = EnsembleMLP(1, 3, 4, [8])
    net.layers.append(nn.ReLU())
    assert not is_native(net, inputs)
    net.layers[-1] = nn.Identity()
    assert not is_native(net, inputs)

    assert not is_native(EnsembleMLP(2, 3, 4, []), inputs), "one call of torch"

    threads = th.get_num_threads()
    net = EnsembleMLP(1, 64, 64, [64], layer_norm=False)
    wide = th.randn(WIDE // 64**2, 64)
    for n_threads, native in ((1, True), (2, False)):
        th.set_num_threads(n_threads)
        assert is_native(net, wide) == native and is_native(net, wide[1:])
    th.set_num_threads(threads)
    assert not th.jit.trace(net, wide).graph.str().count("Perceptrons")


def test_without_gradients_nothing_is_recorded():
    """As in predictions."""
    net = EnsembleMLP(1, 3, 4, [8])
    with th.no_grad():
        outputs = net(th.randn(5, 3))
    assert outputs.grad_fn is None and not outputs.requires_grad
    assert isinstance(net(th.randn(5, 3)).grad_fn, Perceptrons._backward_cls)
