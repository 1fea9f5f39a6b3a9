"""The habits of Stable-Baselines3's off-policy algorithms, asked of DAI where a user would have had DQN."""

import copy
import csv
import inspect
import pickle
import warnings

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from stable_baselines3.her import HerReplayBuffer
from torch import nn

import sb3_dai.dai
from sb3_dai import free_energy as fe
from sb3_dai.dai import DAI
from sb3_dai.policies import CnnPolicy, MlpPolicy, MultiInputPolicy

VECTOR = spaces.Box(-1.0, 1.0, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
TERMS = (
    *("loss", "transition_loss", "value_loss", "policy_loss", "vfe", "prediction_error", "information_gain"),
    *("extrinsic_value", "epistemic_value", "entropy", "precision", "target_entropy", "n_updates", "learning_rate"),
)


class SampledEnv(gym.Env):
    """Observations and rewards at random, so that a seed has much to reproduce. Episodes are cut off after ten steps."""

    def __init__(self, observation_space=VECTOR, n_actions=3):
        self.observation_space, self.action_space = observation_space, spaces.Discrete(n_actions)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        if seed is not None:
            self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        self.t += 1
        return self.observation_space.sample(), self.np_random.normal(), False, self.t == 10, {}


class CounterEnv(gym.Env):
    """Observes the time since the reset, times ``scale``, which is the reward as well; every other episode is cut off."""

    observation_space = spaces.Box(0.0, np.inf, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, length=10, scale=1.0):
        self.length, self.scale, self.episode = length, scale, 0

    def observe(self):
        return np.full(1, self.t * self.scale, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.episode = 0, self.episode + 1
        return self.observe(), {}

    def step(self, action):
        self.t += 1
        done, cut_off = self.t == self.length, self.episode % 2 == 0
        return self.observe(), self.t * self.scale, done and not cut_off, done and cut_off, {}


class BatchNormDropout(BaseFeaturesExtractor):
    """Both kinds of layer that behave differently in training and in evaluation."""

    def __init__(self, observation_space, features_dim=8):
        super().__init__(observation_space, features_dim)
        size = int(np.prod(observation_space.shape))
        self.layers = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(size), nn.Linear(size, features_dim), nn.Dropout(0.5))

    def forward(self, observations):
        return self.layers(observations)


def make(env="CartPole-v1", policy="MlpPolicy", **kwargs):
    """A small model that starts to train at step 51. What a test counts on is given, so that defaults may change."""
    small = dict(
        learning_rate=1e-3,
        buffer_size=1000,
        learning_starts=50,
        batch_size=32,
        gamma=0.99,
        gradient_steps=1,
        precision="auto",
        exploration_initial_entropy=0.7,
        exploration_final_entropy=0.2,
        policy_kwargs=dict(net_arch=[16]),
        device="cpu",
    )
    return DAI(policy, env, **{**small, **kwargs})


def policy_for(space):
    return "MultiInputPolicy" if isinstance(space, spaces.Dict) else "CnnPolicy" if space is IMAGE else "MlpPolicy"


def spy(monkeypatch, owner, name):
    """Keep what a function is called with and what it returns, as (arguments, result)."""
    calls, function = [], getattr(owner, name)

    def wrapper(*args):
        result = function(*args)
        calls.append((args, result))
        return result

    monkeypatch.setattr(owner, name, wrapper)
    return calls


@pytest.fixture
def batches(monkeypatch):
    """What gradient steps learn from, one entry each."""
    taken, sample = [], sb3_dai.dai.sample_transitions

    def keep(*args):
        for batch in sample(*args):
            taken.append(batch)
            yield batch

    monkeypatch.setattr(sb3_dai.dai, "sample_transitions", keep)
    return taken


def each_step(note):
    """A function for learn(callback=...) that notes something at each step and never stops the training."""
    return lambda locals_, globals_: note() or True


def user_warnings(caught):
    """Texts of the warnings meant for users; deprecations depend on the versions that are installed."""
    return [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]


def state_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def differing(left, right):
    """Names of the tensors that are not equal bit for bit."""
    assert left.keys() == right.keys()
    return {name for name in left if not th.equal(left[name], right[name])}


def is_finite(policy):
    return all(th.isfinite(value).all() for value in policy.state_dict().values())


# ----- The first lines of every user -----


def test_three_lines_train_and_log(capsys):
    model = DAI("MlpPolicy", "CartPole-v1", verbose=1, seed=0).learn(200, log_interval=1)
    assert model.num_timesteps == 200
    assert model._n_updates == 200
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("Using", "Wrapping the env", "ep_rew_mean", "value_loss"))


@pytest.mark.parametrize(
    ("alias", "policy_class", "space"),
    [
        ("MlpPolicy", MlpPolicy, VECTOR),
        ("CnnPolicy", CnnPolicy, IMAGE),
        ("MultiInputPolicy", MultiInputPolicy, spaces.Dict(a=VECTOR)),
    ],
)
def test_policy_by_name_is_the_policy_by_class(alias, policy_class, space):
    by_name, by_class = (make(SampledEnv(space), policy, seed=1) for policy in (alias, policy_class))
    assert type(by_name.policy) is type(by_class.policy) is policy_class
    assert not differing(state_of(by_name.policy), state_of(by_class.policy))


