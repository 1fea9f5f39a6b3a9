"""Exact beliefs as a policy of SB3: acting with a carried belief, learning while acting and by smoothing, saving."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import make
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure

import sb3_dai.envs  # noqa: F401 (registers the worlds)
from sb3_dai import DAI
from sb3_dai.preferences import GaussianPreference

TMAZE = "sb3_dai/TMaze-v0"
CUE = 3


def maze_model(given="ABD", env=TMAZE, n_states=8, **kwargs):
    """A small agent in the T-maze that knows these tables."""
    world = gym.make(TMAZE).unwrapped
    tables = dict(A=world.observation_matrix, B=world.transition_matrix, D=world.initial_distribution)
    policy_kwargs = dict(n_hidden_states=n_states, net_arch=[8], **{name: tables[name] for name in given})
    policy_kwargs.update(kwargs.pop("policy_kwargs", {}))
    settings = dict(learning_starts=10, train_freq=8, precision=64.0, gamma=0.9, epistemic_weight=0.0, seed=0)
    return make(env, "HiddenStatesPolicy", policy_kwargs=policy_kwargs, **{**settings, **kwargs})


def shown(location, outcome=0, cue=0):
    return np.array([location, outcome, cue])


def test_the_belief_collapses_at_the_cue_and_is_carried():
    model = maze_model()
    _, state = model.predict(shown(0))
    assert state[0][0][[0, 4]] == pytest.approx([0.5, 0.5])
    went = np.eye(4, dtype=np.float32)[[CUE]]
    _, state = model.predict(shown(3, cue=2), (state[0], went))
    assert state[0][0][7] == pytest.approx(1.0)
    _, state = model.predict(shown(0), (state[0], np.eye(4, dtype=np.float32)[[0]]))
    assert state[0][0][4] == pytest.approx(1.0), "what was seen at the cue is remembered"


def test_an_episode_start_resets_one_belief_alone():
    model = maze_model()
    sure = np.eye(8, dtype=np.float32)[[7, 7]]
    state = (sure, np.eye(4, dtype=np.float32)[[0, 0]])
    _, (belief, _) = model.predict(np.stack([shown(0), shown(0)]), state, np.array([True, False]))
    assert belief[0, [0, 4]] == pytest.approx([0.5, 0.5])
    assert belief[1, 4] == pytest.approx(1.0)


def test_it_reads_the_cue_before_it_knows_what_is_paid_where():
    """Salience alone: the cue is worth a bit, and an arm ends nothing yet."""
    model = maze_model(epistemic_weight=0.5)
    model.policy.head_weights.copy_(th.tensor([1.0, 0.5]))
    action, _ = model.predict(shown(0), deterministic=True)
    assert action == CUE


@pytest.mark.parametrize("n_envs", [1, 3])
def test_it_learns_the_maze_with_what_is_given(n_envs):
    model = maze_model(env=make_vec_env(TMAZE, n_envs)).learn(240)
    env = gym.make(TMAZE)
    lengths, paid = [], []
    for episode in range(20):
        (obs, _), state, done, steps = env.reset(seed=episode), None, False, 0
        while not done:
            action, state = model.predict(obs, state, deterministic=True)
            obs, reward, terminated, truncated, _ = env.step(action)
            done, steps = terminated or truncated, steps + 1
        lengths.append(steps)
        paid.append(reward)
    assert np.mean(lengths) <= 3.0
    assert np.mean(paid) > 0.8


def test_what_is_learned_is_learned_from_whole_episodes():
    """The cue is counted for the side that the arm shows later."""
    model = maze_model("BD", policy_kwargs=dict(n_starts=2)).learn(250)
    cues = model.policy.states.likelihoods()[2][1:, [3, 7]]
    assert (cues.max(dim=0).values > 0.9).all(), "each side has a cue of its own"
    assert cues.argmax(dim=0).unique().numel() == 2
    assert (model.policy.states.prior_B == model.policy.states.B).all()
    assert model.predict(shown(0), deterministic=True)[0] == CUE, "and so it is read first"


@pytest.mark.parametrize(("plans", "weight"), [(True, 0.5), (False, 0.5), (True, 0.0)])
def test_every_part_of_the_free_energies_is_logged(plans, weight):
    """Whoever acts, and whether or not information has a weight."""
    model = maze_model("BD", policy_kwargs=dict(plans=plans), epistemic_weight=weight)
    model.set_logger(configure(None, []))
    model.learn(64)
    logged = {name.removeprefix("train/"): value for name, value in model.logger.name_to_value.items()}
    parts = [logged[name] for name in ("observation_surprise", "state_divergence")]
    assert min(parts) > 0.0
    assert sum(parts) == pytest.approx(logged["prediction_error"], rel=1e-4), "the free energy of an exact posterior"
    gains = [logged[name] for name in ("salience", "novelty_A", "novelty_B", "novelty_R")]
    assert sum(gains) == pytest.approx(logged["information_gain"], rel=1e-4)
    assert min(gains[:2]) > 0.0
    assert gains[2] == 0.0, "B is given"


def test_worlds_are_drawn_at_the_start_of_episodes(monkeypatch):
    """And more rarely with what is known: one draw for each twentieth of the episodes."""
    model, at = maze_model("BD"), []
    monkeypatch.setattr(model.policy, "draw", lambda: at.append((model._n_episodes, bool(model._last_episode_starts[0]))))
    model.policy.drawn.keep(model.policy.plan(draws=False))
    model.learn(120)
    assert all(starts for _, starts in at)
    numbers = [number for number, _ in at]
    assert numbers == sorted(set(numbers)) and 0 < len(numbers) < model._n_episodes
    drawn, policy = [], maze_model("BD").policy
    for _ in range(2):
        policy.draw()
        drawn.append(policy.plan(draws=True).world.likelihood)
    assert not th.equal(*drawn), "what is not known is drawn anew"
    assert th.equal(policy.plan(draws=False).world.likelihood, maze_model("BD").policy.plan(draws=False).world.likelihood)


def test_an_episode_that_goes_on_says_where_one_is_not():
    model = maze_model()
    states = model.policy.states
    over = states.payments.number(th.tensor([[0.0, 0.0], [1.0, 1.0]]))[1:]
    states.payments.count(over, th.tensor([1]), th.eye(8)[[0]] * 1000)
    went = np.eye(4, dtype=np.float32)[[1]]
    even = np.full((1, 8), 0.125, dtype=np.float32)
    _, state = model.predict(shown(1), (even, went))
    # In the first of the eight states it would have ended: four of the other seven have the reward on the right
    assert state[0][0][5] == pytest.approx(4 / 7, abs=0.01)


def test_saving_and_going_on(tmp_path):
    model = maze_model("BD").learn(60)
    model.save(tmp_path / "maze")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = DAI.load(tmp_path / "maze", env=gym.make(TMAZE))
    for name, value in model.policy.state_dict().items():
        assert th.equal(value, loaded.policy.state_dict()[name]), name
    for obs in (shown(0), shown(3, cue=1)):
        before, after = (agent.predict(obs, deterministic=True) for agent in (model, loaded))
        assert before[0] == after[0]
        assert np.array_equal(before[1][0], after[1][0])
    # Without its replay buffer, what it knows is the prior of what it learns
    counted = loaded.policy.states.A_0.sum().item()
    loaded.learn(50, reset_num_timesteps=False)
    assert loaded.policy.states.A_0.sum().item() >= counted + 50


def test_training_goes_on_as_if_it_had_not_been_saved(tmp_path):
    """With the same random numbers from the same start, in the world that had been drawn."""
    model = maze_model("BD").learn(60)
    model.save(tmp_path / "maze")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = DAI.load(tmp_path / "maze", env=gym.make(TMAZE))
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert all(th.equal(*pair) for pair in zip(model.policy.plan(True).world, loaded.policy.plan(True).world, strict=True))
    for agent in (model, loaded):
        agent.set_random_seed(1)
        agent._last_obs = None
        agent.learn(60, reset_num_timesteps=False)
    states = model.policy.state_dict(), loaded.policy.state_dict()
    assert all(th.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_policy_without_a_saved_plan_loads():
    policy = maze_model("BD").learn(30).policy
    before = {name: value for name, value in policy.state_dict().items() if not name.startswith("drawn.")}
    assert policy.drawn.plan is not None and len(before) < len(policy.state_dict())
    policy.load_state_dict(before)
    assert policy.drawn.plan is None and policy.plan(draws=True).vectors.numel() > 0


@pytest.mark.parametrize("given", ["ABD", "BD", "A", "D"])
def test_tables_of_the_environment(given, tmp_path):
    env = make_vec_env(TMAZE, 2)
    model = make(env, "HiddenStatesPolicy", policy_kwargs=dict.fromkeys(given, "env"))
    states, world = model.policy.states, env.envs[0].unwrapped
    held = {name: learned for name, learned in states.learns.items() if not learned}
    assert "".join(held) == given
    for name, found, true in (
        ("A", states.likelihoods()[2], world.observation_matrix[2]),
        ("B", states.transition(), world.transition_matrix),
        ("D", states.initial_states(), world.initial_distribution),
    ):
        assert np.allclose(found, true) == (name in given)
    model.save(tmp_path / "maze")
    loaded = DAI.load(tmp_path / "maze")  # Without an environment
    assert loaded.policy.n_hidden_states == 8
    assert np.array_equal(loaded.predict(shown(0))[1][0], model.predict(shown(0))[1][0])


def test_dictionaries_of_numbers_and_evaluation():
    class Named(gym.ObservationWrapper):
        def __init__(self, env):
            super().__init__(env)
            self.observation_space = spaces.Dict({"a": spaces.Discrete(4), "b": spaces.MultiDiscrete([3, 3])})

        def observation(self, observation):
            return {"a": int(observation[0]), "b": observation[1:]}

    model = maze_model(env=Named(gym.make(TMAZE))).learn(60)
    assert model.policy.states.n_outcomes == (4, 3, 3)
    reward, _ = evaluate_policy(model, model.get_env(), n_eval_episodes=2)
    assert np.isfinite(reward)


def test_the_critics_may_act_instead():
    model = maze_model(policy_kwargs=dict(plans=False)).learn(60)
    actions, _ = model.predict(np.stack([shown(0)] * 4))
    assert actions.shape == (4,)


@pytest.mark.parametrize(
    ("env", "kwargs", "message"),
    [
        ("CartPole-v1", {}, "exact beliefs need numbered observations"),
        (TMAZE, dict(n_hidden_states=0), "n_hidden_states=0"),
        (TMAZE, dict(n_starts=1.5), "n_starts=1.5"),
        (TMAZE, dict(normalize_features=True), "normalize_features=True"),
        (TMAZE, dict(action_dropout=0.5), "action_dropout=0.5"),
        (TMAZE, dict(novelty="variance"), "novelty='variance'"),
        (TMAZE, dict(B="world"), "B='world': give a table, or \"env\""),
        ("FrozenLake-v1", dict(D="env"), 'D="env": the environment has no initial_distribution'),
        (TMAZE, dict(D=[0.5, 0.5]), r"D of shape \(2,\): give \(8,\)"),
    ],
)
def test_what_cannot_be_used_is_refused(env, kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(env, "HiddenStatesPolicy", policy_kwargs={"n_hidden_states": 8, **kwargs})


def test_plans_see_rewards_alone():
    with pytest.raises(ValueError, match="plans=False"):
        maze_model(preference=GaussianPreference(goal=1.0, std=1.0))
