"""The distributions of actions: each equation against numbers worked by hand or an enumeration, and the coding of actions."""

import itertools
import math

import pytest
import torch as th
from gymnasium import spaces
from torch import nn
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from sb3_dai import free_energy as fe
from sb3_dai.actions import (
    MAX_LOG_STD,
    MIN_LOG_STD,
    CategoricalActions,
    CategoricalEFE,
    CategoricalHabit,
    GaussianActions,
    GaussianEFE,
    GaussianHabit,
    action_model,
    frozen,
)
from sb3_dai.networks import EnsembleMLP

LOG2 = math.log(2.0)
ONE = th.ones(1)


def close(value, expected):
    th.testing.assert_close(value, th.as_tensor(expected), rtol=1e-5, atol=1e-6)


# ----- Choices: the sums over them against the product of their options -----

CHOICES = [2, 3]
PADDING = 50.0
"""What the nets say of an option that does not exist: the best and the most probable, were it believed."""


def choices_at(seed, n_critics=1, n_parts=1, batch=4):
    """Outputs of the policy net, a table of G and the model of two and three options, where one is padding."""
    generator, model = th.Generator().manual_seed(seed), CategoricalActions(CHOICES)
    logits = th.randn(batch, 2, 3, generator=generator).masked_fill(~model.possible, PADDING)
    table = th.randn(n_critics, batch, n_parts, 2, 3, generator=generator).masked_fill(~model.possible, -PADDING)
    return logits.flatten(start_dim=1).requires_grad_(), table.requires_grad_(), model


def enumerated(log_prob, table):
    """log Q(a|s) and G(s,a) of each of the six actions, (batch, 6), from one value net's table of one part."""
    pairs = [*itertools.product(range(2), range(3))]
    log_probs = [log_prob[:, 0, i] + log_prob[:, 1, j] for i, j in pairs]
    return th.stack(log_probs, dim=1), th.stack([table[:, 0, i] + table[:, 1, j] for i, j in pairs], dim=1)


def test_probabilities_of_all_actions_add_up_to_one():
    outputs, table, model = choices_at(0)
    log_prob, _ = enumerated(model.habit(outputs).log_prob, table[0, :, 0])
    close(log_prob.exp().sum(dim=1), [1.0] * 4)


def test_entropy_is_that_of_all_actions():
    outputs, table, model = choices_at(1)
    habit = model.habit(outputs)
    log_prob, _ = enumerated(habit.log_prob, table[0, :, 0])
    close(habit.entropy(), -(log_prob.exp() * log_prob).sum(dim=1, keepdim=True))


def test_expected_efe_is_that_of_all_actions():
    outputs, table, model = choices_at(2, n_parts=2)
    habit = model.habit(outputs)
    expected = []
    for part in range(2):
        log_prob, efe = enumerated(habit.log_prob, table[0, :, part])
        expected.append((log_prob.exp() * efe).sum(dim=1))
    close(habit.expected_efe(CategoricalEFE(table, model.possible)), th.stack(expected, dim=1))


@pytest.mark.parametrize("precision", [0.3, 4.0])
def test_divergence_is_that_of_all_actions(precision):
    outputs, table, model = choices_at(3)
    habit = model.habit(outputs)
    log_prob, efe = enumerated(habit.log_prob, table[0, :, 0])
    expected = (log_prob.exp() * (log_prob - th.log_softmax(-precision * efe, dim=1))).sum(dim=1, keepdim=True)
    close(habit.divergence(CategoricalEFE(table, model.possible), ONE, precision * ONE), expected)
    assert (expected > 0.01).all()


def test_divergence_weighs_the_parts_of_g():
    outputs, table, model = choices_at(4, n_parts=2)
    sums = (2.0 * table[:, :, :1] - 0.5 * table[:, :, 1:]).detach()
    habit = model.habit(outputs)
    divergence = habit.divergence(CategoricalEFE(table, model.possible), th.tensor([2.0, -0.5]), ONE)
    close(divergence, habit.divergence(CategoricalEFE(sums, model.possible), ONE, ONE))