@pytest.mark.parametrize(
    "space",
    [
        VECTOR,
        spaces.Box(-1.0, 1.0, (2, 3), np.float64),
        spaces.Box(0, 5, (2,), np.int32),
        spaces.Discrete(5),
        spaces.MultiDiscrete([3, 4]),
        spaces.MultiBinary(4),
        spaces.MultiBinary([2, 3]),
        IMAGE,
        spaces.Dict(vector=VECTOR, one=spaces.Discrete(3), many=spaces.MultiDiscrete([2, 2]), flags=spaces.MultiBinary(2)),
        spaces.Dict(image=IMAGE, vector=VECTOR),
    ],
    ids=[
        "vector",
        "matrix",
        "integers",
        "discrete",
        "multi-discrete",
        "multi-binary",
        "binary-matrix",
        "image",
        "dict",
        "mixed",
    ],
)
def test_observation_spaces(space):
    model = make(SampledEnv(space), policy_for(space), buffer_size=100, seed=0)
    before = state_of(model.policy)
    model.learn(54)
    assert model._n_updates == 4
    assert is_finite(model.policy)
    changed = differing(before, state_of(model.policy))
    # Every trained tensor has moved, those of the features extractor included
    assert changed >= {name for name, value in model.policy.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("policy", ["MlpPolicy", "CnnPolicy"])
def test_dictionaries_need_the_multi_input_policy(policy):
    with pytest.raises(ValueError, match="MultiInputPolicy"):
        make(SampledEnv(spaces.Dict(a=VECTOR)), policy)


@pytest.mark.parametrize(("normalize", "largest"), [(True, 1.0), (False, 255.0)])
def test_images_are_divided_by_255_unless_told_otherwise(normalize, largest):
    model = make(SampledEnv(IMAGE), "CnnPolicy", buffer_size=10, policy_kwargs=dict(normalize_images=normalize), seed=0)
    seen = []
    model.policy.features_extractor.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].max().item()))
    model.predict(np.full((2, 1, 36, 36), 255, np.uint8))
    assert seen == [largest]


# ----- Prediction -----


def stack(space, n):
    """A batch of observations, as a vectorised environment returns it."""
    samples = [space.sample() for _ in range(n)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([sample[key] for sample in samples]) for key in space.spaces}
    return np.stack(samples)


@pytest.mark.parametrize(
    "space",
    [VECTOR, IMAGE, spaces.Discrete(4), spaces.MultiDiscrete([2, 3]), spaces.Dict(a=VECTOR, b=spaces.Discrete(3))],
    ids=["vector", "image", "discrete", "multi-discrete", "dict"],
)
@pytest.mark.parametrize("deterministic", [True, False])
def test_predict(space, deterministic):
    space = copy.deepcopy(space)
    space.seed(0)
    model = make(SampledEnv(space, n_actions=4), policy_for(space), buffer_size=10, seed=0)
    action, state = model.predict(space.sample(), deterministic=deterministic)
    assert model.action_space.contains(action[()])
    assert action.shape == ()
    assert state is None

    many = stack(space, 50)
    actions, _ = model.predict(many, deterministic=deterministic)
    assert actions.shape == (50,)
    assert np.issubdtype(actions.dtype, np.integer)
    again = [model.predict(many, deterministic=deterministic)[0] for _ in range(5)]
    assert all(np.array_equal(actions, other) for other in again) == deterministic
    if not deterministic:
        assert set(np.concatenate(again)) == set(range(4)), "some action is never tried"


@pytest.mark.parametrize("observation", [2, np.int64(2), np.array(2)], ids=["int", "numpy scalar", "0-d array"])
def test_predict_of_a_scalar_observation(observation):
    model = make(SampledEnv(spaces.Discrete(4)), buffer_size=10, seed=0)
    action, _ = model.predict(observation, deterministic=True)
    assert action.shape == ()
    assert action == model.predict(np.arange(4), deterministic=True)[0][2]


def test_single_and_vectorised_prediction_agree():
    model = make(buffer_size=10, seed=0)
    many = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    actions = model.predict(many, deterministic=True)[0]
    assert set(actions) == {0, 1}
    assert [model.predict(one, deterministic=True)[0] for one in many] == list(actions)


@pytest.mark.parametrize(
    "observation", [(np.zeros(4), {}), np.zeros(5), np.zeros((2, 5))], ids=["gym reset", "long", "long batch"]
)
def test_predict_refuses_what_is_no_observation(observation):
    with pytest.raises(ValueError):
        make(buffer_size=10).predict(observation)


