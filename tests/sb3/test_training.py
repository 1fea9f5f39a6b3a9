"""How a run is started, reproduced, scheduled and continued."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import BatchNormDropout, action_spaces, differing, each_step, inputs_of, make, state_of, user_warnings
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from stable_baselines3.common.utils import LinearSchedule
from worlds import BOX, TWO, Chain, CounterEnv, SampledEnv

from sb3_dai.dai import DAI
from sb3_dai.free_energy import VALUE_HEADS
from sb3_dai.replay import sample_transitions


@pytest.mark.parametrize(
    "make_env",
    [lambda: "CartPole-v1", lambda: gym.make("MountainCarContinuous-v0", max_episode_steps=50)],
    ids=["discrete", "box"],
)
def test_three_lines_train_and_log(capsys, make_env):
    model = DAI("MlpPolicy", make_env(), verbose=1, seed=0, device="cpu").learn(150, log_interval=1)
    assert model.num_timesteps == 150
    assert model._n_updates == 4 * (150 - 100)
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("Using", "Wrapping the env", "ep_rew_mean", "value_loss"))


def learn_with(seed, n_envs, action_space):
    noise = NormalActionNoise(np.zeros(2), np.full(2, 0.1)) if action_space == BOX else None
    env = make_vec_env(SampledEnv, n_envs, env_kwargs=dict(action_space=action_space))
    model = make(env, seed=seed, n_steps=2, action_noise=noise)
    initial = state_of(model.policy)
    model.learn(120)
    buffer = model.replay_buffer
    data = {name: th.as_tensor(getattr(buffer, name)) for name in ("observations", "actions", "rewards")}
    return initial, data, state_of(model.policy)


@pytest.mark.parametrize("n_envs", [1, 2])
@action_spaces()
def test_seed_reproduces_a_run_bit_for_bit(n_envs, action_space):
    one, same, other = (learn_with(seed, n_envs, action_space) for seed in (3, 3, 4))
    assert [differing(*pair) for pair in zip(one, same, strict=True)] == [set(), set(), set()]
    initial, data, final = (differing(*pair) for pair in zip(one, other, strict=True))
    assert {"transition_net.layers.0.weight", "policy_net.layers.0.weight", "value_net.layers.0.weight"} <= initial & final
    assert data == {"observations", "actions", "rewards"}


def test_no_seed_means_a_run_of_its_own():
    assert "policy_net.layers.0.weight" in differing(*(state_of(make(buffer_size=10).policy) for _ in range(2)))


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
@pytest.mark.parametrize("action_space", [TWO, BOX], ids=["discrete", "box"])
def test_number_of_updates(kwargs, n_envs, updates, action_space):
    model = make(make_vec_env(CounterEnv, n_envs, env_kwargs=dict(action_space=action_space)), seed=0, **kwargs)
    before = state_of(model.policy)
    model.learn(100)
    assert model.num_timesteps == 100
    assert model._n_updates == updates
    assert bool(differing(before, state_of(model.policy))) == (updates > 0)


@pytest.mark.parametrize(("action_space", "shape"), [(TWO, (1,)), (BOX, (1, 2))], ids=["discrete", "box"])
def test_warm_up_samples_the_action_space_and_then_the_policy_acts(monkeypatch, action_space, shape):
    model = make(CounterEnv(action_space=action_space), seed=0)
    calls = []
    monkeypatch.setattr(model.policy, "_predict", lambda obs, deterministic: calls.append(deterministic) or th.ones(shape))
    model.learn(80)
    assert calls == [False] * 30
    actions = model.replay_buffer.actions[:80, 0]
    if action_space == TWO:
        assert set(actions[:50, 0]) == {0, 1}
    else:  # in units of the bounds
        assert actions[:50].min() < -0.8 and 0.8 < actions[:50].max() < 1
        assert (abs(actions[:50].mean(axis=0)) < 0.3).all()
    assert (actions[50:] == 1).all()


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


def test_tau_is_the_share_of_the_online_nets():
    policy_kwargs = dict(net_arch=[16], features_extractor_class=BatchNormDropout)
    model = make(tau=0.25, target_update_interval=10_000, policy_kwargs=policy_kwargs, seed=0).learn(70)
    for name in ("value_net", "policy_net", "features_extractor"):
        online, target = getattr(model.policy, name), getattr(model.policy, f"{name}_target")
        pairs = [*zip(online.parameters(), target.parameters(), strict=True)]
        assert not any(th.equal(new, old) for new, old in pairs)
        expected = [0.25 * new + 0.75 * old for new, old in pairs]
        if name == "value_net":
            before = {
                other: state_of(getattr(model.policy, f"{other}_target")) for other in ("policy_net", "features_extractor")
            }
            model._update_target()
            continue
        # One update served all nets
        expected = [0.25 * new + 0.75 * before[name][key] for key, new in online.named_parameters()]
        for value, wanted in zip(target.parameters(), expected, strict=True):
            th.testing.assert_close(value, wanted)


@pytest.mark.parametrize(("n_envs", "interval", "warns"), [(4, 3, True), (4, 4, False), (1, 1, False), (4, None, False)])
def test_target_interval_below_the_number_of_environments_warns(n_envs, interval, warns):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make(make_vec_env(CounterEnv, n_envs), target_update_interval=interval)
    assert ["target network update interval (4 > 3)" in text for text in user_warnings(caught)] == [True] * warns


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


@action_spaces("discrete", "box")
def test_multipliers_reach_the_nets_they_name(action_space):
    """A multiplier of 0 freezes one net and no other; the features extractor belongs to the policy's group."""
    for frozen in ("transition", "policy", "value"):
        env = SampledEnv(action_space=action_space)
        model = make(env, policy_kwargs=dict(net_arch=[16], lr_multipliers={frozen: 0.0}), seed=0)
        before = state_of(model.policy)
        model.learn(60)
        changed = {name.split(".")[0] for name in differing(before, state_of(model.policy))}
        assert {"transition_net", "policy_net", "value_net"} - changed == {f"{frozen}_net"}


