"""The worlds of ``sb3_dai.envs``: their rules and their optima."""

import gymnasium as gym
import numpy as np
import pytest

import sb3_dai.envs as envs

#: What a published notebook prints of its trained policy: cells and actions
SEED_CELLS = [(5, 0), (4, 0), (3, 0), (2, 0), (1, 0), (0, 0), (1, 0), (1, 1), (0, 1), (0, 1), (0, 2), (0, 3), (0, 3), (0, 3)]
SEED_CELLS += [(0, 4), (0, 4), (0, 4)] + [(0, 5)] * 8
SEED_ACTIONS = [1, 1, 1, 1, 1, 2, 3, 1, 1, 3, 3, 1, 1, 3, 1, 1, 3, 0, 1, 3, 1, 3, 1, 3, 3]
SEED_REWARDS = [-1, -10, -1, -1, -100, -1, -100, -1, -1, -1, -1, -10, -10, -10, -1, -1, -1] + [1000] * 8


def matrices(env):
    return env.transition_matrix, env.reward_matrix


def uniform(env):
    return np.full((env.n_states, env.n_actions), 1.0 / env.n_actions)


def test_grid_world_has_the_seeds_dynamics():
    env = envs.GridWorld()
    assert env.transition_matrix.shape == (49, 49, 4)
    middle, corner = 24, 0
    assert env.transition_matrix[:, middle].argmax(0).tolist() == [17, 25, 31, 23], "up, right, down, left"
    assert env.transition_matrix[:, corner].argmax(0).tolist() == [0, 1, 7, 0], "the sides hold"
    assert not env.reward_matrix.any()
    assert envs.GridWorld(stay=True).transition_matrix[middle, middle, 4] == 1.0


def test_grid_world_slips_into_the_other_moves():
    env = envs.GridWorld(slip=0.3, walls=[(3, 4)])
    up, stayed, down, left = env.transition_matrix[[17, 24, 31, 23], 24, 0]
    assert np.allclose([up, stayed, down, left], [0.7, 0.1, 0.1, 0.1]), "a slip to the right meets the wall"


def test_grid_world_with_a_goal():
    env = envs.GridWorld(shape=(2, 2), start=(0, 0), goal=(1, 1), step_cost=0.1)
    assert env.step(1)[1:3] == (-0.1, False)
    assert env.step(2)[1:3] == (0.9, True)
    assert envs.optimal_return(*matrices(env), 0, 50, env.termination_matrix) == pytest.approx(0.8)


def test_treacherous_grid_retraces_the_seeds_trajectory():
    env = envs.TreacherousGrid()
    state, _ = env.reset()
    cells, rewards = [divmod(state, 6)], [-1.0]
    for action in SEED_ACTIONS[:-1]:
        state, reward, terminated, _, _ = env.step(action)
        assert not terminated
        cells.append(divmod(state, 6))
        rewards.append(reward)
    assert cells == SEED_CELLS
    assert rewards == SEED_REWARDS
    assert sum(rewards) == 7749


def test_treacherous_grid_optimum():
    env = envs.TreacherousGrid()
    best = [envs.optimal_return(*matrices(env), env.start, horizon) for horizon in (9, 10, 24, 299, 300)]
    # Ten moves at least: right, up column 1 and along the top. Nine cells on the way: seven at -1 and two at -10
    assert best[1:] == [1000 - 27, 15 * 1000 - 27, 290 * 1000 - 27, 291 * 1000 - 27]
    assert best[0] == -9, "nine moves do not get there: best stay"
    actions = envs.backward_induction(*matrices(env), 10)[1]
    for action_table in actions:
        state, reward, _, _, _ = env.step(int(action_table[env.state]))
    assert (divmod(state, 6), reward) == ((0, 5), 1000.0)


def test_treacherous_grid_of_another_shape_holds_its_sides():
    env = envs.TreacherousGrid(rewards=[[-1, -2, 3], [-4, -5, -6]], start=(1, 2))
    assert [env.step(action)[0] for action in (2, 3, 1, 1, 4, 4, 4, 2, 0)] == [5, 5, 2, 2, 1, 0, 0, 3, 3]


def test_bandit_and_chain_returns():
    bandit = gym.make("sb3_dai/Bandit-v0")
    bandit.reset()
    steps = [bandit.step(0) for _ in range(500)]
    assert sum(step[1] for step in steps) == 500.0
    assert [step[2:4] for step in steps[-2:]] == [(False, False), (False, True)]
    chain = envs.ThreeStateChain()
    ends = chain.termination_matrix
    assert envs.optimal_return(*matrices(chain), 0, 100, ends) == pytest.approx(0.9)
    assert [chain.step(action)[:3] for action in (1, 2, 2, 1)] == [
        (0, -0.05, False),
        (1, -0.05, False),
        (2, -0.05, False),
        (2, 1.0, True),
    ]


def test_random_policys_return_is_the_computed_one():
    env = envs.ThreeStateChain()
    env.action_space.seed(0)
    returns = []
    for _ in range(1000):
        env.reset()
        total, terminated, n = 0.0, False, 0
        while not terminated and n < 20:
            _, reward, terminated, _, _ = env.step(env.action_space.sample())
            total, n = total + reward, n + 1
        returns.append(total)
    computed = envs.policy_return(*matrices(env), 0, 20, uniform(env), env.termination_matrix)
    assert abs(np.mean(returns) - computed) < 4.0 * np.std(returns) / np.sqrt(1000)
    assert computed < 0.6


