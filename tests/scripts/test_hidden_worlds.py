"""Agents with exact beliefs in small worlds, beside the best policy."""

import importlib.util
import json
import math
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import yaml

pytest.importorskip("joblib")
pytest.importorskip("rl_zoo3")
SCRIPT = Path(__file__).parents[2] / "scripts" / "hidden_worlds.py"
spec = importlib.util.spec_from_file_location("hidden_worlds", SCRIPT)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
ENTRIES = yaml.safe_load(script.CONFIG.read_text())


@pytest.mark.parametrize("name", [name for name in ENTRIES if not name.startswith("cue")])
def test_entries_can_be_run(name):
    result = script.run(name, {**ENTRIES[name], "n_timesteps": 80, "n_envs": 1, "learning_starts": 20}, seed=0)
    json.dumps(result)
    assert result["hyperparameters"]["learning_starts"] == 20
    # 80 steps teach little: the tiger's 20 steps may cost 100 each
    assert -2000.0 <= result["final"]["total"] <= result["optimum"]["total"] + 1e-6
    assert len(result["returns"]) == len(result["successes"]) > 0
    assert sum(result["lengths"]) <= 80


@pytest.mark.parametrize(("name", "total", "length"), [("TMaze-v0", 0.96, 2.0), ("Tiger-v0", 20.39, 20.0)])
def test_the_best_policy(name, total, length):
    found = script.optimum(gym.make(f"sb3_dai/{name}"))
    # In the T-maze the reward of 1 has probability 0.98, the punishment of -1 the rest
    assert (found["total"], found["length"]) == pytest.approx((total, length), abs=0.01)


def test_what_is_expected_of_an_agent():
    """Left at once: the reward with probability 0.5. To wait for the time limit: nothing."""
    maze = gym.make("sb3_dai/TMaze-v0").unwrapped

    def act(action):
        return lambda observations, memory: (np.full(len(observations), action), (np.zeros((len(observations), 1)),))

    assert vars(script.expected_outcome(act(1), maze, 10)) == pytest.approx(dict(total=0.0, length=1.0, success=0.5))
    assert vars(script.expected_outcome(act(1), maze, 10, first_action=3))["success"] == 0.0
    assert vars(script.expected_outcome(act(0), maze, 10)) == pytest.approx(dict(total=0.0, length=10.0, success=0.0))


def test_success_in_the_tmaze_is_to_read_the_cue_first():
    maze, other = gym.make("sb3_dai/TMaze-v0").unwrapped, gym.make("sb3_dai/AliasedGrid-v0").unwrapped
    assert script.succeeded(maze, {"is_success": True}, script.CUE)
    assert not script.succeeded(maze, {"is_success": True}, 1)
    assert not script.succeeded(maze, {"is_success": False}, script.CUE)
    assert script.succeeded(other, {"is_success": True}, 1)


def test_solved_at():
    assert script.solved_at([False] * 10 + [True] * 10, window=10, share=0.9) == 19
    assert math.isinf(script.solved_at([True] * 5, window=10))