OF_TRANSITIONS = {"transition_loss", "prediction_error", "information_gain", "epistemic_value"}

OF_POLICY = {"policy_loss", "precision_loss", "entropy"}


def terms_of(model):
    """What a train call has logged of its losses and samples."""
    names = {name.removeprefix("train/") for name in model.logger.name_to_value}
    return names & (OF_TRANSITIONS | OF_POLICY | {"vfe", "value_loss", "extrinsic_value"})


@action_spaces("discrete", "box")
@pytest.mark.parametrize("native", [True, False], ids=["library", "torch"])
def test_nets_that_learn_once_every_so_many_gradient_steps(tmp_path, monkeypatch, action_space, native):
    if not native:
        monkeypatch.setattr("sb3_dai.native_update.NativeUpdate._is_ready", lambda self: False)
    env = SampledEnv(action_space=action_space)
    model = make(env, transition_delay=3, policy_delay=2, seed=0).learn(54)
    assert model._n_updates == 4
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    model = DAI.load(tmp_path / "model", env=env)
    model.load_replay_buffer(tmp_path / "buffer")
    model.set_logger(configure(None, []))
    learned = []
    for step in range(4, 10):
        before = state_of(model.policy)
        model.train(gradient_steps=1, batch_size=32)
        learned.append({name.split(".")[0] for name in differing(before, state_of(model.policy))})
        transitions, policy = step % 3 == 0, step % 2 == 0
        wanted = {"value_loss", "extrinsic_value"}
        wanted |= (OF_TRANSITIONS if transitions else set()) | (OF_POLICY if policy else set())
        assert terms_of(model) == wanted | ({"vfe"} if transitions and policy else set())
        model.logger.dump()
    assert {"value_net", "value_net_target", "policy_net_average"} <= set.intersection(*learned), "in each"
    assert ["transition_net" in names for names in learned] == [False, False, True] * 2, "it goes on where it was saved"
    assert ["novelty_scale" in names for names in learned] == [False, False, True] * 2
    assert ["policy_net" in names for names in learned] == [True, False] * 3
    assert ["log_precision" in names for names in learned] == [True, False] * 3
    steps = [
        {int(model.policy.optimizer.state[parameter]["step"]) for parameter in net.parameters()}
        for net in (model.policy.value_net, model.policy.policy_net, model.policy.transition_net)
    ]
    assert steps == [{10}, {5}, {4}]


def test_several_steps_log_the_mean_of_those_that_have_a_term(monkeypatch):
    model = make(SampledEnv(), transition_delay=2, seed=0).learn(54)
    steps = iter([(("loss", "gain"), th.tensor([1.0, 5.0])), (("loss",), th.tensor([3.0]))] * 2)
    monkeypatch.setattr(model, "_native_update", lambda inputs, again: next(steps))
    model.train(gradient_steps=4, batch_size=32)
    assert model.logger.name_to_value["train/loss"] == 2.0 and model.logger.name_to_value["train/gain"] == 5.0


def test_what_is_not_known_in_a_step_teaches_the_value_net_nothing():
    """Without the world model there is no target of the epistemic value and of the prediction error."""
    model = make(
        SampledEnv(), epistemic_weight=0.5, prediction_error_weight=0.5, policy_kwargs=dict(net_arch=[]), seed=0
    ).learn(54)
    (batch,) = sample_transitions(model.replay_buffer, 16)
    inputs = inputs_of(model, batch)
    weight = model.policy.value_net.layers[-1].weight
    for learns in (True, False):
        losses, _ = model._losses(inputs._replace(learns_transitions=learns))
        (gradient,) = th.autograd.grad(losses["value_loss"], [weight])
        of_parts = gradient.unflatten(-1, (len(VALUE_HEADS), -1)).abs().amax(dim=(0, 1, 3))
        assert [bool(part > 0) for part in of_parts] == [True, learns, learns]


