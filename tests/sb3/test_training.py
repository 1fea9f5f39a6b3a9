"""How a run is started, reproduced, collected and continued."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from helpers import action_spaces, differing, each_step, make, state_of
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.utils import LinearSchedule
from worlds import BOX, N_STATES, TWO, Chain, CounterEnv, SampledEnv

from sb3_dai.dai import DAI


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
    assert {"world_model.net.layers.0.weight", "policy_net.layers.0.weight", "value_net.layers.0.weight"} <= initial & final
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


@pytest.mark.parametrize("max_steps", [3, 100])
def test_ends_are_stored_as_ends_and_timeouts_are_not(max_steps):
    """Faults of the notebook: the flag was stored before it was known, and a timeout counted as a death."""
    model = make(Chain(max_steps), seed=0, learning_starts=1000).learn(400)
    buffer = model.replay_buffer
    ends = (buffer.dones * (1 - buffer.timeouts))[: buffer.pos].astype(bool)
    assert buffer.dones.sum() > 0
    # Five steps to the right end the episode; with a limit of three none ever does
    assert ends.any() == (max_steps == 100)
    assert (buffer.observations[: buffer.pos][ends] == N_STATES - 1).all()


def test_returns_end_where_learning_resets_the_environment():
    """The episode that is cut short by a new call of learn() must not run on into the next one."""
    model = make(Chain(max_steps=100), seed=0, learning_starts=1000, n_steps=3)
    model.learn(10)
    model.learn(10)
    buffer = model.replay_buffer
    cut = buffer.timeouts[:20].nonzero()[0]
    assert (buffer.dones[cut] == 0).all() and 9 in cut


@pytest.mark.parametrize("reset", [True, False])
def test_learn_again(reset):
    schedule = LinearSchedule(0.7, 0.2, 1.0)
    model = make(CounterEnv(), seed=0, target_entropy=schedule).learn(64)
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
        assert model.logger.name_to_value["train/target_entropy"] == pytest.approx(0.2)


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
