"""Curiosity: the world models that it may be about, its weight, and acting without it."""

import copy
import math

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import ACTIONS, BatchNormDropout, action_spaces, differing, inputs_of, is_finite, make, state_of
from stable_baselines3.common.env_util import make_vec_env
from torch.nn.utils import parameters_to_vector
from worlds import BOX, DISCRETE, N_ACTIONS, N_STATES, VECTOR, Chain, SampledEnv

from sb3_dai import free_energy as fe
from sb3_dai.dai import DAI
from sb3_dai.networks import RunningMean
from sb3_dai.replay import sample_transitions
from sb3_dai.transitions import DirichletTransitions

COUNTING = dict(net_arch=[16], transition_model="dirichlet", prior_count=0.5)


def test_running_mean():
    mean = RunningMean(horizon=2)
    # Exact for two batches, then half of each new one
    assert [mean(th.tensor(batch)).item() for batch in ([1.0, 3.0], [4.0], [7.0])] == [2.0, 3.0, 5.0]


# -- Counts of numbered states


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("max_steps", [3, 100])
def test_each_transition_is_counted_once(n_envs, max_steps):
    """With what the episode ended with, not with the reset after it."""
    env = make_vec_env(Chain, n_envs, env_kwargs=dict(max_steps=max_steps))
    model = make(env, policy_kwargs=COUNTING, gradient_steps=2, seed=0).learn(80)
    buffer, expected = model.replay_buffer, np.full((N_STATES, N_ACTIONS, N_STATES), 0.5)
    assert buffer.dones.sum() > 0
    rows = (
        getattr(buffer, name)[: buffer.pos].astype(int).ravel() for name in ("observations", "actions", "next_observations")
    )
    np.add.at(expected, tuple(rows), 1.0)
    counts = model.policy.transition_model.counts
    np.testing.assert_array_equal(counts, expected)
    assert counts.sum() == 80 + 0.5 * expected.size
    assert counts[0, :, 2:].eq(0.5).all() and counts[2, 1, 0] == 0.5, "no reset was counted"
    assert th.equal(model.policy.transition_model.gains, fe.dirichlet_information_gain(counts))


def test_predictions_are_the_share_of_the_counts():
    model = DirichletTransitions(3, 2)
    assert model.counts.sum(dim=-1).allclose(th.ones(3, 2)), "one by default"
    model = DirichletTransitions(3, 2, prior_count=0.5)
    model.count(np.array([1, 1, 1]), np.array([0, 0, 1]), np.array([2, 2, 0]))
    states, actions = th.eye(3)[[1, 1, 0]], th.eye(2)[[0, 1, 1]]
    # Scaled features too have their largest where the one is
    for features in (states, 3.0 * states - 1.0):
        prediction = model.predict(features, actions)
        expected = th.tensor([[[0.5, 0.5, 2.5]], [[1.5, 0.5, 0.5]], [[0.5, 0.5, 0.5]]]).movedim(1, 0)
        th.testing.assert_close(prediction.log_prob.exp(), expected / expected.sum(dim=-1, keepdim=True))
        th.testing.assert_close(prediction.information_gain(), fe.dirichlet_information_gain(expected[0]))
        th.testing.assert_close(prediction.variance(), fe.dirichlet_variance(expected[0]))
        gain = prediction.information_gain().ravel().tolist()
        assert gain[2] > gain[1] > gain[0] > 0, "the less, the more was seen"


def test_counts_are_saved_and_go_on(tmp_path):
    model = make(Chain(), policy_kwargs=COUNTING, seed=0).learn(70)
    policy = model.policy
    assert policy.transition_net is None and policy.transition_prior is None and policy.can_gain_information
    assert not any(name.startswith("transition_net") for name in policy.state_dict())
    model.save(tmp_path / "model")
    loaded = DAI.load(tmp_path / "model", env=Chain(), device="cpu")
    assert not differing(state_of(policy), state_of(loaded.policy))
    total = loaded.policy.transition_model.counts.sum().item()
    loaded.learn(30, reset_num_timesteps=False)
    assert loaded.policy.transition_model.counts.sum().item() == total + 30
    policy.save(tmp_path / "policy")
    assert not differing(state_of(policy), state_of(type(policy).load(tmp_path / "policy", device="cpu")))


