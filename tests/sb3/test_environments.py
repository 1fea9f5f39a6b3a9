"""Environments as Stable-Baselines3 wraps them."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from helpers import ACTIONS, action_spaces, is_finite, make, policy_for
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv, VecFrameStack, VecNormalize, VecTransposeImage, is_vecenv_wrapped
from worlds import BOX, IMAGE, VECTOR, CounterEnv, SampledEnv

from sb3_dai.dai import DAI


def test_set_env_resets_unless_told_otherwise():
    model = make(CounterEnv(), seed=0).learn(64)
    last = model._last_obs
    assert last == 4
    model.set_env(make_vec_env(CounterEnv, 1), force_reset=False)
    assert model._last_obs is last
    model.set_env(CounterEnv(length=7))
    assert model._last_obs is None
    model.learn(15, reset_num_timesteps=False)
    assert model.num_timesteps == 79
    assert model._last_obs == 1, "two episodes of seven steps and one more"


@pytest.mark.parametrize(
    ("make_env", "error"),
    [
        (lambda: make_vec_env(CounterEnv, 2), AssertionError),
        (lambda: SampledEnv(), ValueError),
        (lambda: CounterEnv(action_space=ACTIONS["discrete"]), ValueError),
        (lambda: CounterEnv(action_space=BOX), ValueError),
    ],
    ids=["number", "observations", "number of actions", "kind of actions"],
)
def test_set_env_refuses_another_kind(make_env, error):
    with pytest.raises(error):
        make(CounterEnv()).set_env(make_env())


@action_spaces()
def test_several_environments_train(action_space):
    env = make_vec_env(SampledEnv, n_envs=2, env_kwargs=dict(action_space=action_space))
    model = make(env, gradient_steps=-1, seed=0).learn(120)
    assert model.num_timesteps == 120
    assert model._n_updates == 2 * (120 - 50) // 2
    assert model.replay_buffer.pos == 60
    assert is_finite(model.policy)


def test_bounds_of_another_environment_must_be_the_same():
    """A policy knows how far to stretch its actions."""
    model = make(CounterEnv(action_space=BOX))
    model.set_env(CounterEnv(action_space=BOX))
    wider = type(BOX)(2 * BOX.low, 2 * BOX.high)
    with pytest.raises(ValueError, match="Action spaces do not match"):
        model.set_env(CounterEnv(action_space=wider))


def test_environments_in_processes_of_their_own():
    runs = []
    for vec_env_cls in (None, SubprocVecEnv):
        env = make_vec_env(SampledEnv, 2, vec_env_cls=vec_env_cls, env_kwargs=dict(action_space=BOX))
        try:
            runs.append(make(env, seed=0).learn(80))
        finally:
            env.close()
    one, other = runs
    assert other.num_timesteps == 80 and other._n_updates == one._n_updates > 0
    # Where they run changes nothing
    for name in ("observations", "actions", "rewards", "dones"):
        assert np.array_equal(getattr(one.replay_buffer, name), getattr(other.replay_buffer, name)), name


class KillsProcess(BaseCallback):
    def _on_step(self):
        if self.num_timesteps == 20:
            self.training_env.processes[1].kill()
            self.training_env.processes[1].join()
        return True


def test_a_process_that_died_is_named(tmp_path):
    env = make_vec_env(SampledEnv, 2, vec_env_cls=SubprocVecEnv, env_kwargs=dict(action_space=BOX))
    model = make(env, seed=0)
    with pytest.raises(RuntimeError, match=r"environment 1 died, exit code -9 .* at step 2\d\. The model can still be saved"):
        model.learn(80, callback=KillsProcess())
    env.processes[0].terminate()
    model.save(tmp_path / "model")
    again = DAI.load(tmp_path / "model", env=make_vec_env(SampledEnv, 2, env_kwargs=dict(action_space=BOX)))
    assert again.learn(20, reset_num_timesteps=False).num_timesteps >= 40


@action_spaces("multi-discrete", "box")
def test_box_actions_are_stored_in_units_of_their_bounds_and_others_as_they_are(action_space):
    model = make(SampledEnv(action_space=action_space), seed=0).learn(80)
    actions = model.replay_buffer.actions[:80]
    if action_space == BOX:
        assert actions.dtype == np.float32
        assert -1 <= actions.min() < -0.8 and 0.8 < actions.max() <= 1
    else:
        assert {tuple(action) for action in actions[:, 0]} == {(i, j) for i in range(2) for j in range(3)}


@action_spaces("discrete", "box")
def test_frames_are_stacked_and_channels_put_first(action_space):
    kwargs = dict(observation_space=IMAGE, action_space=action_space)
    env = VecFrameStack(make_vec_env(SampledEnv, 2, env_kwargs=kwargs), 3)
    model = make(env, "CnnPolicy", buffer_size=200, seed=0).learn(54)
    assert is_vecenv_wrapped(model.get_env(), VecTransposeImage)
    assert model.observation_space.shape == (3, 36, 36)
    assert model._n_updates == 2 and is_finite(model.policy)
    # Frames move up by one, and an observation holds the last three
    frames = model.replay_buffer.observations
    assert np.array_equal(frames[5, :, 1:], frames[6, :, :-1]) and not np.array_equal(frames[5, :, 0], frames[6, :, 0])
    # The channels of an observation may be where the environment or where the net has them
    last = np.moveaxis(frames[:8, 0], 1, -1)
    actions = [model.predict(observations, deterministic=True)[0] for observations in (frames[:8, 0], last)]
    assert np.array_equal(*actions)
    assert actions[0].shape == (8, *action_space.shape)


@action_spaces("discrete", "box")
def test_images_that_are_transposed_already_stay(action_space):
    env = VecTransposeImage(make_vec_env(SampledEnv, env_kwargs=dict(observation_space=IMAGE, action_space=action_space)))
    model = make(env, "CnnPolicy", buffer_size=100, seed=0).learn(53)
    assert model.get_env() is env
    assert model._n_updates == 3 and is_finite(model.policy)


@action_spaces()
def test_normalised_environments_can_be_saved_and_go_on(tmp_path, action_space):
    env = VecNormalize(make_vec_env(SampledEnv, 2, env_kwargs=dict(action_space=action_space)))
    model = make(env, seed=0).learn(60)
    model.save(tmp_path / "model")
    env.save(tmp_path / "env")
    again = VecNormalize.load(tmp_path / "env", make_vec_env(SampledEnv, 2, env_kwargs=dict(action_space=action_space)))
    assert np.array_equal(again.obs_rms.mean, env.obs_rms.mean)
    loaded = DAI.load(tmp_path / "model", env=again, device="cpu")
    loaded.learn(70, reset_num_timesteps=False)
    assert loaded._n_updates > model._n_updates and is_finite(loaded.policy)
    assert again.obs_rms.count > env.obs_rms.count


@action_spaces("multi-binary", "box")
def test_a_dictionary_of_an_image_and_a_vector(action_space):
    space = spaces.Dict(image=IMAGE, vector=VECTOR)
    env = make_vec_env(SampledEnv, 2, env_kwargs=dict(observation_space=space, action_space=action_space))
    model = make(env, policy_for(space), buffer_size=200, seed=0).learn(54)
    assert model.replay_buffer.observations["image"].shape[2:] == (1, 36, 36)
    assert model._n_updates == 2 and is_finite(model.policy)


@pytest.mark.parametrize(("wrapper", "policy"), [("ImgObsWrapper", "CnnPolicy"), ("FlatObsWrapper", "MlpPolicy")])
def test_minigrid(wrapper, policy):
    wrappers = pytest.importorskip("minigrid.wrappers")
    env = getattr(wrappers, wrapper)(gym.make("MiniGrid-Empty-5x5-v0"))
    model = make(env, policy).learn(80)
    assert model._n_updates == 30
    observation, _ = env.reset(seed=0)
    action, _ = model.predict(observation, deterministic=True)
    assert env.action_space.contains(action)
