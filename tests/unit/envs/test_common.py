"""What all worlds of ``sb3_dai.envs`` have in common: how they fit gymnasium and Stable-Baselines3."""

import importlib
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.env_util import make_vec_env

import sb3_dai.envs as envs

#: Constructor of a variant of each world in which everything it can do happens, and the size of its picture in cells
WORLDS = {
    "GridWorld": (
        envs.GridWorld,
        dict(shape=(3, 4), start=(1, 1), walls=[(0, 1)], slip=0.2, goal=(2, 3), step_cost=0.1),
        (3, 4),
    ),
    "TreacherousGrid": (envs.TreacherousGrid, dict(rewards=[[-1, -2, 3], [-4, -5, -6]], start=(1, 0)), (2, 3)),
    "Bandit": (envs.Bandit, {}, (1, 3)),
    "ThreeStateChain": (envs.ThreeStateChain, {}, (1, 3)),
    "DeepSea": (envs.DeepSea, dict(size=4, deterministic=False), (4, 4)),
    "NoisyTV": (envs.NoisyTV, dict(n_rooms=4, tv_room=1, n_channels=5), (1, 4)),
    "TMaze": (envs.TMaze, dict(cue_reliability=0.9, reward_reliability=0.8), (2, 3)),
    "CueChaining": (
        envs.CueChaining,
        dict(shape=(2, 4), cue1=(1, 0), cue2=[(0, 1), (1, 1)], reward_cells=[(0, 3), (1, 3)], step_cost=0.1),
        (2, 4),
    ),
    "Tiger": (envs.Tiger, {}, (1, 3)),
    "TigerOnce": (envs.Tiger, dict(ends=True), (1, 3)),
    "AliasedGrid": (envs.AliasedGrid, dict(shape=(3, 4), walls=[(0, 1)], goal=(2, 3), slip=0.2), (3, 4)),
    "PassiveTMaze": (envs.PassiveTMaze, dict(length=3), (3, 4)),
    "HiddenTabularEnv": (
        envs.HiddenTabularEnv,
        dict(
            transition_matrix=np.array([[[0.5, 0.0], [0.1, 1.0]], [[0.5, 1.0], [0.9, 0.0]]]),
            observation_matrix=np.array([[0.8, 0.3], [0.2, 0.7]]),
            initial_distribution=np.array([0.25, 0.75]),
            rewards=np.array([[0.0, 1.0], [2.0, 0.0]]),
            terminated=np.array([[[0.5, 0.0], [0.0, 0.0]], [[0.0, 0.2], [0.0, 0.0]]]),
        ),
        (1, 2),
    ),
    "Recall": (envs.Recall, dict(k=2), (1, 3)),
}
TABULAR = [name for name in WORLDS if name != "Recall"]
"""Worlds that have matrices."""
REGISTERED = [name for name in WORLDS if name != "HiddenTabularEnv"]
IDS = [
    f"sb3_dai/{name}-v0"
    for name in (*REGISTERED, "DeepSea20", "PassiveTMaze50", "Recall16", "MountainCarContinuousSparse", "PendulumSparse")
]


@pytest.mark.parametrize("env_id", IDS)
def test_environments_are_registered_and_clean(env_id):
    env = gym.make(env_id)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Checked unwrapped, as gymnasium asks; the sparse tasks are wrappers, and their pictures need pygame
        sparse = "Sparse" in env_id
        if sparse:
            warnings.filterwarnings(
                "ignore", message=".*(is different from the unwrapped version|symmetric and normalized|from other wrappers)"
            )
        check_env(env if sparse else env.unwrapped, skip_render_check=sparse)
        sb3_check_env(env)


def test_registration_twice_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importlib.reload(envs)
    assert gym.spec("sb3_dai/GridWorld-v0").max_episode_steps == 50
    assert gym.make("sb3_dai/DeepSea30-v0").unwrapped.size == 30


