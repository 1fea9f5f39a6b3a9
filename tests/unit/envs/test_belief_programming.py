"""Dynamic programming over beliefs, against numbers worked out by hand."""

import numpy as np
import pytest

import sb3_dai.envs as envs


def plan(env, horizon, **kwargs):
    world = env.transition_matrix, env.observation_matrix, env.initial_distribution, env.reward_matrix
    return envs.plan_over_beliefs(*world, horizon, terminated=env.termination_matrix, **kwargs)


def best_return(env, horizon, **kwargs):
    return plan(env, horizon, **kwargs).optimal_return


def test_belief_update_by_hand():
    transition = np.array([[0.5, 0.0], [0.5, 1.0]])
    belief, probability = envs.belief_update(np.array([0.4, 0.6]), transition, np.array([0.9, 0.1]))
    assert probability == pytest.approx(0.9 * 0.2 + 0.1 * 0.8)
    assert belief == pytest.approx(np.array([0.18, 0.08]) / 0.26)
    with pytest.raises(ValueError, match="impossible"):
        envs.belief_update(np.array([0.0, 1.0]), np.eye(2), np.array([1.0, 0.0]))
    with pytest.raises(ValueError, match=r"observation=\(0, 1\).*1 in all"):
        envs.observation_likelihood(np.eye(2), (0, 1))
    assert envs.observation_likelihood([np.eye(2), np.array([[0.3, 0.4], [0.7, 0.6]])], (1, 0)).tolist() == [0.0, 0.4]


def test_tiger_by_hand():
    env = envs.Tiger()
    solved = plan(env, 3)
    belief = solved.first_belief(0)
    assert belief.tolist() == [0.5, 0.5, 0.0, 0.0]
    once = solved.next_belief(belief, 0, 1)
    twice = solved.next_belief(once, 0, 1)
    assert once == pytest.approx([0.0, 0.0, 0.85, 0.15])
    assert twice == pytest.approx([0.0, 0.0, 0.85**2 / (0.85**2 + 0.15**2), 0.15**2 / (0.85**2 + 0.15**2)])
    assert solved.next_belief(once, 0, 2) == pytest.approx([0.0, 0.0, 0.5, 0.5])
    assert solved.next_belief(twice, 2, 0) == pytest.approx([0.5, 0.5, 0.0, 0.0]), "placed anew"
    assert solved.value(twice, 2) == pytest.approx(10 * 0.85**2 / 0.745 - 100 * 0.15**2 / 0.745)
    assert [solved.action(belief, 0), solved.action(once, 1), solved.action(twice, 2)] == [0, 0, 2], "open the other door"
    # One step: listen. Two: one growl is not enough to open. Three: open after two that agree, else listen
    by_hand = [0.0, -1.0, -2.0, -2.0 + (10 * 0.85**2 - 100 * 0.15**2) - 0.255]
    assert [best_return(env, horizon) for horizon in range(4)] == pytest.approx(by_hand)
    assert best_return(env, 3, discount=0.5) == pytest.approx(-1.5 + 0.25 * (10 * 0.85**2 - 100 * 0.15**2 - 0.255))
    assert best_return(envs.Tiger(accuracy=1.0), 2) == pytest.approx(9.0)
    # With no end to the listening, open at three more growls from one side: a gambler's ruin of 3 / 0.7 * (1 - x) / (1 + x)
    # steps with x = (0.15 / 0.85)^3, and the right door with probability 1 / (1 + x)
    x = (0.15 / 0.85) ** 3
    assert best_return(envs.Tiger(ends=True), 60) == pytest.approx(
        (10 - 100 * x) / (1 + x) - 3 / 0.7 * (1 - x) / (1 + x), abs=1e-3
    )


def test_tiger_ends_or_goes_on():
    env = envs.Tiger(ends=True)
    for seed in range(10):
        side = env.reset(seed=seed)[1]["state"]
        assert env.step(0)[2] is False
        observation, reward, terminated, _, info = env.step(2 - side)
        assert (observation, reward, terminated, info["is_success"]) == (0, 10.0, True, True)
        env.reset(seed=seed)
        observation, reward, terminated, _, info = env.step(1 + side)
        assert (reward, terminated, info["is_success"]) == (-100.0, True, False)
    env = envs.Tiger()
    env.reset(seed=0)
    opened = [env.step(1) for _ in range(200)]
    assert not any(step[2] for step in opened)
    assert "is_success" not in opened[0][4]
    assert 60 < sum(step[1] == 10.0 for step in opened) < 140, "the tiger is placed anew"


