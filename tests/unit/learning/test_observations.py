"""What environments return beside observations: last observations that are missing or stale, and keys outside the space."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from helpers import make
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper
from worlds import TWO, Chain, CounterEnv

from sb3_dai.learning.observations import check_step, in_space, last_observations
from sb3_dai.preferences import LearnedPreference

BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
ALGORITHMS = pytest.mark.parametrize("algorithm", [DQN, None], ids=["DQN", "DAI"])


def learned(algorithm, env, policy="MlpPolicy", **kwargs):
    """A model of DQN or DAI after some steps."""
    kwargs = dict(learning_starts=20, seed=0, **kwargs)
    if algorithm is None:
        return make(env, policy, **kwargs).learn(60)
    return algorithm(policy, env, buffer_size=1000, device="cpu", **kwargs).learn(60)


# ----- Functions -----


def test_the_space_chooses_keys_and_types():
    space = spaces.Dict(x=BOX, n=spaces.Discrete(3))
    found = in_space(space, dict(x=[0.5, 1.0], n=2, mission="go to the green door"))
    assert found.keys() == {"x", "n"}
    assert found["x"].dtype == np.float32 and found["x"].tolist() == [0.5, 1.0] and found["n"] == 2
    objects = in_space(BOX, np.array([0.5, 1.0], dtype=object))
    assert objects.dtype == np.float32


def test_the_last_observation_is_that_of_the_old_episode():
    new_obs, dones = np.array([[0.0], [10.0], [20.0]]), np.array([False, True, True])
    infos = [{}, {"terminal_observation": np.array([11.0])}, {"terminal_observation": None}]
    assert last_observations(BOX, new_obs, dones, infos).ravel().tolist() == [0.0, 11.0, 20.0]
    assert new_obs.ravel().tolist() == [0.0, 10.0, 20.0], "the array of the environment is as it was"


def test_a_stale_last_observation_is_none():
    """Some environments use one dictionary again and again: what is in it belongs to an earlier episode."""
    info = {"terminal_observation": np.array([np.nan])}
    assert last_observations(BOX, np.array([[3.0]]), np.array([False]), [info]).tolist() == [[3.0]]
    check_step(BOX, np.array([[3.0]]), np.zeros(1), np.array([False]), [info])


@pytest.mark.parametrize(
    ("new_obs", "reward", "last", "named"),
    [
        (np.nan, 0.0, 1.0, "non-finite observation"),
        (0.0, np.inf, 1.0, "non-finite reward"),
        (0.0, 0.0, np.nan, "non-finite terminal observation"),
    ],
)
def test_what_is_not_finite_is_named(new_obs, reward, last, named):
    with pytest.raises(ValueError, match=named):
        check_step(
            BOX, np.array([[new_obs]]), np.array([reward]), np.array([True]), [{"terminal_observation": np.array([last])}]
        )


def test_a_reset_is_named():
    check_step(BOX, np.zeros((1, 2)))
    with pytest.raises(ValueError, match="non-finite observation at reset"):
        check_step(BOX, np.full((1, 2), np.nan))


# ----- terminal_observation -----


class Simulator(VecEnvWrapper):
    """Infos in the way of simulators on a GPU: the entry is always there, and None while the episode goes on."""

    def __init__(self, venv, keep=False):
        super().__init__(venv)
        self.keep, self.infos = keep, [{} for _ in range(venv.num_envs)]

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        obs, rewards, dones, infos = self.venv.step_wait()
        if not self.keep:
            for info in infos:
                info.setdefault("terminal_observation", None)
            return obs, rewards, dones, infos
        for kept, info in zip(self.infos, infos, strict=True):  # What was in it stays until it is overwritten
            kept.update(info)
        return obs, rewards, dones, self.infos


@ALGORITHMS
@pytest.mark.parametrize("keep", [False, True], ids=["None", "stale"])
def test_entries_of_steps_that_go_on_do_not_matter(algorithm, keep):
    env = Simulator(make_vec_env("CartPole-v1", 2), keep)
    model = learned(algorithm, env)
    assert model.num_timesteps >= 60 and model._n_updates > 0
    buffer = model.replay_buffer
    ended = buffer.dones[: buffer.pos, :, None] > 0
    assert ended.any()
    # The next observation is that of the next row, where the episode goes on
    follows = buffer.next_observations[: buffer.pos - 1] == buffer.observations[1 : buffer.pos]
    assert follows[~ended[:-1, :, 0]].all()
    assert not follows[ended[:-1, :, 0]].all(axis=-1).any(), "and the last of its episode where it ends"


@pytest.mark.parametrize("keep", [False, True], ids=["None", "stale"])
def test_states_are_counted_as_the_buffer_holds_them(keep):
    env = Simulator(make_vec_env(Chain, 2, env_kwargs=dict(max_steps=4)), keep)
    policy_kwargs = dict(net_arch=[16], transition_model="dirichlet")
    plain = make(make_vec_env(Chain, 2, env_kwargs=dict(max_steps=4)), policy_kwargs=policy_kwargs, seed=0).learn(80)
    counts = make(env, policy_kwargs=policy_kwargs, seed=0).learn(80).policy.world_model.counts
    assert counts.tolist() == plain.policy.world_model.counts.tolist()


@pytest.mark.parametrize("keep", [False, True], ids=["None", "stale"])
def test_a_learned_preference_reads_the_last_observation_of_its_own_episode(keep):
    def remembered(env):
        return make(env, preference=LearnedPreference(), learning_starts=1000, seed=0).learn(60).preference.episodes

    env = make_vec_env(CounterEnv, 1)
    assert (remembered(Simulator(make_vec_env(CounterEnv, 1), keep)) == remembered(env)).all()


# ----- Keys outside the space -----


class Beside(gym.Env):
    """Observes more than its space says."""

    action_space = TWO

    def __init__(self, **beside):
        self.observation_space, self.beside = spaces.Dict(x=BOX), beside

    def observe(self):
        return dict(x=np.full(2, self.t / 50, np.float32), **self.beside)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observe(), {}

    def step(self, action):
        self.t += 1
        return self.observe(), 1.0, self.t == 25, False, {}


@ALGORITHMS
@pytest.mark.parametrize("beside", [dict(mission="go to the green door"), dict(sensor=None), dict(sensor=np.nan)], ids=str)
def test_keys_outside_the_space_do_not_matter(algorithm, beside):
    model = learned(algorithm, DummyVecEnv([lambda: Beside(**beside)]), "MultiInputPolicy")
    assert model.num_timesteps == 60 and model._n_updates > 0
    buffer = model.replay_buffer
    assert buffer.dones[:60].sum() == 2 and buffer.next_observations.keys() == {"x"}
    np.testing.assert_allclose(buffer.next_observations["x"][24], 0.5)


class Objects(CounterEnv):
    """Numbers of a type that torch and ``np.isfinite`` do not know, in the last observation."""

    def observe(self):
        return super().observe().astype(object)


@ALGORITHMS
def test_numbers_may_be_objects(algorithm):
    assert learned(algorithm, DummyVecEnv([Objects]))._n_updates > 0