def test_efe_of_an_action_is_the_sum_over_its_choices():
    _, table, model = choices_at(5, n_critics=2, n_parts=3)
    efe = CategoricalEFE(table, model.possible)
    for i, j in itertools.product(range(2), range(3)):
        actions = model.encode(th.tensor([[i, j]] * 4))
        close(efe(actions), table[:, :, :, 0, i] + table[:, :, :, 1, j])


def test_choices_of_an_efe_get_one_mean():
    # Means over what exists are 1 and 4, and 2.5 between them
    table = th.tensor([[0.0, 2.0, 999.0], [3.0, 4.0, 5.0]]).reshape(1, 1, 1, 2, 3)
    centred = CategoricalEFE(table, CategoricalActions(CHOICES).possible).table[0, 0, 0]
    close(centred[0, :2], [1.5, 3.5])
    close(centred[1], [1.5, 2.5, 3.5])


def test_a_single_choice_is_left_as_it_is():
    table = th.tensor([3.0, -1.0, 7.0]).reshape(1, 1, 1, 1, 3)
    assert CategoricalEFE(table, CategoricalActions([3]).possible).table is table


def test_a_constant_may_move_between_choices():
    """It does not change G, but without a gauge the worst of two value nets, which are compared option by option."""
    outputs, table, model = choices_at(6, n_critics=2)
    habit = model.habit(outputs)
    moved = table.detach().clone()
    moved[0, :, :, 0] += 5.0
    moved[0, :, :, 1] -= 5.0
    one, other = (CategoricalEFE(tensor, model.possible) for tensor in (table, moved))
    close(habit.expected_efe(other), habit.expected_efe(one))
    close(habit.divergence(other, ONE, ONE), habit.divergence(one, ONE, ONE))
    # This much it would be off
    assert (fe.pessimistic(moved)[..., 1, :] - fe.pessimistic(table)[..., 1, :]).abs().max() > 1.0


def test_the_worst_value_net_is_taken_option_by_option():
    table = th.tensor([[[[[0.0, 4.0]]]], [[[[1.0, 2.0]]]]])
    habit = CategoricalHabit(th.tensor([[[0.25, 0.75]]]).log())
    efe = CategoricalEFE(table, CategoricalActions([2]).possible)
    close(habit.expected_efe(efe), [[0.25 * 1.0 + 0.75 * 4.0]])
    worst = th.tensor([[[1.0, 4.0]]])
    close(habit.divergence(efe, ONE, ONE), fe.policy_divergence(habit.log_prob, worst, 1.0))
    # Half as far from the averages, 0.5 and 3
    efe.pessimism = 0.5
    close(habit.expected_efe(efe), [[0.25 * 0.75 + 0.75 * 3.5]])
    close(habit.divergence(efe, ONE, ONE), fe.policy_divergence(habit.log_prob, th.tensor([[[0.75, 3.5]]]), 1.0))


@pytest.mark.parametrize("deterministic", [True, False])
def test_padded_options_are_never_taken(deterministic):
    outputs, _, model = choices_at(7, batch=2000)
    actions = model.act(outputs, deterministic)
    assert actions.shape == (2000, 2)
    assert set(actions[:, 0].tolist()) == {0, 1}
    assert set(actions[:, 1].tolist()) == {0, 1, 2}


def test_padded_options_have_no_probability():
    outputs, _, model = choices_at(8)
    prob = model.habit(outputs).log_prob.exp()
    assert (prob[:, 0, 2] == 0).all()
    close(prob.sum(dim=-1), th.ones(4, 2))


def test_gradients_pass_padded_options_by():
    outputs, table, model = choices_at(9, n_critics=2)
    habit, efe = model.habit(outputs), CategoricalEFE(table, model.possible)
    (habit.divergence(efe, ONE, 100 * ONE).sum() + habit.entropy().sum() + habit.expected_efe(efe).sum()).backward()
    for gradient in (outputs.grad.reshape(4, 2, 3), table.grad):
        assert th.isfinite(gradient).all()
        assert (gradient[..., 0, 2] == 0).all()
        assert (gradient[..., model.possible].abs() > 0).any(dim=-1).all()