@pytest.mark.parametrize("size", [2, 10, 30])
def test_deep_sea_right_all_the_way(size):
    env = envs.DeepSea(size=size)
    state, _ = env.reset()
    total, terminated, n = 0.0, False, 0
    while not terminated:
        assert state == n * (size + 1), "on the diagonal"
        state, reward, terminated, _, info = env.step(int(env.right.flat[state]))
        total, n = total + reward, n + 1
    assert n == size
    assert total == pytest.approx(env.optimal_return) == pytest.approx(0.99)
    assert not info["bad_episode"]
    env.reset()
    assert env.step(1 - env.right[0, 0])[4]["bad_episode"]
    assert env.step(env.right[1, 0])[4]["bad_episode"], "till the end of the episode"
    env.reset()
    assert not env.bad_episode


def test_deep_sea_mapping_and_optimum():
    assert (envs.DeepSea().right == envs.DeepSea().right).all()
    assert (envs.DeepSea().right != envs.DeepSea(mapping_seed=1).right).any()
    assert 30 < envs.DeepSea().right.sum() < 70
    assert (envs.DeepSea(randomize_actions=False).right == 1).all()
    env = envs.DeepSea()
    solve = envs.optimal_return
    assert solve(*matrices(env), 0, 10, env.termination_matrix) == pytest.approx(0.99)
    random = envs.policy_return(*matrices(env), 0, 10, uniform(env), env.termination_matrix)
    assert random == pytest.approx(2.0**-10 - 0.005), "half the cost, and the treasure once in 1024 episodes"
    env = envs.DeepSea(deterministic=False)
    best = solve(*matrices(env), 0, 10, env.termination_matrix)
    assert env.optimal_return == pytest.approx(0.9**9 - 0.01)
    assert env.optimal_return < best < 0.9**9


def test_deep_sea_noise_and_blame():
    env = envs.DeepSea(size=4, deterministic=False)
    env.reset(seed=0)
    for column, noisy in enumerate([True, False, False, True]):
        paid = []
        for _ in range(200):
            env.state = 12 + column
            paid.append(env.step(env.right[3, column])[1])
        assert (0.8 < np.std(paid) < 1.2) if noisy else len(set(paid)) == 1
    env.reset()
    env.state = 4  # as if the first step right had failed
    assert not env.step(1 - env.right[1, 0])[4]["bad_episode"], "left off the diagonal is not bad"


def test_noisy_tv():
    env = envs.NoisyTV(n_rooms=5, tv_room=1, n_channels=200)
    env.reset(seed=0)
    assert env.step(2)[0] == 0, "no television in the first room"
    assert env.step(1)[0] == 1
    shown = [env.step(2)[0] for _ in range(300)]
    assert min(shown) >= 5
    assert len(set(shown)) > 120
    assert env.step(0)[0] == 0, "walking out switches it off"
    assert [env.step(1)[0] for _ in range(3)] == [1, 2, 3]
    assert env.step(1)[:3] == (4, 1.0, True)
    assert env.in_front_of_tv([0, 1, 2, 4, 5, 204]).tolist() == [False, True, False, False, True, True]
    assert env.tv_is_on([1, 5]).tolist() == [False, True]
    randomness = (env.transition_matrix < 1.0).all(0)
    assert (randomness == env.in_front_of_tv(np.arange(205))[:, None] * np.array([0, 0, 1])).all()
    assert not envs.NoisyTV(goal=False).reward_matrix.any()


def test_noisy_tv_at_the_end_of_the_corridor_stays_on():
    env = envs.NoisyTV(tv_room=0)
    env.reset(seed=0)
    on = env.step(2)[0]
    assert env.step(0)[0] == on


def test_sparse_mountain_car_pays_at_the_goal_only():
    env = gym.make("sb3_dai/MountainCarContinuousSparse-v0")
    observation, _ = env.reset(seed=0)
    rewards, terminated, truncated = [], False, False
    while not (terminated or truncated):
        # Pushing the way it rolls gets the car out
        observation, reward, terminated, truncated, _ = env.step(np.float32([1.0 if observation[1] >= 0.0 else -1.0]))
        rewards.append(reward)
    assert terminated
    assert rewards[-1] == 100.0
    assert not any(rewards[:-1])


def test_sparse_pendulum_pays_while_upright_and_slow():
    env = gym.make("sb3_dai/PendulumSparse-v0")
    env.reset(seed=0)
    pay = {}
    for name, state in {"held": (0.05, 0.0), "wound": (2 * np.pi, 0.0), "fast": (0.0, 3.0), "leaning": (0.4, 0.0)}.items():
        env.unwrapped.state = np.array(state)
        pay[name] = env.step(np.float32([0.0]))[1]
    assert pay == {"held": 1.0, "wound": 1.0, "fast": 0.0, "leaning": 0.0}
    wide = envs.SparsePendulum(gym.make("Pendulum-v1"), max_angle=0.6)
    wide.reset(seed=0)
    wide.unwrapped.state = np.array((0.4, 0.0))
    assert wide.step(np.float32([0.0]))[1] == 1.0
    assert gym.make(wide.spec).max_angle == 0.6
