"""Which actions are taken: by the averaged policy net, by the net as it is, or by the values."""

import copy
import math

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import BatchNormDropout, action_spaces, make
from torch.nn.utils import parameters_to_vector
from worlds import BOX, DISCRETE, N_ACTIONS, Chain, SampledEnv

from sb3_dai.dai import DAI
from sb3_dai.learning.step import EagerStep

# ----- Acting without curiosity -----


@action_spaces("discrete", "multi-discrete")
def test_greedy_actions_are_the_best_by_the_extrinsic_value(tmp_path, action_space):
    model = make(
        SampledEnv(action_space=action_space),
        policy_kwargs=dict(net_arch=[16], greedy="extrinsic"),
        prediction_error_weight=1.0,
        seed=0,
    )
    policy, net = model.policy, model.policy.value_net
    # Terms of G for each choice and option, the extrinsic one first; one option of the first choice does not exist
    table = th.tensor([[[3.0, 2.0, -9.0], [2.0, 1.0, 3.0]], [[-9.0, 9.0, 0.0]] * 2, [[-9.0, 9.0, 0.0]] * 2])
    n_choices = 1 if action_space == DISCRETE else 2
    net.layers[-1].weight.data.zero_()
    net.layers[-1].bias.data[:] = table[:, :n_choices].reshape(-1)
    obs = np.zeros((4, 3), np.float32)
    expected = np.full(4, 2) if action_space == DISCRETE else np.tile([1, 1], (4, 1))
    for one in (policy, copy.deepcopy(policy)):
        np.testing.assert_array_equal(one.predict(obs, deterministic=True)[0], expected)
    policy.save(tmp_path / "policy")
    loaded = type(policy).load(tmp_path / "policy", device="cpu")
    assert loaded.greedy == "extrinsic"
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], expected)
    # Samples are the policy net's as ever
    actions = policy.predict(np.zeros((200, 3), np.float32), deterministic=False)[0]
    assert len(np.unique(actions, axis=0)) == (3 if action_space == DISCRETE else 6)
    policy.greedy = "policy"
    most_probable = policy.posterior(policy.belief(th.zeros(4, 3))).log_prob.argmax(dim=-1).squeeze(1)
    np.testing.assert_array_equal(policy.predict(obs, deterministic=True)[0], most_probable)


@pytest.mark.parametrize(("pessimism", "expected"), [(1.0, 1), (0.0, 0)])
def test_greedy_actions_heed_the_worst_critic_as_far_as_pessimism_goes(pessimism, expected):
    model = make(SampledEnv(), policy_kwargs=dict(net_arch=[16], greedy="extrinsic"), pessimism=pessimism, seed=0).learn(60)
    net = model.policy.value_net
    net.layers[-1].weight.data.zero_()
    # The first action costs 0 and 4, 2 on average, the second 3 by both
    net.layers[-1].bias.data[:] = th.tensor([[0.0, 3.0, 9.0], [4.0, 3.0, 9.0]]).repeat(1, 2).reshape_as(net.layers[-1].bias)
    assert set(model.predict(np.zeros((4, 3), np.float32), deterministic=True)[0]) == {expected}


def test_greedy_boxes_heed_the_worst_critic_as_far_as_pessimism_goes(monkeypatch):
    space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    policy = make(SampledEnv(action_space=space), policy_kwargs=dict(net_arch=[16], greedy="extrinsic"), seed=0).policy

    def cost(inputs):
        action = inputs[:, 3:]
        return th.stack([3.0 * action.expand(-1, 2), -action.expand(-1, 2)])

    monkeypatch.setattr(policy.value_net, "forward", cost)
    obs = np.zeros((20, 3), np.float32)
    chosen = {}
    for share in (1.0, 0.0):
        policy.pessimism.fill_(share)
        chosen[share] = policy.predict(obs, deterministic=True)[0]
    # The worst of 3 a and -a is lowest at 0, the average, a, at the lowest candidate
    assert np.abs(chosen[1.0]).max() < 0.3 and chosen[0.0].max() < -0.5


def test_greedy_boxes_are_the_best_of_their_candidates(monkeypatch, tmp_path):
    space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    policy = make(SampledEnv(action_space=space), policy_kwargs=dict(net_arch=[16], greedy="extrinsic"), seed=0).policy

    def cost(inputs):  # lowest at the first two features; the other term would have it elsewhere
        distance = (inputs[:, 3:] - inputs[:, :2]).square().sum(dim=1)
        return th.stack([distance, -9.0 * distance], dim=1).expand(2, -1, -1)

    policy.save(tmp_path / "policy")
    obs = np.array([[0.5, -0.5, 0.0], [-0.5, 0.5, 0.0]] * 10, np.float32)
    for one in (policy, type(policy).load(tmp_path / "policy", device="cpu")):
        monkeypatch.setattr(one.value_net, "forward", cost)
        distances = {}
        for one.greedy in ("policy", "extrinsic"):
            distances[one.greedy] = ((one.predict(obs, deterministic=True)[0] - obs[:, :2]) ** 2).sum(axis=1)
        # Never worse than the median, which is a candidate, and near the best in most states
        assert (distances["extrinsic"] <= distances["policy"] + 1e-6).all()
        assert np.median(distances["extrinsic"]) < 0.1 < np.median(distances["policy"])


# ----- Acting on the average of the policy net -----


