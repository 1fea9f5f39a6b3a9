"""What agents learn of a grid whose states are hidden."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("joblib")
pytest.importorskip("rl_zoo3")
SCRIPT = Path(__file__).parents[2] / "scripts" / "hidden_states.py"
spec = importlib.util.spec_from_file_location("hidden_states_script", SCRIPT)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


def test_divergence_of_dirichlet_counts():
    # Dir(2, 1) from Dir(1, 1): the density 2p, so E[log 2p] = log 2 + psi(2) - psi(3) = log 2 - 1/2
    assert script.dirichlet_divergence(np.array([[2.0], [1.0]]), np.ones((2, 1))) == pytest.approx(np.log(2) - 0.5)
    # The mean over states, of which the other is known as well as can be
    assert script.dirichlet_divergence(np.array([[2.0, 1.0], [1.0, 1.0]]), np.ones((2, 2))) == pytest.approx(0.0965736)


def test_even_visits_are_the_floor():
    """What 20 blocks can come to: 1,000 steps, or 1,020 observations, to 49 states."""
    for n_visits, floor in ((1000, 687), (1020, 677)):
        counts = np.full((49, 49), 1 / 49) + n_visits / 49 * np.eye(49)
        assert script.dirichlet_divergence(counts, 1e4 * np.eye(49) + 1e-4) == pytest.approx(floor, abs=1)


def test_the_true_model_predicts_with_certainty():
    env = script.GridWorld()
    true = script.Tables(np.eye(49), env.transition_matrix, np.eye(49)[env.start])
    assert script.predictive_log_likelihood(true, env, n_walks=1) == pytest.approx(0.0)
    blunt = script.Tables(np.ones((49, 49)), env.transition_matrix, np.eye(49)[env.start])
    assert script.predictive_log_likelihood(blunt, env, n_walks=1) == pytest.approx(-np.log(49))


@pytest.mark.parametrize("case", script.CASES)
def test_runs_score_each_block(case):
    result = script.run("exact", case, blocks=2, steps=12, seed=0)
    json.dumps(result)
    assert len(result["divergence"]) == len(result["predictive"]) == 2
    assert result["hyperparameters"].items() >= {"blocks": 2, "steps": 12, "n_outcomes": [49], "pA": None}.items()
    assert all(0.0 < divergence < 5e5 for divergence in result["divergence"])
    assert all(-4.0 < predictive < 0.0 for predictive in result["predictive"])


def test_smoothing_of_all_blocks_finds_out_where_one_was():
    """Where a block starts was not known to either."""
    remembers, online = (script.run(agent, "A-anywhere", 8, 50, seed=0)["divergence"][-1] for agent in ("exact", "online"))
    assert remembers < 0.9 * online


def test_an_agent_knows_three_orders_of_the_actions():
    """Where there and back are ends elsewhere, the order is another one."""
    env = script.GridWorld()
    tables, B = script.known("A-labels", env).tables, env.transition_matrix
    for i, order in enumerate(([0, 1, 2, 3], [0, 2, 1, 3], [0, 1, 3, 2])):
        cells = slice(49 * i, 49 * (i + 1))
        assert (tables["B"][cells, cells] == B[:, :, order]).all()
        assert tables["pD"][cells][env.start] == pytest.approx(1 / 3)
    assert tables["B"].sum() == 3 * B.sum()


def test_the_most_probable_order_counts():
    A, B, D = script.th.arange(6.0)[None], script.th.arange(36.0).reshape(6, 6, 1), script.th.arange(6.0) / 15.0
    counts, transition, initial = script.of_most_probable_labels(A, B, D, 2)
    assert counts.tolist() == [[4.0, 5.0]] and transition.squeeze(2).tolist() == [[28.0, 29.0], [34.0, 35.0]]
    assert initial.tolist() == pytest.approx([4 / 9, 5 / 9])


def test_it_is_a_command(tmp_path):
    command = [sys.executable, str(SCRIPT), "--agents", "random", "--case", "A", "--seeds", "0-1", "--blocks", "1"]
    subprocess.run([*command, "--jobs", "2", "--out", str(tmp_path / "found.json")], check=True, capture_output=True)
    assert [result["seed"] for result in json.loads((tmp_path / "found.json").read_text())] == [0, 1]


def test_pymdp_or_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymdp.envs", None)
    script.pymdp_world.cache_clear()
    with pytest.raises(SystemExit, match=r"pip install -e '\.\[zoo,pymdp\]'"):
        script.pymdp_world()


def test_pymdp_has_no_case_of_labels(tmp_path, monkeypatch):
    arguments = ["--agents", "pymdp", "--case", "A-labels", "--seeds", "0", "--out", str(tmp_path / "found.json")]
    monkeypatch.setattr("sys.argv", ["hidden_states.py", *arguments])
    with pytest.raises(SystemExit, match="choose another --case"):
        script.main()
