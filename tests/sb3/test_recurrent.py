"""Policies with a memory, used as Stable-Baselines3 and sb3-contrib use theirs."""

import copy
import io

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import action_spaces, each_step, make, spy, stack, state_of
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from worlds import BOX, DISCRETE, IMAGE, VECTOR, CounterEnv, SampledEnv

import sb3_dai.envs  # noqa: F401 (registers the worlds)
from sb3_dai import CnnLstmPolicy, MlpLstmPolicy, MultiInputLstmPolicy
from sb3_dai.dai import DAI
from sb3_dai.diagnostics import one_step_error, predicted_transitions
from sb3_dai.learning.losses import all_losses
from sb3_dai.learning.sequences import sample_windows, sampled

POLICIES = {
    "MlpLstmPolicy": VECTOR,
    "CnnLstmPolicy": IMAGE,
    "MultiInputLstmPolicy": spaces.Dict(vector=VECTOR, discrete=spaces.Discrete(3)),
}
NUMBERED = spaces.Discrete(5)
SMALL = dict(net_arch=[8], lstm_hidden_size=6, sequence_length=5, burn_in=2, ensemble_size=2)


def make_recurrent(env=None, policy="MlpLstmPolicy", policy_kwargs=None, **kwargs):
    env = CounterEnv(length=6) if env is None else env
    small = dict(learning_starts=20, batch_size=4, train_freq=1, seed=0, policy_kwargs={**SMALL, **(policy_kwargs or {})})
    return make(env, policy, **{**small, **kwargs})


def beliefs(policy, n):
    """What is carried of n environments, different for each."""
    return tuple(np.random.default_rng(0).normal(size=part.shape).astype(np.float32) for part in policy.initial_state(n))


# ----- Past actions that are left out -----


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_sequences_has_no_past_actions(share):
    model, seen = make_recurrent(policy_kwargs=dict(action_dropout=share)).learn(60), []
    for _, windows in sampled(model.policy, model.replay_buffer, 64, 20, None):
        later = windows.time > 0
        n_actions = th.zeros(64).index_add_(0, windows.window[later], windows.has_action[later, 0])
        n_rows = th.bincount(windows.window[later], minlength=64)
        assert ((n_actions == 0) | (n_actions == n_rows)).all(), "a sequence has all of them or none"
        assert not windows.actions[windows.has_action[:, 0] == 0.0].any()
        seen += (n_actions > 0).tolist()
    assert abs(np.mean(seen) - (1.0 - share)) < 0.05
    assert windows.has_action[~later].max() == (share < 1.0), "nor the one before its first observation"
    model.policy.save(file := io.BytesIO())
    file.seek(0)
    assert MlpLstmPolicy.load(file, device="cpu").action_dropout == share


# ----- Acting -----


@pytest.mark.parametrize("policy", POLICIES)
@action_spaces()
def test_every_policy_trains_and_comes_back(policy, action_space):
    space = POLICIES[policy]
    model = make_recurrent(SampledEnv(space, action_space), policy).learn(40)
    assert {"MlpLstmPolicy": MlpLstmPolicy, "CnnLstmPolicy": CnnLstmPolicy, "MultiInputLstmPolicy": MultiInputLstmPolicy}[
        policy
    ] is type(model.policy)
    model.save(file := io.BytesIO())
    loaded, observations = DAI.load(file, device="cpu"), stack(space, 3)
    for deterministic in (True, False):
        state = None
        for _ in range(3):
            returned = []
            for one in (model, loaded):
                set_random_seed(1)
                returned.append(one.predict(observations, state, np.array([False, True, False]), deterministic))
            (actions, state), (same_actions, same_state) = returned
            assert actions.tobytes() == same_actions.tobytes()
            assert all(np.array_equal(*parts) for parts in zip(state, same_state, strict=True))
            assert all(action_space.contains(action) for action in actions)


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_belief_goes_on_and_starts_anew_in_one_environment_alone(deterministic):
    policy, observations = make_recurrent(SampledEnv()).policy, stack(VECTOR, 3)
    carried = beliefs(policy, 3)
    after = policy.predict(observations, carried, np.zeros(3, bool), deterministic)[1]
    anew = policy.predict(observations, None, np.zeros(3, bool), deterministic)[1]
    one = policy.predict(observations, carried, np.array([False, True, False]), deterministic)[1]
    for part, first, mixed in zip(after[:-1], anew[:-1], one[:-1], strict=True):
        assert not np.isclose(part, first).any()
        assert np.allclose(mixed[[0, 2]], part[[0, 2]]) and np.allclose(mixed[1], first[1])


EIGHT = {
    "MlpLstmPolicy": (DummyVecEnv([lambda n=n: Monitor(CounterEnv(length=3 + n)) for n in range(8)]), SMALL),
    "HiddenStatesPolicy": (make_vec_env("sb3_dai/TMaze-v0", 8, seed=0), dict(A="env", B="env", D="env", net_arch=[8])),
}


