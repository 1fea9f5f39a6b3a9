"""Figures of the store of scripts/benchmark.py: every seed is shown, in colours that colour-blind readers tell apart."""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from rliable import library
from store import Row
from suite_tables import REPETITIONS, groups, matrix, means_of, names_of, shared

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

# Okabe & Ito 2008, "Color universal design"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#000000", "#999999")
STYLES = ("-", "--", "-.", ":")
LOOK = {
    "font.size": 8, "axes.titlesize": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.alpha": 0.3, "grid.linewidth": 0.5, "lines.linewidth": 1.2, "legend.frameon": False, "svg.hashsalt": "sb3_dai",
}  # fmt: skip


def labels_of(suite: dict[str, Any]) -> list[str]:
    """
    :param suite: of the rows
    :return: labels of its agents, each once
    """
    return [*dict.fromkeys(agent.get("label", name) for name, agent in suite["agents"].items())]


def colour_of(label: str, suite: dict[str, Any]) -> tuple[str, str]:
    """
    :param label: of an agent
    :param suite: that describes it
    :return: its colour and line style, the same in all figures
    """
    index = labels_of(suite).index(label)
    return COLOURS[index % len(COLOURS)], STYLES[index // len(COLOURS) % len(STYLES)]


def fingerprint(rows: Sequence[Row], suite: dict[str, Any]) -> str:
    """
    :param rows: of a store
    :param suite: that they are of
    :return: what a figure of them has in its description, by which a test tells whether it was drawn from today's rows
    """
    shown = ("env", "agent_name", "seed", "steps", "scores", "cpu_seconds", "train_returns", "train_lengths")
    found = sorted(json.dumps([row[name] for name in shown]) for row in rows)
    return hashlib.sha256(json.dumps([suite, found], sort_keys=True).encode()).hexdigest()[:16]


def save(figure: Any, path: Path, description: str) -> None:
    """
    :param figure: drawn
    :param path: without suffix; a PNG and an SVG are written
    :param description: for their metadata
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".png"), dpi=150, metadata={"Software": None, "Description": description})
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None, "Description": description})
    plt.close(figure)


def panels(n: int) -> tuple[Any, list[Any]]:
    """
    :param n: number of panels
    :return: figure and axes
    """
    columns = min(n, 4)
    n_rows = math.ceil(n / columns)
    figure, axes = plt.subplots(
        n_rows, columns, figsize=(2.4 * columns, 2.1 * n_rows + 0.5), layout="constrained", squeeze=False
    )
    for axis in axes.flat[n:]:
        axis.set_visible(False)
    return figure, [*axes.flat[:n]]


def environments(rows: Sequence[Row], suite: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """
    :param rows: of a store
    :param suite: that they are of
    :return: environments that have rows, with their task, in the order of the suite
    """
    found, tasks = groups(rows), [(env, task) for task in suite["tasks"] for env in task["environments"]]
    return [(env, task) for env, task in tasks if any((env, name) in found for name in task["agents"])]


def scores(rows: Sequence[Row], suite: dict[str, Any]) -> Any:
    """
    :param rows: of a store
    :param suite: that they are of
    :return: figure of the final score of every seed, one panel an environment
    """
    found, shown = groups(rows), environments(rows, suite)
    figure, axes = panels(len(shown))
    for axis, (env, task) in zip(axes, shown, strict=True):
        agents = [name for name in task["agents"] if (env, name) in found]
        for height, name in enumerate(reversed(agents)):
            means = means_of(found[env, name])
            colour, _ = colour_of(found[env, name][0]["label"], suite)
            axis.scatter(means, np.full(len(means), height), color=colour, s=14, alpha=0.7, linewidths=0)
            axis.scatter(means.mean(), height, color=colour, marker="|", s=90)
        axis.set_yticks(range(len(agents)), [found[env, name][0]["label"] for name in reversed(agents)])
        axis.set_title(f"{env}\n{task['steps']:,} steps", fontsize=7, loc="right")
        axis.tick_params(axis="x", labelsize=6)
        axis.xaxis.set_major_locator(MaxNLocator(3))
        if "threshold" in task:
            axis.axvline(task["threshold"], color="black", linewidth=0.6, linestyle=":")
    return figure


def smooth(row: Row, grid: np.ndarray) -> np.ndarray:
    """
    :param row: of a store
    :param grid: environment steps
    :return: mean training return of about 20 trailing episodes there
    """
    returns, ends = np.asarray(row["train_returns"], dtype=float), np.cumsum(row["train_lengths"])
    window = max(1, round(20 / row.get("episodes_per_point", 1)))
    means = np.array([returns[max(0, k - window + 1) : k + 1].mean() for k in range(len(returns))])
    return np.interp(grid, ends, means)


def curves(rows: Sequence[Row], suite: dict[str, Any], in_seconds: bool = False) -> Any:
    """
    :param rows: of a store
    :param suite: that they are of
    :param in_seconds: whether to show processor seconds instead of steps, as if each step took the same time
    :return: figure of training returns against environment steps: the mean of each agent, and each seed as a thin line
    """
    found, shown = groups(rows), environments(rows, suite)
    figure, axes = panels(len(shown))
    handles: dict[str, Any] = {}
    for axis, (env, task) in zip(axes, shown, strict=True):
        grid = np.linspace(0, task["steps"], 100)
        for name in task["agents"]:
            seeds = [row for row in found.get((env, name), []) if row["train_returns"]]
            if not seeds:
                continue
            colour, style = colour_of(seeds[0]["label"], suite)
            lines, times = [smooth(row, grid) for row in seeds], [row["cpu_seconds"] / task["steps"] for row in seeds]
            for line, time in zip(lines, times, strict=True):
                axis.plot(grid * (time if in_seconds else 1.0), line, color=colour, linewidth=0.4, alpha=0.35)
            at, mean = grid * (np.mean(times) if in_seconds else 1.0), np.mean(lines, axis=0)
            (handles[seeds[0]["label"]],) = axis.plot(at, mean, color=colour, linestyle=style)
        axis.set_title(env, fontsize=7)
        if in_seconds:
            axis.set_xscale("log")
            axis.set_xlim(left=1.0)
        else:
            axis.ticklabel_format(axis="x", style="sci", scilimits=(0, 3))
    figure.supxlabel("processor seconds of training" if in_seconds else "environment steps")
    figure.supylabel("training return")
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4)
    return figure


def profiles(rows: Sequence[Row], suite: dict[str, Any], label: str = "DAI") -> Any:
    """
    :param rows: of a store
    :param suite: that they are of
    :param label: of the agent that is compared
    :return: figure of performance profiles, the share of runs above each normalised score, one panel for each set of
        environments that peers share with the agent (Agarwal et al. 2021, arXiv:2108.13264)
    """
    sets: dict[tuple[int, tuple[str, ...]], list[str]] = {}
    for other in labels_of(suite):
        for n_seeds, envs in shared(rows, [label, other], suite).items():
            if other != label and len(envs) > 1:
                sets.setdefault((n_seeds, tuple(envs)), []).append(other)
    figure, axes = panels(max(len(sets), 1))
    levels = np.linspace(0, 1.2, 61)
    handles: dict[str, Any] = {}
    for axis, ((n_seeds, envs), others) in zip(axes, sets.items(), strict=False):
        table = {text: matrix(rows, names_of(text, suite), envs, suite) for text in (label, *others)}
        np.random.seed(0)
        points, intervals = library.create_performance_profile(table, levels, reps=REPETITIONS // 4)
        for text in table:
            colour, style = colour_of(text, suite)
            (handles[text],) = axis.plot(levels, points[text], color=colour, linestyle=style)
            axis.fill_between(levels, *intervals[text], color=colour, alpha=0.12, linewidth=0)
        axis.set_title(f"{len(envs)} environments, {n_seeds} seeds")
        axis.set_ylim(-0.02, 1.02)
    figure.supxlabel("normalised score (0: random, 1: good)")
    figure.supylabel("share of runs above")
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4)
    return figure


def draw(rows: Sequence[Row], suite: dict[str, Any], folder: Path) -> None:
    """
    Write the figures of a suite.

    :param rows: of a store
    :param suite: that they are of
    :param folder: for ``scores``, ``curves``, ``seconds`` and, if the suite has a scale, ``profiles``, each as PNG and SVG
    """
    description = fingerprint(rows, suite)
    with plt.rc_context(LOOK):
        save(scores(rows, suite), folder / "scores", description)
        save(curves(rows, suite), folder / "curves", description)
        save(curves(rows, suite, in_seconds=True), folder / "seconds", description)
        if "scale" in suite:
            save(profiles(rows, suite), folder / "profiles", description)
