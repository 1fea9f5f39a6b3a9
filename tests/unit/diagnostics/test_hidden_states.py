"""Learned models of hidden states beside the true ones: numbers worked out by hand, and known worlds with shuffled states."""

import math
import sys

import numpy as np
import pytest

from sb3_dai import diagnostics, envs
from sb3_dai.diagnostics import HiddenModel, relabelling

#: Two states that swap under action 1. What is seen is right with probability 3/4
A = np.array([[0.75, 0.25], [0.25, 0.75]])
B = np.stack([np.eye(2), 1.0 - np.eye(2)], axis=-1)
SWAP = HiddenModel([A], B, np.array([0.5, 0.5]))


def passive():
    return envs.PassiveTMaze(4)


def model_of(env):
    seen = env.observation_matrix
    return HiddenModel(seen if isinstance(seen, list) else [seen], env.transition_matrix, env.initial_distribution)


def walks(env, n, length, seed=0):
    """Episodes of random actions: observations, actions, states."""
    rng, found = np.random.default_rng(seed), ([], [], [])
    observation, info = env.reset(seed=seed)
    for _ in range(n):
        seen, taken, states, terminated = [observation], [], [info["state"]], False
        while not terminated and len(taken) < length:
            taken.append(int(rng.integers(env.n_actions)))
            observation, _, terminated, _, info = env.step(taken[-1])
            seen.append(observation)
            states.append(info["state"])
        for part, episode in zip(found, (seen, taken, states), strict=True):
            part.append(np.array(episode))
        observation, info = env.reset()
    return found


def shuffled(model, seed=0, blur=0.0):
    """The model with other numbers of its states, and what it was shuffled by: where each true state has gone."""
    n = len(model.initial_distribution)
    order = np.random.default_rng(seed).permutation(n)
    found = diagnostics.relabelled(model, order)
    mixed = [(1 - blur) * matrix + blur / len(matrix) for matrix in found.observation_matrix]
    return HiddenModel(mixed, (1 - blur) * found.transition_matrix + blur / n, found.initial_distribution), np.argsort(order)


def test_filtered_beliefs_by_hand():
    beliefs = diagnostics.filtered_beliefs(SWAP, [0, 1, 1], [1, 0])
    # 3/4 for state 0; after the swap 3/4 for state 1, which is seen: 9/10; then once more: 27/28
    assert beliefs == pytest.approx(np.array([[3 / 4, 1 / 4], [1 / 10, 9 / 10], [1 / 28, 27 / 28]]))
    sure = SWAP._replace(observation_matrix=[np.eye(2)])
    assert diagnostics.filtered_beliefs(sure, [0, 0], [1]).tolist() == [[1, 0], [0, 1]], "what is impossible is passed over"
    with pytest.raises(ValueError, match="2 observations and 2 actions"):
        diagnostics.filtered_beliefs(SWAP, [0, 1], [0, 1])


def test_filtered_beliefs_are_those_of_belief_update():
    env = envs.TMaze(cue_reliability=0.8)
    model = model_of(env)
    for seen, taken, _ in zip(*walks(env, 5, 6), strict=True):
        belief = envs.belief_update(
            model.initial_distribution, np.eye(8), envs.observation_likelihood(env.observation_matrix, seen[0])
        )[0]
        for observation, action, filtered in zip(
            seen[1:], taken, diagnostics.filtered_beliefs(model, seen, taken)[1:], strict=True
        ):
            likelihood = envs.observation_likelihood(env.observation_matrix, observation)
            belief = envs.belief_update(belief, env.transition_matrix[:, :, action], likelihood)[0]
            assert filtered == pytest.approx(belief)


def test_predictive_log_likelihood_by_hand():
    found = diagnostics.predictive_log_likelihood(SWAP, [[0, 1, 1]], [[1, 0]], n_steps=2)
    # From (3/4, 1/4): state 1 with 3/4, so 1 is seen with 3/4 * 3/4 + 1/4 * 1/4 = 10/16, and again two steps later.
    # From (1/10, 9/10): 1 with 27/40 + 1/40 = 28/40
    assert found == pytest.approx([(math.log(10 / 16) + math.log(28 / 40)) / 2, math.log(10 / 16)])
    sure = SWAP._replace(observation_matrix=[np.eye(2)])
    assert diagnostics.predictive_log_likelihood(sure, [[0, 0]], [[1]]).tolist() == [-math.inf]
    with pytest.raises(ValueError, match=r"n_steps=3.*longest has 2 steps"):
        diagnostics.predictive_log_likelihood(SWAP, [[0, 1, 1]], [[1, 0]], n_steps=3)


def test_predictive_log_likelihood_does_not_depend_on_the_numbers_of_states():
    env = envs.AliasedGrid((4, 5), goal=(3, 4), slip=0.1)
    seen, taken, _ = walks(env, 20, 15)
    true = diagnostics.predictive_log_likelihood(model_of(env), seen, taken, 3)
    assert diagnostics.predictive_log_likelihood(shuffled(model_of(env))[0], seen, taken, 3) == pytest.approx(true)
    assert (diagnostics.predictive_log_likelihood(shuffled(model_of(env), blur=0.3)[0], seen, taken, 3) < true).all()
    assert -1.0 < true[0] < 0.0