@pytest.mark.parametrize("name", TABULAR)
def test_steps_follow_the_matrices(name):
    make, kwargs, _ = WORLDS[name]
    env = make(**kwargs)
    env.action_space.seed(0)
    transitions, rewards = env.transition_matrix, env.reward_matrix
    assert np.allclose(transitions.sum(0), 1.0)
    counts, paid, ended = np.zeros_like(transitions), np.zeros_like(transitions), np.zeros_like(transitions)
    observation, info = env.reset(seed=0)
    state = info.get("state", observation)
    for _ in range(6000):
        action = env.action_space.sample()
        observation, reward, terminated, _, info = env.step(action)
        index = info.get("state", observation), state, action
        counts[index] += 1
        paid[index] += reward
        ended[index] += terminated
        if terminated:
            observation, info = env.reset()
        state = info.get("state", observation)
    assert not counts[transitions == 0.0].any(), "a step that the matrix holds impossible"
    visits = counts.sum(0)
    # Four standard errors of a frequency; of the mean reward where noise is added
    error = np.abs(counts / np.maximum(visits, 1) - transitions) * (visits > 0)
    assert (error <= 4.0 * np.sqrt(transitions * (1.0 - transitions) / np.maximum(visits, 1)) + 1e-9).all()
    seen = counts > 0
    noise = 4.0 / np.sqrt(counts[seen]) if name in ("DeepSea", "TMaze") else 1e-9
    assert (np.abs(paid[seen] / counts[seen] - rewards[seen]) <= noise).all()
    ends = env.termination_matrix[seen]
    assert (np.abs(ended[seen] / counts[seen] - ends) <= 4.0 * np.sqrt(ends * (1.0 - ends) / counts[seen]) + 1e-9).all()


@pytest.mark.parametrize("name", WORLDS)
def test_pictures(name):
    make, kwargs, (n_rows, n_columns) = WORLDS[name]
    env = make(**kwargs, render_mode="rgb_array")
    env.reset(seed=0)
    env.step(0)
    image = env.render()
    assert image.dtype == np.uint8
    assert image.shape == (32 * n_rows, 32 * n_columns, 3)
    row, column = env.agent_cell()
    assert tuple(image[32 * row + 16, 32 * column + 16]) == envs.drawing.AGENT
    text = make(**kwargs, render_mode="ansi")
    text.reset(seed=0)
    text.step(0)
    lines = text.render().splitlines()
    assert [len(line) for line in lines] == [3 * n_columns] * n_rows
    assert "".join(lines).count("[") == 1
    assert lines[row][3 * column] == "["


def test_picture_without_a_mode_warns():
    with pytest.warns(UserWarning, match="render_mode='ansi'"):
        assert envs.ThreeStateChain().render() is None


@pytest.mark.parametrize("name", ["GridWorld", "DeepSea", "NoisyTV", "TMaze", "PassiveTMaze", "HiddenTabularEnv", "Recall"])
def test_seed_reproduces(name):
    make, kwargs, _ = WORLDS[name]

    def walk(seed):
        env = make(**kwargs)
        env.reset(seed=seed)
        found = []
        for action in np.random.default_rng(0).integers(env.action_space.n, size=200):
            observation, reward, terminated, _, _ = env.step(action)
            found.append((np.asarray(observation).tolist(), reward, terminated))
            if terminated:
                found.append(np.asarray(env.reset()[0]).tolist())
        return found

    assert walk(1) == walk(1)
    assert walk(1) != walk(2)