def test_counting_leaves_the_other_multipliers_alone():
    policy_kwargs = dict(COUNTING, lr_multipliers=dict(transition=0.5, policy=0.1))
    assert is_finite(make(Chain(), policy_kwargs=policy_kwargs, seed=0).learn(60).policy)


@pytest.mark.parametrize(
    ("observation_space", "action_space"),
    [(VECTOR, DISCRETE), (DISCRETE, BOX), (DISCRETE, ACTIONS["multi-discrete"])],
    ids=str,
)
def test_what_has_no_numbers_cannot_be_counted(observation_space, action_space):
    with pytest.raises(ValueError, match=r'transition_model="dirichlet" counts Discrete.*use the ensemble'):
        make(SampledEnv(observation_space, action_space), policy_kwargs=COUNTING)


# -- What makes the members of the ensemble differ


def test_members_learn_from_their_own_share():
    policy = make(SampledEnv(), policy_kwargs=dict(net_arch=[16], bootstrap_share=0.5), seed=0, buffer_size=10).policy
    weights = policy.bootstrap_weights(4000)
    assert weights.shape == (5, 4000, 1) and set(weights.unique().tolist()) == {0.0, 2.0}
    np.testing.assert_allclose(weights.mean(dim=1), 1.0, atol=0.1)
    for k in range(1, 5):
        assert 0.4 < (weights[0] != weights[k]).float().mean() < 0.6
    assert make(SampledEnv(), buffer_size=10).policy.bootstrap_weights(4000) == 1.0


@pytest.mark.parametrize("share, apart", [(0.5, True), (1.0, False)])
def test_members_of_one_start_part_only_by_their_share(share, apart):
    model = make(SampledEnv(), policy_kwargs=dict(net_arch=[16], bootstrap_share=share), seed=0)
    net = model.policy.transition_net
    for parameter in net.parameters():
        parameter.data[:] = parameter.data[:1].clone()
    model.learn(70)
    spread = max((parameter - parameter[:1]).abs().max().item() for parameter in net.parameters())
    assert spread > 1e-3 if apart else spread < 1e-5


