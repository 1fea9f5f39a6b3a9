"""The table of docs/benchmark.md about faults, beside the lines that the trials printed."""

import json
import re

import pytest
from printed.pages import ROOT, table_of

FOUND = {entry["fault"]: entry for entry in json.loads((ROOT / "docs/results/faults.json").read_text())}
ROWS = [list(row.values()) for row in table_of("docs/benchmark.md", "| fault | what happened |")[1]]
PRINTED = {
    "training": r"every (\d+) steps .* killed at (\d+) moments .* at most (\d+) steps back, .* all ([\d,]+) steps; "
    r"all (\d+) files load\. (\w+) unfinished",
    "sweep": r"suite of (\d+) jobs are killed at (\d+) moments .* each job finished once",
    "workers": r"the same eight jobs on loky, Dask and Ray, two workers each .* equal rows",
    "subprocess": r"DAI raises a `RuntimeError` .* DQN raises `BrokenPipeError` or `EOFError`",
    "disk": r"at (\w+) places in each file .* the old file stays whole and loads, .* an `OSError` names the file",
}


def summary_of(name):
    lines, options = FOUND[name]["lines"], FOUND[name]["options"]
    if name == "training":
        kills, steps, lost, files = re.fullmatch(
            r"(\d+) kills, (\d+) steps at the end, at most (\d+) lost at once; (\d+) files load", lines[-2]
        ).groups()
        unfinished = re.search(r"(\d+) unfinished files", lines[-3])[1]
        return [str(options["interval"]), kills, lost, steps, files, {"6": "Six"}[unfinished]]
    if name == "sweep":
        kills, jobs = re.match(r"(\d+) kills: (\d+) jobs finished, each once", lines[-2]).groups()
        return [jobs, kills]
    if name == "workers":
        assert lines[-2] == "loky, dask, ray: equal rows, with and without a kill"
        assert sum(": 8 rows in" in line for line in lines) == 6
    elif name == "subprocess":
        assert lines[0].startswith(("DQN: BrokenPipeError", "DQN: EOFError")) and lines[1].startswith("DAI: RuntimeError")
        assert all("the last save loads and trains on" in line for line in lines[:2])
    else:
        assert all("7 of 7 times the old file stays and loads; [Errno 28]" in line for line in lines[:-1]) and len(lines) == 6
        return ["seven"]
    return []


@pytest.mark.parametrize("name", PRINTED)
def test_faults(name):
    assert FOUND.keys() == PRINTED.keys() and FOUND[name]["lines"][-1].startswith("passed in ")
    (found,) = filter(None, (re.search(PRINTED[name], " | ".join(row)) for row in ROWS))
    assert [text.replace(",", "") for text in found.groups()] == summary_of(name)
