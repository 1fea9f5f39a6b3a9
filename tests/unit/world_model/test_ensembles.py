"""World models that are ensembles of nets, and what makes their members differ."""

import math

import numpy as np
import pytest
import torch as th
from helpers import BatchNormDropout, close, differing, make, state_of
from worlds import DISCRETE, VECTOR, SampledEnv

from sb3_dai.dai import DAI
from sb3_dai.equations.likelihood import LOG_2_PI
from sb3_dai.world_model.base import Belief
from sb3_dai.world_model.gaussian import MAX_LOG_VAR, MIN_LOG_VAR, GaussianPrediction, GaussianWorldModel

SPACES = pytest.mark.parametrize("observation_space", [VECTOR, DISCRETE], ids=["vector", "numbered"])


def policy_of(observation_space=VECTOR, **policy_kwargs):
    return make(
        SampledEnv(observation_space), policy_kwargs=dict(net_arch=[16], **policy_kwargs), seed=0, buffer_size=10
    ).policy


def a_belief(policy, n=9):
    """About random vectors, or about each numbered state with each action."""
    size = policy.features_extractor.features_dim
    if policy.world_model.net.numbered:
        codes = th.eye(size)[th.arange(n) // 3]
        return Belief(codes, codes), th.eye(3)[th.arange(n) % 3]
    features = th.randn(n, size)
    return Belief(features, features), th.eye(3)[th.arange(n) % 3]


# ----- The distribution -----


def test_log_variances_are_bounded_softly():
    raw = th.tensor([-1e4, -12.0, 0.0, 4.0, 1e4]).requires_grad_()
    prediction = GaussianWorldModel.distribution(th.stack([th.zeros(5), raw], dim=1).unsqueeze(0))
    log_var = prediction.log_var.ravel()
    # Two beyond a bound, log(1 + e^-2) are left to it
    close(log_var[[0, 4]].detach(), [MIN_LOG_VAR, MAX_LOG_VAR])
    close(log_var[1].detach(), MIN_LOG_VAR + math.log1p(math.exp(-2.0)))
    close(log_var[3].detach(), MAX_LOG_VAR - math.log1p(math.exp(-2.0)))
    log_var.sum().backward()
    assert (raw.grad[1:4] > 0.1).all(), "gradients survive near both ends"


def test_loss_is_the_weighted_mean_over_members_and_rows():
    model = GaussianWorldModel(1, None)
    prediction = GaussianPrediction(th.tensor([[[0.0], [0.0]], [[2.0], [0.0]]]), th.zeros(2, 2, 1))
    outcome = th.tensor([[2.0], [1.0]])
    # Squared errors of the two members: 4 and 1; 0 and 1
    close(model.loss(prediction, outcome), (6.0 / 4 + LOG_2_PI) / 2)
    # Without the second row, which has no successor; the mean is over all of them still
    close(model.loss(prediction, outcome, th.tensor([[1.0], [0.0]])), (4.0 / 4 + LOG_2_PI / 2) / 2)
    weights = th.tensor([[[0.0], [0.0]], [[2.0], [2.0]]])
    close(model.loss(prediction, outcome, weights), (1.0 / 2 + LOG_2_PI) / 2)


def test_rows_without_successor_have_no_change():
    """The reset of the next episode is no change that the agent made; nor does it count in the scale of changes."""
    model = GaussianWorldModel(1, None)
    raw, next_raw = th.zeros(2, 1), th.tensor([[2.0], [50.0]])
    mask = th.tensor([[1.0], [0.0]])
    outcome = model.outcome(Belief(raw, raw), Belief(next_raw, next_raw), next_raw, mask)
    close(model.change_norm.var, [1.0])  # of 2 and 0
    close(outcome, [[2.0], [0.0]])


# ----- What makes the members differ -----


def test_members_learn_from_their_own_share():
    weights = policy_of(bootstrap_share=0.5).bootstrap_weights(4000)
    assert weights.shape == (5, 4000, 1) and set(weights.unique().tolist()) == {0.0, 2.0}
    np.testing.assert_allclose(weights.mean(dim=1), 1.0, atol=0.1)
    for k in range(1, 5):
        assert 0.4 < (weights[0] != weights[k]).float().mean() < 0.6
    assert policy_of().bootstrap_weights(4000) == 1.0


@pytest.mark.parametrize("share, apart", [(0.5, True), (1.0, False)])
def test_members_of_one_start_part_only_by_their_share(share, apart):
    model = make(SampledEnv(), policy_kwargs=dict(net_arch=[16], bootstrap_share=share), seed=0)
    net = model.policy.world_model.net
    for parameter in net.parameters():
        parameter.data[:] = parameter.data[:1].clone()
    model.learn(70)
    spread = max((parameter - parameter[:1]).abs().max().item() for parameter in net.parameters())
    assert spread > 1e-3 if apart else spread < 1e-5


@SPACES
def test_the_random_prior_is_fixed_and_saved(tmp_path, observation_space):
    env = SampledEnv(observation_space)
    model = make(env, policy_kwargs=dict(net_arch=[16], prior_scale=3.0), seed=0)
    before = state_of(model.policy)
    changed = differing(before, state_of(model.learn(60).policy))
    prior = {name for name in before if name.startswith("world_model.prior.")}
    assert len(prior) == len([*model.policy.world_model.net.parameters()]) and not prior & changed
    assert {name for name in before if name.startswith("world_model.net.")} <= changed
    model.save(tmp_path / "model")
    assert not differing(state_of(model.policy), state_of(DAI.load(tmp_path / "model", env=env, device="cpu").policy))


@SPACES
def test_the_outputs_are_those_of_the_net_plus_the_random_prior(observation_space):
    """Where the net says nothing, members disagree by the prior alone."""
    policy = policy_of(observation_space, prior_scale=3.0)
    world_model = policy.world_model
    for parameter in world_model.net.parameters():
        parameter.data.zero_()
    belief, actions = a_belief(policy)
    # The number of the pair, state by state
    inputs = th.arange(9) if observation_space is DISCRETE else th.cat([belief.features, actions], dim=1)
    prediction = world_model.predict(belief, actions)
    expected = world_model.distribution(3.0 * world_model.prior(inputs))
    th.testing.assert_close(prediction.variance(), expected.variance())
    assert prediction.variance().min() > 0


# ----- What is read and what is predicted -----


def test_features_of_the_users_are_read_as_they_are():
    """They are codes of states only without an extractor of one's own."""
    for policy_kwargs, the_same in ((dict(), True), (dict(features_extractor_class=BatchNormDropout), False)):
        policy = policy_of(DISCRETE, **policy_kwargs)
        features = th.linspace(1.0, 0.1, policy.features_extractor.features_dim).unsqueeze(0)
        action = th.eye(policy.action_model.code_dim)[:1]
        beliefs = (Belief(f, f) for f in (features, features * 0.5))
        one, other = (policy.world_model.predict(belief, action).log_prob for belief in beliefs)
        assert th.equal(one, other) is the_same


@SPACES
def test_novelty_is_the_information_gain_or_the_variance(observation_space):
    found = {}
    for novelty in ("information_gain", "variance"):
        model = make(SampledEnv(observation_space), policy_kwargs=dict(net_arch=[16], novelty=novelty), seed=0).learn(60)
        prediction = model.policy.world_model.predict(*a_belief(model.policy))
        found = {"information_gain": prediction.information_gain(), "variance": prediction.variance()}
        assert th.equal(model.policy.novelty_of(prediction), found[novelty])
        assert th.equal(model.policy.terms["epistemic"].novelty_of(prediction), found[novelty])
        assert model.policy.terms["epistemic"].scale.peak > 0
    values = prediction.mean if observation_space == VECTOR else prediction.log_prob.exp()
    expected = values.var(dim=0, unbiased=False)
    expected = expected.mean(dim=1) if observation_space == VECTOR else expected.sum(dim=1)
    th.testing.assert_close(found["variance"][:, 0], expected)


@SPACES
def test_only_the_loss_has_a_gradient(observation_space):
    policy = policy_of(observation_space)
    prediction = policy.world_model.predict(*a_belief(policy))
    outcome = th.zeros(9, 3) if observation_space is VECTOR else th.zeros(9, 1, dtype=th.int64)
    assert prediction.nll(outcome).requires_grad
    assert not any(x.requires_grad for x in (prediction.error(outcome), prediction.information_gain(), prediction.variance()))