def test_match_by_beliefs_by_hand():
    beliefs = np.array([[0.1, 0.2, 0.7], [0.2, 0.1, 0.7], [0.5, 0.4, 0.1], [0.6, 0.4, 0.0]])
    # State 0 shares 1.1, 0.8, 0.1 with the learned ones, state 1 0.3, 0.3, 1.4. State 2 never happens
    assert diagnostics.match_by_beliefs(np.array([1, 1, 0, 0]), beliefs).tolist() == [0, 2, 1]
    # The best for all is not the best for each: state 0 would have 0 alone
    assert diagnostics.match_by_beliefs(np.array([0, 1]), np.array([[0.6, 0.4], [0.9, 0.1]])).tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"beliefs of shape \(4, 3\)"):
        diagnostics.match_by_beliefs(np.array([1, 1, 0, 3]), beliefs)


@pytest.mark.parametrize("blur", [0.0, 0.1])
@pytest.mark.parametrize("make", [envs.TMaze, envs.Tiger, lambda: envs.AliasedGrid((4, 5), goal=(3, 4)), passive])
def test_matches_find_the_shuffled_states(make, blur):
    env = make()
    true = model_of(env)
    learned, where = shuffled(true, 1, blur)
    assert diagnostics.match_by_models(true, true).tolist() == list(range(env.n_states))
    by_models = diagnostics.match_by_models(true, learned)
    assert by_models.tolist() == where.tolist()
    seen, taken, states = walks(env, 100, 10)
    beliefs = np.concatenate([diagnostics.filtered_beliefs(learned, *episode) for episode in zip(seen, taken, strict=True)])
    visited = np.unique(np.concatenate(states))
    by_beliefs = diagnostics.match_by_beliefs(np.concatenate(states), beliefs)
    assert (by_beliefs[visited] == where[visited]).mean() >= 0.95
    back = diagnostics.relabelled(learned, by_models)
    assert np.allclose(back.transition_matrix, (1 - blur) * true.transition_matrix + blur / env.n_states)
    assert np.allclose(back.initial_distribution, true.initial_distribution)
    for ours, theirs in zip(back.observation_matrix, true.observation_matrix, strict=True):
        assert np.allclose(ours, (1 - blur) * theirs + blur / len(theirs))


def test_matches_by_where_episodes_start_and_by_what_leads_to_a_state():
    blind = SWAP._replace(observation_matrix=[np.full((2, 2), 0.5)], initial_distribution=np.array([0.9, 0.1]))
    other_way = blind._replace(initial_distribution=np.array([0.2, 0.8]))
    assert diagnostics.match_by_models(blind, other_way).tolist() == [1, 0], "by D alone"
    # From state 0 to 1, from 2 to 3; both stay there and look alike. Only where they come from tells 1 and 3 apart
    moves = np.zeros((4, 4, 1))
    moves[[1, 1, 3, 3], [0, 1, 2, 3]] = 1.0
    looks = np.array([[0.9, 0.5, 0.1, 0.5], [0.1, 0.5, 0.9, 0.5]])
    true = HiddenModel([looks], moves, np.array([0.5, 0.0, 0.5, 0.0]))
    for order in ([0, 3, 2, 1], [2, 1, 0, 3], [1, 0, 3, 2], [3, 2, 1, 0]):
        learned = diagnostics.relabelled(true, order)
        assert diagnostics.match_by_models(true, learned).tolist() == np.argsort(order).tolist()


def test_swaps_cost_what_they_change():
    rng = np.random.default_rng(0)
    looks, true, learned = rng.random((5, 5)), rng.random((5, 5, 2)), rng.random((5, 5, 2))

    def cost(order):
        return looks[range(5), order].sum() + np.square(true - learned[order][:, order]).sum()

    changes = relabelling._changes(looks, true, learned)
    for first in range(5):
        for second in range(5):
            order = np.arange(5)
            order[[first, second]] = second, first
            assert changes[first, second] == pytest.approx(cost(order) - cost(np.arange(5)), abs=1e-9)


def test_relabelling_names_wrong_arguments(monkeypatch):
    with pytest.raises(ValueError, match=r"match=.*each of 2 states once"):
        diagnostics.relabelled(SWAP, [0, 0])
    with pytest.raises(ValueError, match="learned of shapes"):
        diagnostics.match_by_models(SWAP, SWAP._replace(observation_matrix=[A, A]))
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match="pip install scipy"):
        diagnostics.match_by_models(SWAP, SWAP)