@pytest.mark.parametrize("kind", ["MlpPolicy", "CnnPolicy", "discrete"])
def test_traced_policy_acts_like_the_policy(kind):
    space = {"MlpPolicy": VECTOR, "CnnPolicy": IMAGE, "discrete": spaces.Discrete(20)}[kind]
    model = make(SampledEnv(space), policy_for(space), buffer_size=10, seed=0)
    model.policy.set_training_mode(False)
    observations, _ = model.policy.obs_to_tensor(stack(space, 32))
    with th.no_grad():  # without a favourite action
        logits = model.policy.policy_net(model.policy.features(observations))
        model.policy.policy_net.layers[-1].bias -= logits.mean(dim=1, keepdim=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates the tracer, and it warns of Python branches
        traced = th.jit.trace(model.policy, observations[:2])
    actions = traced(observations).numpy()
    assert np.array_equal(actions, model.policy.predict(observations.numpy(), deterministic=True)[0])
    assert len(set(actions)) > 1, "one action only shows little"


# ----- Seeds -----


def learn_with(seed, n_envs):
    model = make(make_vec_env(SampledEnv, n_envs), seed=seed, n_steps=2)
    initial = state_of(model.policy)
    model.learn(120)
    buffer = model.replay_buffer
    data = {name: th.as_tensor(getattr(buffer, name)) for name in ("observations", "actions", "rewards")}
    return initial, data, state_of(model.policy)


@pytest.mark.parametrize("n_envs", [1, 2])
def test_seed_reproduces_a_run_bit_for_bit(n_envs):
    one, same, other = (learn_with(seed, n_envs) for seed in (3, 3, 4))
    assert [differing(*pair) for pair in zip(one, same, strict=True)] == [set(), set(), set()]
    initial, data, final = (differing(*pair) for pair in zip(one, other, strict=True))
    assert {"transition_net.layers.0.weight", "policy_net.layers.0.weight", "value_net.layers.0.weight"} <= initial & final
    assert data == {"observations", "actions", "rewards"}


def test_no_seed_means_a_run_of_its_own():
    assert "policy_net.layers.0.weight" in differing(*(state_of(make(buffer_size=10).policy) for _ in range(2)))


def test_same_seed_same_weights_whatever_wraps_the_observation():
    plain = make(SampledEnv(VECTOR), "MlpPolicy", seed=5)
    wrapped = make(SampledEnv(spaces.Dict(only=VECTOR)), "MultiInputPolicy", seed=5)
    assert not differing(state_of(plain.policy), state_of(wrapped.policy))
    many = stack(VECTOR, 30)
    actions = plain.predict(many, deterministic=True)[0]
    assert np.array_equal(actions, wrapped.predict({"only": many}, deterministic=True)[0])
    assert len(set(actions)) > 1


# ----- Environments -----


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
        (lambda: SampledEnv(CounterEnv.observation_space, n_actions=3), ValueError),
    ],
    ids=["number", "observations", "actions"],
)
def test_set_env_refuses_another_kind(make_env, error):
    with pytest.raises(error):
        make(CounterEnv()).set_env(make_env())


def test_several_environments_train():
    model = make(make_vec_env("CartPole-v1", n_envs=2), gradient_steps=-1, seed=0).learn(120)
    assert model.num_timesteps == 120
    assert model._n_updates == 2 * (120 - 50) // 2
    assert model.replay_buffer.pos == 60
    assert is_finite(model.policy)


def test_her_replay_buffer_trains():
    env = BitFlippingEnv(n_bits=4, continuous=False)
    kwargs = dict(n_sampled_goal=2, goal_selection_strategy="future")
    model = make(env, "MultiInputPolicy", replay_buffer_class=HerReplayBuffer, replay_buffer_kwargs=kwargs, seed=0)
    before = state_of(model.policy)
    model.learn(100)
    assert isinstance(model.replay_buffer, HerReplayBuffer)
    assert "policy_net.layers.0.weight" in differing(before, state_of(model.policy))
    assert is_finite(model.policy)


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize(("norm_obs", "norm_reward"), [(True, False), (False, True), (True, True)])
def test_vec_normalize_reaches_the_batches_and_not_the_buffer(batches, norm_obs, norm_reward, n_steps):
    env = VecNormalize(DummyVecEnv([lambda: CounterEnv(scale=1e4)]), norm_obs=norm_obs, norm_reward=norm_reward)
    model = make(env, n_steps=n_steps, seed=0)
    model.learn(80)
    for pairs in (batches[-1].one_step, batches[-1].n_step):
        assert all((x.abs().max() <= 10) == norm_obs for x in (pairs.observations, pairs.next_observations))
        assert (pairs.rewards.abs().max() <= 10 * n_steps) == norm_reward
    assert model.replay_buffer.observations.max() == 9e4
    assert model.replay_buffer.next_observations.max() == model.replay_buffer.rewards.max() == 10e4


# ----- How often it trains -----


