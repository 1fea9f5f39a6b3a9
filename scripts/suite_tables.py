"""Tables of the store of scripts/benchmark.py: a row for each agent in each environment, and comparisons over all of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from measures import cells_of, median_reached
from rliable import library
from store import Row

REPETITIONS = 2000
"""Of the bootstrap."""


def middle_mean(scores: np.ndarray) -> float:
    """
    :param scores: of any shape
    :return: mean of those that are neither in the lowest nor in the highest quarter. It is ``rliable.metrics.aggregate_iqm``,
        which takes four times as long in the bootstraps of a page
    """
    n_cut = scores.size // 4
    return float(np.sort(scores, axis=None)[n_cut : scores.size - n_cut].mean())


def interquartile_mean(scores: np.ndarray) -> tuple[float, float, float]:
    """
    :param scores: one score a seed, shape (n_seeds,)
    :return: interquartile mean and the ends of its 95 % interval (rliable, Agarwal et al. 2021, arXiv:2108.13264)
    """
    np.random.seed(0)  # rliable draws from numpy's global generator whatever random_state it is given
    points, intervals = library.get_interval_estimates(
        {"x": scores.reshape(-1, 1)}, lambda x: np.array([middle_mean(x)]), reps=REPETITIONS
    )
    return float(points["x"][0]), *map(float, intervals["x"][:, 0])


def groups(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """
    :param rows: of a store
    :return: the seeds of each environment and agent, by both
    """
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["env"], row["agent_name"]), []).append(row)
    return found


def means_of(rows: Sequence[Row]) -> np.ndarray:
    """
    :param rows: seeds of one agent in one environment
    :return: mean score of the final checkpoint of each, shape (n_seeds,)
    """
    return np.array([np.mean(row["scores"]) for row in rows])


def number(value: float, digits: int) -> str:
    """
    :param value: a score
    :param digits: after the point
    :return: its text
    """
    return f"{value:,.{digits}f}"


def score_table(rows: Sequence[Row], suite: dict[str, Any]) -> list[str]:
    """
    :param rows: of a store
    :param suite: that they are of
    :return: lines of a Markdown table for each environment and number of steps, in the order of the suite
    """
    found, lines = groups(rows), []
    # Some agents of an environment may have more seeds than others, and so a task of their own
    cells: dict[tuple[str, int], list[dict[str, str]]] = {}
    for task in suite["tasks"]:
        for env in task["environments"]:
            agents = [name for name in task["agents"] if (env, name) in found]
            table = cells.setdefault((env, task["steps"]), [])
            table += [cells_of_agent(found[env, name], task.get("threshold")) for name in agents]
    for (env, steps), table in cells.items():
        if not table:
            continue
        headings = [*dict.fromkeys(heading for row in sorted(table, key=len, reverse=True) for heading in row)]
        lines += [f"### {env}, {steps:,} steps", "", "| " + " | ".join(headings) + " |", "|---" * len(headings) + "|"]
        lines += ["| " + " | ".join(row.get(heading, "") for heading in headings) + " |" for row in table]
        lines.append("")
    return lines


def cells_of_agent(seeds: Sequence[Row], threshold: float | None) -> dict[str, str]:
    """
    :param seeds: rows of one agent in one environment
    :param threshold: score that is wanted, None for none
    :return: its cells by heading
    """
    means = means_of(seeds)
    digits = 1 if np.abs(means).max() > 10 else 3
    iqm, low, high = (number(value, digits) for value in interquartile_mean(means))
    error = number(means.std(ddof=1) / np.sqrt(len(means)), digits) if len(means) > 1 else "-"
    cells = {
        "agent": seeds[0]["label"],
        "gradient steps": f"{int(np.median([row['gradient_steps'] for row in seeds])):,}",
        "interquartile mean [95 %]": f"{iqm} [{low}, {high}]",
        "mean ± standard error": f"{number(means.mean(), digits)} ± {error}",
        "all seeds": " ".join(number(value, digits) for value in means),
    }
    if threshold is not None:
        reached = median_reached([row["steps_to_threshold"]["steps"] for row in seeds])
        cells[f"below {threshold:g}"] = f"{(means < threshold).sum()} of {len(means)}"
        cells[f"steps to {threshold:g}, median"] = reached
    cost = np.median([row["cpu_seconds"] for row in seeds])
    return {
        **cells,
        **cells_of(seeds),
        "core seconds": f"{cost:.0f}",
        "`--only`": f"`{seeds[0]['env']}:{seeds[0]['agent_name']}`",
    }


def short_table(rows: Sequence[Row], suite: dict[str, Any]) -> str:
    """
    :param rows: of a store
    :param suite: that they are of, whose ``short`` has the agents to show of each environment
    :return: a Markdown table with one line an agent, for the README
    """
    found = groups(rows)
    thresholds = {env: task.get("threshold") for task in suite["tasks"] for env in task["environments"]}
    lines = ["| task | agent | environment steps | gradient steps | mean ± standard error | failed |", "|---" * 6 + "|"]
    for env, names in suite["short"].items():
        shown = f"{env}, {thresholds[env]:g} wanted"
        for name in names:
            seeds = found.get((env, name))
            if not seeds:
                continue
            cells = cells_of_agent(seeds, thresholds[env])
            label = f"**{cells['agent']}**" if cells["agent"] == "DAI" else cells["agent"]
            row = (shown, label, f"{seeds[0]['steps']:,}", cells["gradient steps"], cells["mean ± standard error"])
            lines.append("| " + " | ".join((*row, cells[f"below {thresholds[env]:g}"])) + " |")
            shown = ""
    return "\n".join(lines) + "\n"


def normalized(scores: np.ndarray, env: str, suite: dict[str, Any]) -> np.ndarray:
    """
    :param scores: in an environment
    :param env: the environment
    :param suite: its ``scale`` has the score of a random policy and a good one
    :return: 0 for random, 1 for good
    """
    random, good = suite["scale"][env]
    return (scores - random) / (good - random)


def matrix(rows: Sequence[Row], names: Sequence[str], envs: Sequence[str], suite: dict[str, Any]) -> np.ndarray:
    """
    :param rows: of a store
    :param names: of one agent: it may have another name in other environments
    :param envs: environments in which it has as many seeds as in the first
    :param suite: that the rows are of
    :return: normalised scores, shape (n_seeds, n_environments)
    """
    found = groups(rows)
    columns = [next(found[env, name] for name in names if (env, name) in found) for env in envs]
    return np.stack([normalized(means_of(seeds), env, suite) for env, seeds in zip(envs, columns, strict=True)], axis=1)


def names_of(label: str, suite: dict[str, Any]) -> list[str]:
    """
    :param label: of an agent
    :param suite: that describes it
    :return: its names there
    """
    return [name for name, agent in suite["agents"].items() if agent.get("label", name) == label]


def shared(rows: Sequence[Row], labels: Sequence[str], suite: dict[str, Any]) -> dict[int, list[str]]:
    """
    :param rows: of a store
    :param labels: of agents
    :param suite: that the rows are of
    :return: environments in which all of them have rows, by the number of seeds, which is the same for all of them
    """
    # An environment may have several tasks
    found, envs = groups(rows), dict.fromkeys(env for task in suite["tasks"] for env in task["environments"])
    by_seeds: dict[int, list[str]] = {}
    for env in envs:
        counts = {max((len(found.get((env, name), [])) for name in names_of(label, suite)), default=0) for label in labels}
        if len(counts) == 1 and 0 not in counts:
            by_seeds.setdefault(counts.pop(), []).append(env)
    return by_seeds


def improvement(x: np.ndarray, y: np.ndarray) -> float:
    """
    :param x: scores of an agent, shape (n_seeds, n_environments)
    :param y: of another one
    :return: probability that a run of the first scores higher than one of the second, mean over environments; a tie counts
        half. It is ``rliable.metrics.probability_of_improvement``, which takes minutes in a bootstrap
    """
    wins = (x[:, None] > y[None]) + 0.5 * (x[:, None] == y[None])
    return float(wins.mean())


def improvement_table(rows: Sequence[Row], suite: dict[str, Any], label: str = "DAI") -> list[str]:
    """
    :param rows: of a store
    :param suite: that they are of
    :param label: of the agent that is compared
    :return: lines of a Markdown table: probability of improvement over each other agent
    """
    lines = [f"| {label} beside | environments | seeds each | probability of improvement [95 %] |", "|---|---|---|---|"]
    others = dict.fromkeys(agent.get("label", name) for name, agent in suite["agents"].items())
    for other in [text for text in others if text != label]:
        for n_seeds, envs in shared(rows, [label, other], suite).items():
            pair = tuple(matrix(rows, names_of(text, suite), envs, suite) for text in (label, other))
            np.random.seed(0)
            points, intervals = library.get_interval_estimates(
                {"x": pair}, lambda x, y: np.array([improvement(x, y)]), reps=REPETITIONS
            )
            low, high = intervals["x"][:, 0]
            lines.append(f"| {other} | {', '.join(envs)} | {n_seeds} | {points['x'][0]:.2f} [{low:.2f}, {high:.2f}] |")
    return [*lines, ""]


def origin_lines(rows: Sequence[Row]) -> list[str]:
    """
    :param rows: of a store
    :return: where they come from, one sentence each
    """

    def all_of(name: str) -> str:
        return ", ".join(sorted({str(row[name]) for row in rows}))

    versions = rows[0]["versions"]
    hours = sum(row["cpu_seconds"] for row in rows) / 3600
    return [
        f"{len(rows)} runs, {hours:.1f} core hours. Commit {all_of('commit')}. Processor: {all_of('processor')}. "
        + ", ".join(f"{name} {versions[name]}" for name in ("torch", "stable-baselines3", "sb3-contrib", "gymnasium"))
        + ".",
        "",
    ]


def markdown(rows: Sequence[Row], suite: dict[str, Any]) -> str:
    """
    :param rows: of a store
    :param suite: that they are of
    :return: the part of docs/results.md that they make
    """
    lines = [*origin_lines(rows), *score_table(rows, suite)]
    if "scale" in suite:  # Else scores of different environments cannot be put together
        lines += ["### All tasks together", "", *improvement_table(rows, suite)]
    return "\n".join(lines)