def test_observation_divergence_by_hand():
    mean, each = diagnostics.observation_divergence(np.array([[1.0, 0.5], [0.0, 0.5]]), np.array([[0.75, 0.75], [0.25, 0.25]]))
    # KL[(1, 0) || (3/4, 1/4)] = log 4/3; KL[(1/2, 1/2) || (3/4, 1/4)] = log(4/3)/2
    assert each == pytest.approx([math.log(4 / 3), math.log(4 / 3) / 2])
    assert mean == pytest.approx(0.75 * math.log(4 / 3))
    assert diagnostics.observation_divergence(A, np.eye(2))[0] == math.inf
    with pytest.raises(ValueError, match="learned_A of shape"):
        diagnostics.observation_divergence(A, np.eye(3))
    with pytest.raises(ValueError, match="sum to one"):
        diagnostics.observation_divergence(A, 2 * A)


def test_dirichlet_divergence_by_hand():
    # Beta(2, 1) has the density 2x beside the uniform one: E[log 2x] = log 2 - 1/2
    assert diagnostics.dirichlet_divergence(np.array([2.0, 1.0]), np.array([1.0, 1.0])) == pytest.approx(math.log(2) - 0.5)
    assert diagnostics.dirichlet_divergence(A, A) == pytest.approx(np.zeros(2), abs=1e-12)
    # 49 states seen alike, 20.4 times each, with a prior count of 1/49
    world = np.eye(49)
    found = diagnostics.dirichlet_divergence(1 / 49 + 1000 / 49 * world, 1e4 * world + 1e-4)
    assert found.shape == (49,)
    assert found == pytest.approx(np.full(49, 686.26), abs=0.01), "the floor of pymdp's notebook, as computed there"
    with pytest.raises(ValueError, match="positive counts"):
        diagnostics.dirichlet_divergence(A, np.zeros((2, 2)))


def test_belief_calibration_by_hand():
    beliefs = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [1.0, 0.0]])
    found = diagnostics.belief_calibration(beliefs, np.array([0, 1, 1, 0]), n_bins=5)
    # Bins by fifths: {0.1, 0.1, 0}, {}, {0.4}, {0.6}, {0.9, 0.9, 1}
    assert found.counts.tolist() == [3, 0, 1, 1, 3]
    assert found.predicted == pytest.approx([0.2 / 3, math.nan, 0.4, 0.6, 2.8 / 3], nan_ok=True)
    assert found.observed == pytest.approx([1 / 3, math.nan, 1.0, 0.0, 2 / 3], nan_ok=True)
    assert found.brier == pytest.approx((2 * 0.01 + 2 * 0.81 + 2 * 0.36 + 0.0) / 4)
    assert found.log_score == pytest.approx((math.log(0.9) + math.log(0.1) + math.log(0.4)) / 4)
    assert diagnostics.belief_calibration(np.array([[0.9, 1 - 0.9]]), np.array([0])).counts[[0, 1]].tolist() == [0, 1], (
        "0.0999..."
    )
    for wrong, named in ((beliefs[:2], r"beliefs of shape \(2, 2\)"), (2 * beliefs, "sum to one")):
        with pytest.raises(ValueError, match=named):
            diagnostics.belief_calibration(wrong, np.array([0, 1, 1, 0]))


def test_exact_beliefs_are_calibrated():
    env = envs.Tiger()
    seen, taken, states = walks(env, 400, 20)
    model, states = model_of(env), np.concatenate(states)

    def calibration_of(some):
        pairs = zip(seen, taken, strict=True)
        return diagnostics.belief_calibration(
            np.concatenate([diagnostics.filtered_beliefs(some, *pair) for pair in pairs]), states
        )

    exact = calibration_of(model)
    full = exact.counts > 50
    # Four standard errors
    error = 4.0 * np.sqrt(exact.predicted * (1.0 - exact.predicted) / np.maximum(exact.counts, 1))
    assert (np.abs(exact.predicted - exact.observed) <= error + 1e-9)[full].all()
    overconfident = calibration_of(model_of(envs.Tiger(accuracy=0.99)))
    assert overconfident.observed[-1] < overconfident.predicted[-1] - 0.05
    assert overconfident.brier > exact.brier
    assert overconfident.log_score < exact.log_score


def test_equivalent_states():
    assert diagnostics.equivalent_states(SWAP).tolist() == [0, 1]
    blind = SWAP._replace(observation_matrix=[np.full((2, 2), 0.5)])
    assert diagnostics.equivalent_states(blind).tolist() == [0, 0], "nothing is seen"
    ends = np.zeros((2, 2, 2))
    ends[1] = 1.0
    assert diagnostics.equivalent_states(blind, ends).tolist() == [0, 1], "but for the end"
    grid = envs.AliasedGrid()
    assert len(set(diagnostics.equivalent_states(model_of(grid)))) == 49, "moves tell all cells apart"
    # With moves alone up and down, the columns between the edges are one
    up_and_down = model_of(grid)._replace(transition_matrix=grid.transition_matrix[:, :, [0, 2]])
    classes = diagnostics.equivalent_states(up_and_down).reshape(7, 7)
    assert (classes[:, 1:6] == classes[:, 1:2]).all()
    assert (classes[:, 0] == classes[:, 6]).all()
    assert len(set(classes[:, 0]) | set(classes[:, 1])) == 14
    tiger = diagnostics.equivalent_states(model_of(envs.Tiger()))
    assert tiger.tolist() == [0, 1, 2, 3]