@pytest.mark.parametrize(
    ("kwargs", "n_envs", "updates"),
    [
        (dict(), 1, 50),
        (dict(train_freq=4), 1, 13),
        (dict(train_freq=(4, "step")), 1, 13),
        (dict(train_freq=(5, "step"), gradient_steps=-1), 1, 50),
        (dict(train_freq=(1, "episode"), gradient_steps=3), 1, 15),
        (dict(train_freq=(2, "episode"), gradient_steps=-1), 1, 60),
        (dict(gradient_steps=0), 1, 0),
        (dict(gradient_steps=2), 2, 50),
        (dict(train_freq=2, gradient_steps=-1), 2, 52),
        (dict(learning_starts=0), 1, 100),
        (dict(learning_starts=200), 1, 0),
    ],
)
def test_number_of_updates(kwargs, n_envs, updates):
    model = make(make_vec_env(CounterEnv, n_envs), seed=0, **kwargs)
    before = state_of(model.policy)
    model.learn(100)
    assert model.num_timesteps == 100
    assert model._n_updates == updates
    assert bool(differing(before, state_of(model.policy))) == (updates > 0)


def test_warm_up_samples_the_action_space_and_then_the_policy_acts(monkeypatch):
    model = make(CounterEnv(), seed=0)
    calls = []
    monkeypatch.setattr(model.policy, "_predict", lambda obs, deterministic: calls.append(deterministic) or th.ones(1))
    model.learn(80)
    assert calls == [False] * 30
    actions = model.replay_buffer.actions[:80].reshape(-1)
    assert set(actions[:50]) == {0, 1}
    assert set(actions[50:]) == {1}


class TargetWatch(BaseCallback):
    """Steps of the environment after which the target net had moved."""

    def __init__(self):
        super().__init__()
        self.moved, self.last = [], None

    def _on_step(self):
        now = state_of(self.model.policy.value_net_target)
        if self.last and differing(now, self.last):
            # Called before the model's own counting, so it sees what the step before it did
            self.moved.append(self.num_timesteps - self.model.n_envs)
        self.last = now
        return True


@pytest.mark.parametrize(
    ("kwargs", "n_envs", "moved"),
    [
        (dict(target_update_interval=20), 1, [60, 80, 100]),
        (dict(target_update_interval=20), 2, [60, 80, 100]),
        (dict(target_update_interval=21), 2, [60, 80, 100]),
        # Not once per rollout or per so many gradient steps: an episode has three steps
        (dict(target_update_interval=7, train_freq=(1, "episode"), gradient_steps=5), 1, [56, 63, 70, 77, 84, 91, 98, 105]),
        (dict(target_update_interval=None, train_freq=16), 1, [64, 80, 96]),
    ],
)
def test_target_follows_steps_of_the_environment(kwargs, n_envs, moved):
    model = make(make_vec_env(CounterEnv, n_envs, env_kwargs=dict(length=3)), tau=1.0, seed=0, **kwargs)
    model.learn(108, callback=(watch := TargetWatch()))
    assert watch.moved == moved


@pytest.mark.parametrize("space", [VECTOR, IMAGE], ids=["vector", "image"])
def test_targets_begin_as_copies(space):
    policy = make(SampledEnv(space), policy_for(space), buffer_size=10).policy
    for name in ("value_net", "features_extractor"):
        online, target = getattr(policy, name), getattr(policy, f"{name}_target")
        assert not differing(state_of(online), state_of(target))
        assert {id(parameter) for parameter in online.parameters()}.isdisjoint(map(id, target.parameters()))
        assert not any(parameter.requires_grad for parameter in target.parameters())


def test_tau_is_the_share_of_the_online_nets():
    policy_kwargs = dict(net_arch=[16], features_extractor_class=BatchNormDropout)
    model = make(tau=0.25, target_update_interval=10_000, policy_kwargs=policy_kwargs, seed=0).learn(70)
    for name in ("value_net", "features_extractor"):
        online, target = getattr(model.policy, name), getattr(model.policy, f"{name}_target")
        pairs = [*zip(online.parameters(), target.parameters(), strict=True)]
        assert not any(th.equal(new, old) for new, old in pairs)
        expected = [0.25 * new + 0.75 * old for new, old in pairs]
        if name == "value_net":
            before = state_of(model.policy.features_extractor_target)
            model._update_target()
            continue
        # One update served both nets
        expected = [0.25 * new + 0.75 * before[key] for key, new in online.named_parameters()]
        for value, wanted in zip(target.parameters(), expected, strict=True):
            th.testing.assert_close(value, wanted)


@pytest.mark.parametrize(("n_envs", "interval", "warns"), [(4, 3, True), (4, 4, False), (1, 1, False), (4, None, False)])
def test_target_interval_below_the_number_of_environments_warns(n_envs, interval, warns):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make(make_vec_env(CounterEnv, n_envs), target_update_interval=interval)
    assert ["target network update interval (4 > 3)" in text for text in user_warnings(caught)] == [True] * warns


# ----- Learning rate -----


