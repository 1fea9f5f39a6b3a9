"""What the agent prefers to observe, instead of the reward."""

import copy
import math

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import action_spaces, differing, make, policy_for, state_of
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from worlds import BOX, DISCRETE, IMAGE, VECTOR, CounterEnv, SampledEnv

from sb3_dai import DAI, GaussianPreference, LearnedPreference, Preference, RewardPreference
from sb3_dai import free_energy as fe
from sb3_dai.native_update import NativeUpdate
from sb3_dai.preference_learning import SAMPLES_PER_EPISODE, _Episode, _ranks

DICT = spaces.Dict(position=VECTOR, number=DISCRETE)


def close(value, expected):
    th.testing.assert_close(value, th.tensor(expected), rtol=1e-5, atol=1e-6)


def samples(next_observations, rewards=0.0, dones=0.0):
    n = len(next_observations)
    column = [th.as_tensor(x, dtype=th.float32).expand(n).reshape(n, 1) for x in (dones, rewards)]
    return ReplayBufferSamples(next_observations, th.zeros(n, 1), next_observations, *column)


# ----- Equations -----


def test_gaussian_preference():
    outcome = th.tensor([[1.0, 2.0], [3.0, 2.0], [1.0, 10.0]])
    goal, std = th.tensor([1.0, 2.0]), th.tensor([2.0, 4.0])
    # One and two standard deviations away
    close(fe.gaussian_preference(outcome, goal, std), [[0.0], [-0.5], [-2.0]])
    # A background of density 0.1: at the goal it is still 1
    expected = [[0.0], [math.log(0.9 * math.exp(-0.5) + 0.1)], [math.log(0.9 * math.exp(-2.0) + 0.1)]]
    close(fe.gaussian_preference(outcome, goal, std, math.log(0.1)), expected)


def test_the_background_bounds_the_preference():
    far = th.tensor([[1e4], [1e18]])
    close(fe.gaussian_preference(far, th.tensor(0.0), th.tensor(1.0), -10.0), [[-10.0], [-10.0]])


def test_an_outcome_that_lasts():
    # 3 + 0.75 3 + 0.75^2 3 + ... = 12
    close(fe.absorbed(th.tensor([[-3.0], [-3.0]]), th.tensor([[0.0], [1.0]]), 0.75), [[-3.0], [-12.0]])


def test_ranks():
    assert _ranks(np.array([5.0, -1.0, 7.0, 5.0])).tolist() == [0.5, 0.125, 0.875, 0.5]
    assert _ranks(np.ones(3)).tolist() == [0.5] * 3


# ----- The target of the value net -----


def extrinsic_target(model, monkeypatch, **kwargs):
    """Of a batch, with a bootstrap of 0."""
    seen = []
    bootstrap = fe.bootstrapped_efe
    monkeypatch.setattr(fe, "bootstrapped_efe", lambda efe, *rest: seen.append((efe, *rest)) or bootstrap(efe, *rest))
    monkeypatch.setattr(NativeUpdate, "_is_ready", lambda self: False)
    model.train(1, 32)
    return seen[0]


def test_the_reward_is_the_default_and_the_scale_multiplies_it(monkeypatch):
    batch = samples(th.zeros(2, 3), rewards=th.tensor([2.0, -1.0]))
    assert type(make().preference) is RewardPreference
    assert th.equal(make().preference.log_prob(batch), batch.rewards)
    close(RewardPreference(0.5).log_prob(batch), [[1.0], [-0.5]])


