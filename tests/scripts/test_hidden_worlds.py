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


@pytest.mark.parametrize("name", ENTRIES)
def test_entries_can_be_run(name):
    result = script.run(name, {**ENTRIES[name], "n_timesteps": 40}, seed=0, n_episodes=2)
    json.dumps(result)
    assert len(result["final"]["returns"]) == len(result["optimum"]["returns"]) == 2
    assert len(result["returns"]) == len(result["successes"]) > 0
    assert sum(result["lengths"]) <= 40


def test_the_best_policy_of_the_tmaze():
    found = script.optimum(gym.make("sb3_dai/TMaze-v0"), n_episodes=50, first_seed=0)
    assert found["expected"] == pytest.approx(0.96)  # The reward of 1 has probability 0.98, the punishment of -1 the rest
    assert np.mean(found["returns"]) == pytest.approx(0.96, abs=0.1)


def test_success_in_the_tmaze_is_to_read_the_cue_first():
    maze, other = gym.make("sb3_dai/TMaze-v0").unwrapped, gym.make("sb3_dai/AliasedGrid-v0").unwrapped
    assert script.succeeded(maze, {"is_success": True}, script.CUE)
    assert not script.succeeded(maze, {"is_success": True}, 1)
    assert not script.succeeded(maze, {"is_success": False}, script.CUE)
    assert script.succeeded(other, {"is_success": True}, 1)


def test_solved_at():
    assert script.solved_at([False] * 10 + [True] * 10, window=10, share=0.9) == 19
    assert math.isinf(script.solved_at([True] * 5, window=10))
