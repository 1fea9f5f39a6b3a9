"""Replay buffers and what gradient steps learn from."""

import copy

import gymnasium as gym
import pytest
import torch as th
from gymnasium import spaces
from helpers import action_spaces, differing, is_finite, make, policy_for, spy, state_of, user_warnings
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from stable_baselines3.her import HerReplayBuffer
from worlds import BOX, TWO, VECTOR, CounterEnv, SampledEnv

import sb3_dai.learning.sequences
import sb3_dai.learning.step
from sb3_dai.dai import DAI
from sb3_dai.equations import likelihood
from sb3_dai.learning.batch import sample_transitions


@pytest.fixture
def batches(monkeypatch):
    """What gradient steps learn from, one entry each."""
    taken, sample = [], sb3_dai.learning.sequences.sample_transitions

    def keep(*args):
        for batch in sample(*args):
            taken.append(batch)
            yield batch

    monkeypatch.setattr(sb3_dai.learning.sequences, "sample_transitions", keep)
    return taken


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("strategy", ["future", "final", "episode"])
@pytest.mark.parametrize("continuous", [False, True], ids=["discrete", "box"])
def test_her_replay_buffer_trains(batches, strategy, continuous, n_envs):
    env = make_vec_env(BitFlippingEnv, n_envs, env_kwargs=dict(n_bits=4, continuous=continuous))
    kwargs = dict(n_sampled_goal=2, goal_selection_strategy=strategy)
    model = make(env, "MultiInputPolicy", replay_buffer_class=HerReplayBuffer, replay_buffer_kwargs=kwargs, seed=0)
    before = state_of(model.policy)
    model.learn(80)
    # Goals that were not the task's: all ones
    goals = th.cat([batch.one_step.observations["desired_goal"] for batch in batches])
    assert 0.2 < (goals != 1).any(dim=1).float().mean() < 0.8
    assert (th.cat([batch.one_step.rewards for batch in batches]) == 0).any(), "some goals were reached"
    assert isinstance(model.replay_buffer, HerReplayBuffer)
    assert "policy_net.layers.0.weight" in differing(before, state_of(model.policy))
    assert is_finite(model.policy)


@pytest.mark.parametrize("n_batches", [1, 3, 4, 70])
def test_each_batch_has_its_share_of_true_goals(n_batches):
    """HerReplayBuffer returns the rows of true goals before those of others."""
    kwargs = dict(replay_buffer_class=HerReplayBuffer, replay_buffer_kwargs=dict(n_sampled_goal=4), learning_starts=1000)
    model = make(BitFlippingEnv(n_bits=12, max_steps=12), "MultiInputPolicy", seed=0, **kwargs).learn(600)
    for batch in sample_transitions(model.replay_buffer, 64, n_batches):
        is_true = (batch.one_step.observations["desired_goal"] == 1).all(dim=1)
        assert len(is_true) == 64 and 0.15 < is_true.float().mean() < 0.3
        assert all(rows.is_contiguous() for rows in batch.one_step.observations.values()), "compiled is one graph of them"


