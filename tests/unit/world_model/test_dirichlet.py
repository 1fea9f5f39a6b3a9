"""Counts of numbered states."""

import numpy as np
import pytest
import torch as th
from helpers import ACTIONS, BatchNormDropout, differing, is_finite, make, state_of
from stable_baselines3.common.env_util import make_vec_env
from worlds import BOX, DISCRETE, N_ACTIONS, N_STATES, VECTOR, Chain, SampledEnv

from sb3_dai.dai import DAI
from sb3_dai.equations import information_gain
from sb3_dai.world_model import DirichletWorldModel
from sb3_dai.world_model.base import Belief
from sb3_dai.world_model.categorical import numbers

COUNTING = dict(net_arch=[16], transition_model="dirichlet", prior_count=0.5)


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("max_steps", [3, 100])
def test_each_transition_is_counted_once(n_envs, max_steps):
    """With the last observation of an episode, not with the reset after it."""
    env = make_vec_env(Chain, n_envs, env_kwargs=dict(max_steps=max_steps))
    model = make(env, policy_kwargs=COUNTING, gradient_steps=2, seed=0).learn(80)
    buffer, expected = model.replay_buffer, np.full((N_STATES, N_ACTIONS, N_STATES), 0.5)
    assert buffer.dones.sum() > 0
    rows = (
        getattr(buffer, name)[: buffer.pos].astype(int).ravel() for name in ("observations", "actions", "next_observations")
    )
    np.add.at(expected, tuple(rows), 1.0)
    counts = model.policy.world_model.counts
    np.testing.assert_array_equal(counts, expected)
    assert counts.sum() == 80 + 0.5 * expected.size
    assert counts[0, :, 2:].eq(0.5).all() and counts[2, 1, 0] == 0.5, "no reset was counted"
    assert th.equal(model.policy.world_model.gains, information_gain.dirichlet_information_gain(counts))


def test_predictions_are_the_share_of_the_counts():
    model = DirichletWorldModel(3, 2)
    assert model.counts.sum(dim=-1).allclose(th.ones(3, 2)), "one by default"
    model = DirichletWorldModel(3, 2, prior_count=0.5)
    model.count(np.array([1, 1, 1]), np.array([0, 0, 1]), np.array([2, 2, 0]))
    codes = th.eye(3)[[1, 1, 0]]
    prediction = model.predict(Belief(codes, codes), th.eye(2)[[0, 1, 1]])
    expected = th.tensor([[[0.5, 0.5, 2.5]], [[1.5, 0.5, 0.5]], [[0.5, 0.5, 0.5]]]).movedim(1, 0)
    th.testing.assert_close(prediction.log_prob.exp(), expected / expected.sum(dim=-1, keepdim=True))
    th.testing.assert_close(prediction.information_gain(), information_gain.dirichlet_information_gain(expected[0]))
    th.testing.assert_close(prediction.variance(), information_gain.dirichlet_variance(expected[0]))
    gain = prediction.information_gain().ravel().tolist()
    assert gain[2] > gain[1] > gain[0] > 0, "the less, the more was seen"
    assert th.equal(model.gains_of_actions(Belief(codes, codes))[[0, 1, 2], [0, 1, 1]], prediction.information_gain()[:, 0])


@pytest.mark.parametrize("seen", [[2], [2, 3], [2] * 3000 + [3]])
@pytest.mark.parametrize("normalize_features", [True, False])
def test_numbers_of_states_are_read_from_their_codes(seen, normalize_features):
    """Also if they always were the same, and are 0 in units of their deviation, and if one is so rare that it is clipped."""
    policy = make(Chain(), policy_kwargs=dict(COUNTING, normalize_features=normalize_features)).policy
    for _ in range(3):
        policy.features_norm.update(policy.belief(th.tensor(seen)).raw)
    states = th.tensor([*seen[:1], seen[-1], 4])
    assert th.equal(numbers(policy.belief(states)), states)


def test_counts_are_saved_and_go_on(tmp_path):
    model = make(Chain(), policy_kwargs=COUNTING, seed=0).learn(70)
    policy = model.policy
    assert policy.world_model.net is None and policy.world_model.prior is None and policy.can_gain_information
    assert not any(name.startswith("world_model.net") for name in policy.state_dict())
    model.save(tmp_path / "model")
    loaded = DAI.load(tmp_path / "model", env=Chain(), device="cpu")
    assert not differing(state_of(policy), state_of(loaded.policy))
    total = loaded.policy.world_model.counts.sum().item()
    loaded.learn(30, reset_num_timesteps=False)
    assert loaded.policy.world_model.counts.sum().item() == total + 30
    policy.save(tmp_path / "policy")
    assert not differing(state_of(policy), state_of(type(policy).load(tmp_path / "policy", device="cpu")))


def test_counting_leaves_the_learning_rates_of_the_nets_alone():
    policy_kwargs = dict(COUNTING, lr_multipliers=dict(transition=0.5, policy=0.1))
    assert is_finite(make(Chain(), policy_kwargs=policy_kwargs, seed=0).learn(60).policy)


@pytest.mark.parametrize(
    ("observation_space", "action_space"),
    [(VECTOR, DISCRETE), (DISCRETE, BOX), (DISCRETE, ACTIONS["multi-discrete"])],
    ids=str,
)
def test_only_numbered_states_and_actions_are_counted(observation_space, action_space):
    with pytest.raises(ValueError, match=r'transition_model="dirichlet" counts Discrete.*use "ensemble"'):
        make(SampledEnv(observation_space, action_space), policy_kwargs=COUNTING)


def test_features_of_the_users_cannot_be_counted():
    policy_kwargs = dict(COUNTING, features_extractor_class=BatchNormDropout)
    with pytest.raises(
        ValueError, match=r'transition_model="dirichlet" reads one-hot codes.*leave features_extractor_class out'
    ):
        make(SampledEnv(DISCRETE), policy_kwargs=policy_kwargs)
