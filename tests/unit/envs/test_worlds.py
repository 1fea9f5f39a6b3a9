"""The worlds of ``sb3_dai.envs``: their rules, their optima and how they fit gymnasium and Stable-Baselines3."""

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
}
IDS = [f"sb3_dai/{name}-v0" for name in (*WORLDS, "DeepSea20", "MountainCarContinuousSparse", "PendulumSparse")]
#: What seed document 002 prints of its trained policy: cells and actions
SEED_CELLS = [(5, 0), (4, 0), (3, 0), (2, 0), (1, 0), (0, 0), (1, 0), (1, 1), (0, 1), (0, 1), (0, 2), (0, 3), (0, 3), (0, 3)]
SEED_CELLS += [(0, 4), (0, 4), (0, 4)] + [(0, 5)] * 8
SEED_ACTIONS = [1, 1, 1, 1, 1, 2, 3, 1, 1, 3, 3, 1, 1, 3, 1, 1, 3, 0, 1, 3, 1, 3, 1, 3, 3]
SEED_REWARDS = [-1, -10, -1, -1, -100, -1, -100, -1, -1, -1, -1, -10, -10, -10, -1, -1, -1] + [1000] * 8


def matrices(env):
    return env.transition_matrix, env.reward_matrix


def uniform(env):
    return np.full((env.n_states, env.n_actions), 1.0 / env.n_actions)


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


@pytest.mark.parametrize("name", WORLDS)
def test_steps_follow_the_matrices(name):
    make, kwargs, _ = WORLDS[name]
    env = make(**kwargs)
    env.action_space.seed(0)
    transitions, rewards = matrices(env)
    assert np.allclose(transitions.sum(0), 1.0)
    counts, paid, ended = np.zeros_like(transitions), np.zeros_like(transitions), np.zeros_like(transitions)
    state, _ = env.reset(seed=0)
    for _ in range(6000):
        action = env.action_space.sample()
        next_state, reward, terminated, _, _ = env.step(action)
        index = next_state, state, action
        counts[index] += 1
        paid[index] += reward
        ended[index] += terminated
        state = env.reset()[0] if terminated else next_state
    assert not counts[transitions == 0.0].any(), "a step that the matrix holds impossible"
    visits = counts.sum(0)
    # Four standard errors of a frequency; of the mean reward where noise is added
    error = np.abs(counts / np.maximum(visits, 1) - transitions) * (visits > 0)
    assert (error <= 4.0 * np.sqrt(transitions * (1.0 - transitions) / np.maximum(visits, 1)) + 1e-9).all()
    seen = counts > 0
    noise = 4.0 / np.sqrt(counts[seen]) if name == "DeepSea" else 1e-9
    assert (np.abs(paid[seen] / counts[seen] - rewards[seen]) <= noise).all()
    assert np.allclose(ended[seen] / counts[seen], env.termination_matrix[seen])


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


@pytest.mark.parametrize("name", ["GridWorld", "DeepSea", "NoisyTV"])
def test_seed_reproduces(name):
    make, kwargs, _ = WORLDS[name]

    def walk(seed):
        env = make(**kwargs)
        env.reset(seed=seed)
        found = []
        for action in np.random.default_rng(0).integers(env.n_actions, size=200):
            found.append(env.step(action)[:3])
            if found[-1][2]:
                env.reset()
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
    ],
)
def test_wrong_arguments_are_named(make, kwargs, named):
    with pytest.raises(ValueError, match=named):
        make(**kwargs)


def test_wrong_actions_and_environments_are_named():
    with pytest.raises(ValueError, match=r"action=4.*from 0 to 3"):
        envs.GridWorld().step(4)
    with pytest.raises(ValueError, match="MountainCarContinuous-v0"):
        envs.SparseMountainCarContinuous(gym.make("Pendulum-v1"))
    with pytest.raises(ValueError, match="Pendulum-v1"):
        envs.SparsePendulum(gym.make("MountainCarContinuous-v0"))
    with pytest.raises(ValueError, match="max_angle=-1"):
        envs.SparsePendulum(gym.make("Pendulum-v1"), max_angle=-1)


@pytest.mark.parametrize("env_id", ["sb3_dai/GridWorld-v0", "sb3_dai/DeepSea10-v0", "sb3_dai/PendulumSparse-v0"])
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


def test_optimal_return_by_hand():
    # State 0: action 0 pays 1 and stays; action 1 pays nothing and reaches state 1 with probability 1/2. State 1 pays 4 a step
    transitions, rewards = np.zeros((2, 2, 2)), np.array([[1.0, 0.0], [4.0, 4.0]])
    transitions[0, 0] = [1.0, 0.5]
    transitions[1, 0, 1] = 0.5
    transitions[1, 1] = 1.0
    by_hand = [0.0, 1.0, 2.5, 5.25]  # nothing; 1; max(1 + 1, (1 + 4) / 2); max(1 + 2.5, (2.5 + 8) / 2)
    assert [envs.optimal_return(transitions, rewards, 0, horizon) for horizon in range(4)] == by_hand
    assert envs.optimal_return(transitions, rewards, 0, 2, discount=0.5) == 1.5, "max(1 + 0.5, 0.5 * 2.5)"
    assert envs.optimal_return(transitions, rewards, 0, 3, terminated=[0.0, 1.0]) == 3.0, "state 1 ends before it pays"
    per_transition = np.broadcast_to(rewards, (2, 2, 2))
    assert envs.optimal_return(transitions, per_transition, 0, 3) == 5.25
    assert envs.optimal_return(transitions, [0.0, 4.0], 0, 2) == 5.0, "of entering: 2 + (0.5 * 2 + 0.5 * 4)"
    assert envs.backward_induction(transitions, rewards, 3)[1][:, 0].tolist() == [1, 1, 0]
    assert envs.policy_return(transitions, rewards, 0, 2, np.full((2, 2), 0.5)) == 1.875, "0.5 + 0.75 * 0.5 + 0.25 * 4"


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        (dict(transition_matrix=np.ones((2, 2, 2))), "sum to one"),
        (dict(transition_matrix=np.eye(2)), "transition_matrix of shape"),
        (dict(rewards=np.zeros(3)), r"rewards of shape \(3,\)"),
        (dict(terminated=np.zeros((2, 1))), "terminated of shape"),
        (dict(start=2), "start=2"),
        (dict(horizon=-1), "horizon=-1"),
        (dict(discount=1.1), "discount=1.1"),
    ],
)
def test_optimal_return_names_wrong_arguments(kwargs, named):
    right = dict(transition_matrix=np.full((2, 2, 2), 0.5), rewards=np.zeros(2), start=0, horizon=1)
    with pytest.raises(ValueError, match=named):
        envs.optimal_return(**{**right, **kwargs})


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