def test_divergence_of_choices_teaches_the_policy_alone():
    outputs, table, model = choices_at(10)
    model.habit(outputs).divergence(CategoricalEFE(table, model.possible), ONE, ONE).sum().backward()
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
    model = action_model(space)
    assert model.shape == shape
    assert model.code_dim == model.policy_dim == model.value_dim == math.prod(shape)
    assert model.max_entropy == pytest.approx(max_entropy)
    uniform = model.habit(th.zeros(1, model.policy_dim))
    close(uniform.entropy(), [[max_entropy]])
    actions = model.act(th.zeros(7, model.policy_dim), deterministic=False)
    assert actions.shape == (7, shape[0])
    assert model.encode(actions).shape == (7, model.code_dim)


def test_sizes_of_boxes():
    model = action_model(spaces.Box(-1, 1, (2, 3)))
    assert (model.code_dim, model.policy_dim, model.value_dim) == (6, 12, 1)


def test_other_spaces_have_no_distribution():
    with pytest.raises(ValueError, match=r"Text.*Discrete, MultiDiscrete, MultiBinary or Box"):
        action_model(spaces.Text(3))


# ----- The tanh-Gaussian -----


def test_tanh_gaussian_log_prob_by_hand():
    # tanh(log(3) / 2) is 1/2, where the Jacobian is 1 - 1/4; the Gaussian has the deviation 2
    raw, half = 0.5 * math.log(3.0), -0.5 * fe.LOG_2_PI
    expected = half - 0.5 * (raw / 2) ** 2 - LOG2 - math.log(0.75)
    close(fe.tanh_gaussian_log_prob(th.tensor([[raw]]), th.zeros(1, 1), th.full((1, 1), LOG2)), [[expected]])
    # A second dimension, at its mean 0, adds to it
    raws, log_std = th.tensor([[raw, 0.0]]), th.tensor([[LOG2, 0.0]])
    close(fe.tanh_gaussian_log_prob(raws, th.zeros(1, 2), log_std), [[expected + half]])


def test_tanh_gaussian_log_prob_is_torchs():
    th.manual_seed(0)
    raw, mean, log_std = (scale * th.randn(200, 3, dtype=th.float64) for scale in (1.5, 1.0, 0.5))
    squashed = TransformedDistribution(Independent(Normal(mean, log_std.exp()), 1), [TanhTransform()])
    th.testing.assert_close(fe.tanh_gaussian_log_prob(raw, mean, log_std)[:, 0], squashed.log_prob(th.tanh(raw)))


def test_tanh_gaussian_density_integrates_to_one():
    actions = (th.arange(20_000, dtype=th.float64) + 0.5).unsqueeze(1) / 10_000 - 1
    mean, log_std = th.full_like(actions, 0.4), th.full_like(actions, -0.5)
    density = fe.tanh_gaussian_log_prob(th.atanh(actions), mean, log_std).exp()
    assert density.mean().item() * 2 == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("raw", [-30.0, 30.0])
def test_tanh_gaussian_log_prob_is_finite_in_the_tails(raw):
    """tanh is 1 there to machine precision, and the logarithm of its derivative would be that of 0."""
    mean, log_std = th.tensor([[raw]], requires_grad=True), th.zeros(1, 1, requires_grad=True)
    log_prob = fe.tanh_gaussian_log_prob(mean + 0.0, mean.detach(), log_std)
    log_prob.sum().backward()
    # 1 - tanh(u)^2 is 4 exp(-2 |u|) in the tails
    close(log_prob, [[-0.5 * fe.LOG_2_PI - 2 * LOG2 + 60.0]])
    assert th.isfinite(mean.grad).all() and th.isfinite(log_std.grad).all()