def test_hindsight_ends_with_the_reset():
    """A second call of learn resets the environment; SB3 alone would go on with the episode."""
    kwargs = dict(replay_buffer_class=HerReplayBuffer, learning_starts=1000)
    model = make(BitFlippingEnv(n_bits=6, max_steps=6), "MultiInputPolicy", seed=0, **kwargs)
    for _ in range(3):
        model.learn(20)
    assert 2 < model.replay_buffer.ep_length.max() <= 6
    other = BitFlippingEnv(n_bits=6, max_steps=6)
    model.set_env(other)
    assert model.replay_buffer.env is model.env and model.env.envs[0].unwrapped is other
    model.learn(20, reset_num_timesteps=False)
    assert model.replay_buffer.ep_length.max() <= 6


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize(("norm_obs", "norm_reward"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("action_space", [TWO, BOX], ids=["discrete", "box"])
def test_vec_normalize_reaches_the_batches_and_not_the_buffer(batches, norm_obs, norm_reward, n_steps, action_space):
    env = DummyVecEnv([lambda: CounterEnv(scale=1e4, action_space=action_space)])
    env = VecNormalize(env, norm_obs=norm_obs, norm_reward=norm_reward)
    model = make(env, n_steps=n_steps, seed=0)
    model.learn(80)
    for pairs in (batches[-1].one_step, batches[-1].n_step):
        assert all((x.abs().max() <= 10) == norm_obs for x in (pairs.observations, pairs.next_observations))
        assert (pairs.rewards.abs().max() <= 10 * n_steps) == norm_reward
    assert model.replay_buffer.observations.max() == 9e4
    assert model.replay_buffer.next_observations.max() == model.replay_buffer.rewards.max() == 10e4


@pytest.mark.parametrize(
    ("kwargs", "space", "buffer_class", "length"),
    [
        (dict(), VECTOR, ReplayBuffer, 1),
        (dict(n_steps=1), VECTOR, ReplayBuffer, 1),
        (dict(n_steps=3), VECTOR, NStepReplayBuffer, 3),
        (dict(n_steps=5, gamma=0.9), VECTOR, NStepReplayBuffer, 5),
        (dict(), spaces.Dict(a=VECTOR), DictReplayBuffer, 1),
        (dict(replay_buffer_class=ReplayBuffer), VECTOR, ReplayBuffer, 1),
        (
            dict(optimize_memory_usage=True, replay_buffer_kwargs=dict(handle_timeout_termination=False)),
            VECTOR,
            ReplayBuffer,
            1,
        ),
        (
            dict(replay_buffer_class=NStepReplayBuffer, replay_buffer_kwargs=dict(n_steps=4, gamma=0.5)),
            VECTOR,
            NStepReplayBuffer,
            4,
        ),
    ],
)
@action_spaces("discrete", "box")
def test_n_steps_without_a_warning(recwarn, tmp_path, kwargs, space, buffer_class, length, action_space):
    asked = copy.deepcopy(kwargs)
    model = make(SampledEnv(space, action_space), policy_for(space), seed=0, **kwargs).learn(60)
    model.save(tmp_path / "model")
    loaded = DAI.load(tmp_path / "model", env=SampledEnv(space, action_space), device="cpu").learn(60)
    for one in (model, loaded):
        assert type(one.replay_buffer) is buffer_class
        assert getattr(one.replay_buffer, "n_steps", 1) == length
        assert one.n_steps == asked.get("n_steps", 1)
        if length > 1:
            assert one.replay_buffer.gamma == asked.get("replay_buffer_kwargs", asked).get("gamma", 0.99)
    assert kwargs == asked
    assert user_warnings(recwarn) == []


@pytest.mark.parametrize(
    "change",
    [
        dict(n_steps=1),
        dict(n_steps=2),
        dict(n_steps=1, optimize_memory_usage=True, replay_buffer_kwargs=dict(handle_timeout_termination=False)),
    ],
    ids=["one", "two", "one in little memory"],
)
def test_length_of_the_returns_can_change_with_a_load(tmp_path, change):
    make(n_steps=3, buffer_size=100, seed=0).save(tmp_path / "model")
    loaded = DAI.load(tmp_path / "model", env=gym.make("CartPole-v1"), device="cpu", **change)
    assert getattr(loaded.replay_buffer, "n_steps", 1) == change["n_steps"]
    loaded.learn(60)


@pytest.mark.parametrize(("before", "after"), [(1, 5), (5, 1), (5, 2)])
def test_a_loaded_buffer_has_the_returns_of_the_model(tmp_path, before, after):
    model = make(n_steps=before, buffer_size=100, gamma=0.99, seed=0).learn(60)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = DAI.load(tmp_path / "model", env="CartPole-v1", device="cpu", n_steps=after, gamma=0.9)
    loaded.load_replay_buffer(tmp_path / "buffer")
    buffer = loaded.replay_buffer
    assert type(buffer) is (NStepReplayBuffer if after > 1 else ReplayBuffer) and buffer.size() == 60
    assert getattr(buffer, "n_steps", 1) == after and getattr(buffer, "gamma", 0.9) == 0.9
    assert (buffer.observations == model.replay_buffer.observations).all()
    loaded.learn(20, reset_num_timesteps=False)
    assert buffer.size() == 80


def test_a_buffer_whose_returns_cannot_change_is_refused(tmp_path):
    kwargs = dict(optimize_memory_usage=True, replay_buffer_kwargs=dict(handle_timeout_termination=False))
    make(**kwargs).learn(20).save_replay_buffer(tmp_path / "buffer")
    model = make(n_steps=3)
    with pytest.raises(ValueError, match=r"n_steps is 1 in the file and 3 in the model. Load the model with n_steps=1"):
        model.load_replay_buffer(tmp_path / "buffer")
    assert isinstance(model.replay_buffer, NStepReplayBuffer)


@action_spaces()
def test_memory_efficient_buffer(recwarn, action_space):
    kwargs = dict(replay_buffer_kwargs=dict(handle_timeout_termination=False))
    model = make(SampledEnv(action_space=action_space), optimize_memory_usage=True, seed=0, **kwargs).learn(80)
    assert model._n_updates == 30
    assert model.replay_buffer.optimize_memory_usage
    assert is_finite(model.policy)
    assert user_warnings(recwarn) == []
    with pytest.raises(ValueError, match="handle_timeout_termination"):
        make(optimize_memory_usage=True)


@action_spaces("discrete", "box")
def test_memory_efficient_buffer_holds_no_surprise_at_the_end_of_an_episode(monkeypatch, action_space):
    """It has the reset of the next episode where the last observation was, which nothing predicts."""
    kwargs = dict(optimize_memory_usage=True, replay_buffer_kwargs=dict(handle_timeout_termination=False))
    model = make(SampledEnv(action_space=action_space), seed=0, **kwargs)
    calls = spy(monkeypatch, sb3_dai.learning.step, "all_losses")
    model.learn(60)
    has_successor = th.cat([batch.has_successor for (_, batch, _), _ in calls])
    prediction_error = th.cat([samples["prediction_error"] for _, (_, samples) in calls])
    assert 0 < has_successor.mean() < 1
    assert th.equal(prediction_error > 0, has_successor == 1)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("action_space", [TWO, BOX], ids=["discrete", "box"])
def test_world_model_learns_from_one_step_pairs_beside_long_returns(monkeypatch, batches, n_envs, action_space):
    """Time is what CounterEnv shows, so every step of a batch can be told from its numbers."""
    env = make_vec_env(CounterEnv, n_envs, env_kwargs=dict(action_space=action_space))
    model = make(env, n_steps=3, gamma=0.9, seed=0)
    likelihoods = spy(monkeypatch, likelihood, "gaussian_nll")
    model.learn(90)
    ends = set()
    for batch, ((_, _, change), _) in zip(batches, likelihoods, strict=True):
        one, many = batch.one_step, batch.n_step
        assert th.equal(one.next_observations, one.observations + 1)
        assert th.equal(one.rewards, one.next_observations), "the reward is that of the pair"
        assert th.equal(one.observations, many.observations)
        assert th.equal(one.actions, many.actions)
        length = many.next_observations - one.observations
        assert {*length.unique().tolist()} <= {1.0, 2.0, 3.0}
        th.testing.assert_close(many.discounts, 0.9**length)
        sums = [
            sum(0.9**k * (start + k + 1) for k in range(int(n))) for start, n in zip(one.observations, length, strict=True)
        ]
        th.testing.assert_close(many.rewards, th.stack(sums))
        # A cut-off episode goes on behind its last observation; one that ended does not
        ends |= {
            (time, done) for time, done in zip(one.next_observations[:, 0].tolist(), one.dones[:, 0].tolist(), strict=True)
        }
        assert change.std() < 1e-3, "time passes at one rate, in whatever unit"
    assert ends == {(float(t), 0.0) for t in range(1, 11)} | {(10.0, 1.0)}
