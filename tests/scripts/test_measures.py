"""The measures of scripts/evaluate.py: records worked by hand, and short runs in worlds where the answer is known."""

import inspect
import time

import gymnasium as gym
import numpy as np
import pytest
import yaml
from measures import (
    Clock,
    TVShare,
    action_probabilities,
    measure_of,
    median_reached,
    right_actions,
    settled_at,
    shorten,
    solved_at,
    steps_to_threshold,
)
from runs import PEERS, find_entry, hyperparameters, replace, run
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

import sb3_dai.envs  # noqa: F401  registers them
from sb3_dai import DAI


def test_solved_is_below_nine_in_ten_of_all_episodes():
    assert solved_at([]) is None
    assert solved_at([True] * 500) is None
    assert solved_at([False] * 99) is None
    assert solved_at([False] * 100) == 100  # not before there are a hundred
    assert solved_at([True] * 90 + [False] * 10) is None  # 90 of 100: not below
    assert solved_at([True] * 90 + [False] * 11) == 101
    assert solved_at([True] * 900 + [False] * 200) == 1001
    assert solved_at([False] * 100 + [True] * 5000) == 100  # the first one counts


def test_settled_is_the_last_time_it_becomes_right():
    steps = [50, 100, 150, 200]
    assert settled_at(steps, [True] * 4) == 50
    assert settled_at(steps, [True, False, True, True]) == 150
    assert settled_at(steps, [False] * 3 + [True]) == 200
    assert settled_at(steps, [True] * 3 + [False]) is None
    assert settled_at([], []) is None


def test_steps_to_threshold():
    result = {"train_returns": [0, 2, 4, 6], "train_lengths": [10, 20, 30, 40]}
    assert steps_to_threshold(result, 0.0, window=1) == 10
    assert steps_to_threshold(result, 3.0, window=2) == 60
    assert steps_to_threshold(result, 5.0, window=2) == 100
    assert steps_to_threshold(result, 5.5, window=2) is None
    assert steps_to_threshold(result, 0.0, window=5) is None
    assert steps_to_threshold({**result, "episodes_per_point": 10}, 3.0, window=20) == 60


def test_seeds_that_never_get_there_count_in_the_median():
    assert median_reached([100, 200, None]) == "200 (2 of 3)"
    assert median_reached([100, None, None]) == "- (1 of 3)"
    assert median_reached([1000, 3000]) == "2,000 (2 of 2)"
    assert median_reached([100, None]) == "- (1 of 2)"  # half is not more than half


def test_shortened_records_keep_means_and_steps():
    returns, lengths = [1.0, 3.0, 5.0, 7.0, 9.0], [1, 2, 3, 4, 5]
    assert shorten(returns, lengths, None) == {"train_returns": returns, "train_lengths": lengths}
    assert shorten(returns, lengths, 5) == {"train_returns": returns, "train_lengths": lengths}
    short = {"train_returns": [2.0, 6.0], "train_lengths": [3, 7], "episodes_per_point": 2}
    assert shorten(returns, lengths, 3) == short  # the fifth episode does not fill a point


def test_right_actions_of_the_seeds_worlds():
    assert right_actions(gym.make("sb3_dai/Bandit-v0").unwrapped, 500).tolist() == [0]
    assert right_actions(gym.make("sb3_dai/ThreeStateChain-v0").unwrapped, 100).tolist() == [2, 2, 1]


@pytest.mark.parametrize("algo", [DAI, PPO])
def test_action_probabilities_are_those_of_the_policy(algo):
    model = algo("MlpPolicy", gym.make("sb3_dai/ThreeStateChain-v0"), seed=0, device="cpu")
    states = np.arange(3)
    probabilities = action_probabilities(model, states)
    assert probabilities.sum(axis=1) == pytest.approx(1.0)
    actions, _ = model.predict(states, deterministic=True)
    assert (probabilities.argmax(axis=1) == actions).all()
    drawn = np.array([model.predict(states)[0] for _ in range(400)])
    assert [(drawn == a).mean(axis=0) for a in range(3)] == pytest.approx(probabilities.T, abs=0.12)


def test_the_television_counts_in_the_last_fifth_only():
    venv = make_vec_env("sb3_dai/NoisyTV-v0")
    measure = measure_of(venv, total_steps=100)
    assert isinstance(measure, TVShare)
    measure._init_callback()
    for step, state in [(79, 2), (80, 2), (81, 2), (82, 3), (83, 11), (84, 0)]:  # room 2 has it; from 10 on it is on
        measure.num_timesteps, measure.locals = step, {"new_obs": np.array([state])}
        measure.watch()
    assert measure.results() == {"tv_share": 0.5}