@pytest.mark.parametrize(
    ("kwargs", "horizon", "by_hand"),
    [
        ({}, 1, 0.0),  # Blind, reward and punishment are equally likely
        ({}, 2, 0.98 - 0.02),
        ({}, 10, 0.96),
        (dict(reward_reliability=1.0), 5, 1.0),
        (dict(cue_reliability=0.9), 2, 0.8 * 0.96),
        (dict(cue_reliability=0.9), 3, 0.8 * 0.96),  # A second look decides nothing: at a tie either arm
        (
            dict(cue_reliability=0.9),
            4,
            (0.9**3 + 3 * 0.9**2 * 0.1 - 0.1**3 - 3 * 0.1**2 * 0.9) * 0.96,
        ),  # The majority of three
        (dict(cue_reliability=0.5), 6, 0.0),
    ],
)
def test_t_maze_optimum_by_hand(kwargs, horizon, by_hand):
    assert best_return(envs.TMaze(**kwargs), horizon) == pytest.approx(by_hand, abs=1e-9)


def test_t_maze_reads_the_cue_first():
    solved = plan(envs.TMaze(), 2)
    belief = solved.first_belief((0, 0, 0))
    assert solved.action(belief) == 3
    assert plan(envs.TMaze(), 1).action(belief) == 0, "nothing is worth more than another: the first"
    assert (solved.actions[0] >= 0).tolist() == [True, False, False, False, False], "the cued beliefs are not reached at once"
    for condition in range(2):
        cued = solved.next_belief(belief, 3, (3, 0, 1 + condition))
        assert solved.action(cued, 1) == 1 + condition


def test_passive_t_maze_optimum():
    for length in (1, 20):
        assert best_return(envs.PassiveTMaze(length), length + 1) == pytest.approx(1.0)
        assert best_return(envs.PassiveTMaze(length), length) == 0.0
    env = envs.PassiveTMaze(20)
    world = env.transition_matrix, env.reward_matrix, env.initial_distribution, 21
    assert envs.policy_return(*world, np.full((46, 2), 0.5), env.termination_matrix) == pytest.approx(0.5)


def test_cue_chaining_optimum_by_hand():
    assert best_return(envs.CueChaining(), 50) == pytest.approx(1.0)
    # Without the first cue: 2, 4, 6, 8 steps to the first to fourth place, then 5, 3, 3, 5 to the reward on average: 9 in all
    assert best_return(envs.CueChaining(step_cost=0.01), 50) == pytest.approx(0.91)
    # Beside the first cue the chain is best: 1 + 4 steps to the second cue, then 4 on average; the other way takes 10
    near = envs.CueChaining(step_cost=0.01, start=(1, 0))
    assert best_return(near, 50) == pytest.approx(0.91)
    solved = plan(near, 50)
    belief = solved.first_belief((7, 0, 0, 0))
    assert near.action_names[solved.action(belief)] == "Down"