@pytest.mark.parametrize(
    "schedule", [LinearSchedule(1e-3, 1e-4, 1.0), lambda progress: 1e-4 + 9e-4 * progress], ids=["linear", "own"]
)
def test_learning_rate_schedule_keeps_the_ratio_of_the_nets(schedule):
    policy_kwargs = dict(net_arch=[16], lr_multipliers=dict(transition=3.0, policy=0.5))
    model = make(CounterEnv(), learning_rate=schedule, policy_kwargs=policy_kwargs, seed=0)
    rates = {}

    def note():
        rates[model.num_timesteps] = [group["lr"] for group in model.policy.optimizer.param_groups]

    model.learn(100, callback=each_step(note), log_interval=1000)
    for step, progress in ((1, 1.0), (61, 0.4), (81, 0.2)):
        # The step after a gradient step sees its learning rate
        assert sorted(rates[step]) == pytest.approx([schedule(progress) * factor for factor in (0.5, 1.0, 3.0)])
    assert model.logger.name_to_value["train/learning_rate"] == pytest.approx(1e-4)


def test_multipliers_reach_the_nets_they_name():
    """A multiplier of 0 freezes one net and no other; the features extractor belongs to the policy's group."""
    for frozen in ("transition", "policy", "value"):
        model = make(policy_kwargs=dict(net_arch=[16], lr_multipliers={frozen: 0.0}), seed=0)
        before = state_of(model.policy)
        model.learn(60)
        changed = {name.split(".")[0] for name in differing(before, state_of(model.policy))}
        assert {"transition_net", "policy_net", "value_net"} - changed == {f"{frozen}_net"}


# ----- Replay buffers -----


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
def test_n_steps_without_a_warning(recwarn, tmp_path, kwargs, space, buffer_class, length):
    asked = copy.deepcopy(kwargs)
    model = make(SampledEnv(space), policy_for(space), seed=0, **kwargs).learn(60)
    model.save(tmp_path / "model")
    loaded = DAI.load(tmp_path / "model", env=SampledEnv(space), device="cpu").learn(60)
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


def test_memory_efficient_buffer(recwarn):
    kwargs = dict(replay_buffer_kwargs=dict(handle_timeout_termination=False))
    model = make(optimize_memory_usage=True, seed=0, **kwargs).learn(120)
    assert model._n_updates == 70
    assert model.replay_buffer.optimize_memory_usage
    assert user_warnings(recwarn) == []
    with pytest.raises(ValueError, match="handle_timeout_termination"):
        make(optimize_memory_usage=True)


@pytest.mark.parametrize("n_envs", [1, 3])
def test_world_model_learns_from_one_step_pairs_beside_long_returns(monkeypatch, batches, n_envs):
    """Time is what CounterEnv shows, so every step of a batch can be told from its numbers."""
    model = make(make_vec_env(CounterEnv, n_envs), n_steps=3, gamma=0.9, seed=0)
    likelihoods = spy(monkeypatch, fe, "gaussian_nll")
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


# ----- The policy's arguments -----


@pytest.mark.parametrize(
    "policy_kwargs",
    [
        dict(net_arch=[]),
        dict(net_arch=[16]),
        dict(net_arch=[8, 12, 4]),
        dict(net_arch=[16], activation_fn=nn.Tanh),
        dict(net_arch=[16], layer_norm=False),
        dict(net_arch=[16], ensemble_size=1),
        dict(net_arch=[16], n_critics=1),
        dict(net_arch=[16], n_critics=3),
        dict(net_arch=[16], optimizer_class=th.optim.RMSprop, optimizer_kwargs=dict(alpha=0.9)),
        dict(net_arch=[16], optimizer_class=th.optim.AdamW, optimizer_kwargs=dict(weight_decay=0.1)),
        dict(net_arch=[16], optimizer_class=th.optim.SGD),
        dict(net_arch=[16], optimizer_kwargs=dict(eps=1e-5, betas=(0.5, 0.9))),
        dict(net_arch=[16], features_extractor_class=BatchNormDropout, features_extractor_kwargs=dict(features_dim=5)),
    ],
    ids=lambda kwargs: "-".join(getattr(value, "__name__", str(value)) for value in kwargs.values()),
)
def test_policy_kwargs_are_honoured_and_left_alone(policy_kwargs):
    given = copy.deepcopy(policy_kwargs)
    model = make(policy_kwargs=policy_kwargs, seed=0)
    policy, before = model.policy, state_of(model.policy)
    model.learn(70)
    # Adam has momentum, so even the bias of a dead unit moves; RMSprop and SGD would not show it
    changed = differing(before, state_of(policy))
    assert {f"{net}_net.layers.0.weight" for net in ("transition", "policy", "value")} <= changed
    assert is_finite(policy)
    assert policy_kwargs == given == model.policy_kwargs

    weights = [layer for layer in policy.policy_net.layers if hasattr(layer, "weight")]
    sizes = [layer.weight.shape[-1] for layer in weights[:: 2 if policy.layer_norm else 1]]
    assert sizes == [*given["net_arch"], 2]
    assert policy.value_net.n_members == given.get("n_critics", policy.n_critics)
    assert policy.transition_net.n_members == given.get("ensemble_size", policy.ensemble_size)
    assert any(isinstance(layer, given.get("activation_fn", nn.ReLU)) for layer in policy.value_net.layers) == bool(sizes[:-1])
    assert type(policy.optimizer) is given.get("optimizer_class", th.optim.Adam)
    assert policy.optimizer.defaults.items() >= given.get("optimizer_kwargs", {}).items()
    assert policy.features_extractor.features_dim == given.get("features_extractor_kwargs", {}).get("features_dim", 4)