@action_spaces()
def test_by_default_all_learns_in_each_gradient_step_but_for_box_actions(action_space):
    kwargs = dict(transition_delay=None, policy_delay=None)
    model = make(SampledEnv(action_space=action_space), **kwargs, seed=0).learn(54)
    nets = model.policy.value_net, model.policy.policy_net, model.policy.transition_net
    steps = [{int(model.policy.optimizer.state[parameter]["step"]) for parameter in net.parameters()} for net in nets]
    assert model._n_updates == 4 and steps == ([{4}, {2}, {1}] if action_space == BOX else [{4}] * 3)


def test_what_is_counted_has_no_delay():
    kwargs = dict(net_arch=[16], transition_model="dirichlet")
    model = make(Chain(), transition_delay=4, policy_delay=2, policy_kwargs=kwargs, seed=0)
    assert model._delays() == (1, 2), "a second kind of gradient step would be compiled for nothing"


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


def test_rare_large_errors_count_as_their_squares():
    """A value net that takes them for outliers believes in states from which the rest is lost."""
    kwargs = dict(gamma=0.0, epistemic_weight=0.0, learning_starts=100, policy_kwargs=dict(net_arch=[16], n_critics=1))
    model = make(SampledEnv(), seed=0, **kwargs).learn(100)
    model.replay_buffer.rewards[:] = 0.0
    model.replay_buffer.rewards[:100:20] = 1000.0
    batch = next(iter(sample_transitions(model.replay_buffer, 400, 1, None)))
    losses, _ = model._losses(inputs_of(model, batch))
    share = (batch.one_step.rewards > 500.0).float().mean().item()
    assert 0.01 < share < 0.2 and losses["value_loss"].item() == pytest.approx(share * 1000.0**2, rel=0.02)


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


# ----- Precision and the entropy it aims at -----


@pytest.mark.parametrize(
    ("action_space", "target_entropy"),
    [
        (spaces.Discrete(4), 0.5 * np.log(4)),
        (spaces.MultiDiscrete([2, 3]), 0.5 * np.log(6)),
        (spaces.MultiBinary(3), 0.5 * np.log(8)),
        (spaces.Box(-1, 1, (1,)), -1.0),
        (spaces.Box(0, 9, (2, 3)), -6.0),
    ],
    ids=["discrete", "multi-discrete", "multi-binary", "box", "matrix"],
)
def test_target_entropy_of_an_action_space(action_space, target_entropy):
    model = make(SampledEnv(action_space=action_space), exploration_initial_entropy=0.5, exploration_final_entropy=0.5, seed=0)
    model.learn(52, log_interval=1000)
    assert model.logger.name_to_value["train/target_entropy"] == pytest.approx(target_entropy)


@action_spaces()
def test_precision_is_learned_unless_it_is_given(action_space):
    small = dict(learning_starts=50, batch_size=32, gradient_steps=1, buffer_size=1000, learning_rate=1e-3)
    model = DAI("MlpPolicy", SampledEnv(action_space=action_space), seed=0, device="cpu", **small)
    model.learn(60, log_interval=1000)
    assert "train/precision_loss" in model.logger.name_to_value
    assert 0 < abs(model.policy.log_precision.item()) < 0.1, "ten steps from 1"
    model = make(SampledEnv(action_space=action_space), precision=5.0, seed=0)
    model.learn(60, log_interval=1000)
    assert "train/precision_loss" not in model.logger.name_to_value
    assert model.policy.precision.item() == pytest.approx(5.0)


@action_spaces("discrete", "box")
def test_learned_precision_comes_back_from_a_file(tmp_path, action_space):
    model = make(SampledEnv(action_space=action_space), precision="auto", seed=0).learn(60)
    model.save(tmp_path / "model")
    loaded = DAI.load(tmp_path / "model", env=SampledEnv(action_space=action_space), device="cpu")
    assert loaded.precision == "auto"
    assert loaded.policy.precision.item() == model.policy.precision.item() != 1.0


# ----- Noise -----


@action_spaces("discrete", "box")
def test_state_dependent_exploration_is_refused(action_space):
    with pytest.raises(ValueError, match=r"use_sde=True.*action_noise"):
        make(SampledEnv(action_space=action_space), use_sde=True)
    make(SampledEnv(action_space=action_space), use_sde=False)


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
