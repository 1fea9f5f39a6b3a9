"""Actions that are choices: sums over them against an enumeration of their products, and their codes."""

import itertools
import math

import pytest
import torch as th
from gymnasium import spaces
from helpers import close

from sb3_dai.actions import make_action_model
from sb3_dai.actions.base import Aggregation
from sb3_dai.actions.categorical import CategoricalActions, CategoricalEFE, CategoricalPosterior
from sb3_dai.equations import divergence, targets

LOG2 = math.log(2.0)
ONE = th.ones(1)


def efe_of(table, model, pessimism=1.0):
    """G of which the second term is averaged over the critics, as the epistemic one is."""
    averages = [i == 1 for i in range(table.shape[2])]
    return CategoricalEFE(table, model.possible, model.even, Aggregation(averages, pessimism))


CHOICES = [2, 3]
PADDING = 50.0
"""What the nets say of an option that does not exist: the best and the most probable, were it believed."""


def choices_at(seed, n_critics=1, n_terms=1, batch=4):
    """Outputs of the policy net, a table of G and the model of two and three options, where one is padding."""
    generator, model = th.Generator().manual_seed(seed), CategoricalActions(CHOICES)
    logits = th.randn(batch, 2, 3, generator=generator).masked_fill(~model.possible, PADDING)
    table = th.randn(n_critics, batch, n_terms, 2, 3, generator=generator).masked_fill(~model.possible, -PADDING)
    return logits.flatten(start_dim=1).requires_grad_(), table.requires_grad_(), model


def enumerated(log_prob, table):
    """log Q(a|s) and G(s,a) of each of the six actions, (batch, 6), from one critic's table of one term."""
    pairs = [*itertools.product(range(2), range(3))]
    log_probs = [log_prob[:, 0, i] + log_prob[:, 1, j] for i, j in pairs]
    return th.stack(log_probs, dim=1), th.stack([table[:, 0, i] + table[:, 1, j] for i, j in pairs], dim=1)


def test_probabilities_of_all_actions_add_up_to_one():
    outputs, table, model = choices_at(0)
    log_prob, _ = enumerated(model.posterior(outputs).log_prob, table[0, :, 0])
    close(log_prob.exp().sum(dim=1), [1.0] * 4)


def test_entropy_is_that_of_all_actions():
    outputs, table, model = choices_at(1)
    posterior = model.posterior(outputs)
    log_prob, _ = enumerated(posterior.log_prob, table[0, :, 0])
    close(posterior.entropy(), -(log_prob.exp() * log_prob).sum(dim=1, keepdim=True))


def test_expected_efe_is_that_of_all_actions():
    outputs, table, model = choices_at(2, n_terms=2)
    posterior = model.posterior(outputs)
    expected = []
    for term in range(2):
        log_prob, efe = enumerated(posterior.log_prob, table[0, :, term])
        expected.append((log_prob.exp() * efe).sum(dim=1))
    close(posterior.expected_efe(efe_of(table, model)), th.stack(expected, dim=1))


@pytest.mark.parametrize("precision", [0.3, 4.0])
def test_divergence_is_that_of_all_actions(precision):
    outputs, table, model = choices_at(3)
    posterior = model.posterior(outputs)
    log_prob, efe = enumerated(posterior.log_prob, table[0, :, 0])
    expected = (log_prob.exp() * (log_prob - th.log_softmax(-precision * efe, dim=1))).sum(dim=1, keepdim=True)
    close(posterior.divergence(efe_of(table, model), ONE, precision * ONE), expected)
    assert (expected > 0.01).all()


def test_divergence_weighs_the_terms_of_g():
    outputs, table, model = choices_at(4, n_terms=2)
    sums = (2.0 * table[:, :, :1] - 0.5 * table[:, :, 1:]).detach()
    posterior = model.posterior(outputs)
    weighted = posterior.divergence(efe_of(table, model), th.tensor([2.0, -0.5]), ONE)
    close(weighted, posterior.divergence(efe_of(sums, model), ONE, ONE))


