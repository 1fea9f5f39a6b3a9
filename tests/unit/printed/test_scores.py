"""Tables of scores of docs/results.md that belong to no suite: more seeds, and DeepSea."""

import re

import numpy as np
import pytest
from printed.claims_results import suite
from printed.pages import are_printed, is_printed, read, rows_of, runs_in, scores
from suite_tables import interquartile_mean

THRESHOLDS = {env: task["threshold"] for task in suite("first")["tasks"] for env in task["environments"]}
SPARSE = "sb3_dai/MountainCarContinuousSparse-v0"
THRESHOLDS[SPARSE] = THRESHOLDS["MountainCarContinuous-v0"]
MORE_SEEDS, DEEP_SEA = rows_of("more seeds"), rows_of("deep sea")


@pytest.mark.parametrize("row", MORE_SEEDS, ids=lambda row: row["agent"])
def test_more_seeds(row):
    runs = runs_in(f"results/{row['result file'].strip('`')}")
    (env,) = {run["env"] for run in runs}
    assert row["agent"].startswith(f"{env}: " if env != SPARSE else "the same with 100 at the goal and no other reward: ")
    scores = np.array([np.mean(run["scores"]) for run in runs])
    assert are_printed(row["interquartile mean [95 %]"], interquartile_mean(scores))
    for cell, value in (("mean", scores.mean()), ("worst seed", scores.min()), ("seeds", len(runs))):
        assert is_printed(row[cell], value), cell
    assert are_printed(row["all seeds"], scores)
    for cell, key in (("environment steps", "steps"), ("gradient steps", "gradient_steps")):
        assert {is_printed(row[cell], run[key]) for run in runs} == {True}, cell
    if row["failures"]:
        threshold = THRESHOLDS[env]
        assert are_printed(row["failures"], [(scores < threshold).sum(), len(runs), threshold])
    seeds = re.search(r"seeds (\d+)-(\d+)", row["agent"])
    assert not seeds or [run["seed"] for run in runs] == [*range(int(seeds[1]), int(seeds[2]) + 1)]


@pytest.mark.parametrize("row", DEEP_SEA, ids=lambda row: row["world"])
def test_deep_sea(row):
    runs = runs_in(f"results/{row['result file'].strip('`')}")
    (size,) = {int(re.search(r"DeepSea(\d+)", run["env"])[1]) for run in runs}
    solved = [run["solved_at"] for run in runs]
    assert are_printed(row["world"], [size])
    assert are_printed(row["solved"], [sum(at is not None for at in solved), len(runs)])
    assert [int(number) for number in row["at episode"].split(", ")] == solved
    assert is_printed(row["of"], runs[0]["steps"] / size), "an episode has as many steps as the sea is deep"


def test_there_are_rows():
    assert len(MORE_SEEDS) >= 8 and len(DEEP_SEA) >= 2


def test_who_is_ahead():
    wanted = {
        "dai": "DAI is ahead",
        "dqn_equal": "DQN with an equal budget",
        "sac_equal": "SAC with an equal budget",
        "crossq_256": "CrossQ",
    }
    ahead: dict[str, list[str]] = {}
    for task in suite("first")["tasks"]:
        (env,) = task["environments"]
        means = {agent: scores(f"results/first/{env}/{agent}").mean() for agent in task["agents"] if agent != "dai_without"}
        ahead.setdefault(max(means, key=means.__getitem__).replace("dai_256", "dai"), []).append(env)
    parts = [
        f"{wanted[agent]} on {' and '.join([', '.join(envs[:-1]), envs[-1]] if envs[1:] else envs)}"
        for agent, envs in ahead.items()
    ]
    assert " ".join(read("docs/results.md").split()).count("By means, " + "; ".join(parts) + ".") == 1
