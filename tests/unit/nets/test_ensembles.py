"""Ensembles of perceptrons, against torch's own layers."""

import pytest
import torch as th
from torch import nn

from sb3_dai.nets.ensembles import BatchedLinear, BatchedTable, EnsembleMLP


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


def test_activations_follow_the_training_mode():
    ensemble, inputs = EnsembleMLP(3, 4, 2, [8], nn.RReLU), th.randn(5, 4)
    assert not th.equal(ensemble(inputs), ensemble(inputs)), "a slope is drawn in training"
    ensemble.eval()
    assert th.equal(ensemble(inputs), ensemble(inputs))


def test_members_start_apart():
    outputs = EnsembleMLP(5, 4, 2, [8])(th.randn(16, 4))
    assert outputs.std(dim=0).min() > 1e-4
