"""Noise of Box actions beside the policy's own."""

import gymnasium as gym
import numpy as np
import pytest
from helpers import make
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from worlds import BOX, SampledEnv


class Recorder(gym.ActionWrapper):
    """Keeps the actions that reach the environment."""

    def __init__(self, env):
        super().__init__(env)
        self.taken = []

    def action(self, action):
        self.taken.append(np.array(action))
        return action


def test_action_noise_is_added_in_units_of_the_bounds():
    """One that drowns the policy: every action is at the upper bound of one dimension and the lower of the other."""
    env = Recorder(SampledEnv(action_space=BOX))
    make(env, action_noise=NormalActionNoise(np.array([9.0, -9.0]), np.zeros(2)), seed=0).learn(70)
    assert np.array_equal(np.unique(env.taken, axis=0), [[BOX.high[0], BOX.low[1]]])


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("kind", [NormalActionNoise, OrnsteinUhlenbeckActionNoise])
def test_action_noise_changes_what_is_collected(n_envs, kind):
    collected = []
    for scale in (0.0, 0.5):
        noise = kind(np.zeros(2), np.full(2, scale))
        env = make_vec_env(SampledEnv, n_envs, env_kwargs=dict(action_space=BOX))
        model = make(env, action_noise=noise, seed=0).learn(60)
        collected.append(model.replay_buffer.actions[: 60 // n_envs])
    assert all(actions.shape == (60 // n_envs, n_envs, 2) for actions in collected)
    assert (collected[0] != collected[1]).mean() > 0.9
    assert abs(collected[0]).max() < 1 and abs(collected[1]).max() == 1, "cut off at the bounds"


@pytest.mark.parametrize("vectorized", [True, False])
def test_each_environment_has_its_own_noise(vectorized):
    noise = OrnsteinUhlenbeckActionNoise(np.zeros(2), np.full(2, 0.2))
    env = make_vec_env(SampledEnv, 2, env_kwargs=dict(action_space=BOX))
    model = make(env, action_noise=VectorizedActionNoise(noise, 2) if vectorized else noise, seed=0)
    model.learn(56)  # not the end of an episode, which resets the noise
    assert isinstance(model.action_noise, VectorizedActionNoise)
    one, other = model.action_noise.noises
    assert one is not other and not np.array_equal(one.noise_prev, other.noise_prev)
