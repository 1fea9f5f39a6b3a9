"""Beliefs about the state: where they begin, what an observation makes of them, and what is imagined from them."""

import math

import numpy as np
import pytest
import torch as th
from helpers import close, make
from torch import nn
from worlds import BOX, N_ACTIONS, N_STATES, VECTOR, Chain, SampledEnv, transition

from sb3_dai.nets.statistics import EPS
from sb3_dai.world_model.base import Belief
from sb3_dai.world_model.categorical import CategoricalPrediction, CategoricalWorldModel
from sb3_dai.world_model.dirichlet import DirichletPrediction
from sb3_dai.world_model.gaussian import GaussianPrediction, GaussianWorldModel

N = 20_000


def policy_of(env=None, **policy_kwargs):
    return make(env or SampledEnv(), policy_kwargs=dict(net_arch=[8], **policy_kwargs), seed=0, buffer_size=10).policy


# ----- Belief -----


def test_before_the_first_observation_nothing_is_believed():
    belief = GaussianWorldModel(3, None).initial(4)
    assert belief.features.shape == belief.raw.shape == (4, 3)
    assert not belief.features.any() and not belief.raw.any()


@pytest.mark.parametrize("is_first", [None, th.tensor([True, False])])
def test_where_the_state_is_observed_the_observation_is_the_belief(is_first):
    model = GaussianWorldModel(3, None)
    observed = Belief(th.rand(2, 3), th.rand(2, 3))
    assert model.observe(model.initial(2), None, observed, is_first) is observed
    assert model.observe(observed, th.zeros(2, 1), observed, is_first) is observed


@pytest.mark.parametrize("normalize_features", [True, False])
def test_a_belief_holds_features_as_they_are_and_in_units_of_their_deviation(normalize_features):
    policy = policy_of(normalize_features=normalize_features)
    seen = th.tensor([[0.0, 1.0, -2.0], [2.0, 1.0, 2.0]])
    policy.features_norm.update(seen)
    belief = policy.belief(seen[:1])
    assert th.equal(belief.raw, seen[:1])
    # Means of 1, 1, 0 and deviations of 1, 0, 2
    close(belief.features, [[-1.0, 0.0, -1.0]] if normalize_features else [[0.0, 1.0, -2.0]])


def test_the_belief_of_the_target_is_that_of_its_own_extractor():
    policy = make(SampledEnv(), policy_kwargs=dict(features_extractor_class=Scaled), seed=0, buffer_size=10).policy
    policy.features_extractor.scale.data.fill_(2.0)
    obs = th.ones(1, 3)
    assert policy.belief(obs).raw.tolist() == [[2.0, 2.0, 2.0]]
    assert policy.belief(obs, target=True).raw.tolist() == [[1.0, 1.0, 1.0]]


class Scaled(nn.Module):
    """A features extractor of one parameter."""

    def __init__(self, observation_space):
        super().__init__()
        self.features_dim = observation_space.shape[0]
        self.scale = nn.Parameter(th.ones(1))

    def forward(self, observations):
        return observations * self.scale


# ----- Samples -----


def test_samples_of_gaussians_are_of_a_member_drawn_for_each_row():
    th.manual_seed(0)
    mean = th.tensor([[-1.0, 10.0], [3.0, 30.0]])[:, None].expand(2, N, 2)
    deviations = th.tensor([[0.1, 0.5], [0.2, 0.5]])[:, None].expand(2, N, 2)
    drawn = GaussianPrediction(mean, 2.0 * deviations.log()).sample()
    assert drawn.shape == (N, 2)
    second = drawn[:, 0] > 1.0
    assert second.float().mean().item() == pytest.approx(0.5, abs=0.02)
    # All dimensions of a row are of the same member
    assert ((drawn[:, 1] > 20.0) == second).all()
    for member, rows in ((0, drawn[~second]), (1, drawn[second])):
        th.testing.assert_close(rows.mean(dim=0), mean[member, 0], rtol=0, atol=0.03)
        th.testing.assert_close(rows.std(dim=0), deviations[member, 0], rtol=0.05, atol=0)


def test_samples_of_categories_are_those_of_the_mixture():
    th.manual_seed(0)
    prob = th.tensor([[0.5, 0.5, 0.0], [0.0, 0.2, 0.8]])
    drawn = CategoricalPrediction(prob.log()[:, None].expand(2, N, 3)).sample()
    assert drawn.shape == (N, 1)
    shares = np.bincount(drawn.ravel(), minlength=3) / N
    np.testing.assert_allclose(shares, prob.mean(dim=0), atol=0.015)