@pytest.mark.parametrize("policy", EIGHT)
def test_episodes_of_eight_environments_start_each_by_itself_in_training(policy):
    """What is carried of one environment is what it would be if there were no others."""
    env, policy_kwargs = EIGHT[policy]
    model = make(env, policy, policy_kwargs=policy_kwargs, learning_starts=1000, seed=0)
    all_starts, before = [], []

    def compare():
        # By the model as it is now: exact beliefs learn in each step
        starting = model._last_episode_starts
        for n in range(8):
            own = None if starting[n] else tuple(part[n : n + 1] for part in before[-1])
            memory = model.predict(model._last_obs[n : n + 1], own)[1][0]
            np.testing.assert_allclose(model._last_state[0][n : n + 1], memory, atol=1e-6)
        all_starts.append(starting)
        before.append(model._last_state)

    model.learn(160, callback=each_step(compare))
    starts = np.array(all_starts)
    assert starts[0].all()
    assert (starts[1:].any(axis=1) & ~starts[1:].all(axis=1)).any() and starts[1:].any(axis=0).all()


def test_the_last_action_is_a_part_of_what_is_carried():
    policy, observations = make_recurrent(SampledEnv(action_space=DISCRETE)).policy, stack(VECTOR, 4)
    actions, state = policy.predict(observations)
    assert np.array_equal(state[-1].argmax(axis=1), actions)
    others = (*state[:-1], np.roll(state[-1], 1, axis=1))
    assert not np.isclose(policy.predict(observations, state)[1][0], policy.predict(observations, others)[1][0]).all()


def test_one_observation_without_its_axis():
    policy = make_recurrent(SampledEnv(action_space=BOX)).policy
    action, state = policy.predict(VECTOR.sample())
    assert action.shape == BOX.shape
    assert [part.shape for part in state] == [(1, 6), (1, 6), (1, *BOX.shape)]
    assert policy.predict(VECTOR.sample(), state, np.array([False]))[0].shape == BOX.shape


@pytest.mark.parametrize("greedy", ["average", "policy"])
def test_export_has_the_state_as_input_and_output(greedy):
    """``forward`` is what is exported: predict, with tensors in the place of arrays."""
    policy, observations = (
        make_recurrent(SampledEnv(action_space=DISCRETE), policy_kwargs=dict(greedy=greedy)).policy,
        stack(VECTOR, 3),
    )
    carried, starts = beliefs(policy, 3), np.array([False, True, False])
    actions, state = policy.predict(observations, carried, starts, deterministic=True)
    returned = policy(th.as_tensor(observations), *map(th.as_tensor, carried), th.as_tensor(starts))
    for part, expected in zip(returned, (actions, *state), strict=True):
        assert np.array_equal(part.detach().numpy(), expected)


def test_the_belief_of_an_observation_alone_is_that_of_a_first_one():
    policy, observations = make_recurrent(SampledEnv()).policy, stack(VECTOR, 3)
    hidden = policy.predict(observations)[1][0]
    assert np.array_equal(policy.belief(th.as_tensor(observations)).features[:, -6:].detach().numpy(), hidden)
    with pytest.raises(NotImplementedError, match="memory"):
        policy.imagine(policy.belief(th.as_tensor(observations)), th.zeros(3, 2))


# ----- Collecting experience -----


@pytest.mark.parametrize("length", [3, 30])
@pytest.mark.parametrize("n_envs", [1, 3])
@action_spaces("discrete", "box")
def test_beliefs_are_replayed_as_they_were_carried(n_envs, action_space, length):
    """
    The agent acts by the belief that it learns, with the actions that were taken, of which half are random. A sequence that
    starts in the midst of an episode starts with what was carried then.
    """
    env = make_vec_env(lambda: SampledEnv(action_space=action_space), n_envs, seed=0)
    model = make_recurrent(env, learning_starts=12 * n_envs, gradient_steps=0, policy_kwargs=dict(sequence_length=30))
    carried = []
    model.learn(24 * n_envs, callback=each_step(lambda: carried.append(model._last_state[0])))
    ((_, windows),) = sample_windows(model.replay_buffer, 30, length)
    with th.no_grad():
        replayed = model.policy._replayed(windows, windows.observations, model.policy.belief_filter)
    found = 0
    for row, observation in enumerate(windows.observations.numpy()):
        where = np.argwhere((model.replay_buffer.observations[:24] == observation).all(axis=2))
        for step, index in where:  # None for the last observation of an episode
            np.testing.assert_allclose(replayed[row, -6:].numpy(), carried[step][index], rtol=1e-4, atol=1e-5)
            found += 1
    assert found > 60


