"""
Tables and figures from the raw results under ``docs/results/``.

    python scripts/report.py suite docs/results/first --suite scripts/suites/first.yml --into docs/results.md \\
        --out docs/figures/first
    python scripts/report.py suite docs/results/first --suite scripts/suites/first.yml --short --into README.md

    python scripts/report.py table docs/results/cartpole_dai_5k.json docs/results/acrobot_dai_default_10k.json
    python scripts/report.py table docs/results/deepsea20_dai.json
    python scripts/report.py table docs/results/pendulum_*.json --threshold -200 --window 10
    python scripts/report.py curves docs/results/cartpole_dai_5k.json --out docs/figures/cartpole.png

Intervals are stratified-bootstrap 95 % intervals of the interquartile mean over seeds, by rliable
(Agarwal et al. 2021, arXiv:2108.13264).
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import yaml
from measures import cells_of, median_reached, steps_to_threshold
from store import Store
from suite_figures import draw
from suite_tables import interquartile_mean, markdown, short_table

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Run = dict[str, Any]


def label(run: Run) -> str:
    """
    :param run: one run
    :return: its agent, the name of its parameters or else these, and the arguments of its environment
    """
    changed = {} if "variant" in run else run.get("params", {})
    parts = [f"{name}={value}" for name, value in {**changed, **run.get("env_kwargs", {})}.items()]
    return " ".join(filter(None, (run["agent"], run.get("variant", ""), *parts)))


def group(paths: list[str]) -> dict[tuple[str, str, int], list[Run]]:
    """
    :param paths: JSON files of scripts/evaluate.py
    :return: runs by environment, agent and number of environment steps
    """
    groups: dict[tuple[str, str, int], list[Run]] = {}
    for path in paths:
        for run in json.loads(Path(path).read_text()):
            # REINFORCE counts episodes: its runs differ in steps
            steps = 0 if run["agent"].startswith("reinforce") else run["steps"]
            groups.setdefault((run["env"], label(run), steps), []).append(run)
    return groups


def table(paths: list[str], threshold: float | None = None, window: int = 100) -> None:
    """
    Print a Markdown table of the final checkpoints.

    :param paths: JSON files of scripts/evaluate.py
    :param threshold: also the steps to this training return
    :param window: trailing episodes that are averaged for it
    """
    rows = []
    for (env, agent, _), runs in group(paths).items():
        means = np.array([np.mean(run["scores"]) for run in runs])
        iqm, low, high = interquartile_mean(means)
        digits = 1 if np.abs(means).max() > 10 else 3
        reached = {}
        if threshold is not None:
            steps = [steps_to_threshold(run, threshold, window) for run in runs]
            reached[f"steps to {threshold:g} over {window} episodes, median"] = median_reached(steps)
        rows.append(
            {
                "environment": env, "agent": agent, "steps": f"{np.median([run['steps'] for run in runs]):,.0f}",
                "seeds": str(len(runs)), "IQM [95 % interval]": f"{iqm:,.{digits}f} [{low:,.{digits}f}, {high:,.{digits}f}]",
                "worst seed": f"{means.min():,.{digits}f}", **reached, **cells_of(runs),
                "gradient steps": f"{runs[0]['gradient_steps']:,}",
                "seconds (median)": f"{np.median([run['seconds'] for run in runs]):.0f}",
            }
        )  # fmt: skip
    headings = list(dict.fromkeys(heading for row in sorted(rows, key=len, reverse=True) for heading in row))
    print("| " + " | ".join(headings) + " |")
    print("|---" * len(headings) + "|")
    for row in rows:
        print("| " + " | ".join(row.get(heading, "") for heading in headings) + " |")


def curves(paths: list[str], out: str, window: int, linear: bool) -> None:
    """
    Plot the training return against environment steps, one line a seed and the median of each agent.

    :param paths: JSON files of scripts/evaluate.py
    :param out: path of the PNG
    :param window: trailing episodes that are averaged
    :param linear: whether the axis of environment steps is linear, not logarithmic
    """
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for i, ((_, agent, _), runs) in enumerate(group(paths).items()):
        grid = np.linspace(0, max(run["steps"] for run in runs), 200)
        lines = []
        for run in runs:
            returns, ends = np.array(run["train_returns"]), np.cumsum(run["train_lengths"])
            smooth = np.array([returns[max(0, k - window + 1) : k + 1].mean() for k in range(len(returns))])
            lines.append(np.interp(grid, ends, smooth))
            axis.plot(grid, lines[-1], color=f"C{i}", alpha=0.2, linewidth=0.8)
        axis.plot(grid, np.median(lines, axis=0), color=f"C{i}", linewidth=2, label=f"{agent} ({len(runs)} seeds)")
    axis.set(xlabel="environment steps", ylabel=f"training return (mean of {window} episodes)")
    axis.set_title(runs[0]["env"])
    if not linear:
        axis.set_xscale("symlog", linthresh=1000)
    axis.grid(alpha=0.3)
    axis.legend()
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)


def write_between(page: Path, name: str, text: str) -> None:
    """
    Replace a part of a page.

    :param page: a Markdown file
    :param name: of the part, which stands between ``<!-- name -->`` and ``<!-- end of name -->``
    :param text: what is to stand there
    :raises SystemExit: if the page has no such part
    """
    old = page.read_text()
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    if old.count(begin) != 1 or old.count(end) != 1:
        raise SystemExit(f"--into {page}: give it the lines {begin.strip()} and {end}, between which the tables are to stand")
    page.write_text(old[: old.index(begin)] + begin + text + old[old.index(end) :])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["table", "curves", "suite"])
    parser.add_argument("results", nargs="+")
    parser.add_argument("--out", help="of the figure; of a store, a folder for its figures")
    parser.add_argument("--window", type=int, help="trailing episodes that are averaged: 100 for a table, 10 for curves")
    parser.add_argument("--threshold", type=float, help="of a table: also the steps to this mean training return")
    parser.add_argument("--linear", action="store_true", help="axis of environment steps")
    parser.add_argument("--suite", help="of a store: the suite that it is of")
    parser.add_argument("--into", type=Path, help="of a store: the page whose tables are replaced; printed if absent")
    parser.add_argument("--short", action="store_true", help="of a store: the table of the suite's `short` alone")
    args = parser.parse_args()
    if args.what == "suite":
        suite, rows = yaml.safe_load(Path(args.suite).read_text()), Store(Path(args.results[0])).rows()
        if not rows:
            raise SystemExit(f"{args.results[0]}: no finished run is there")
        name = f"suite {Path(args.suite).stem}"
        name, text = (f"{name}, short", short_table(rows, suite)) if args.short else (name, markdown(rows, suite) + "\n")
        if args.into is None:
            print(text)
        else:
            write_between(args.into, name, text)
        if args.out:
            draw(rows, suite, Path(args.out))
    elif args.what == "table":
        table(args.results, args.threshold, args.window or 100)
    else:
        curves(args.results, args.out or "docs/figures/cartpole.png", args.window or 10, args.linear)


if __name__ == "__main__":
    main()
