"""
Tables and figures from the raw results under ``docs/results/``.

    python scripts/report.py table docs/results/cartpole_dai_5k.json docs/results/cartpole_dqn_50k.json
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
from rliable import library, metrics

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Run = dict[str, Any]


def group(paths: list[str]) -> dict[tuple[str, int], list[Run]]:
    """
    :param paths: JSON files of scripts/evaluate.py
    :return: runs by agent and number of environment steps
    """
    groups: dict[tuple[str, int], list[Run]] = {}
    for path in paths:
        for run in json.loads(Path(path).read_text()):
            params = "".join(f" {name}={value}" for name, value in run.get("params", {}).items())
            groups.setdefault((run["agent"] + params, run["steps"]), []).append(run)
    return groups


def interquartile_mean(scores: np.ndarray) -> tuple[float, float, float]:
    """
    :param scores: one score a seed, shape (n_seeds,)
    :return: interquartile mean and the ends of its 95 % interval
    """
    np.random.seed(0)  # rliable draws from numpy's global generator whatever random_state it is given
    points, intervals = library.get_interval_estimates(
        {"x": scores.reshape(-1, 1)}, lambda x: np.array([metrics.aggregate_iqm(x)]), reps=2000
    )
    return float(points["x"][0]), *map(float, intervals["x"][:, 0])


def table(paths: list[str]) -> None:
    """
    Print a Markdown table of the final checkpoints.

    :param paths: JSON files of scripts/evaluate.py
    """
    print("| agent | steps | seeds | IQM [95 % interval] | worst seed | gradient steps | seconds (median) |")
    print("|---|---|---|---|---|---|---|")
    for (agent, steps), runs in group(paths).items():
        means = np.array([np.mean(run["scores"]) for run in runs])
        iqm, low, high = interquartile_mean(means)
        seconds, updates = np.median([run["seconds"] for run in runs]), runs[0]["gradient_steps"]
        print(
            f"| {agent} | {steps:,} | {len(runs)} | {iqm:.1f} [{low:.1f}, {high:.1f}] | {means.min():.1f} "
            f"| {updates:,} | {seconds:.0f} |"
        )


def curves(paths: list[str], out: str, window: int, linear: bool) -> None:
    """
    Plot the training return against environment steps, one line a seed and the median of each agent.

    :param paths: JSON files of scripts/evaluate.py
    :param out: path of the PNG
    :param window: trailing episodes that are averaged
    :param linear: whether the axis of environment steps is linear, not logarithmic
    """
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for i, ((agent, steps), runs) in enumerate(group(paths).items()):
        grid = np.linspace(0, steps, 200)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["table", "curves"])
    parser.add_argument("results", nargs="+")
    parser.add_argument("--out", help="of the figure")
    parser.add_argument("--window", type=int, default=10)
    parser.add_argument("--linear", action="store_true", help="axis of environment steps")
    args = parser.parse_args()
    if args.what == "table":
        table(args.results)
    else:
        curves(args.results, args.out or "docs/figures/cartpole.png", args.window, args.linear)


if __name__ == "__main__":
    main()