def test_a_reset_by_hand_forgets():
    model = make_recurrent(SampledEnv(), learning_starts=100).learn(15)
    before = copy.deepcopy(model._last_state)
    model.learn(1, reset_num_timesteps=False)
    goes_on = model._last_state
    model.learn(1)
    assert not np.isclose(goes_on[0], before[0]).any()
    assert model.replay_buffer.dones[:17, 0].nonzero()[0].tolist() == [9, 15]
    anew = model.policy.predict(model.replay_buffer.observations[16])[1]
    np.testing.assert_allclose(model._last_state[0], anew[0], rtol=1e-5)


@pytest.mark.parametrize("n_envs", [1, 3])
def test_training_goes_on_bit_by_bit_after_a_load(tmp_path, n_envs):
    def env():
        return make_vec_env(lambda: CounterEnv(length=7), n_envs, seed=0)

    model = make_recurrent(env(), train_freq=2, learning_starts=10).learn(16 * n_envs)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = DAI.load(tmp_path / "model", env=env(), device="cpu", force_reset=False)
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert all(np.array_equal(*parts) for parts in zip(loaded._last_state, model._last_state, strict=True))
    assert np.array_equal(loaded._last_episode_starts, model._last_episode_starts)
    for one in (model, loaded):
        set_random_seed(3)
        one.set_env(env(), force_reset=False)
        one.env.reset()
        one.learn(20 * n_envs, reset_num_timesteps=False)
    assert model._n_updates == loaded._n_updates > 5
    left, right = (state_of(one.policy) for one in (model, loaded))
    assert not [name for name in left if not th.equal(left[name], right[name])]
    assert all(np.array_equal(*parts) for parts in zip(loaded._last_state, model._last_state, strict=True))


def test_observations_are_normalised_on_the_way_to_the_policy(monkeypatch):
    env = VecNormalize(DummyVecEnv([lambda: CounterEnv(length=6, scale=1000.0)] * 2))
    model = make_recurrent(env, learning_starts=10**6).learn(80)
    model.set_logger(configure(None, []))
    calls = spy(monkeypatch, type(model.policy), "replay")
    model.train(1, 8)
    assert abs(calls[0][0][1].observations).max() < 10.0
    assert model.replay_buffer.observations.max() > 1000.0


def test_episodes_are_evaluated_with_beliefs_of_their_own():
    model = make_recurrent(CounterEnv(length=5)).learn(40)
    env = make_vec_env(lambda: CounterEnv(length=5), 2)
    assert evaluate_policy(model, env, 4)[0] == 15.0


# ----- Learning -----


def test_every_part_learns():
    model = make_recurrent(SampledEnv(), train_freq=4).learn(24)
    before = state_of(model.policy)
    model.learn(8, reset_num_timesteps=False)
    after = state_of(model.policy)
    for name in before:
        if name.startswith(("belief_filter", "policy_net", "value_net", "world_model.net", "reward_net")):
            assert not th.equal(before[name], after[name]), name


def test_what_is_hidden_is_remembered_through_the_loss_of_the_world_model_and_that_of_the_critics():
    """Both shape the filter. That of the policy does not: its gradient would be the other ones' noise."""
    model = make_recurrent(SampledEnv(), gradient_steps=0).learn(40)
    batch = next(model._batches(1, 4))
    (coefficients,) = model._coefficients(1)
    losses, _ = all_losses(model.policy, batch, coefficients)
    weight = model.policy.belief_filter.lstm.weight_ih_l0
    for name, loss in losses.items():
        (gradient,) = th.autograd.grad(loss, [weight], retain_graph=True, allow_unused=True)
        shapes = gradient is not None and bool((gradient != 0).any())
        assert shapes == (name in ("transition_loss", "value_loss", "reward_loss")), name


def test_what_follows_is_chosen_by_the_belief_that_the_policy_net_reads_and_valued_by_the_targets(monkeypatch):
    model = make_recurrent(SampledEnv(), gradient_steps=0).learn(40)
    policy = model.policy
    for part in policy.belief_filter_target.parameters():
        part.data.mul_(2.0)
    batch = next(model._batches(1, 4))
    (coefficients,) = model._coefficients(1)
    chosen, valued = spy(monkeypatch, type(policy), "posterior"), spy(monkeypatch, type(policy), "efe")
    all_losses(policy, batch, coefficients)
    _, by_target, _, by_filter = policy.replay(batch.windows, batch.one_step, True)
    # The first call is about s, the second about s'
    th.testing.assert_close(chosen[0][0][1].features[:, -6:], by_filter.features[:, -6:])
    th.testing.assert_close(valued[1][0][1].features[:, -6:], by_target.features[:, -6:])
    assert not th.isclose(by_filter.features[:, -6:], by_target.features[:, -6:]).any()