def test_rows_of_categories_are_drawn_from_their_own_distribution():
    th.manual_seed(0)
    log_prob = th.eye(3).repeat(100, 1).clamp(min=1e-30).log().unsqueeze(0)
    assert th.equal(CategoricalPrediction(log_prob).sample()[:, 0], th.arange(3).repeat(100))


def test_samples_of_counts_are_those_of_their_mean():
    th.manual_seed(0)
    drawn = DirichletPrediction(th.tensor([[1.0, 3.0]]).expand(N, 2), th.zeros(N, 1)).sample()
    assert drawn.float().mean().item() == pytest.approx(0.75, abs=0.015)


# ----- Successors -----


def test_the_successor_of_what_happened_is_what_came_next():
    model = GaussianWorldModel(2, None)
    raw, next_raw = th.randn(2, 50, 2)
    belief, next_belief = Belief(raw, raw), Belief(next_raw, next_raw)
    outcome = model.outcome(belief, next_belief, next_raw, 1.0)
    th.testing.assert_close(model.successor(belief, outcome), next_raw, rtol=1e-4, atol=1e-4)


def test_the_successor_is_moved_by_the_change_in_its_units():
    model = GaussianWorldModel(2, None)
    model.change_norm.var.copy_(th.tensor([4.0, 0.25]) - EPS)
    raw = th.tensor([[1.0, 10.0]])
    close(model.successor(Belief(th.zeros(1, 2), raw), th.tensor([[0.5, -2.0]])), [[2.0, 9.0]])


def test_the_successor_of_a_numbered_state_is_a_code():
    model = CategoricalWorldModel(3, None)
    belief = Belief(th.zeros(2, 3), th.zeros(2, 3))
    assert model.successor(belief, th.tensor([[2], [0]])).tolist() == [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]


# ----- Imagination -----


def test_imagined_observations_are_those_of_the_world_model():
    policy = policy_of()
    policy.features_norm.update(th.tensor([[-2.0, -2.0, -2.0], [2.0, 2.0, 2.0]]))
    policy.world_model.change_norm.var.copy_(th.tensor([4.0, 4.0, 4.0]) - EPS)

    class Moves(nn.Module):
        """Each member is certain that action a adds a to every feature."""

        n_members, numbered = 2, False

        def forward(self, inputs):
            change = inputs[:, 3:].argmax(dim=1, keepdim=True).expand(-1, 3) / 2.0
            return th.cat([change, th.full_like(change, -1e4)], dim=1).expand(2, -1, -1)

    policy.world_model.net = Moves()
    belief = policy.belief(th.tensor([[0.0, 1.0, -1.0], [1.0, 1.0, 1.0]]))
    imagined = policy.imagine(belief, policy.encode(th.tensor([[2], [0]])))
    # But for the noise, which is bounded below by exp(-5) of a deviation
    th.testing.assert_close(imagined.raw, th.tensor([[2.0, 3.0, 1.0], [1.0, 1.0, 1.0]]), rtol=0, atol=0.1)
    th.testing.assert_close(imagined.features, imagined.raw / 2.0, rtol=1e-4, atol=1e-4)
    assert not imagined.raw.requires_grad


def test_a_world_that_was_learned_can_be_imagined_step_by_step():
    policy = policy_of(Chain(), transition_model="dirichlet", prior_count=1e-6)
    pairs = [(state, action) for state in range(N_STATES) for action in range(N_ACTIONS)]
    states, actions = (np.array(column) for column in zip(*pairs, strict=True))
    successors = np.array([transition(*pair)[0] for pair in pairs])
    policy.world_model.count(states, actions, successors)
    belief = policy.belief(th.tensor([0]))
    seen = []
    for action in (1, 1, 0, 1, 1):
        belief = policy.imagine(belief, policy.encode(th.tensor([[action]])))
        seen.append(belief.raw.argmax().item())
        assert belief.raw.sum() == 1.0
        assert th.equal(belief.features, policy.scaled(belief.raw))
    assert seen == [1, 2, 1, 2, 3]


def test_what_is_imagined_varies_as_the_members_do():
    policy = policy_of(SampledEnv(VECTOR, BOX))
    belief = policy.belief(th.zeros(1, 3).expand(4000, 3))
    th.manual_seed(0)
    imagined = policy.imagine(belief, th.zeros(4000, 2))
    prediction = policy.world_model.predict(Belief(*(part[:1] for part in belief)), th.zeros(1, 2))
    variance = prediction.log_var.exp().mean(dim=0) + prediction.mean.var(dim=0, correction=0)
    th.testing.assert_close(imagined.raw.std(dim=0), variance[0].sqrt().detach(), rtol=0.1, atol=0)
    th.testing.assert_close(imagined.raw.mean(dim=0), prediction.mean.mean(dim=0)[0].detach(), rtol=0, atol=0.1)
    assert math.isfinite(imagined.features.sum().item())