@pytest.mark.parametrize("n_envs", [1, 2])
def test_the_target_is_the_preference_for_what_came_next(monkeypatch, n_envs):
    preference = GaussianPreference([0.5, -0.5], 0.3, dims=[0, 2])
    env = DummyVecEnv([lambda: SampledEnv(VECTOR, DISCRETE)] * n_envs)
    model = make(env, preference=preference, preference_weight=2.0, precision=2.0, seed=0).learn(60)
    seen = []
    log_prob = model.preference.log_prob
    monkeypatch.setattr(model.preference, "log_prob", lambda batch: seen.append(batch) or log_prob(batch))
    efe, *_ = extrinsic_target(model, monkeypatch)
    (batch,) = seen
    distance = ((batch.next_observations[:, [0, 2]] - th.tensor([0.5, -0.5])) / 0.3).square().sum(1, keepdim=True)
    close = th.log((1 - math.exp(-10)) * th.exp(-distance / 2) + math.exp(-10))
    th.testing.assert_close(efe, -2.0 * close, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("terminal", "factor"), [("absorbing", 100.0), ("end", 1.0)])
def test_what_an_end_is_worth(terminal, factor):
    model = make(SampledEnv(VECTOR, DISCRETE), preference=GaussianPreference(0.0, 1.0, floor=None, terminal=terminal))
    batch = samples(th.ones(2, 3), rewards=5.0, dones=th.tensor([0.0, 1.0]))
    th.testing.assert_close(model.preference.log_prob(batch), th.tensor([[-1.5], [-1.5 * factor]]), rtol=1e-4, atol=0)


# ----- Observations and buffers -----


@pytest.mark.parametrize(
    "make_preference", [lambda key: GaussianPreference(0.0, 1.0, key=key), lambda key: LearnedPreference(key=key)]
)
def test_an_entry_of_a_dictionary(make_preference):
    model = make(SampledEnv(DICT, DISCRETE), "MultiInputPolicy", preference=make_preference("position"), seed=0).learn(60)
    assert model._n_updates > 0
    for key in (None, "velocity"):
        with pytest.raises(ValueError, match=rf"key={key!r}: give the key of an observation, one of 'position', 'number'"):
            make(SampledEnv(DICT, DISCRETE), "MultiInputPolicy", preference=make_preference(key))
    with pytest.raises(ValueError, match=r"key='position': the observations are no dictionary"):
        make(SampledEnv(VECTOR, DISCRETE), preference=make_preference("position"))


def test_hindsight():
    env, her = BitFlippingEnv(n_bits=4, continuous=True), dict(replay_buffer_class=HerReplayBuffer)
    preference = GaussianPreference([1.0, 0.0, 1.0, 0.0], 0.5, key="achieved_goal")
    assert make(env, "MultiInputPolicy", preference=preference, **her).learn(60)._n_updates > 0
    with pytest.raises(ValueError, match=r"LearnedPreference with a HerReplayBuffer.*use another buffer"):
        make(env, "MultiInputPolicy", preference=LearnedPreference(key="achieved_goal"), **her)


def test_normalised_observations():
    env = VecNormalize(DummyVecEnv([lambda: SampledEnv(VECTOR, BOX)]))
    for preference in (GaussianPreference(0.0, 1.0), LearnedPreference()):
        assert make(env, preference=preference, seed=0).learn(60)._n_updates > 0


REFUSED = {
    "n_steps": (dict(n_steps=3), "n_steps=3: returns are sums of rewards, give n_steps=1"),
    "buffer": (
        dict(replay_buffer_class=NStepReplayBuffer, replay_buffer_kwargs=dict(n_steps=2, gamma=0.99)),
        "n_steps=2: .*give n_steps=1",
    ),
    "memory": (
        dict(optimize_memory_usage=True, replay_buffer_kwargs=dict(handle_timeout_termination=False)),
        "optimize_memory_usage=True: .*Leave it out",
    ),
    "gamma": (dict(gamma=1.0), 'gamma=1: .*give terminal="end"'),
}


