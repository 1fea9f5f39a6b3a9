"""Worlds with hidden states: what is seen of them, and their rules."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import sb3_dai.envs as envs

B = np.stack([np.eye(2), 1.0 - np.eye(2)], axis=-1)
"""Two states, actions stay and swap."""
A = np.array([[0.8, 0.1], [0.2, 0.3], [0.0, 0.6]])
D = np.array([0.25, 0.75])


def play(env, actions, seed=0):
    observation, info = env.reset(seed=seed)
    steps = [(observation, 0.0, False, False, info)]
    return steps + [env.step(action) for action in actions]


def test_observations_follow_the_observation_matrix():
    env = envs.HiddenTabularEnv(B, A, D)
    assert env.observation_space == spaces.Discrete(3)
    counts = np.zeros((3, 2))
    rng = np.random.default_rng(0)
    for seed in range(200):
        for observation, _, _, _, info in play(env, rng.integers(2, size=20), seed):
            counts[observation, info["state"]] += 1
    n = counts.sum(0)
    assert (np.abs(counts / n - A) <= 4.0 * np.sqrt(A * (1.0 - A) / n) + 1e-9).all()
    starts = [env.reset(seed=seed)[1]["state"] for seed in range(1000)]
    assert abs(np.mean(starts) - 0.75) < 4.0 * np.sqrt(0.75 * 0.25 / 1000)


def test_several_modalities():
    second = np.eye(2)
    env = envs.HiddenTabularEnv(B, [A, second], D, observation_rewards=[np.array([0.0, 1.0, 2.0]), np.array([0.0, 10.0])])
    assert env.observation_space == spaces.MultiDiscrete([3, 2])
    for observation, reward, _, _, info in play(env, [0, 1] * 20)[1:]:
        assert env.observation_space.contains(observation)
        assert observation[1] == info["state"]
        assert reward == observation[0] + 10.0 * observation[1]
    assert np.allclose(env.reward_matrix[0, 0, 0], 0.2), "what is seen of state 0: 1 with probability 0.2"
    assert np.allclose(env.reward_matrix[1, 0, 1], 0.3 + 2.0 * 0.6 + 10.0)
    assert env.reward_matrix[1, 0, 0] == 0.0, "impossible"


def test_matrices_are_those_given():
    env = envs.HiddenTabularEnv(B, A, D, rewards=np.array([3.0, 4.0]), terminated=np.array([0.0, 1.0]))
    assert (env.transition_matrix == B).all()
    assert (env.observation_matrix == A).all()
    assert (env.initial_distribution == D).all()
    assert env.reward_matrix[1, 0].tolist() == [0.0, 4.0]
    assert env.termination_matrix[1, 0].tolist() == [0.0, 1.0]
    assert [len(matrix) for matrix in envs.HiddenTabularEnv(B, [A, A], D).observation_matrix] == [3, 3]
    assert envs.GridWorld().initial_distribution.argmax() == 24


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        (dict(transition_matrix=np.ones((2, 2, 2))), "transition_matrix.*sum to one"),
        (dict(observation_matrix=np.eye(3)), r"observation_matrix of shape \(3, 3\).*2"),
        (dict(observation_matrix=[A, np.ones((2, 2))]), "observation_matrix: .*sum to one over the observation"),
        (dict(observation_matrix=[]), r"observation_matrix=\[\]: give at least one"),
        (dict(initial_distribution=np.array([1.0])), r"initial_distribution of shape \(1,\)"),
        (dict(initial_distribution=np.array([0.5, 0.6])), "initial_distribution.*sum to one"),
        (dict(rewards=np.zeros(3)), r"rewards of shape \(3,\)"),
        (dict(terminated=np.array([0.0, 2.0])), "terminated"),
        (dict(observation_rewards=np.zeros(2)), r"observation_rewards of shapes \[\(2,\)\].*3"),
        (dict(action_names=("Stay",)), "action_names=.*2 in all"),
        (dict(render_mode="human"), "render_mode='human'"),
    ],
)
def test_wrong_arguments_are_named(kwargs, named):
    right = dict(transition_matrix=B, observation_matrix=A, initial_distribution=D)
    with pytest.raises(ValueError, match=named):
        envs.HiddenTabularEnv(**{**right, **kwargs})


def test_t_maze():
    env = envs.TMaze(reward_reliability=1.0)
    for seed in range(10):
        cued = play(env, [3, 0], seed)
        condition = cued[0][4]["state"] // 4
        assert cued[0][0].tolist() == [0, 0, 0], "the start says nothing"
        assert cued[1][0].tolist() == [3, 0, 1 + condition]
        assert cued[2][0].tolist() == [0, 0, 0]
        observation, reward, terminated, _, info = env.step(1 + condition)
        assert observation.tolist() == [1 + condition, 1, 0]
        assert (reward, terminated, info["is_success"]) == (1.0, True, True)
        play(env, [], seed)
        observation, reward, terminated, _, info = env.step(2 - condition)
        assert observation.tolist() == [2 - condition, 2, 0]
        assert (reward, terminated, info["is_success"]) == (-1.0, True, False)
    shared = envs.TMaze(cue_reliability=0.7).observation_matrix
    assert shared[2][:, 3] == pytest.approx([0.0, 0.7, 0.3])
    assert shared[1][:, 1] == pytest.approx([0.0, 0.98, 0.02])
    assert shared[1][:, 5] == pytest.approx([0.0, 0.02, 0.98])


@pytest.mark.parametrize("length", [1, 10])
def test_passive_t_maze(length):
    env = envs.PassiveTMaze(length)
    sides = set()
    for seed in range(10):
        steps = play(env, [seed % 2] * length, seed)
        side = steps[0][0]
        sides.add(side)
        assert [step[0] for step in steps[1:]] == [2] * (length - 1) + [3]
        assert not any(step[1] or step[2] for step in steps)
        observation, reward, terminated, _, info = env.step(seed % 2)
        right = seed % 2 == side
        assert (observation, reward, terminated, info["is_success"]) == (4, float(right), True, right)
    assert sides == {0, 1}


def test_passive_t_maze_lengths_are_registered():
    assert [gym.make(f"sb3_dai/PassiveTMaze{n}-v0").unwrapped.length for n in (10, 20, 50)] == [10, 20, 50]
    assert [gym.make(f"sb3_dai/Recall{k}-v0").unwrapped.k for k in (4, 16)] == [4, 16]


@pytest.mark.parametrize("k", [0, 4, 16])
def test_recall_pays_for_the_symbol_of_k_steps_ago(k):
    env = gym.make("sb3_dai/Recall-v0", k=k)
    observation, _ = env.reset(seed=0)
    seen, total, truncated = [observation], 0.0, False
    while not truncated:
        observation, reward, terminated, truncated, info = env.step(seen[-1 - k] if len(seen) > k else 0)
        assert not terminated
        assert reward == float(len(seen) > k)
        seen.append(observation)
        total += reward
        assert info["state"].tolist()[-len(seen) :] == seen[-k - 1 :]
    assert total == 64 - k
    assert set(seen) == {0, 1, 2, 3}


def test_recall_by_chance():
    env = envs.Recall(k=1, n_symbols=5)
    rewards = [reward for _, reward, _, _, _ in play(env, [0] * 2000)[2:]]
    assert abs(np.mean(rewards) - 0.2) < 4.0 * np.sqrt(0.2 * 0.8 / 2000)