@pytest.mark.parametrize("normalize_images", [True, False])
def test_dictionaries_of_the_user_are_not_written_into(tmp_path, normalize_images):
    extractor_kwargs, optimizer_kwargs, multipliers = dict(features_dim=32), dict(eps=1e-5), dict(policy=0.5)
    policy_kwargs = dict(
        normalize_images=normalize_images,
        features_extractor_kwargs=extractor_kwargs,
        optimizer_kwargs=optimizer_kwargs,
        lr_multipliers=multipliers,
    )
    buffer_kwargs = dict(handle_timeout_termination=True)
    given = copy.deepcopy((policy_kwargs, buffer_kwargs))
    model = make(
        SampledEnv(IMAGE), "CnnPolicy", policy_kwargs=policy_kwargs, replay_buffer_kwargs=buffer_kwargs, buffer_size=100
    )
    model.learn(52)
    model.save(tmp_path / "model")
    assert (policy_kwargs, buffer_kwargs) == given
    # The user writes into them afterwards: the model has its own
    multipliers["policy"] = policy_kwargs["n_critics"] = buffer_kwargs["handle_timeout_termination"] = 7
    assert model.policy.lr_multipliers == dict(policy=0.5)
    assert "n_critics" not in model.policy_kwargs
    assert model.replay_buffer_kwargs["handle_timeout_termination"] is True


# ----- Batch normalisation and dropout -----


@pytest.fixture
def batch_norm_model():
    # A momentum of the statistics' own: a target that took part of them would differ
    policy_kwargs = dict(net_arch=[16], features_extractor_class=BatchNormDropout)
    return make(policy_kwargs=policy_kwargs, tau=0.01, seed=0)


def statistics(extractor):
    return {name: value.clone() for name, value in extractor.named_buffers() if "running" in name}


@pytest.mark.parametrize("interval", [None, 1])
def test_batch_norm_statistics_change_in_training_and_the_target_follows(interval):
    policy_kwargs = dict(net_arch=[16], features_extractor_class=BatchNormDropout)
    model = make(policy_kwargs=policy_kwargs, target_update_interval=interval, seed=0)
    extractor, target = model.policy.features_extractor, model.policy.features_extractor_target
    before = statistics(extractor)
    model.learn(49)
    assert not differing(before, statistics(extractor)), "acting changed them"
    model.learn(30, reset_num_timesteps=False)
    assert model._n_updates == 29
    assert len(differing(before, statistics(extractor))) == 2
    # Once for each gradient step, with the observations of the batch alone
    assert extractor.layers[1].num_batches_tracked == 29
    if interval:
        model._update_target()  # the last gradient step comes after the last step of the environment
    assert not differing(statistics(extractor), statistics(target))


def test_batch_norm_and_dropout_rest_in_prediction(batch_norm_model):
    model = batch_norm_model.learn(80)
    before = state_of(model.policy)
    many = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    actions = model.predict(many, deterministic=True)[0]
    assert all(np.array_equal(actions, model.predict(many, deterministic=True)[0]) for _ in range(5))
    assert len(set(actions)) == 2
    assert evaluate_policy(model, make_vec_env("CartPole-v1"), n_eval_episodes=1)
    assert not differing(before, state_of(model.policy))


def test_set_training_mode_leaves_the_targets_alone(batch_norm_model):
    policy = batch_norm_model.policy
    many = th.randn(60, 4)
    for mode in (True, False, False, True, True, False):
        policy.set_training_mode(mode)
        assert policy.training is mode
        for net in (policy.features_extractor, policy.transition_net, policy.policy_net, policy.value_net):
            assert all(module.training is mode for module in net.modules())
        for net in (policy.features_extractor_target, policy.value_net_target):
            assert not any(module.training for module in net.modules())
        assert th.equal(policy.features(many), policy.features(many)) is not mode, "dropout belongs to training"
        assert th.equal(policy.features(many, target=True), policy.features(many, target=True))


def test_training_and_acting_each_set_their_mode(batch_norm_model, monkeypatch):
    model = batch_norm_model
    modes = []

    def note(losses=None):
        modes.append(model.policy.features_extractor.training)
        return th.zeros(1)

    monkeypatch.setattr(model, "_optimize", note)
    model.learn(60, callback=lambda locals_, globals_: note() is not None)
    # In turn: a step of the environment, then a gradient step
    assert modes == [False] * 51 + [True, False] * 9 + [True]


@pytest.mark.parametrize("mode", [True, False])
def test_targets_rest_even_if_torch_sets_the_mode(batch_norm_model, mode):
    """policy.train() and policy.eval() are torch's words for it, and reach every module."""
    model = batch_norm_model
    model.policy.train(mode)
    model.learn(60)
    targets = (model.policy.features_extractor_target, model.policy.value_net_target)
    assert not any(module.training for net in targets for module in net.modules())


# ----- Callbacks and logs -----


