"""Figures about hidden states in docs/results.md and docs/speed.md, and in the README's prose, are those of their files."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hidden_worlds import solved_at

ROOT = Path(__file__).resolve().parents[2]
if not (ROOT / "docs").is_dir():
    pytest.skip("docs are not installed", allow_module_level=True)
RESULTS = ROOT / "docs" / "results"
PAGE = (ROOT / "docs" / "results.md").read_text()
NUMBER = r"(?<!\d)-?\d[\d,]*(?:\.\d+)?"


def runs_of(name):
    """Runs of a result file, by agent and case."""
    groups = {}
    for run in json.loads((RESULTS / name).read_text()):
        groups.setdefault((run["agent"], run.get("case")), []).append(run)
    return groups


def rows_below(heading):
    """Rows of the tables in a section of the page, each with the cells by column."""
    section = re.search(rf"^### {heading}$(.*?)(?=^##)", PAGE, re.M | re.S)[1]
    found, columns = [], None
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else None
        if cells and columns and not set(line) <= set("|-"):
            found.append(dict(zip(columns, cells, strict=True)))
        columns = cells if cells and not columns else columns if cells else None
    return section, found


def is_printed(text, value):
    """Whether a number is a value, to the digits that are printed."""
    decimals = len(text.partition(".")[2])
    return abs(float(text.replace(",", "")) - value) <= 0.5 * 10.0**-decimals + 1e-9


def are_printed(texts, values):
    """Whether numbers are values, one by one."""
    return all(is_printed(text, value) for text, value in zip(texts, values, strict=True))


# ----- The grid -----

_, GRID = rows_below("A grid whose states are hidden")


def grid_figures(runs, limit):
    """What a row of the table says of the last blocks of some runs."""
    nats, log_likelihood = (np.array([run[what][-1] for run in runs]) for what in ("divergence", "predictive"))
    within = int((nats <= limit).sum())
    return [nats.mean(), nats.max(), within, len(runs), log_likelihood.mean(), log_likelihood.min()]


@pytest.mark.parametrize("row", GRID, ids=lambda row: f"{row['agent']}, {row['where a block starts']}")
def test_rows_of_the_grid(row):
    case, limit = {"known": ("A", 800), "not known": ("A-anywhere", 1500)}[row["where a block starts"]]
    cells = [row[name] for name in row if name.startswith(("nats", "at most", "log-likelihood"))]
    printed = re.findall(NUMBER, " | ".join(cells))
    found = {
        agent: grid_figures(runs, limit)
        for (agent, its), runs in runs_of(row["result file"].strip("`")).items()
        if its == case
    }
    assert any(are_printed(printed, figures) for figures in found.values()), (row, found)


def test_the_grid_has_rows():
    assert len(GRID) >= 7


def test_prose_about_the_grid_of_which_nothing_is_known():
    (runs,) = runs_of("hidden_grid_AB.json").values()
    nats, log_likelihood = (np.array([run[what][-1] for run in runs]) for what in ("divergence", "predictive"))
    text = re.search(r"^\*\*A and B unknown\*\*.*?^$", PAGE, re.M | re.S)[0]
    printed = re.search(
        rf"(\d+) agents .*: ({NUMBER}) nats \(worst ({NUMBER})\).* gets ({NUMBER}) %\s+probability \(worst ({NUMBER}) %",
        text,
        re.S,
    ).groups()
    shares = 100.0 * np.exp([log_likelihood.mean(), log_likelihood.min()])
    assert are_printed(printed, [len(runs), nats.mean(), nats.max(), *shares]), (printed, nats, shares)


# ----- Worlds with rewards -----

SECTION, WORLDS = rows_below("Hidden states and rewards")


def measures(value, name=""):
    """All that a run measured, each as one number: a number, or the mean of a list and of its last hundred."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key not in ("params", "versions"):
                yield from measures(part, f"{name}.{key}")
    elif isinstance(value, list) and value and not isinstance(value[0], dict | list | str):
        yield name, float(np.mean(value))
        yield f"{name}, last 100", float(np.mean(value[-100:]))
    elif isinstance(value, int | float):
        yield name, float(value)


def statistics(runs):
    """Figures that a table may give of some runs: means, medians and extremes; and how many of how many seeds succeed."""
    values = {}
    for run in runs:
        solved = solved_at(run["successes"]) if "successes" in run else float("inf")
        for name, value in (*measures(run), ("solved at", solved)):
            values.setdefault(name, []).append(value)
    figures, counts = {float(len(runs))}, set()
    for name, column in values.items():
        finite = [value for value in column if np.isfinite(value)]
        figures |= {float(of(column)) for of in (np.mean, np.median, min, max)}
        if name == "solved at":
            counts.add(f"{len(finite)} of {len(runs)}")
        elif "success" in name:
            counts.add(f"{sum(value >= 0.95 for value in finite)} of {len(runs)}")
    return {value for value in figures if np.isfinite(value)}, counts