def test_the_policy_is_averaged_over_training(monkeypatch):
    policy_kwargs = dict(net_arch=[16], features_extractor_class=BatchNormDropout)
    model = make(SampledEnv(), policy_kwargs=policy_kwargs, gradient_steps=3)
    policy, seen = model.policy, []
    trained = [policy.policy_net, policy.features_extractor]
    optimize = EagerStep.optimize

    def noted(*args):
        optimize(*args)
        seen.append(parameters_to_vector([p for net in trained for p in net.parameters()]).detach())

    monkeypatch.setattr(EagerStep, "optimize", noted)
    model.learn(53)
    expected = seen[0]
    for n, parameters in enumerate(seen, start=1):
        expected = expected + 20 / (n + 19) * (parameters - expected)
    averages = [policy.policy_net_average, policy.features_extractor_average]
    found = parameters_to_vector([p for net in averages for p in net.parameters()])
    assert len(seen) == model._n_updates > 5
    th.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert (found - seen[-1]).abs().max() > 1e-4
    # Statistics are the extractor's own
    online = [value for name, value in policy.features_extractor.named_buffers() if "running" in name]
    average = [value for name, value in policy.features_extractor_average.named_buffers() if "running" in name]
    assert all(map(th.equal, online, average))


def test_deterministic_predictions_are_the_averages():
    policy = make(SampledEnv(), policy_kwargs=dict(net_arch=[16]), seed=0, buffer_size=10).policy
    for net, option in ((policy.policy_net, 0), (policy.policy_net_average, 2)):
        net.layers[-1].bias.data[..., option] = 100.0
    obs = np.zeros((5, 3), np.float32)
    assert set(policy.predict(obs, deterministic=True)[0]) == {2}
    assert set(policy.predict(obs, deterministic=False)[0]) == {0}
    policy.greedy = "policy"
    assert set(policy.predict(obs, deterministic=True)[0]) == {0}


# ----- Acting on the expected free energy itself -----


@action_spaces("discrete", "multi-discrete")
def test_samples_are_of_the_posterior_under_the_expected_free_energy(tmp_path, action_space):
    kwargs = dict(policy_kwargs=dict(net_arch=[16], deliberation=1.0), precision=2.0, epistemic_weight=0.5, seed=0)
    model = make(SampledEnv(action_space=action_space), prediction_error_weight=0.25, **kwargs).learn(110)
    policy, net = model.policy, model.policy.value_net
    assert policy.head_weights.tolist() == [1.0, 0.5, 0.25]
    # Terms of G for each choice and option, so that G is 0, log(2) / 2 and log(4) / 2; one option of the first does not exist
    table = th.tensor([[[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]], [[0.0, -1.0, -2.0]] * 2, [[0.0, -2.0, -4.0]] * 2])
    table[0] += math.log(2.0) / 2.0 * th.tensor([0.0, 1.0, 2.0])
    n_choices = 1 if action_space == DISCRETE else 2
    net.layers[-1].weight.data.zero_()
    net.layers[-1].bias.data[:] = table[:, :n_choices].reshape(-1)
    model.save(tmp_path / "model")
    # softmax(-2 G) is 1, 1/2, 1/4
    expected = [[4 / 7, 2 / 7, 1 / 7]] if action_space == DISCRETE else [[2 / 3, 1 / 3, 0.0], [4 / 7, 2 / 7, 1 / 7]]
    obs = np.zeros((20_000, 3), np.float32)
    for one in (model, DAI.load(tmp_path / "model", device="cpu")):
        th.manual_seed(0)
        actions = one.predict(obs, deterministic=False)[0].reshape(len(obs), -1)
        for choice, probabilities in zip(actions.T, expected, strict=True):
            np.testing.assert_allclose(np.bincount(choice, minlength=3) / len(obs), probabilities, atol=0.02)
        average = one.policy.policy_net_average(one.policy.belief(th.zeros(1, 3)).features)[0]
        most_probable = one.policy.action_model.act(average, True).numpy()
        np.testing.assert_array_equal(one.predict(obs[:1], deterministic=True)[0].reshape(1, -1), most_probable)


def test_only_choices_are_deliberated():
    with pytest.raises(ValueError, match=r"deliberation=0\.1 is for choices, not for Box"):
        make(SampledEnv(action_space=BOX), policy_kwargs=dict(deliberation=0.1))


def test_deliberation_excludes_a_habit_prior():
    even = [1 / N_ACTIONS] * N_ACTIONS
    with pytest.raises(ValueError, match=r"habit_prior=.* with deliberation=0.5 in policy_kwargs"):
        make(Chain(), precision=1.0, habit_prior=even, policy_kwargs=dict(deliberation=0.5))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_the_actions_is_deliberated(tmp_path, share):
    policy = make(Chain(), policy_kwargs=dict(net_arch=[16], deliberation=share), seed=0).policy
    nets = policy.policy_net, policy.policy_net_average
    for net, best in (*((net, [9.0, 0.0]) for net in nets), (policy.value_net, [9.0, 0.0] * 2)):
        net.layers[-1].weight.data.zero_()
        net.layers[-1].bias.data[:] = th.tensor(best)
    policy.log_precision.data.fill_(3.0)
    policy.save(tmp_path / "policy")
    for one in (policy, type(policy).load(tmp_path / "policy", device="cpu")):
        th.manual_seed(0)
        actions = one.predict(np.zeros(10_000, np.int64), deterministic=False)[0]
        # The policy net takes the first, deliberation the second
        np.testing.assert_allclose(np.bincount(actions, minlength=2) / 10_000, [1.0 - share, share], atol=0.02)
        assert (one.predict(np.zeros(10, np.int64), deterministic=True)[0] == 0).all()
        singles = [one.predict(np.int64(0), deterministic=False)[0] for _ in range(400)]
        assert np.mean(singles) == pytest.approx(share, abs=0.08)