@pytest.mark.parametrize("space", [VECTOR, NUMBERED])
def test_terms_are_logged(space):
    model = make_recurrent(SampledEnv(space), policy_kwargs=dict(state_dim=2))
    model.set_logger(configure(None, []))
    model.learn(24)
    logged = {name.removeprefix("train/") for name in model.logger.name_to_value}
    assert {"transition_loss", "reward_loss", "value_loss", "information_gain", "vfe"} <= logged
    assert {"free_energy_loss", "observation_surprise", "state_divergence"} <= logged


def test_numbered_observations():
    model = make_recurrent(SampledEnv(NUMBERED, DISCRETE)).learn(30)
    assert np.isfinite(model.policy.predict(np.array([1, 2]))[1][0]).all()


def test_a_backend_that_cannot_says_so():
    with pytest.warns(UserWarning, match="sequences have many lengths"):
        make_recurrent(backend="compile").learn(24)


def test_defaults_are_those_of_the_policy(tmp_path):
    observed, memory = (DAI(policy, "Pendulum-v1", device="cpu") for policy in ("MlpPolicy", MlpLstmPolicy))
    for model, rate, expected in ((observed, 2e-3, (64, 1, 4, 0.05, 2e-4, 4)), (memory, 1e-3, (4, 1, 2, 0.05, 0.0, 1))):
        found = model.batch_size, model.train_freq.frequency, model.gradient_steps, model.tau, model.lr_schedule(0.0)
        assert model.lr_schedule(1.0) == rate
        assert (*found, model.policy.transition_delay) == pytest.approx(expected)
    exact = DAI("HiddenStatesPolicy", "FrozenLake-v1", device="cpu")
    assert (exact.batch_size, exact.train_freq.frequency, exact.gradient_steps, exact.tau) == (16, 2, 1, 0.1)
    assert exact.policy.lr_multipliers == {"dual": 5.0} and memory.policy.lr_multipliers == {"dual": 4.0}
    assert (exact.lr_schedule(1.0), exact.pessimism, observed.pessimism, memory.pessimism) == (2e-3, None, None, 1.0)
    assert [[c.learns_policy for c in model._coefficients(2)] for model in (observed, memory)] == [[True, False], [True, True]]
    given = DAI("MlpLstmPolicy", "Pendulum-v1", batch_size=5, train_freq=3, policy_kwargs=dict(transition_delay=3))
    given.save(tmp_path / "model")
    loaded = DAI.load(tmp_path / "model", device="cpu")
    assert (loaded.batch_size, loaded.train_freq.frequency, loaded.gradient_steps) == (5, 3, 2)
    assert loaded.policy.transition_delay == 3


# ----- What does not go together -----


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        (dict(n_steps=3), "n_steps=3"),
        (
            dict(optimize_memory_usage=True, replay_buffer_kwargs=dict(handle_timeout_termination=False)),
            "optimize_memory_usage",
        ),
        (dict(policy_kwargs=dict(transition_model="dirichlet")), 'transition_model="dirichlet"'),
        (dict(policy_kwargs=dict(lstm_hidden_size=0)), "lstm_hidden_size=0"),
        (dict(policy_kwargs=dict(sequence_length=1)), "sequence_length=1"),
        (dict(policy_kwargs=dict(burn_in=5)), "burn_in=5"),
        (dict(policy_kwargs=dict(action_dropout=1.1)), "action_dropout=1.1"),
        (dict(policy_kwargs=dict(state_dim=-1)), "state_dim=-1"),
    ],
)
def test_what_cannot_be_is_refused_by_name(kwargs, error):
    with pytest.raises(ValueError, match=error):
        make_recurrent(SampledEnv(NUMBERED, DISCRETE), **kwargs)


def test_hindsight_is_refused():
    goal = spaces.Box(-1.0, 1.0, (2,), np.float32)

    class Goals(SampledEnv):
        def compute_reward(self, achieved, desired, info):
            return np.zeros(len(achieved), np.float32)

    env = Goals(spaces.Dict(observation=goal, achieved_goal=goal, desired_goal=goal))
    with pytest.raises(ValueError, match="replay_buffer_class=HerReplayBuffer"):
        make_recurrent(env, "MultiInputLstmPolicy", replay_buffer_class=HerReplayBuffer)


@pytest.mark.parametrize(
    ("space", "ask"),
    [
        (VECTOR, lambda model: one_step_error(model, stack(VECTOR, 2), np.zeros(2, int), stack(VECTOR, 2))),
        (NUMBERED, predicted_transitions),
    ],
)
def test_diagnostics_of_observed_states_are_refused(space, ask):
    with pytest.raises(ValueError, match="RecurrentPolicy predicts from what it remembers"):
        ask(make_recurrent(SampledEnv(space, DISCRETE)))
