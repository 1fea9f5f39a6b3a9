"""The experiment of pymdp's notebook: agents that learn B in a grid without reward."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("joblib")
SCRIPT = Path(__file__).parents[2] / "scripts" / "grid_world.py"
spec = importlib.util.spec_from_file_location("grid_world", SCRIPT)
grid_world = importlib.util.module_from_spec(spec)
spec.loader.exec_module(grid_world)
SMALL = dict(shape=[3, 3], start=[1, 1], walls=[[0, 0]])


def test_random_actions_count_what_happens():
    env = grid_world.GridWorld(**SMALL)
    found = [*grid_world.random_agent(env, blocks=3, steps=50, seed=0)]
    assert [visits.sum() for _, visits in found] == [50, 100, 150]
    learned, visits = found[-1]
    # Of a deterministic world the posterior mean of n visits is (1/9 + n) / (1 + n)
    assert np.allclose((learned * env.transition_matrix).sum(axis=0), (1 / 9 + visits) / (1 + visits))


def test_worlds_as_pictures():
    world = grid_world.drawn(grid_world.WORLDS["corridor"])
    env = grid_world.GridWorld(**world)
    pairs = grid_world.diagnostics.reachable_pairs(env.transition_matrix, env.start)
    assert env.shape == (7, 7)
    assert env.start == 0
    assert pairs.sum() == 4 * (49 - 18), "every free cell can be reached"


@pytest.mark.parametrize("agent", ["random", "dai-ensemble"])
def test_runs_score_each_block(agent, tmp_path):
    pytest.importorskip("rl_zoo3")
    result = grid_world.run(agent, SMALL, blocks=3, steps=20, seed=0, config=str(grid_world.CONFIG))
    json.dumps(result)
    for name in ("divergence", "accuracy", "coverage", "visits_std"):
        assert len(result[name]) == 3
    assert result["pairs"] == 32
    assert 0.0 < result["coverage"][0] < 1.0
    assert result["coverage"] == sorted(result["coverage"])


def test_agents_run_in_several_processes(tmp_path):
    """Started as a script, where what is cached lies in __main__."""
    command = [sys.executable, str(SCRIPT), "--agents", "random", "--seeds", "0-1", "--jobs", "2", "--blocks", "2"]
    subprocess.run([*command, "--out", str(tmp_path / "found.json")], check=True, capture_output=True)
    assert [result["seed"] for result in json.loads((tmp_path / "found.json").read_text())] == [0, 1]


def test_pymdp_or_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymdp.envs", None)
    with pytest.raises(SystemExit, match=r"pip install -e '\.\[zoo,pymdp\]'"):
        grid_world.pymdp_world(json.dumps(SMALL))


def test_pymdp_learns_the_same_world():
    pytest.importorskip("pymdp.agent")
    env = grid_world.GridWorld(**SMALL)
    (_, visits), (learned, twice) = grid_world.pymdp_agent(SMALL, blocks=2, steps=20, seed=0)
    assert (visits.sum(), twice.sum()) == (20, 40)
    assert np.allclose((learned * env.transition_matrix).sum(axis=0), (1 / 9 + twice) / (1 + twice), atol=1e-5)
