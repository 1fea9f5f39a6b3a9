"""A replay buffer that is loaded into a model without one, which Stable-Baselines3 allows."""

import pickle

import gymnasium as gym
import pytest
from gymnasium import spaces
from helpers import make, policy_for
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.her import HerReplayBuffer
from worlds import VECTOR, SampledEnv

from sb3_dai import DAI


class Own(ReplayBuffer):
    pass


class OwnNSteps(NStepReplayBuffer):
    pass


def without_buffer(**kwargs):
    model = make(**kwargs)
    model.replay_buffer = None
    return model


def saved(tmp_path, **kwargs):
    model = make(seed=0, **kwargs).learn(60)
    model.save_replay_buffer(tmp_path / "buffer")
    return model


CASES = {
    "one step": dict(),
    "three steps": dict(n_steps=3),
    "dictionary": dict(env=SampledEnv(spaces.Dict(a=VECTOR)), policy=policy_for(spaces.Dict(a=VECTOR))),
    "little memory": dict(optimize_memory_usage=True, replay_buffer_kwargs=dict(handle_timeout_termination=False)),
    "named class": dict(replay_buffer_class=NStepReplayBuffer, replay_buffer_kwargs=dict(n_steps=4, gamma=0.5)),
    "hindsight": dict(env=BitFlippingEnv(n_bits=4), policy="MultiInputPolicy", replay_buffer_class=HerReplayBuffer),
    "class of the user's": dict(replay_buffer_class=Own),
    "n-step class of the user's": dict(replay_buffer_class=OwnNSteps, replay_buffer_kwargs=dict(n_steps=2)),
}


@pytest.mark.filterwarnings("ignore:The last trajectory")
@pytest.mark.parametrize("kwargs", CASES.values(), ids=CASES)
def test_it_is_the_models(tmp_path, kwargs):
    before = saved(tmp_path, **kwargs).replay_buffer
    model = without_buffer(**kwargs)
    model.load_replay_buffer(tmp_path / "buffer")
    buffer = model.replay_buffer
    assert type(buffer) is type(before) and buffer.size() == 60
    assert (buffer.rewards == before.rewards).all() and buffer.buffer_size == before.buffer_size
    assert getattr(buffer, "n_steps", 1) == getattr(before, "n_steps", 1)
    assert getattr(buffer, "gamma", 0) == getattr(before, "gamma", 0)
    model.learn(20, reset_num_timesteps=False)
    assert buffer.size() == 80


def test_after_a_load(tmp_path):
    model = saved(tmp_path, n_steps=3)
    model.save(tmp_path / "model")
    loaded = DAI.load(tmp_path / "model", env="CartPole-v1", device="cpu")
    loaded.replay_buffer = None
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert type(loaded.replay_buffer) is NStepReplayBuffer and loaded.replay_buffer.n_steps == 3
    loaded.learn(20, reset_num_timesteps=False)


@pytest.mark.parametrize(("before", "after"), [(1, 5), (5, 1), (5, 2)])
def test_returns_are_those_of_the_model(tmp_path, before, after):
    saved(tmp_path, n_steps=before)
    model = without_buffer(n_steps=after, gamma=0.9)
    model.load_replay_buffer(tmp_path / "buffer")
    buffer = model.replay_buffer
    assert type(buffer) is (NStepReplayBuffer if after > 1 else ReplayBuffer) and buffer.size() == 60
    assert getattr(buffer, "n_steps", 1) == after and getattr(buffer, "gamma", 0.9) == 0.9


def test_what_does_not_fit_is_refused(tmp_path):
    cartpole, acrobot = (gym.make(name) for name in ("CartPole-v1", "Acrobot-v1"))
    model = without_buffer()
    for observation_env, action_env, n_envs, message in (
        (acrobot, cartpole, 1, r"observation_space is Box.*\(6,\).* in the file and Box.*\(4,\).* in the model"),
        (cartpole, acrobot, 1, r"action_space is Discrete\(3\) in the file and Discrete\(2\) in the model"),
        (cartpole, cartpole, 2, "n_envs is 2 in the file and 1 in the model"),
    ):
        buffer = ReplayBuffer(100, observation_env.observation_space, action_env.action_space, n_envs=n_envs)
        (tmp_path / "buffer.pkl").write_bytes(pickle.dumps(buffer))
        with pytest.raises(ValueError, match=rf"buffer\.pkl does not fit the model: {message}"):
            model.load_replay_buffer(tmp_path / "buffer")
    assert model.replay_buffer is None


@pytest.mark.parametrize(
    ("of_file", "of_model", "n_steps"),
    [
        (CASES["little memory"], dict(n_steps=3), (1, 3)),
        (dict(replay_buffer_class=OwnNSteps), dict(), (3, 1)),
        (dict(replay_buffer_class=OwnNSteps), CASES["n-step class of the user's"], (3, 2)),
    ],
)
def test_returns_that_cannot_change_are_refused(tmp_path, of_file, of_model, n_steps):
    saved(tmp_path, **of_file)
    model = without_buffer(**of_model)
    with pytest.raises(ValueError, match=f"n_steps is {n_steps[0]} in the file and {n_steps[1]} in the model"):
        model.load_replay_buffer(tmp_path / "buffer")
    assert model.replay_buffer is None


def test_damaged_files_leave_none(tmp_path):
    (tmp_path / "text.pkl").write_text("no pickle")
    model = without_buffer()
    with pytest.raises(ValueError, match=r"text\.pkl holds no complete pickle"):
        model.load_replay_buffer(tmp_path / "text")
    assert model.replay_buffer is None


def test_a_dictionary_is_not_mistaken_for_a_vector(tmp_path):
    saved(tmp_path, **CASES["dictionary"])
    with pytest.raises(ValueError, match="observation_space is Dict"):
        without_buffer().load_replay_buffer(tmp_path / "buffer")
    assert isinstance(make(**CASES["dictionary"]).replay_buffer, DictReplayBuffer)