@pytest.mark.parametrize(
    ("make", "kwargs", "named"),
    [
        (envs.GridWorld, dict(shape=(0, 3)), r"shape=\(0, 3\)"),
        (envs.GridWorld, dict(shape=7), "shape=7"),
        (envs.GridWorld, dict(start=(7, 0)), r"start=\(7, 0\).*7 rows and 7 columns"),
        (envs.GridWorld, dict(walls=[(1, 9)]), r"walls=\(1, 9\)"),
        (envs.GridWorld, dict(walls=[(3, 3)]), r"start=\(3, 3\).*wall.*free"),
        (envs.GridWorld, dict(goal=(3, 3)), r"goal=\(3, 3\).*start.*another"),
        (envs.GridWorld, dict(slip=1.5), "slip=1.5.*between 0 and 1"),
        (envs.GridWorld, dict(step_cost=float("nan")), "step_cost=nan"),
        (envs.GridWorld, dict(render_mode="human"), "render_mode='human'.*ansi"),
        (envs.TreacherousGrid, dict(rewards=[[1, 2], [3]]), "rewards=.*one length"),
        (envs.TreacherousGrid, dict(start="50"), "start='50'"),
        (envs.Bandit, dict(rewards=()), r"rewards=\(\).*one number an action"),
        (envs.DeepSea, dict(size=1), "size=1.*at least 2"),
        (envs.DeepSea, dict(mapping_seed=None), "mapping_seed=None"),
        (envs.NoisyTV, dict(n_channels=1), "n_channels=1"),
        (envs.NoisyTV, dict(n_rooms=4, tv_room=3), "tv_room=3.*between 0 and 2"),
        (envs.TMaze, dict(cue_reliability=1.1), "cue_reliability=1.1.*between 0 and 1"),
        (envs.TMaze, dict(reward_reliability="high"), "reward_reliability='high'"),
        (envs.CueChaining, dict(cue1=(9, 0)), r"cue1=\(9, 0\).*5 rows and 7 columns"),
        (envs.CueChaining, dict(cue2=[]), r"cue2=\[\]: give one cell or more"),
        (envs.CueChaining, dict(cue2=[(1, 1), (1, 1)]), "cue2=.*all different"),
        (envs.CueChaining, dict(reward_cells=[(1, 1)]), "reward_cells=.*two different cells"),
        (envs.CueChaining, dict(reward_cells=[(0, 0), (1, 1)]), "reward_cells=.*other than the start"),
        (envs.CueChaining, dict(step_cost=None), "step_cost=None"),
        (envs.Tiger, dict(accuracy=2), "accuracy=2.*between 0 and 1"),
        (envs.AliasedGrid, dict(sees="all"), "sees='all': choose"),
        (envs.AliasedGrid, dict(goal=(7, 0)), r"goal=\(7, 0\)"),
        (envs.AliasedGrid, dict(walls=[(2, 4)]), r"goal=\(2, 4\).*a wall"),
        (envs.AliasedGrid, dict(shape=(1, 1), goal=(0, 0)), "shape=.*no free cell"),
        (envs.AliasedGrid, dict(shape=7), "shape=7"),
        (envs.AliasedGrid, dict(walls=["ab"]), "walls='ab'"),
        (envs.PassiveTMaze, dict(length=0), "length=0.*at least 1"),
        (envs.Recall, dict(k=-1), "k=-1"),
        (envs.Recall, dict(n_symbols=1), "n_symbols=1"),
    ],
)
def test_wrong_arguments_are_named(make, kwargs, named):
    with pytest.raises(ValueError, match=named):
        make(**kwargs)


def test_wrong_actions_and_environments_are_named():
    with pytest.raises(ValueError, match=r"action=4.*from 0 to 3"):
        envs.GridWorld().step(4)
    with pytest.raises(ValueError, match=r"action=4.*from 0 to 3"):
        envs.Recall().step(4)
    with pytest.raises(ValueError, match="MountainCarContinuous-v0"):
        envs.SparseMountainCarContinuous(gym.make("Pendulum-v1"))
    with pytest.raises(ValueError, match="Pendulum-v1"):
        envs.SparsePendulum(gym.make("MountainCarContinuous-v0"))
    with pytest.raises(ValueError, match="max_angle=-1"):
        envs.SparsePendulum(gym.make("Pendulum-v1"), max_angle=-1)


@pytest.mark.parametrize("env_id", [f"sb3_dai/{name}-v0" for name in ("GridWorld", "DeepSea10", "PendulumSparse", "TMaze")])
def test_vectorised(env_id):
    vec = gym.make_vec(env_id, num_envs=3)
    vec.reset(seed=0)
    assert vec.step(vec.action_space.sample())[1].shape == (3,)
    sb3_vec = make_vec_env(env_id, n_envs=2, seed=0)
    sb3_vec.reset()
    done = False
    for _ in range(250):
        _, rewards, dones, _ = sb3_vec.step(np.array([sb3_vec.action_space.sample() for _ in range(2)]))
        done |= dones.all()
    assert rewards.shape == (2,)
    assert done, "an episode ends or is cut"