def test_efe_of_an_action_is_the_sum_over_its_choices():
    _, table, model = choices_at(5, n_critics=2, n_terms=3)
    efe = efe_of(table, model)
    for i, j in itertools.product(range(2), range(3)):
        actions = model.encode(th.tensor([[i, j]] * 4))
        close(efe(actions), table[:, :, :, 0, i] + table[:, :, :, 1, j])


def test_choices_of_an_efe_get_one_mean():
    # Means over what exists are 1 and 4, and 2.5 between them
    table = th.tensor([[0.0, 2.0, 999.0], [3.0, 4.0, 5.0]]).reshape(1, 1, 1, 2, 3)
    centred = efe_of(table, CategoricalActions(CHOICES)).table[0, 0, 0]
    close(centred[0, :2], [1.5, 3.5])
    close(centred[1], [1.5, 2.5, 3.5])


def test_a_single_choice_is_left_as_it_is():
    table = th.tensor([3.0, -1.0, 7.0]).reshape(1, 1, 1, 1, 3)
    assert efe_of(table, CategoricalActions([3])).table is table


def test_a_constant_may_move_between_choices():
    """It does not change G, but would change the worst of two critics, which are compared option by option."""
    outputs, table, model = choices_at(6, n_critics=2)
    posterior = model.posterior(outputs)
    moved = table.detach().clone()
    moved[0, :, :, 0] += 5.0
    moved[0, :, :, 1] -= 5.0
    one, other = (efe_of(tensor, model) for tensor in (table, moved))
    close(posterior.expected_efe(other), posterior.expected_efe(one))
    close(posterior.divergence(other, ONE, ONE), posterior.divergence(one, ONE, ONE))
    # This much it would be off
    assert (targets.pessimistic(moved)[..., 1, :] - targets.pessimistic(table)[..., 1, :]).abs().max() > 1.0


def test_the_worst_value_net_is_taken_option_by_option():
    table = th.tensor([[[[[0.0, 4.0]]]], [[[[1.0, 2.0]]]]])
    posterior = CategoricalPosterior(th.tensor([[[0.25, 0.75]]]).log())
    efe = efe_of(table, CategoricalActions([2]))
    close(posterior.expected_efe(efe), [[0.25 * 1.0 + 0.75 * 4.0]])
    worst = th.tensor([[[1.0, 4.0]]])
    close(posterior.divergence(efe, ONE, ONE), divergence.policy_divergence(posterior.log_prob, worst, 1.0))
    # Half as far from the averages, 0.5 and 3
    efe = efe_of(table, CategoricalActions([2]), pessimism=0.5)
    close(posterior.expected_efe(efe), [[0.25 * 0.75 + 0.75 * 3.5]])
    close(
        posterior.divergence(efe, ONE, ONE), divergence.policy_divergence(posterior.log_prob, th.tensor([[[0.75, 3.5]]]), 1.0)
    )


@pytest.mark.parametrize("deterministic", [True, False])
def test_padded_options_are_never_taken(deterministic):
    outputs, _, model = choices_at(7, batch=2000)
    actions = model.act(outputs, deterministic)
    assert actions.shape == (2000, 2)
    assert set(actions[:, 0].tolist()) == {0, 1}
    assert set(actions[:, 1].tolist()) == {0, 1, 2}


def test_padded_options_have_no_probability():
    outputs, _, model = choices_at(8)
    prob = model.posterior(outputs).log_prob.exp()
    assert (prob[:, 0, 2] == 0).all()
    close(prob.sum(dim=-1), th.ones(4, 2))


def test_gradients_pass_padded_options_by():
    outputs, table, model = choices_at(9, n_critics=2)
    posterior, efe = model.posterior(outputs), efe_of(table, model)
    (
        posterior.divergence(efe, ONE, 100 * ONE).sum() + posterior.entropy().sum() + posterior.expected_efe(efe).sum()
    ).backward()
    for gradient in (outputs.grad.reshape(4, 2, 3), table.grad):
        assert th.isfinite(gradient).all()
        assert (gradient[..., 0, 2] == 0).all()
        assert (gradient[..., model.possible].abs() > 0).any(dim=-1).all()