def test_bad_episodes_of_a_short_run():
    result = run("dqn", "sb3_dai/DeepSea10-v0", 1200, 0, n_eval_episodes=2, max_points=10)
    assert result["n_episodes"] == 120 and 0 <= 120 - result["bad_episodes"] <= 5
    assert result["solved_at"] is None
    assert len(result["train_returns"]) == 10 and result["train_lengths"] == [120] * 10


def test_a_solved_run_may_stop():
    # Of two rows, the diver leaves the diagonal in three of four episodes at random
    kwargs = dict(n_eval_episodes=2, env_kwargs=dict(size=2), stop_when_solved=True)
    result = run("dqn", "sb3_dai/DeepSea-v0", 1000, 0, **kwargs)
    assert result["solved_at"] == result["n_episodes"] == 100 and result["stopped_at"] == 200
    assert result["env_kwargs"] == {"size": 2}


def test_the_clock_stops_where_the_greedy_policy_is_good_enough():
    reached = run("dqn", "sb3_dai/DeepSea10-v0", 1000, 0, n_eval_episodes=1, solved=-1e9, look_every=100)
    assert reached["solved_steps"] == 100 and sum(reached["train_lengths"]) == 100
    assert 0.0 <= reached["solved_seconds"] <= reached["seconds"]
    never = run("dqn", "sb3_dai/DeepSea10-v0", 200, 0, n_eval_episodes=1, solved=1e9, look_every=100)
    assert never["solved_steps"] is never["solved_seconds"] is None and sum(never["train_lengths"]) == 200


def test_looks_are_not_on_the_clock():
    clock = Clock(lambda: time.sleep(0.2) or 0.0, 1.0, every=1)
    clock._on_training_start()
    for clock.num_timesteps in range(1, 4):
        assert clock._on_step()
    assert clock.results()["seconds"] < 0.3


def test_the_clock_looks_at_its_interval():
    looks = []
    clock = Clock(lambda: looks.append(clock.num_timesteps) or 0.0, 1.0, every=3)
    clock._on_training_start()
    for clock.num_timesteps in range(1, 11):
        clock._on_step()
    assert looks == [3, 6, 9]


def test_the_bandit_is_found_and_the_variant_is_recorded():
    result = run("dai", "sb3_dai/Bandit-v0", 300, 0, n_eval_episodes=1, params={"precision": 5.0}, variant="sharp")
    assert result["variant"] == "sharp" and result["params"] == {"precision": 5.0}
    assert result["optimal_from"] <= 300 and result["optimal_from"] % 50 == 0
    assert result["right_probability"][0] > 0.5


def test_entries(tmp_path):
    path = tmp_path / "x.yml"
    path.write_text(yaml.safe_dump({"dqn": {"A-v1": {"gamma": 0.5}}, "B-v0": {"gamma": 0.7}, "default": {"gamma": 0.9}}))
    assert find_entry(path, "dqn", "A-v2") == {"gamma": 0.5}
    assert find_entry(path, "dqn", "C-v0") is None
    assert find_entry(path, "ppo", "B-v0") == {"gamma": 0.7}
    assert find_entry(path, "ppo", "C-v0") is None
    assert find_entry(path, "dai", "C-v0") == {"gamma": 0.9}


def test_every_peer_is_found_and_dai_has_a_default():
    for algo, entries in yaml.safe_load(PEERS.read_text()).items():
        for env_id, entry in entries.items():
            assert hyperparameters(algo, env_id) == entry
    assert hyperparameters("dai", "sb3_dai/GridWorld-v0")["policy"] == "MlpPolicy"
    with pytest.raises(ValueError, match="no entry of ddpg for --env sb3_dai/GridWorld-v0"):
        hyperparameters("ddpg", "sb3_dai/GridWorld-v0")


def test_the_ablation_sets_what_dai_takes():
    variants = yaml.safe_load((PEERS.parent / "ablation.yml").read_text())
    assert variants["default"] == {}
    names = inspect.signature(DAI).parameters
    assert all(name in names for params in variants.values() for name in params)


def test_policy_kwargs_are_merged():
    entry = {"gamma": 0.9, "policy_kwargs": "dict(net_arch=[8], n_critics=1)"}
    merged = replace(entry, {"gamma": 0.5, "policy_kwargs": {"n_critics": 2}})
    assert merged["gamma"] == 0.5 and eval(merged["policy_kwargs"]) == {"net_arch": [8], "n_critics": 2}
    assert replace({"gamma": 0.9}, {"policy_kwargs": {"n_critics": 2}})["policy_kwargs"] == {"n_critics": 2}
