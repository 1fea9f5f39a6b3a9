"""pymdp's agents in the worlds whose states are hidden."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("joblib")
pytest.importorskip("rl_zoo3")
pytest.importorskip("pymdp")
SCRIPT = Path(__file__).parents[2] / "scripts" / "hidden_worlds_pymdp.py"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("hidden_worlds_pymdp", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_where_all_is_known_the_cue_is_read_first(script, monkeypatch):
    monkeypatch.setitem(script.AGENTS, "tmaze-given", {**script.AGENTS["tmaze-given"], "trials": 5})
    result = script.run("tmaze-given", seed=0)
    json.dumps(result)
    assert result["successes"] == [1] * 5
    assert result["lengths"] == [2] * 5


def test_what_was_seen_is_learned(script, monkeypatch):
    monkeypatch.setitem(script.AGENTS, "tmaze-A", {**script.AGENTS["tmaze-A"], "trials": 3})
    result = script.run("tmaze-A", seed=0)
    assert len(result["lengths"]) == 3 and result["steps"] == sum(result["lengths"])


def test_counts_grow_by_one_for_each_observation(script):
    import gymnasium as gym
    from jax import numpy as jnp

    agent = script.agent_of(gym.make("sb3_dai/TMaze-v0").unwrapped, script.AGENTS["tmaze-A"], seed=0)
    before = [float(counts.sum()) for counts in agent.pA]
    beliefs, observations = jnp.full((1, 3, 8), 1 / 8), [jnp.zeros((1, 3), dtype=int)] * 3
    after = script.learn(agent, [beliefs], observations, jnp.zeros((1, 2, 1), dtype=int))
    assert [float(counts.sum()) for counts in after.pA] == pytest.approx([total + 3 for total in before], rel=1e-4)
