"""Box actions: a Gaussian squashed by tanh, and what flows back through the critics."""

import math

import pytest
import torch as th
from gymnasium import spaces
from helpers import close
from torch import nn
from torch.distributions import Normal

from sb3_dai.actions import make_action_model
from sb3_dai.actions.base import Aggregation
from sb3_dai.actions.gaussian import (
    MAX_LOG_STD,
    MIN_LOG_STD,
    N_CANDIDATES,
    GaussianActions,
    GaussianEFE,
    GaussianPosterior,
    frozen,
)
from sb3_dai.equations import divergence
from sb3_dai.nets.ensembles import EnsembleMLP

ONE = th.ones(1)


def efe_of(net, features, n_terms=1, pessimism=1.0):
    """G of which the second term is averaged over the critics, as the epistemic one is."""
    return GaussianEFE(net, features, Aggregation([i == 1 for i in range(n_terms)], pessimism))


def test_sizes_of_boxes():
    model = make_action_model(spaces.Box(-1, 1, (2, 3)))
    assert (model.code_dim, model.policy_dim, model.value_dim) == (6, 12, 1)


def test_samples_have_the_density_that_they_say():
    th.manual_seed(0)
    posterior = GaussianPosterior(th.full((20_000, 1), 0.5), th.full((20_000, 1), -0.7))
    close(
        posterior.log_prob,
        divergence.tanh_gaussian_log_prob(th.atanh(posterior.actions.double()).float(), ONE * 0.5, ONE * -0.7),
    )
    # The share of samples below 0.2 is the integral of the density up to it
    below = Normal(0.5, math.exp(-0.7)).cdf(th.atanh(th.tensor(0.2)))
    assert (posterior.actions < 0.2).float().mean().item() == pytest.approx(below.item(), abs=0.01)
    assert th.equal(posterior.entropy(), -posterior.log_prob)


class Parabola(nn.Module):
    """G = (a - best)^2 of one dimension, after any number of features."""

    def __init__(self, best):
        super().__init__()
        self.best = nn.Parameter(th.tensor(best))

    def forward(self, inputs):
        return (inputs[:, -1:] - self.best).square().unsqueeze(0)


@pytest.mark.parametrize("best", [0.8, -0.8])
def test_a_step_on_the_sampled_divergence_lowers_g(best):
    efe, mean, log_std = efe_of(Parabola(best), th.zeros(64, 2)), th.zeros(64, 1, requires_grad=True), th.zeros(64, 1)
    th.manual_seed(0)
    posterior = GaussianPosterior(mean, log_std)
    posterior.divergence(efe, ONE, 10 * ONE).sum().backward()
    th.manual_seed(0)
    stepped = GaussianPosterior(mean.detach() - 0.05 * mean.grad, log_std)
    assert stepped.expected_efe(efe).mean() < posterior.expected_efe(efe).mean() - 0.05


def test_the_divergence_is_least_where_the_policy_is_the_softmax_of_g():
    """At a high precision that is a Gaussian about the lowest G, of the variance 1 / (2 precision)."""
    efe, precision = efe_of(Parabola(0.5), th.zeros(256, 2)), 50.0
    mean, log_std = nn.Parameter(th.zeros(1)), nn.Parameter(th.zeros(1))
    optimizer = th.optim.Adam([mean, log_std], lr=0.05)
    th.manual_seed(0)
    for _ in range(300):
        posterior = GaussianPosterior(mean.expand(256, 1), log_std.expand(256, 1))
        optimizer.zero_grad()
        posterior.divergence(efe, ONE, precision * ONE).mean().backward()
        optimizer.step()
    assert posterior.actions.mean().item() == pytest.approx(0.5, abs=0.03)
    assert posterior.actions.std().item() == pytest.approx(0.1, abs=0.02)


def test_the_divergence_takes_the_worst_value_net_of_the_weighted_sum():
    class Fixed(nn.Module):
        """Two critics of three parts: sums of 1 + 2 * 5 and 4 + 2 * 0, and of the epistemic part 6 and 0, 3 on average."""

        def forward(self, inputs):
            return th.tensor([[[1.0, 6.0, 5.0]], [[4.0, 0.0, 0.0]]])

    posterior = GaussianPosterior(th.zeros(1, 1), th.zeros(1, 1))
    efe = efe_of(Fixed(), th.zeros(1, 2), n_terms=3)
    close(posterior.divergence(efe, th.tensor([1.0, 0.5, 2.0]), 3 * ONE), posterior.log_prob + 3 * (11.0 + 1.5))
    close(posterior.expected_efe(efe), [[4.0, 3.0, 5.0]])
    # Half as far from the averages, of the sum 7.5, and of the parts 2.5 and 2.5
    efe = efe_of(Fixed(), th.zeros(1, 2), n_terms=3, pessimism=0.5)
    close(posterior.divergence(efe, th.tensor([1.0, 0.5, 2.0]), 3 * ONE), posterior.log_prob + 3 * (9.25 + 1.5))
    close(posterior.expected_efe(efe), [[3.25, 3.0, 3.75]])


def test_divergence_of_a_box_teaches_the_policy_alone():
    net, features = EnsembleMLP(2, 3 + 2, 1, [8]), th.randn(16, 3, requires_grad=True)
    outputs = th.randn(16, 4, requires_grad=True)
    posterior = GaussianActions(2).posterior(outputs)
    posterior.divergence(efe_of(net, features), ONE, ONE).sum().backward(retain_graph=True)
    assert features.grad is None
    assert all(parameter.grad is None for parameter in net.parameters())
    # The entropy has a gradient as well: the rest of it came through the critic
    of_entropy = th.autograd.grad(posterior.log_prob.sum(), outputs)[0]
    assert (outputs.grad - of_entropy).abs().min() > 0


def test_value_net_of_a_box_learns_from_its_own_loss():
    net, features = EnsembleMLP(2, 3 + 2, 1, [8]), th.randn(16, 3, requires_grad=True)
    GaussianActions(2).efe(net, features, 1, Aggregation([False]))(th.rand(16, 2)).sum().backward()
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
    posterior = GaussianActions(1).posterior(outputs)
    posterior.log_prob.sum().backward()
    assert th.isfinite(posterior.log_prob).all() and th.isfinite(outputs.grad).all()
    th.manual_seed(0)
    assert th.equal(posterior.actions, GaussianPosterior(th.tensor([[0.3]]), th.tensor([[bound]])).actions)


def test_the_best_action_is_the_candidate_of_the_lowest_first_term():
    class Costs(nn.Module):
        """The second term prefers the opposite."""

        def forward(self, inputs):
            distance = (inputs[:, -1:] - 0.5).square()
            return th.cat([distance, -9.0 * distance], dim=1).unsqueeze(0)

    th.manual_seed(0)
    outputs = th.tensor([[0.0, 0.0], [0.0, -20.0]])  # The second is all but certain of 0
    best = GaussianActions(1).best(outputs, efe_of(Costs(), th.zeros(2, 3), n_terms=2))
    assert best.shape == (2, 1)
    assert best[0].item() == pytest.approx(0.5, abs=0.1) and best[1].item() == pytest.approx(0.0, abs=1e-6)


def test_the_median_is_among_the_candidates():
    outputs = th.tensor([[math.atanh(0.5), 2.0]]).expand(64, 2)
    best = GaussianActions(1).best(outputs, efe_of(Parabola(0.5), th.zeros(64, 2)))
    th.testing.assert_close(best, th.full((64, 1), 0.5))
    assert N_CANDIDATES > 1