def test_eval_and_checkpoint_callbacks(tmp_path):
    evaluation = EvalCallback(
        make_vec_env("CartPole-v1"),
        n_eval_episodes=2,
        eval_freq=60,
        log_path=tmp_path,
        best_model_save_path=tmp_path,
        verbose=0,
        warn=False,
    )
    checkpoint = CheckpointCallback(50, tmp_path, save_replay_buffer=True)
    model = make(seed=0).learn(120, callback=[evaluation, EveryNTimesteps(50, checkpoint)])
    results = np.load(tmp_path / "evaluations.npz")
    assert results["timesteps"].tolist() == [60, 120]
    assert results["results"].shape == (2, 2)
    assert DAI.load(tmp_path / "best_model", device="cpu").num_timesteps in (60, 120)
    assert model.num_timesteps == 120


def test_checkpoints_are_models(tmp_path):
    make(seed=0).learn(120, callback=CheckpointCallback(50, tmp_path, save_replay_buffer=True))
    for step in (50, 100):
        loaded = DAI.load(tmp_path / f"rl_model_{step}_steps", env=gym.make("CartPole-v1"), device="cpu")
        loaded.load_replay_buffer(tmp_path / f"rl_model_replay_buffer_{step}_steps")
        # The callback comes before the step is stored
        assert loaded.replay_buffer.pos == step - 1
        assert loaded.num_timesteps == step


class Counting(BaseCallback):
    """Counts each kind of call."""

    def __init__(self):
        super().__init__()
        self.calls = dict.fromkeys(("training_start", "rollout_start", "step", "rollout_end", "training_end"), 0)

    def _on_training_start(self):
        self.calls["training_start"] += 1

    def _on_rollout_start(self):
        self.calls["rollout_start"] += 1

    def _on_step(self):
        self.calls["step"] += 1
        return True

    def _on_rollout_end(self):
        self.calls["rollout_end"] += 1

    def _on_training_end(self):
        self.calls["training_end"] += 1


@pytest.mark.parametrize(
    "wrap", [lambda one: one, lambda one: [one], lambda one: CallbackList([one])], ids=["one", "list", "callback-list"]
)
def test_callbacks_are_called(wrap):
    make(CounterEnv(), train_freq=4).learn(80, callback=wrap(one := Counting()))
    assert one.calls == dict(training_start=1, rollout_start=20, step=80, rollout_end=20, training_end=1)


@pytest.mark.parametrize(
    ("make_callback", "stopped"),
    [
        (lambda: StopTrainingOnMaxEpisodes(6), 60),
        (lambda: lambda locals_, globals_: locals_["self"].num_timesteps < 65, 65),
        (lambda: lambda locals_, globals_: True, 100),
        (
            lambda: EvalCallback(
                make_vec_env(CounterEnv),
                StopTrainingOnRewardThreshold(50),
                eval_freq=55,
                n_eval_episodes=1,
                verbose=0,
                warn=False,
            ),
            55,
        ),
    ],
    ids=["episodes", "function", "function that goes on", "threshold"],
)
def test_callbacks_stop_training(make_callback, stopped):
    assert make(CounterEnv(), seed=0).learn(100, callback=make_callback()).num_timesteps == stopped