def unfounded(text, figures, counts):
    """What of a row is no figure of some runs."""
    shares = re.findall(r"\b\d+ of \d+\b", text)
    numbers = re.findall(NUMBER, re.sub(r"\b\d+ of \d+\b", "", text))
    wrong = [number for number in numbers if not any(is_printed(number, value) for value in figures)]
    return wrong + [share for share in shares if share not in counts]


@pytest.mark.parametrize("row", WORLDS, ids=lambda row: row["world"])
def test_rows_of_hidden_worlds(row):
    """Every figure of a row is one of the same agent."""
    files = set(re.findall(r"`?(\w+\.json)`", SECTION)) & {path.name for path in RESULTS.glob("*.json")}
    agents = {key: statistics(runs) for name in files for key, runs in runs_of(name).items()}
    text = " | ".join(cell for name, cell in row.items() if name not in ("world", "result file"))
    n_seeds = {agent: len(runs) for name in files for agent, runs in runs_of(name).items()}
    missing = {agent: unfounded(text, *found) for agent, found in agents.items() if n_seeds[agent] == int(row["seeds"])}
    assert [] in missing.values(), (row, missing)


def test_hidden_worlds_have_rows():
    assert len(WORLDS) >= 3


# ----- The speed of policies with a memory -----


@pytest.mark.parametrize("name", ["speed_recurrent", "speed_recurrent_box"])
def test_costs_of_policies_with_a_memory(name):
    page = (ROOT / "docs" / "speed.md").read_text()
    table = re.search(rf"{name}\.json`\).*?\n\n\|.*?\n\|[-|]+\n(.*?)\n\n", page, re.S)[1]
    printed = {cells[0]: cells[1:] for cells in ([c.strip() for c in row.strip("|").split("|")] for row in table.splitlines())}
    results = json.loads((RESULTS / f"{name}.json").read_text())["results"]
    assert printed.keys() == results.keys()
    for agent, row in results.items():
        kinds = "transitions", "median_step", "ratio_step", "ratio_predict", "ratio_learn"
        assert are_printed(printed[agent], [row[kind] for kind in kinds]), agent


# ----- The README -----


def scores(*names):
    """The score of each run of files, the mean of its episodes, or of those of a folder of the store."""
    runs = []
    for name in names:
        path = ROOT / "docs" / name
        files = sorted(path.glob("*.json")) if path.is_dir() else [path]
        for found in (json.loads(file.read_text()) for file in files):
            runs += found if isinstance(found, list) else [found]
    return np.array([np.mean(run["scores"]) for run in runs])


CARTPOLE = scores("results/cartpole_dai_default_10k.json", "results/cartpole_dai_more_10k.json")
LUNAR_LANDER = scores("experiments/data/lunarlander_dai_default_30k.json")
CHEETAH = scores("results/first/HalfCheetah-v5/dai_256")
HIDDEN = scores("results/memory/CartPoleNoVel-v1/dai_memory")
CLAIMS = {
    r"10_000 steps solved it with (\d+) of (\d+) seeds": [(CARTPOLE >= 475).sum(), len(CARTPOLE)],
    r"(one) of (\d+) runs of CartPole ended below 475": [(CARTPOLE < 475).sum(), len(CARTPOLE)],
    r"(\d+) of (\d+) runs of LunarLander below 100": [(LUNAR_LANDER < 100).sum(), len(LUNAR_LANDER)],
    r"(three) runs score ([\d,]+) on HalfCheetah on average .*; (one) of them fails": [
        len(CHEETAH),
        CHEETAH.mean(),
        (CHEETAH < 2000).sum(),
    ],
    r"On LunarLanderContinuous (three) score (\d+), and CrossQ (\d+)": [
        len(scores("results/first/LunarLanderContinuous-v3/dai_256")),
        scores("results/first/LunarLanderContinuous-v3/dai_256").mean(),
        scores("results/first/LunarLanderContinuous-v3/crossq_256").mean(),
    ],
    r"without velocities is solved in 20,000 steps by (\d+) of (\d+) runs": [(HIDDEN >= 475).sum(), len(HIDDEN)],
    r"On FrozenLake, (five) runs score ([\d.]+) on average .* DQN with an equal budget scores ([\d.]+)": [
        len(scores("results/first/FrozenLake-v1/dai")),
        scores("results/first/FrozenLake-v1/dai").mean(),
        scores("results/first/FrozenLake-v1/dqn_equal").mean(),
    ],
}
"""Figures in the prose of the README, and what they are in the result files."""
WORDS = {"one": "1", "three": "3", "five": "5"}


@pytest.mark.parametrize("claim", CLAIMS)
def test_figures_in_the_prose_of_the_readme(claim):
    found = re.search(claim, (ROOT / "README.md").read_text())
    assert found, f"the README no longer says {claim!r}: say here what it says now"
    printed = [WORDS.get(text, text).removesuffix(".") for text in found.groups()]
    assert are_printed(printed, CLAIMS[claim]), (printed, CLAIMS[claim])