@pytest.mark.parametrize("observation_space", [VECTOR, DISCRETE], ids=["vector", "numbered"])
def test_prior_is_fixed_and_saved(tmp_path, observation_space):
    env = SampledEnv(observation_space)
    model = make(env, policy_kwargs=dict(net_arch=[16], prior_scale=3.0), seed=0)
    before = state_of(model.policy)
    changed = differing(before, state_of(model.learn(60).policy))
    prior = {name for name in before if name.startswith("transition_prior.")}
    assert len(prior) == len([*model.policy.transition_net.parameters()]) and not prior & changed
    assert {name for name in before if name.startswith("transition_net.")} <= changed
    model.save(tmp_path / "model")
    assert not differing(state_of(model.policy), state_of(DAI.load(tmp_path / "model", env=env, device="cpu").policy))

    # The outputs are the net's plus three times the prior's: without the net, members disagree by the prior alone
    policy = model.policy
    features, actions = th.randn(8, policy.features_extractor.features_dim), th.eye(3)[th.arange(8) % 3]
    for parameter in policy.transition_net.parameters():
        parameter.data.zero_()
    if observation_space is DISCRETE:
        features, inputs = th.eye(3)[th.arange(8) // 3], th.arange(8)  # The number of the pair, state by state
    else:
        inputs = th.cat([features, actions], dim=1)
    outputs = 3.0 * policy.transition_prior(inputs)
    prediction, expected = policy.predict_outcome(features, actions), policy.transition_model(outputs)
    th.testing.assert_close(prediction.variance(), expected.variance())
    assert prediction.variance().min() > 0


@pytest.mark.parametrize("observation_space", [VECTOR, DISCRETE], ids=["vector", "numbered"])
def test_novelty_may_be_the_variance(observation_space):
    found = {}
    for novelty in ("information_gain", "variance"):
        policy_kwargs = dict(net_arch=[16], novelty=novelty)
        model = make(SampledEnv(observation_space), policy_kwargs=policy_kwargs, seed=0).learn(60)
        features = th.randn(8, model.policy.features_extractor.features_dim)
        prediction = model.policy.predict_outcome(features, th.eye(3)[th.arange(8) % 3])
        found = {"information_gain": prediction.information_gain(), "variance": prediction.variance()}
        assert th.equal(model.policy.novelty_of(prediction), found[novelty])
        assert model.policy.novelty_scale.peak > 0
    values = prediction.mean if observation_space == VECTOR else prediction.log_prob.exp()
    expected = values.var(dim=0, unbiased=False)
    expected = expected.mean(dim=1) if observation_space == VECTOR else expected.sum(dim=1)
    th.testing.assert_close(found["variance"][:, 0], expected)


# -- Acting without curiosity


@action_spaces("discrete", "multi-discrete")
def test_greedy_actions_are_the_best_by_the_extrinsic_value(tmp_path, action_space):
    model = make(SampledEnv(action_space=action_space), policy_kwargs=dict(net_arch=[16], greedy="extrinsic"), seed=0)
    policy, net = model.policy, model.policy.value_net
    # G of the extrinsic, epistemic and surprise parts, for each choice and option; one option of the first does not exist
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
    # Samples are the habit's as ever
    actions = policy.predict(np.zeros((200, 3), np.float32), deterministic=False)[0]
    assert len(np.unique(actions, axis=0)) == (3 if action_space == DISCRETE else 6)
    policy.greedy = "habit"
    habit = policy.habit(policy.features(th.zeros(4, 3))).log_prob.argmax(dim=-1).squeeze(1)
    np.testing.assert_array_equal(policy.predict(obs, deterministic=True)[0], habit)


def test_greedy_boxes_are_the_best_of_their_candidates(monkeypatch, tmp_path):
    space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    policy = make(SampledEnv(action_space=space), policy_kwargs=dict(net_arch=[16], greedy="extrinsic"), seed=0).policy

    def cost(inputs):  # lowest at the first two features; the other parts would have it elsewhere
        distance = (inputs[:, 3:] - inputs[:, :2]).square().sum(dim=1)
        return th.stack([distance, -9.0 * distance, -9.0 * distance], dim=1).expand(2, -1, -1)

    policy.save(tmp_path / "policy")
    obs = np.array([[0.5, -0.5, 0.0], [-0.5, 0.5, 0.0]] * 10, np.float32)
    for one in (policy, type(policy).load(tmp_path / "policy", device="cpu")):
        monkeypatch.setattr(one.value_net, "forward", cost)
        distances = {}
        for one.greedy in ("habit", "extrinsic"):
            distances[one.greedy] = ((one.predict(obs, deterministic=True)[0] - obs[:, :2]) ** 2).sum(axis=1)
        # Never worse than the median, which is a candidate, and near the best in most states
        assert (distances["extrinsic"] <= distances["habit"] + 1e-6).all()
        assert np.median(distances["extrinsic"]) < 0.1 < np.median(distances["habit"])


# -- Acting on the average of the policy


@pytest.mark.parametrize("compiled", [False, True])
def test_the_policy_is_averaged_over_training(monkeypatch, compiled):
    model = make(SampledEnv(), policy_kwargs=dict(net_arch=[16], features_extractor_class=BatchNormDropout), compile=compiled)
    policy, seen = model.policy, []
    trained = [policy.policy_net, policy.features_extractor]
    step = model._compiled_update if compiled else model._update

    def noted(inputs):
        result = step(inputs)
        seen.append(parameters_to_vector([p for net in trained for p in net.parameters()]).detach())
        return result

    monkeypatch.setattr(model, "_compiled_update" if compiled else "_update", noted)
    model.learn(56)
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
    policy.greedy = "habit"
    assert set(policy.predict(obs, deterministic=True)[0]) == {0}


# -- Acting on the expected free energy itself


@action_spaces("discrete", "multi-discrete")
def test_samples_are_of_the_posterior_under_the_expected_free_energy(tmp_path, action_space):
    kwargs = dict(policy_kwargs=dict(net_arch=[16], deliberation=1.0), precision=2.0, epistemic_weight=0.5, seed=0)
    model = make(SampledEnv(action_space=action_space), prediction_error_weight=0.25, **kwargs).learn(110)
    policy, net = model.policy, model.policy.value_net
    assert policy.head_weights.tolist() == [1.0, 0.5, 0.25]
    # Parts of G for each choice and option, so that G is 0, log(2) / 2 and log(4) / 2; one option of the first does not exist
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
        habit = one.policy.habit(one.policy.features(th.zeros(1, 3))).log_prob.argmax(dim=-1).numpy()
        np.testing.assert_array_equal(one.predict(obs[:1], deterministic=True)[0].reshape(1, -1), habit)


def test_only_choices_are_deliberated():
    with pytest.raises(ValueError, match=r"deliberation=0\.1 is for choices, not for Box"):
        make(SampledEnv(action_space=BOX), policy_kwargs=dict(deliberation=0.1))


def test_deliberation_knows_no_habit_prior():
    even = [1 / N_ACTIONS] * N_ACTIONS
    with pytest.raises(ValueError, match=r"habit_prior=.* with deliberation=0.5 in policy_kwargs"):
        make(Chain(), precision=1.0, habit_prior=even, policy_kwargs=dict(deliberation=0.5))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_the_actions_is_deliberated(tmp_path, share):
    policy = make(Chain(), policy_kwargs=dict(net_arch=[16], deliberation=share), seed=0).policy
    habits = policy.policy_net, policy.policy_net_average
    for net, best in (*((habit, [9.0, 0.0]) for habit in habits), (policy.value_net, [9.0, 0.0] * 3)):
        net.layers[-1].weight.data.zero_()
        net.layers[-1].bias.data[:] = th.tensor(best)
    policy.log_precision.data.fill_(3.0)
    policy.save(tmp_path / "policy")
    for one in (policy, type(policy).load(tmp_path / "policy", device="cpu")):
        th.manual_seed(0)
        actions = one.predict(np.zeros(10_000, np.int64), deterministic=False)[0]
        # The habit takes the first, deliberation the second
        np.testing.assert_allclose(np.bincount(actions, minlength=2) / 10_000, [1.0 - share, share], atol=0.02)
        assert (one.predict(np.zeros(10, np.int64), deterministic=True)[0] == 0).all()
        singles = [one.predict(np.int64(0), deterministic=False)[0] for _ in range(400)]
        assert np.mean(singles) == pytest.approx(share, abs=0.08)


# -- The weight


def test_an_end_counts_as_the_average_state():
    model = make(Chain(), epistemic_gamma=0.9, seed=0).learn(60)
    (batch,) = sample_transitions(model.replay_buffer, 16)
    features = model.policy.features(batch.one_step.next_observations)
    targets = []
    for ended in (0.0, 1.0):
        batch.one_step.dones[:] = ended
        targets.append(model._efe_target(inputs_of(model, batch), features, th.zeros(16, 1), th.zeros(16, 1))[:, 1])
    assert targets[0].std() > 0
    expected = 0.9 * model.policy.mean_epistemic_efe.mean
    th.testing.assert_close(targets[1], expected.expand(16))


@pytest.mark.parametrize("gain, reference, rises", [(0.2, 0.5, True), (0.5, 0.2, False)])
def test_automatic_weight_follows_the_slow_copy(monkeypatch, gain, reference, rises):
    model = make(Chain(), epistemic_weight="auto", seed=0)
    monkeypatch.setattr(
        model.policy, "novelty_of_actions", lambda features, target=False: th.full((32, 1), reference if target else gain)
    )
    model.learn(70, log_interval=1000)
    log_weight = model.policy.log_epistemic_weight.item()
    assert abs(log_weight) > 1e-3 and (log_weight > 0) == rises
    logged = model.logger.name_to_value
    assert logged["train/epistemic_weight"] == pytest.approx(np.exp(log_weight), rel=0.01)
    assert "train/epistemic_weight_loss" in logged


@action_spaces("discrete", "multi-discrete", "box")
def test_automatic_weight_moves_and_is_saved(tmp_path, action_space):
    env = SampledEnv(action_space=action_space)
    model = make(env, epistemic_weight="auto", seed=0).learn(70)
    log_weight = model.policy.log_epistemic_weight.item()
    assert log_weight != 0.0 and model._head_weights()[1].item() == pytest.approx(np.exp(log_weight))
    model.save(tmp_path / "model")
    loaded = DAI.load(tmp_path / "model", env=env, device="cpu")
    assert loaded.epistemic_weight == "auto" and loaded.policy.log_epistemic_weight.item() == log_weight
    loaded.learn(10, reset_num_timesteps=False)
    assert loaded.policy.log_epistemic_weight.item() != log_weight


def test_a_given_weight_is_logged_and_stays():
    model = make(Chain(), epistemic_weight=0.25, seed=0)
    model.learn(60, log_interval=1000)
    assert model.logger.name_to_value["train/epistemic_weight"] == pytest.approx(0.25)
    assert "train/epistemic_weight_loss" not in model.logger.name_to_value
    assert model.policy.log_epistemic_weight.item() == 0.0


@pytest.mark.parametrize("value", ["Auto", "much", None])
def test_other_words_for_the_weight_are_refused(value):
    with pytest.raises(ValueError, match=r'epistemic_weight \(or a schedule or "auto"\)='):
        make(Chain(), epistemic_weight=value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("transition_model", "net"), ("novelty", "surprise"), ("greedy", "epistemic"), ("prior_count", 0)),
        *(("bootstrap_share", 0), ("bootstrap_share", 1.1), ("prior_scale", -1)),
        *(("deliberation", 1.1), ("deliberation", -0.1)),
    ],
)
def test_bad_arguments_of_the_policy_are_named(name, value):
    with pytest.raises(ValueError, match=rf"{name}.*={value!r}: "):
        make(Chain(), policy_kwargs={name: value})


