"""Curiosity: the world models that it may be about, and its weight."""

import numpy as np
import pytest
import torch as th
from helpers import ACTIONS, BatchNormDropout, action_spaces, differing, inputs_of, is_finite, make, state_of
from stable_baselines3.common.env_util import make_vec_env
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
    prediction = model.predict(th.tensor([1, 1, 0]), th.eye(2)[[0, 1, 1]])
    expected = th.tensor([[[0.5, 0.5, 2.5]], [[1.5, 0.5, 0.5]], [[0.5, 0.5, 0.5]]]).movedim(1, 0)
    th.testing.assert_close(prediction.log_prob.exp(), expected / expected.sum(dim=-1, keepdim=True))
    th.testing.assert_close(prediction.information_gain(), fe.dirichlet_information_gain(expected[0]))
    th.testing.assert_close(prediction.variance(), fe.dirichlet_variance(expected[0]))
    gain = prediction.information_gain().ravel().tolist()
    assert gain[2] > gain[1] > gain[0] > 0, "the less, the more was seen"


@pytest.mark.parametrize("seen", [[2], [2, 3], [2] * 3000 + [3]])
@pytest.mark.parametrize("normalize_features", [True, False])
def test_numbers_of_states_are_read_from_their_features(seen, normalize_features):
    """Also if they always were the same, and are 0 in units of their deviation, and if one is so rare that it is clipped."""
    policy = make(Chain(), policy_kwargs=dict(COUNTING, normalize_features=normalize_features)).policy
    for _ in range(3):
        policy.features_norm.update(policy.extract_features(th.tensor(seen)))
    states = th.tensor([*seen[:1], seen[-1], 4])
    assert th.equal(policy._states(policy.features(states)), states)


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


def test_features_of_the_users_are_read_as_they_are():
    """They are codes of states only without an extractor of one's own."""
    kwargs = dict(net_arch=[16], features_extractor_class=BatchNormDropout)
    for policy_kwargs, the_same in ((dict(net_arch=[16]), True), (kwargs, False)):
        policy = make(SampledEnv(DISCRETE), policy_kwargs=policy_kwargs, seed=0, buffer_size=10).policy
        features = th.linspace(1.0, 0.1, policy.features_extractor.features_dim).unsqueeze(0)
        action = th.eye(policy.action_model.code_dim)[:1]
        one, other = (policy.predict_outcome(f, action).log_prob for f in (features, features * 0.5))
        assert th.equal(one, other) is the_same


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