@pytest.mark.parametrize(("kwargs", "message"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("preference", [GaussianPreference(0.0, 1.0), LearnedPreference()], ids=["goal", "learned"])
def test_what_does_not_go_together_is_named(preference, kwargs, message):
    with pytest.raises(ValueError, match=f"preference={type(preference).__name__} with {message}"):
        make(SampledEnv(VECTOR, DISCRETE), preference=preference, **kwargs)
    make(SampledEnv(VECTOR, DISCRETE), preference=RewardPreference(), **kwargs)


@pytest.mark.parametrize("preference", [GaussianPreference(0.0, 1.0), LearnedPreference()], ids=["goal", "learned"])
def test_images_are_refused(preference):
    with pytest.raises(ValueError, match=r"cannot read images.*give the preference as rewards"):
        make(SampledEnv(IMAGE, DISCRETE), policy_for(IMAGE), preference=preference)


BAD_GOALS = {
    "numbered states": (SampledEnv(DISCRETE, DISCRETE), dict(), r"is for Box and MultiBinary observations, not Discrete"),
    "dims": (SampledEnv(VECTOR, DISCRETE), dict(dims=[0, 3]), r"dims=\[0, 3\]: give indices below 3"),
    "goal": (SampledEnv(VECTOR, DISCRETE), dict(goal=[0.0, 1.0]), r"goal=\[0\.0, 1\.0\]: give one number, or 3"),
    "std": (
        SampledEnv(VECTOR, DISCRETE),
        dict(std=[1.0, 2.0, 3.0], dims=[1]),
        r"std=\[1\.0, 2\.0, 3\.0\]: give one number, or 1",
    ),
}


@pytest.mark.parametrize(("env", "kwargs", "message"), BAD_GOALS.values(), ids=BAD_GOALS)
def test_a_goal_that_is_no_observation_is_named(env, kwargs, message):
    with pytest.raises(ValueError, match=f"preference=GaussianPreference.*{message}"):
        make(env, preference=GaussianPreference(**{**dict(goal=0.0, std=1.0), **kwargs}))


BAD_ARGUMENTS = [
    *((RewardPreference, "scale", value) for value in (-1, math.nan, "much", None)),
    *((GaussianPreference, "goal", value) for value in (math.inf, "there", [], [[0.0]], None, True)),
    *((GaussianPreference, "std", value) for value in (0.0, -1.0, [1.0, 0.0], math.nan)),
    *((GaussianPreference, "dims", value) for value in (0, [], [0, 0], [-1], [0.5], "0")),
    *((GaussianPreference, "floor", value) for value in (0.0, 1.0, -1e3, math.nan, "low")),
    *((LearnedPreference, "outcome", value) for value in ("reward", None)),
    *((LearnedPreference, "n_episodes", value) for value in (1, 2.5, None)),
    *((LearnedPreference, "net_arch", value) for value in (32, [0], "32", [1.5])),
    *((LearnedPreference, "learning_rate", value) for value in (0.0, -1.0, "auto")),
    *((LearnedPreference, "floor", value) for value in (0.0, None, math.nan)),
    *((cls, "terminal", value) for cls in (GaussianPreference, LearnedPreference) for value in ("never", None)),
]


@pytest.mark.parametrize(("cls", "name", "value"), BAD_ARGUMENTS, ids=str)
def test_bad_arguments_are_named_with_their_value(cls, name, value):
    required = dict(goal=0.0, std=1.0) if cls is GaussianPreference else {}
    with pytest.raises(ValueError, match=r"give |choose ") as caught:
        cls(**{**required, name: value})
    assert str(caught.value).startswith(name) and repr(value) in str(caught.value)


@pytest.mark.parametrize(
    "value", ["reward", GaussianPreference, 1.0, lambda batch: batch.rewards], ids=["name", "class", "number", "function"]
)
def test_what_is_no_preference_is_named(value):
    with pytest.raises(ValueError, match=r"give an object of a class derived from sb3_dai\.Preference") as caught:
        make(preference=value)
    assert str(caught.value).startswith(f"preference={value!r}")


class Upwards(Preference):
    """What users may write."""

    def log_prob(self, samples):
        return samples.next_observations[:, :1] - samples.observations[:, :1]


def test_a_preference_of_the_users():
    assert make(SampledEnv(VECTOR, DISCRETE), preference=Upwards(), seed=0).learn(60)._n_updates > 0


@pytest.mark.parametrize(
    ("returned", "found"),
    [
        (lambda rows: rows[:, 0], r"shape \(32,\)"),
        (lambda rows: rows, r"shape \(32, 3\)"),
        (lambda rows: rows[:1, :1], r"shape \(1, 1\)"),
        (lambda rows: rows[:, :1].numpy(), "a ndarray"),
        (lambda rows: 0.0, "a float"),
    ],
    ids=["vector", "matrix", "one number", "numpy", "float"],
)
@action_spaces("discrete", "box")
def test_what_a_preference_returns_is_checked(returned, found, action_space):
    class Mistaken(Preference):
        def log_prob(self, samples):
            return returned(samples.next_observations)

    model = make(SampledEnv(VECTOR, action_space), preference=Mistaken(), seed=0).learn(50)
    before = state_of(model.policy)
    with pytest.raises(ValueError, match=f"preference=Mistaken: log_prob returned {found} for 32 .* of shape \\(32, 1\\)"):
        model.learn(1, reset_num_timesteps=False)
    assert not differing(before, state_of(model.policy))


def test_a_preference_that_is_given_at_loading_stays_as_it_was(tmp_path):
    make(SampledEnv(VECTOR, DISCRETE)).save(tmp_path / "model")
    preference = Upwards()
    model = DAI.load(tmp_path / "model", env=SampledEnv(VECTOR, DISCRETE), device="cpu", preference=preference)
    assert isinstance(model.preference, Upwards) and model.preference is not preference


# ----- Learning a preference -----


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


def test_a_buffer_that_does_not_go_with_the_goal_is_refused_when_it_is_loaded(tmp_path):
    kwargs = dict(optimize_memory_usage=True, replay_buffer_kwargs=dict(handle_timeout_termination=False))
    make(SampledEnv(), **kwargs).learn(20).save_replay_buffer(tmp_path / "buffer")
    model = make(SampledEnv(), preference=GaussianPreference(0.0, 1.0)).learn(30)
    before = model.replay_buffer
    with pytest.raises(ValueError, match="preference=GaussianPreference"):
        model.load_replay_buffer(tmp_path / "buffer")
    assert model.replay_buffer is before


def test_a_goal_is_saved(tmp_path):
    model = make(SampledEnv(VECTOR, DISCRETE), preference=GaussianPreference([0.1, 0.2], 0.3, dims=[0, 2]))
    model.save(tmp_path / "model")
    batch = samples(th.rand(5, 3))
    loaded = DAI.load(tmp_path / "model", device="cpu")
    assert th.equal(loaded.preference.log_prob(batch), model.preference.log_prob(batch))
    other = DAI.load(tmp_path / "model", device="cpu", preference=RewardPreference())
    assert th.equal(other.preference.log_prob(batch), batch.rewards)


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


# ----- Learning to act -----


class Field(gym.Env):
    """A square without reward. Reaching (0.4, 0.4) ends the episode, and so does falling off its lower edge."""

    observation_space, action_space = spaces.Box(-1.0, 1.0, (2,), np.float32), spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.t = np.array([-0.4, -0.4]), 0
        return self.place.astype(np.float32), {}

    def step(self, action):
        self.t += 1
        self.place = np.clip(self.place + 0.2 * np.array([(1, 0), (-1, 0), (0, 1), (0, -1)][int(action)]), -1.0, 1.0)
        success, fell = bool(np.abs(self.place - 0.4).max() < 0.1), bool(self.place[1] < -0.7)
        return self.place.astype(np.float32), 0.0, success or fell, self.t >= 40, {"is_success": success}


def ending(model):
    """Whether the goal is reached, and in how many steps."""
    env = Field()
    obs, _ = env.reset()
    while True:
        obs, _, terminated, truncated, info = env.step(model.predict(obs, deterministic=True)[0])
        if terminated or truncated:
            return info["is_success"], env.t


def test_a_goal_is_reached_without_reward():
    model = DAI("MlpPolicy", Field(), preference=GaussianPreference(0.4, 0.5), seed=0, device="cpu").learn(800)
    assert ending(model) == (True, 8)