def test_divergence_of_choices_teaches_the_policy_alone():
    outputs, table, model = choices_at(10)
    model.posterior(outputs).divergence(efe_of(table, model), ONE, ONE).sum().backward()
    assert outputs.grad.abs().max() > 0
    assert table.grad is None


@pytest.mark.parametrize("deterministic", [True, False])
def test_actions_follow_their_probabilities(deterministic):
    outputs = th.tensor([[0.0, math.log(3.0), math.log(4.0), 0.0]]).expand(4000, 4)
    actions = CategoricalActions([2, 2]).act(outputs, deterministic).float().mean(dim=0)
    expected = [1.0, 0.0] if deterministic else [0.75, 0.2]
    th.testing.assert_close(actions, th.tensor(expected), rtol=0, atol=0.04)


def test_choices_are_independent():
    actions = CategoricalActions([2, 2]).act(th.zeros(4000, 4), deterministic=False)
    assert (actions[:, 0] == actions[:, 1]).float().mean().item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("n_options", "indices", "code"),
    [
        ([3], [[2], [0]], [[0, 0, 1], [1, 0, 0]]),
        ([2, 3], [[1, 2]], [[0, 1, 0, 0, 0, 1]]),
        ([2, 2, 2], [[0, 1, 1]], [[1, 0, 0, 1, 0, 1]]),
    ],
)
@pytest.mark.parametrize("dtype", [th.int64, th.int8, th.float32])
def test_indices_are_coded_one_hot(n_options, indices, code, dtype):
    """Whatever type the replay buffer holds them in."""
    close(CategoricalActions(n_options).encode(th.tensor(indices, dtype=dtype)), th.tensor(code, dtype=th.float32))


@pytest.mark.parametrize(
    ("space", "shape", "max_entropy"),
    [
        (spaces.Discrete(4), (1, 4), 2 * LOG2),
        (spaces.MultiDiscrete([4, 2, 3]), (3, 4), 3 * LOG2 + math.log(3.0)),
        (spaces.MultiBinary(3), (3, 2), 3 * LOG2),
    ],
)
def test_sizes_of_choices(space, shape, max_entropy):
    model = make_action_model(space)
    assert model.shape == shape
    assert model.code_dim == model.policy_dim == model.value_dim == math.prod(shape)
    assert model.max_entropy == pytest.approx(max_entropy)
    uniform = model.posterior(th.zeros(1, model.policy_dim))
    close(uniform.entropy(), [[max_entropy]])
    actions = model.act(th.zeros(7, model.policy_dim), deterministic=False)
    assert actions.shape == (7, shape[0])
    assert model.encode(actions).shape == (7, model.code_dim)


def test_other_spaces_have_no_distribution():
    with pytest.raises(ValueError, match=r"Text.*Discrete, MultiDiscrete, MultiBinary or Box"):
        make_action_model(spaces.Text(3))


def test_the_best_action_is_that_of_the_first_term():
    # Choices of two and three options; the one that does not exist would be the best, and the second term is the opposite
    first = th.tensor([[0.0, 2.0, -PADDING], [1.0, 0.5, 3.0]])
    table = th.stack([first, -9.0 * first]).reshape(1, 1, 2, 2, 3)
    model = CategoricalActions(CHOICES)
    assert model.best(th.zeros(1, 6), efe_of(table, model)).tolist() == [[0, 1]]


def test_the_best_action_is_that_of_the_pessimistic_critics():
    # Averages of 1 and 1.5, worst of 2 and 1.5
    table = th.tensor([[0.0, 1.5], [2.0, 1.5]]).reshape(2, 1, 1, 1, 2)
    model = CategoricalActions([2])
    assert [model.best(th.zeros(1, 2), efe_of(table, model, pessimism)).item() for pessimism in (0.0, 1.0)] == [0, 1]