# -- What the world model says of actions that were not taken


@pytest.mark.parametrize(
    "policy_kwargs", [dict(net_arch=[16], lookahead=True), dict(net_arch=[16], transition_model="dirichlet")], ids=str
)
def test_novelty_of_every_action_is_part_of_its_efe(policy_kwargs):
    model = make(Chain(), policy_kwargs=policy_kwargs, seed=0).learn(80)
    policy = model.policy
    features = policy.features(th.arange(N_STATES))
    table = policy.efe(features).table
    learned = policy.value_net(features).unflatten(-1, (3, 1, N_ACTIONS))
    for action in range(N_ACTIONS):
        codes = policy.encode(th.full((N_STATES, 1), action))
        novelty = policy.novelty_scale.scaled(policy.novelty_of(policy.predict_outcome(features, codes)))
        assert novelty.max() > 0.0
        known = (table - learned)[:, :, :, 0, action]
        th.testing.assert_close(known[:, :, 1], -novelty[:, 0].expand(2, -1), rtol=1e-4, atol=1e-5)
        assert (known[:, :, [0, 2]] == 0.0).all()


def test_nobody_is_asked_by_default():
    model = make(Chain(), seed=0)
    assert model.policy._known_efe(model.policy.features(th.arange(N_STATES))) == 0.0


@action_spaces("box", "multi-discrete")
def test_lookahead_needs_actions_that_can_be_counted(action_space):
    with pytest.raises(ValueError, match="lookahead=True asks about each action of a Discrete space"):
        make(SampledEnv(action_space=action_space), policy_kwargs=dict(lookahead=True))
