"""What the agent prefers to observe, instead of the reward."""

import math

import pytest
import torch as th
from gymnasium import spaces
from helpers import action_spaces, differing, make, policy_for, state_of
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from worlds import BOX, DISCRETE, IMAGE, VECTOR, SampledEnv

from sb3_dai import DAI, GaussianPreference, LearnedPreference, Preference, RewardPreference
from sb3_dai.preferences import Outcome

DICT = spaces.Dict(position=VECTOR, number=DISCRETE)


def test_the_reward_is_the_default():
    rewards = th.tensor([[2.0], [-1.0]])
    model = make()
    assert type(model.preference) is RewardPreference
    assert th.equal(model.preference.log_prob(Outcome(th.zeros(2, 4), rewards, th.zeros(2, 1))), rewards)


def test_preferences_are_told_of_the_model_that_uses_them():
    class Told(Preference):
        def setup(self, model):
            self.context = model

    model = make(SampledEnv(VECTOR, DISCRETE), preference=Told(), gamma=0.7)
    context = model.preference.context
    assert (context.observation_space, context.gamma) == (VECTOR, 0.7)
    assert context.replay_buffer is model.replay_buffer and context.device == model.device


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


BAD_ARGUMENTS = [
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


def test_a_buffer_that_does_not_go_with_the_goal_is_refused_when_it_is_loaded(tmp_path):
    kwargs = dict(optimize_memory_usage=True, replay_buffer_kwargs=dict(handle_timeout_termination=False))
    make(SampledEnv(), **kwargs).learn(20).save_replay_buffer(tmp_path / "buffer")
    model = make(SampledEnv(), preference=GaussianPreference(0.0, 1.0)).learn(30)
    before = model.replay_buffer
    with pytest.raises(ValueError, match="preference=GaussianPreference"):
        model.load_replay_buffer(tmp_path / "buffer")
    assert model.replay_buffer is before