def test_cue_chaining_shows_the_chain():
    env = envs.CueChaining(step_cost=0.01)
    names, contexts = list(env.action_names), set()
    for seed in range(30):
        state = env.reset(seed=seed)[1]["state"]
        place, reward = divmod(state // 35, 2)
        contexts.add((place, reward))
        assert env.step(names.index("Down"))[0].tolist() == [7, 0, 0, 0]
        assert env.step(names.index("Down"))[0].tolist() == [14, 1 + place, 0, 0]
        row, column = env.cue2[place]
        moves = ["Right"] * column + (["Up"] * (2 - row) if row < 2 else ["Down"] * (row - 2))
        last = [env.step(names.index(move)) for move in moves][-1]
        assert last[0].tolist() == [7 * row + column, 0, 1 + reward, 0]
        assert last[1:3] == (-0.01, False)
        env.state = env.state - (7 * row + column) + (12 if reward == 0 else 26) - 1  # Left of the reward
        observation, paid, terminated, _, info = env.step(names.index("Right"))
        assert observation[3] == 1
        assert (paid, terminated, info["is_success"]) == (0.99, True, True)
    assert len(contexts) == 8


def test_aliased_grid_sees_walls():
    counts = envs.AliasedGrid().observation_matrix.argmax(0).reshape(7, 7)
    assert counts.tolist() == [[2, 1, 1, 1, 1, 1, 2], *[[1, 0, 0, 0, 0, 0, 1]] * 5, [2, 1, 1, 1, 1, 1, 2]]
    patterns = envs.AliasedGrid((2, 3), walls=[(0, 1)], goal=(1, 2), sees="pattern").observation_matrix.argmax(0)
    assert patterns[[0, 2, 3, 4, 5]].tolist() == [1 + 2 + 8, 1 + 2 + 8, 4 + 8, 1 + 4, 2 + 4]
    initial = envs.AliasedGrid((2, 3), walls=[(0, 1)], goal=(1, 2)).initial_distribution
    assert initial.tolist() == [0.25, 0.0, 0.25, 0.25, 0.25, 0.0]


def test_aliased_grid_optimum_by_hand():
    # Three cells in a row, the goal at the right end. The others look alike by number, so the way is to go right: one or two
    # steps. A time limit of one step leaves half of the chance
    env = envs.AliasedGrid((1, 3), goal=(0, 2), step_cost=0.1)
    assert best_return(env, 10) == pytest.approx(1.0 - 0.1 * 1.5)
    assert best_return(env, 1) == pytest.approx(0.5 - 0.1)
    # Five in a row, the goal in the middle. At an end one does not know at which: right first finds the goal in two steps or
    # in one for nothing and then two to the left. Beside it, in one, or in one away, where the end shows, and two back
    env = envs.AliasedGrid((1, 5), goal=(0, 2), step_cost=0.1)
    assert best_return(env, 10) == pytest.approx(1.0 - 0.1 * (2 + 3 + 1 + 3) / 4)


def test_optimal_actions_earn_the_optimal_return():
    for env, horizon in ((envs.TMaze(cue_reliability=0.8), 4), (envs.AliasedGrid((4, 5), goal=(1, 3), slip=0.1), 5)):
        solved = plan(env, horizon)
        returns = []
        observation, _ = env.reset(seed=0)
        for _ in range(1000):
            belief, total, terminated = solved.first_belief(observation), 0.0, False
            for t in range(horizon):
                action = solved.action(belief, t)
                observation, reward, terminated, _, _ = env.step(action)
                total += reward
                if terminated:
                    break
                belief = solved.next_belief(belief, action, observation)
            returns.append(total)
            observation, _ = env.reset()
        assert abs(np.mean(returns) - solved.optimal_return) < 4.0 * np.std(returns) / np.sqrt(1000)


def test_without_hidden_states_it_is_backward_induction():
    env = envs.GridWorld((3, 4), start=(1, 1), slip=0.2, goal=(2, 3), step_cost=0.1)
    world = env.transition_matrix, np.eye(12), env.initial_distribution, env.reward_matrix
    solved = envs.plan_over_beliefs(*world, 8, terminated=env.termination_matrix, discount=0.9)
    values, _ = envs.backward_induction(env.transition_matrix, env.reward_matrix, 8, env.termination_matrix, discount=0.9)
    assert solved.optimal_return == pytest.approx(values[0, env.start])
    assert solved.value(np.eye(12)[0], 3) == pytest.approx(values[3, 0])


def test_wrong_arguments_are_named():
    solved = plan(envs.Tiger(), 2)
    for belief, t, named in (
        ([0.3, 0.7, 0, 0], 0, "after t=0 steps: no actions lead there"),
        ([0, 0, 0.85, 0.15], 0, "after t=0 steps: no actions lead there"),
        ([0.5, 0.5, 0, 0], 3, "t=3.*between 0 and 2"),
        ([0.5, 0.5, 0, 0], 2, "t=2: no step is left"),
    ):
        with pytest.raises(ValueError, match=named):
            solved.action(np.array(belief), t)
    with pytest.raises(ValueError, match="max_beliefs=3: more can be reached in 9 steps"):
        plan(envs.Tiger(), 9, max_beliefs=3)
    with pytest.raises(ValueError, match="horizon=-1"):
        plan(envs.Tiger(), -1)
    with pytest.raises(ValueError, match="discount=2"):
        plan(envs.Tiger(), 1, discount=2)
