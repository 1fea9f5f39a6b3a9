"""A preference that is learned from episodes."""

import copy
import math

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import make
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from worlds import DISCRETE, VECTOR, CounterEnv, SampledEnv

from sb3_dai import DAI, LearnedPreference
from sb3_dai.preferences.learned import SAMPLES_PER_EPISODE, _Episode, _ranks


def test_ranks():
    assert _ranks(np.array([5.0, -1.0, 7.0, 5.0])).tolist() == [0.5, 0.125, 0.875, 0.5]
    assert _ranks(np.ones(3)).tolist() == [0.5] * 3


class Line(gym.Env):
    """Ten steps to the left or right, whichever one is drawn at the start. Only those to the right succeed."""

    observation_space, action_space = spaces.Box(-10.0, 10.0, (2,), np.float32), spaces.Discrete(2)

    def __init__(self, tells=True):
        self.tells = tells

    def observe(self):
        return np.array([self.t * self.direction, self.np_random.normal()], np.float32)  # and a number that does not matter

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.direction = 0, self.np_random.choice([-1, 1])
        return self.observe(), {}

    def step(self, action):
        self.t += 1
        good = self.direction == 1
        info = {"is_success": good} if self.tells else {}
        return self.observe(), float(good and self.t == 10) * 100.0, False, self.t == 10, info


def preference_at(model, *positions):
    outcomes = th.tensor([[float(position), 0.0] for position in positions])
    return model.preference.outcome_log_prob(outcomes).exp().ravel().tolist()


@pytest.mark.parametrize("outcome", ["return", "success"])
def test_observations_of_good_episodes_are_preferred(outcome):
    model = make(Line(), preference=LearnedPreference(outcome, floor=-4.0), learning_starts=10_000, seed=0).learn(600)
    bad, start, good = preference_at(model, -8, 0, 8)
    # Ranks of two kinds of episodes, about half of each, are 1/4 and 3/4
    expected = (0.25, 0.5, 0.75) if outcome == "return" else (math.exp(-4.0), 0.5, 1.0)
    assert (bad, start, good) == pytest.approx(expected, abs=0.15)


def test_nothing_is_preferred_before_something_is_known():
    model = make(Line(), preference=LearnedPreference())
    assert preference_at(model, -8, 0, 8) == [0.5] * 3


def test_an_episode_is_remembered_evenly_and_to_its_end():
    np.random.seed(0)
    kept = []
    for _ in range(300):
        episode = _Episode()
        for t in range(100):
            episode.add(np.array([float(t)]), 1.0)
        rows = episode.sample()
        assert rows.shape == (SAMPLES_PER_EPISODE, 1) and rows[-1] == 99 and episode.score == 100
        kept.append(rows[:-1])
    assert np.mean(kept) == pytest.approx(49.5, abs=2)
    short = _Episode()
    short.add(np.array([3.0]), 0.5)
    assert (short.sample() == 3.0).all()


def test_rewards_count_as_the_environment_gives_them():
    """What VecNormalize makes of a reward drifts from episode to episode."""
    env = VecNormalize(make_vec_env(lambda: CounterEnv()), norm_reward=True)
    model = make(env, preference=LearnedPreference()).learn(60)
    preference = model.preference
    expected = make(make_vec_env(lambda: CounterEnv()), preference=LearnedPreference()).learn(60).preference.scores
    assert preference.n_seen > 1 and np.array_equal(preference.scores, expected) and expected.any()


def test_episodes_that_are_cut_by_a_reset_are_forgotten():
    model = make(Line(), preference=LearnedPreference(), learning_starts=10_000).learn(15)
    assert (model.preference.n_seen, model.preference.unfinished[0].n) == (1, 5)
    model.learn(10)
    assert (model.preference.n_seen, model.preference.unfinished) == (2, {})


def test_what_was_learned_can_be_given_to_another_model():
    learned = make(Line(), preference=LearnedPreference(), learning_starts=10_000, seed=0).learn(100).preference
    other = make(Line(), preference=learned)
    assert preference_at(other, -3, 3) != [0.5, 0.5]
    with pytest.raises(
        ValueError, match=r"LearnedPreference has learned from observations of size 2, not of size 3: give a new one"
    ):
        make(SampledEnv(VECTOR, DISCRETE), preference=learned)


def test_old_episodes_make_room():
    model = make(Line(), preference=LearnedPreference(n_episodes=3), learning_starts=10_000, seed=0).learn(100)
    assert model.preference.n_seen == 10 and model.preference.episodes.shape[0] == 3


def test_success_that_is_not_told_is_named():
    with pytest.raises(ValueError, match=r'outcome="success": .*no "is_success".*Give outcome="return"'):
        make(Line(tells=False), preference=LearnedPreference("success")).learn(20)


def test_numbered_states_can_be_preferred():
    assert make(SampledEnv(DISCRETE, DISCRETE), preference=LearnedPreference(), seed=0).learn(60)._n_updates > 0


# ----- Saving -----


def test_the_users_object_stays_as_it_was():
    preference = LearnedPreference()
    before = copy.deepcopy(vars(preference))
    model = make(Line(), preference=preference).learn(30)
    assert vars(preference) == before and model.preference.n_seen == 3


def test_what_was_learned_is_saved_and_goes_on_as_if_never_interrupted(tmp_path):
    model = make(Line(), preference=LearnedPreference(), learning_starts=10_000, seed=0).learn(85)
    model.save(tmp_path / "model")
    loaded = DAI.load(tmp_path / "model", env=copy.deepcopy(model.get_env()), device="cpu", force_reset=False)
    assert preference_at(loaded, -3, 3) == preference_at(model, -3, 3) != [0.5, 0.5]
    for one in (model, loaded):
        np.random.seed(0)
        one.learn(30, reset_num_timesteps=False)
    assert loaded.preference.n_seen == model.preference.n_seen == 11
    assert preference_at(loaded, -3, 3) == preference_at(model, -3, 3)
    # One copy of the net, and none among the parameters of the policy
    assert not any("preference" in name for name in model.get_parameters())