def test_samples_have_the_density_that_they_say():
    th.manual_seed(0)
    habit = GaussianHabit(th.full((20_000, 1), 0.5), th.full((20_000, 1), -0.7))
    close(habit.log_prob, fe.tanh_gaussian_log_prob(th.atanh(habit.actions.double()).float(), ONE * 0.5, ONE * -0.7))
    # The share of samples below 0.2 is the integral of the density up to it
    below = Normal(0.5, math.exp(-0.7)).cdf(th.atanh(th.tensor(0.2)))
    assert (habit.actions < 0.2).float().mean().item() == pytest.approx(below.item(), abs=0.01)
    assert th.equal(habit.entropy(), -habit.log_prob)


def test_sampled_divergence():
    close(fe.sampled_divergence(th.tensor([[-1.0]]), th.tensor([[3.0]]), 2.0), [[5.0]])


def test_mean_of_the_sampled_divergence_is_the_divergence_but_for_the_normaliser():
    log_prob, efe = th.tensor([0.5, 0.3, 0.2]).log(), th.tensor([1.0, -2.0, 0.5])
    samples = fe.sampled_divergence(log_prob.unsqueeze(1), efe.unsqueeze(1), 1.5)
    mean = (log_prob.exp() * samples[:, 0]).sum() + th.logsumexp(-1.5 * efe, dim=0)
    close(mean.reshape(1, 1), fe.policy_divergence(log_prob.reshape(1, 1, 3), efe.reshape(1, 1, 3), 1.5))


class Parabola(nn.Module):
    """G = (a - best)^2 of one dimension, after any number of features."""

    def __init__(self, best):
        super().__init__()
        self.best = nn.Parameter(th.tensor(best))

    def forward(self, inputs):
        return (inputs[:, -1:] - self.best).square().unsqueeze(0)


@pytest.mark.parametrize("best", [0.8, -0.8])
def test_a_step_on_the_sampled_divergence_lowers_g(best):
    efe, mean, log_std = GaussianEFE(Parabola(best), th.zeros(64, 2)), th.zeros(64, 1, requires_grad=True), th.zeros(64, 1)
    th.manual_seed(0)
    habit = GaussianHabit(mean, log_std)
    habit.divergence(efe, ONE, 10 * ONE).sum().backward()
    th.manual_seed(0)
    stepped = GaussianHabit(mean.detach() - 0.05 * mean.grad, log_std)
    assert stepped.expected_efe(efe).mean() < habit.expected_efe(efe).mean() - 0.05


def test_the_divergence_is_least_where_the_policy_is_the_softmax_of_g():
    """At a high precision that is a Gaussian about the lowest G, of the variance 1 / (2 precision)."""
    efe, precision = GaussianEFE(Parabola(0.5), th.zeros(256, 2)), 50.0
    mean, log_std = nn.Parameter(th.zeros(1)), nn.Parameter(th.zeros(1))
    optimizer = th.optim.Adam([mean, log_std], lr=0.05)
    th.manual_seed(0)
    for _ in range(300):
        habit = GaussianHabit(mean.expand(256, 1), log_std.expand(256, 1))
        optimizer.zero_grad()
        habit.divergence(efe, ONE, precision * ONE).mean().backward()
        optimizer.step()
    assert habit.actions.mean().item() == pytest.approx(0.5, abs=0.03)
    assert habit.actions.std().item() == pytest.approx(0.1, abs=0.02)


