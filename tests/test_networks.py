import pytest
import torch as th
from torch import nn

from sb3_dai import networks
from sb3_dai.networks import (
    BatchedLinear,
    BatchedTable,
    EnsembleMLP,
    RunningNorm,
    RunningPeak,
    averaging_rate,
    clipped,
    heeds_mode,
)


@pytest.mark.parametrize("n_members", [1, 3])
@pytest.mark.parametrize("layer_norm", [True, False])
def test_members_are_ordinary_perceptrons(layer_norm, n_members):
    """Member k of the batched product equals a Sequential of torch's own layers with its weights."""
    ensemble = EnsembleMLP(n_members, 4, 2, [8, 8], nn.Tanh, layer_norm)
    for parameter in ensemble.parameters():
        nn.init.normal_(parameter)
    inputs = th.randn(5, 4)
    outputs = ensemble(inputs)
    assert outputs.shape == (n_members, 5, 2)
    for k in range(n_members):
        hidden = inputs
        for layer in ensemble.layers:
            if isinstance(layer, nn.Tanh):
                hidden = layer(hidden)
                continue
            kind = type(layer).__name__
            size = layer.weight.shape[-1]
            member = nn.Linear(layer.weight.shape[1], size) if kind == "BatchedLinear" else nn.LayerNorm(size)
            weight = layer.weight[k].T if kind == "BatchedLinear" else layer.weight[k, 0]
            member.load_state_dict({"weight": weight, "bias": layer.bias[k, 0]})
            hidden = member(hidden)
        th.testing.assert_close(outputs[k], hidden)


def test_a_table_is_a_linear_layer_of_a_code():
    table, layer = BatchedTable(3, 4, 5), BatchedLinear(3, 4, 5)
    layer.load_state_dict({"weight": table.rows, "bias": th.zeros(3, 1, 5)})
    numbers = th.tensor([2, 0, 2])
    th.testing.assert_close(table(numbers), layer(th.eye(4)[numbers].expand(3, -1, -1)))
    table(numbers).sum().backward()
    assert table.rows.grad[0, :, 0].tolist() == [1.0, 0.0, 2.0, 0.0]


@pytest.mark.parametrize("net_arch", [[], [8], [8, 8]])
def test_numbered_inputs(net_arch):
    ensemble = EnsembleMLP(3, 4, 2, net_arch, numbered=True)
    outputs = ensemble(th.arange(4))
    assert outputs.shape == (3, 4, 2) and outputs.std(dim=0).min() > 1e-4
    assert [type(layer) for layer in ensemble.layers].count(BatchedTable) == 1


def test_activations_of_the_users_have_their_mode():
    ensemble, inputs = EnsembleMLP(3, 4, 2, [8], nn.RReLU), th.randn(5, 4)
    assert not th.equal(ensemble(inputs), ensemble(inputs)), "a slope is drawn in training"
    ensemble.eval()
    assert th.equal(ensemble(inputs), ensemble(inputs))


def test_members_start_apart():
    outputs = EnsembleMLP(5, 4, 2, [8])(th.randn(16, 4))
    assert outputs.std(dim=0).min() > 1e-4


def test_running_norm_is_exact_on_equal_batches():
    data = th.randn(10, 32, 3) * th.tensor([1.0, 5.0, 0.1]) + th.tensor([0.0, -3.0, 2.0])
    norm = RunningNorm(3)
    for batch in data:
        norm.update(batch)
    flat = data.reshape(-1, 3)
    th.testing.assert_close(norm.mean, flat.mean(dim=0))
    th.testing.assert_close(norm.var, flat.var(dim=0, correction=0))
    th.testing.assert_close(norm(flat), (flat - flat.mean(dim=0)) / flat.std(dim=0, correction=0))
    norm.center = False
    th.testing.assert_close(norm(flat), (flat / flat.std(dim=0, correction=0)).clamp(-10, 10))
    assert norm(th.full((1, 3), 1e9)).max() == norm.clip


def test_running_norm_forgets():
    norm = RunningNorm(1, horizon=10)
    for _ in range(20):
        norm.update(th.full((4, 1), -5.0))
    for _ in range(200):
        norm.update(th.full((4, 1), 7.0))
    assert norm.mean.item() == pytest.approx(7.0, abs=1e-4) and norm.var.item() < 1e-3


@pytest.mark.parametrize("max_norm", [0.1, 1e6])
def test_clipped_gradients_are_torchs(max_norm):
    layer = nn.Linear(4, 3)
    layer(th.randn(6, 4)).square().sum().backward()
    ours = clipped([layer.weight.grad, None, layer.bias.grad], max_norm)
    nn.utils.clip_grad_norm_(layer.parameters(), max_norm)
    assert ours[1] is None
    th.testing.assert_close(ours[0], layer.weight.grad)
    th.testing.assert_close(ours[2], layer.bias.grad)


def test_running_peak_scales_by_the_highest_mean():
    peak = RunningPeak(horizon=1)
    values = th.tensor([[1.0], [3.0]])
    assert th.equal(peak.scaled(values), th.zeros(2, 1)), "nothing to compare with yet"
    th.testing.assert_close(peak(values), values / 2.0)
    th.testing.assert_close(peak(values / 4.0), values / 8.0)
    assert th.equal(RunningPeak()(th.zeros(2, 1)), th.zeros(2, 1))


def test_the_average_of_iterates_weighs_the_last_most():
    # With eta = 1 the weights are 1, 2, 3: (1 * 5 + 2 * 2 + 3 * 8) / 6
    average = 0.0
    for n, value in enumerate([5.0, 2.0, 8.0], start=1):
        average += averaging_rate(n, decay=1.0) * (value - average)
    assert average == pytest.approx(5.5)
    assert averaging_rate(1) == 1.0 and averaging_rate(20_000) == pytest.approx(20 / 20_019)


def test_hooks_hear_each_layer():
    net = EnsembleMLP(2, 3, 4, [8])
    heard = []
    handles = [layer.register_forward_hook(lambda module, given, output: heard.append(module)) for layer in net.layers]
    net(th.zeros(5, 3))
    assert heard == list(net.layers)
    for handle in handles:
        handle.remove()
    heard.clear()
    handle = th.nn.modules.module.register_module_forward_hook(lambda module, given, output: heard.append(module))
    net(th.zeros(5, 3))
    handle.remove()
    assert heard == [*net.layers, net], "hooks of all modules too"
    before = net(th.zeros(5, 3))
    net.layers[-1].register_forward_hook(lambda module, given, output: output + 1.0)
    th.testing.assert_close(net(th.zeros(5, 3)), before + 1.0)


def test_hooks_are_looked_for_as_torch_does():
    """Under another name all layers would be called the slow way."""
    assert not networks.any_global_hook()


def test_who_heeds_the_mode():
    assert not heeds_mode(EnsembleMLP(2, 3, 4, [8])) and not heeds_mode(RunningNorm(3))
    assert heeds_mode(EnsembleMLP(2, 3, 4, [8], activation_fn=nn.RReLU))
    assert heeds_mode(nn.Sequential(nn.Linear(1, 1), nn.Dropout())) and heeds_mode(nn.BatchNorm1d(2))

    class OfTheUser(nn.Linear):
        """Who knows."""

    assert heeds_mode(OfTheUser(1, 1))
