"""Results say where they come from, and what a file has is not made again."""

import json

import pytest
from evaluate import key_of
from provenance import finished, provenance


def test_a_result_says_commit_versions_processor_date_and_command():
    found = provenance()
    assert {"commit", "versions", "processor", "date", "command"} <= found.keys()
    assert {"python", "torch", "stable-baselines3", "gymnasium", "numpy"} <= found["versions"].keys()
    assert json.loads(json.dumps(found)) == found


def test_runs_of_the_same_commit_are_kept(tmp_path):
    path, origin = tmp_path / "results.json", {"commit": "a"}
    assert finished(path, origin) == []
    runs = [{"agent": "dai", "env": "CartPole-v1", "steps": 5, "seed": seed, "commit": "a"} for seed in (1, 2)]
    path.write_text(json.dumps(runs))
    assert finished(path, origin) == runs
    assert [key_of(run) for run in runs] == [("dai", "CartPole-v1", 5, seed, None) for seed in (1, 2)]


@pytest.mark.parametrize("of_others", [{"commit": "b"}, {}])
def test_runs_of_another_commit_are_not_replaced_in_silence(tmp_path, of_others):
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{"seed": 1, **of_others}]))
    with pytest.raises(SystemExit, match="--fresh"):
        finished(path, {"commit": "a"})
    assert json.loads(path.read_text())
