"""Tables of docs/results.md about hidden states: the grid, and worlds with rewards."""

import re

import numpy as np
import pytest
from hidden_worlds import solved_at
from printed.pages import are_printed, rows_of, runs_in

GRID, WORLDS = rows_of("grid"), rows_of("hidden worlds")
GRID_AGENTS = {
    "**exact beliefs**": "exact", "pymdp": "pymdp", "random actions": "random",
    "the same without smoothing of episodes": "online",
}  # fmt: skip
WORLD_AGENTS = {
    "T-maze": "tmaze-given",
    "T-maze; A learned": "tmaze-A",
    "T-maze; A and B learned, and D": "tmaze-AB",
    "tiger, 128 episodes": "tiger-given",
    "tiger; A learned, 624 episodes": "tiger-A",
    "tiger, **memoryless DAI**, 10,000 steps": "tiger-memoryless",
    "aliased 7x7 grid, 2,500 steps": "grid-given",
    'the same, **memoryless DAI** (`"MlpPolicy"`), 10,000 steps': "grid-memoryless",
    "the same, **DAI on a stack of 4 observations**, 10,000 steps": "grid-stack",
}
"""Agents of the result files by what the page calls them."""


def cells_of(row, *starts):
    """Cells of a row, of the columns that start so."""
    return " | ".join(row[name] for name in row if name.startswith(starts))


@pytest.mark.parametrize("row", GRID, ids=lambda row: f"{row['agent']}, {row['where a block starts']}")
def test_rows_of_the_grid(row):
    case, limit = {"known": ("A", 800), "not known": ("A-anywhere", 1500)}[row["where a block starts"]]
    wanted = GRID_AGENTS[row["agent"]], case
    runs = [run for run in runs_in(f"results/{row['result file'].strip('`')}") if (run["agent"], run["case"]) == wanted]
    nats, log_likelihood = (np.array([run[what][-1] for run in runs]) for what in ("divergence", "predictive"))
    figures = [nats.mean(), nats.max(), (nats <= limit).sum(), len(runs), log_likelihood.mean(), log_likelihood.min()]
    assert are_printed(cells_of(row, "nats", "at most", "log-likelihood"), figures), figures
    assert "at most 800 (known) or 1,500 (not known)" in row


@pytest.mark.parametrize("row", WORLDS, ids=lambda row: row["world"])
def test_rows_of_hidden_worlds(row):
    runs = [run for run in runs_in("results/hidden_worlds.json") if run["agent"] == WORLD_AGENTS[row["world"]]]
    total, length, success = (np.array([run["final"][key] for run in runs]) for key in ("total", "length", "success"))
    at = np.array([solved_at(run["successes"]) for run in runs])
    last = np.array([np.mean(run["successes"][-100:]) for run in runs])
    best = runs[0]["optimum"]
    columns = {
        "seeds": [len(runs)],
        "episodes": [np.median(at), at.max()],
        "success in training": [last.mean(), last.min()],
        "success (": [success.mean(), success.min()],
        "return": [total.mean(), total.min()],
        "best return": [best["total"]],
        "steps": [length.mean(), length.max()],
        "best steps": [best["length"]],
    }
    assert len(row) == 1 + len(columns)
    for (start, figures), (name, cell) in zip(columns.items(), list(row.items())[1:], strict=True):
        assert name.startswith(start)
        if start in ("episodes", "success in training", "success (") and (not success.any() or np.isinf(figures).any()):
            assert cell == "", name
        else:
            assert are_printed(cell, figures), (name, figures)


@pytest.mark.parametrize("row", WORLDS, ids=lambda row: row["world"])
def test_names_of_hidden_worlds(row):
    """Episodes, steps and frames that stand beside the world."""
    runs = [run for run in runs_in("results/hidden_worlds.json") if run["agent"] == WORLD_AGENTS[row["world"]]]
    frames = runs[0]["params"].get("frames", 1)
    facts = {"episodes": len(runs[0]["returns"]), "steps": runs[0]["steps"], "observations": frames}
    for number, what in re.findall(r"([\d,]+) (episodes|steps|observations)", row["world"]):
        assert are_printed(number, [facts[what]])


def test_there_are_rows():
    assert len(GRID) >= 7 and len(WORLDS) >= 3