def test_progress_bar(capfd):
    pytest.importorskip("tqdm.rich")
    model = make(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tqdm calls its bar experimental
        assert model.learn(60, progress_bar=True).num_timesteps == 60
    captured = capfd.readouterr()
    assert "60/60" in captured.out + captured.err


def test_custom_logger_gets_every_term(tmp_path):
    model = make(seed=0, tensorboard_log=str(tmp_path / "unused"))
    model.set_logger(configure(str(tmp_path / "own"), ["csv"]))
    model.learn(200, log_interval=1)
    model.logger.close()
    assert not (tmp_path / "unused").exists()
    with open(tmp_path / "own" / "progress.csv", newline="") as file:
        *_, last = rows = list(csv.DictReader(file))
    assert [float(row["time/episodes"]) for row in rows] == [*range(1, len(rows) + 1)], "log_interval counts episodes"
    values = {name: float(last[f"train/{name}"]) for name in TERMS}
    assert all(map(np.isfinite, values.values()))
    assert 50 < float(last["time/total_timesteps"]) - values["n_updates"] <= 51
    assert values["learning_rate"] == 1e-3
    assert values["precision"] > 0
    assert values["prediction_error"] > 0
    assert values["information_gain"] > 0
    assert values["vfe"] >= values["prediction_error"]
    assert 0 < values["entropy"] <= np.log(2) + 1e-6
    assert 0.2 * np.log(2) <= values["target_entropy"] <= 0.7 * np.log(2)
    assert {"rollout/ep_rew_mean", "rollout/ep_len_mean", "time/episodes", "time/fps"} <= last.keys()
    parts = [values[f"{name}_loss"] for name in ("transition", "value", "policy")] + [float(last["train/precision_loss"])]
    assert values["loss"] == pytest.approx(sum(parts), rel=1e-4)


def test_logged_terms_are_means_over_the_gradient_steps(monkeypatch):
    model = make(CounterEnv(), gradient_steps=4, train_freq=4, seed=0)
    calls = spy(monkeypatch, model, "_optimize")
    model.learn(60, log_interval=1000)
    values = model.logger.name_to_value
    assert values["train/n_updates"] == model._n_updates == 12
    assert values["train/loss"] == pytest.approx(np.mean([loss.item() for _, loss in calls[-4:]]), rel=1e-5)


def test_tensorboard_folders(tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    model = make(seed=0, tensorboard_log=str(tmp_path))
    model.learn(120, log_interval=1)
    model.learn(60, log_interval=1, reset_num_timesteps=False)
    assert [path.name for path in tmp_path.iterdir()] == ["DAI_1"]
    model.learn(60)
    model.learn(60, tb_log_name="named")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["DAI_1", "DAI_2", "named_1"]
    events = accumulators.EventAccumulator(str(tmp_path / "DAI_1"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {f"train/{name}" for name in TERMS} - tags == {"train/n_updates"}, (
        "which the time axis of TensorBoard shows already"
    )
    steps = [event.step for event in events.Scalars("train/loss")]
    assert steps == sorted(steps)
    assert steps[-1] > 120, "the second call of learn continued the curve"


# ----- Calling learn again -----


@pytest.mark.parametrize("reset", [True, False])
def test_learn_again(reset):
    model = make(CounterEnv(), seed=0, exploration_fraction=1.0).learn(64)
    first, data = model._n_updates, model.replay_buffer.rewards[:64].copy()
    progress = []
    note = each_step(lambda: progress.append(model._current_progress_remaining))
    model.learn(26, callback=note, reset_num_timesteps=reset, log_interval=1000)
    assert model.num_timesteps == (26 if reset else 90)
    # A new count of steps is a new warm-up, as for every off-policy algorithm
    assert model._n_updates == first + (0 if reset else 26)
    assert np.array_equal(model.replay_buffer.rewards[:64], data), "the buffer is kept"
    assert model.replay_buffer.pos == 90
    assert model._last_obs == (6 if reset else 0)
    if not reset:
        assert progress[1] == pytest.approx(1 - 65 / 90)
        assert model.logger.name_to_value["train/target_entropy"] == pytest.approx(0.2 * np.log(2))


def test_target_entropy_follows_its_schedule():
    model = make(CounterEnv(), learning_starts=0, exploration_fraction=0.5, seed=0)
    targets = {}

    def note():
        # What the gradient step before this step of the environment has logged
        targets[model.num_timesteps - 1] = model.logger.name_to_value["train/target_entropy"]

    model.learn(40, callback=each_step(note), log_interval=1000)
    for step, share in ((10, 0.45), (20, 0.2), (30, 0.2)):
        assert targets[step] == pytest.approx(share * np.log(2))


def test_load_and_learn_on(tmp_path):
    make(seed=0).learn(60).save(tmp_path / "model")
    model = DAI.load(tmp_path / "model", env=gym.make("CartPole-v1"), device="cpu")
    before = state_of(model.policy)
    model.learn(70, reset_num_timesteps=False)
    assert model.num_timesteps == 130
    assert model._n_updates == 80
    assert "policy_net.layers.0.weight" in differing(before, state_of(model.policy))
    with pytest.raises(AssertionError, match="set the environment"):
        DAI.load(tmp_path / "model", device="cpu").learn(10)


@pytest.mark.parametrize("extractor", [None, BatchNormDropout])
@pytest.mark.parametrize(
    "clone",
    [lambda x: pickle.loads(pickle.dumps(x)), lambda x: pickle.loads(cloudpickle.dumps(x)), copy.deepcopy],
    ids=["pickle", "cloudpickle", "deepcopy"],
)
def test_policy_can_be_pickled(clone, extractor):
    policy_kwargs = dict(net_arch=[16], **(dict(features_extractor_class=extractor) if extractor else {}))
    policy = make(policy_kwargs=policy_kwargs, seed=0).learn(70).policy
    twin = clone(policy)
    assert not differing(state_of(policy), state_of(twin))
    many = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    assert np.array_equal(*(one.predict(many, deterministic=True)[0] for one in (policy, twin)))
    # Its optimizer trains its own parameters, not the original's
    own = {id(parameter) for parameter in twin.parameters()}
    assert {id(parameter) for group in twin.optimizer.param_groups for parameter in group["params"]} <= own
    assert own.isdisjoint({id(parameter) for parameter in policy.parameters()})


def test_arguments_stand_where_those_of_dqn_stand():
    theirs, ours = ([*inspect.signature(cls.__init__).parameters] for cls in (DQN, DAI))
    length = ours.index("target_update_interval") + 1
    assert ours[:length] == theirs[:length]
    common = [name for name in theirs if name in ours]
    assert common == [name for name in ours if name in theirs]
    assert [*inspect.signature(DAI.learn).parameters] == [*inspect.signature(DQN.learn).parameters]
    assert inspect.signature(DAI.learn).parameters["tb_log_name"].default == "DAI"