def test_the_divergence_takes_the_worst_value_net_of_the_weighted_sum():
    class Fixed(nn.Module):
        """Two value nets of three parts: sums of 1 + 2 * 5 and 4 + 2 * 0, and of the epistemic part 6 and 0, 3 on average."""

        def forward(self, inputs):
            return th.tensor([[[1.0, 6.0, 5.0]], [[4.0, 0.0, 0.0]]])

    habit = GaussianHabit(th.zeros(1, 1), th.zeros(1, 1))
    efe = GaussianEFE(Fixed(), th.zeros(1, 2))
    close(habit.divergence(efe, th.tensor([1.0, 0.5, 2.0]), 3 * ONE), habit.log_prob + 3 * (11.0 + 1.5))
    close(habit.expected_efe(efe), [[4.0, 3.0, 5.0]])
    # Half as far from the averages, of the sum 7.5, and of the parts 2.5 and 2.5
    efe.pessimism = 0.5
    close(habit.divergence(efe, th.tensor([1.0, 0.5, 2.0]), 3 * ONE), habit.log_prob + 3 * (9.25 + 1.5))
    close(habit.expected_efe(efe), [[3.25, 3.0, 3.75]])


def test_divergence_of_a_box_teaches_the_policy_alone():
    net, features = EnsembleMLP(2, 3 + 2, 1, [8]), th.randn(16, 3, requires_grad=True)
    outputs = th.randn(16, 4, requires_grad=True)
    habit = GaussianActions(2).habit(outputs)
    habit.divergence(GaussianEFE(net, features), ONE, ONE).sum().backward(retain_graph=True)
    assert features.grad is None
    assert all(parameter.grad is None for parameter in net.parameters())
    # The entropy has a gradient as well: the rest of it came through the value net
    of_entropy = th.autograd.grad(habit.log_prob.sum(), outputs)[0]
    assert (outputs.grad - of_entropy).abs().min() > 0


def test_value_net_of_a_box_learns_from_its_own_loss():
    net, features = EnsembleMLP(2, 3 + 2, 1, [8]), th.randn(16, 3, requires_grad=True)
    GaussianActions(2).efe(net, features, n_parts=1)(th.rand(16, 2)).sum().backward()
    assert features.grad.abs().max() > 0
    assert all(parameter.grad.abs().max() > 0 for parameter in net.parameters())


def test_frozen_lets_gradients_through_to_the_inputs_only():
    net, inputs = EnsembleMLP(2, 3, 1, [8]), th.randn(5, 3, requires_grad=True)
    with frozen(net):
        outputs = net(inputs)
    outputs.sum().backward()
    assert inputs.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in net.parameters())


def test_frozen_leaves_parameters_as_they_were():
    """Those of a target net, say, do not begin to learn; not even an error changes that."""
    net = nn.Linear(2, 2)
    net.bias.requires_grad_(False)
    with pytest.raises(ZeroDivisionError), frozen(net):
        assert not net.weight.requires_grad
        raise ZeroDivisionError
    assert net.weight.requires_grad and not net.bias.requires_grad


def test_actions_of_a_box():
    model = GaussianActions(2)
    outputs = th.tensor([[0.5, -1.0, math.log(0.1), math.log(0.2)]]).expand(4000, 4)
    median = model.act(outputs, deterministic=True)
    close(median, th.tanh(th.tensor([[0.5, -1.0]])).expand(4000, 2))
    sample = model.act(outputs, deterministic=False)
    assert sample.abs().max() < 1
    raw = th.atanh(sample)
    th.testing.assert_close(raw.mean(dim=0), th.tensor([0.5, -1.0]), rtol=0, atol=0.02)
    th.testing.assert_close(raw.std(dim=0), th.tensor([0.1, 0.2]), rtol=0.1, atol=0)
    assert th.equal(model.encode(sample), sample)


@pytest.mark.parametrize(("log_std", "bound"), [(-1e6, MIN_LOG_STD), (1e6, MAX_LOG_STD)])
def test_deviation_of_a_box_is_bounded(log_std, bound):
    outputs = th.tensor([[0.3, log_std]], requires_grad=True)
    th.manual_seed(0)
    habit = GaussianActions(1).habit(outputs)
    habit.log_prob.sum().backward()
    assert th.isfinite(habit.log_prob).all() and th.isfinite(outputs.grad).all()
    th.manual_seed(0)
    assert th.equal(habit.actions, GaussianHabit(th.tensor([[0.3]]), th.tensor([[bound]])).actions)
