"""Sentences of docs/results.md about the suites, and what their figures are."""

from collections.abc import Callable
from typing import Any

import yaml
from benchmark import jobs_of
from store import Store

from printed.claims_readme import CARTPOLE, CURIOSITY, below, solved_by_curiosity
from printed.pages import ROOT, runs_in, scores

PAGE = "docs/results.md"


def suite(name: str) -> dict[str, Any]:
    """
    :param name: of a file in scripts/suites
    :return: what it says
    """
    return yaml.safe_load((ROOT / f"scripts/suites/{name}.yml").read_text())


def finished_runs() -> int:
    """
    :return: how many runs the first suite has, all of which are in its store
    """
    jobs, store = jobs_of(suite("first")), Store(ROOT / "docs/results/first")
    assert all(store.path(job).is_file() for job in jobs), "the suite is not complete: the page has to say so"
    return len(jobs)


def nets_of_the_last_tasks() -> list[int]:
    """
    :return: size of the layers that are not those of the defaults, and in how many tasks, which come last
    """
    described = suite("first")
    large = [task["environments"] for task in described["tasks"] if "dai_256" in task["agents"]]
    assert large == [task["environments"] for task in described["tasks"][-len(large) :]]
    layers = yaml.safe_load(described["agents"]["dai_256"]["params"]["policy_kwargs"].split("net_arch=")[1].rstrip(")"))
    return [layers[0], len(large)]


def episodes() -> list[int]:
    """
    :return: episodes of a score: of most tasks of the suites that are on the page, of FrozenLake and of the passive T-mazes
    """
    found: dict[str, set[int]] = {"FrozenLake": set(), "PassiveTMaze": set(), "": set()}
    for store in (Store(ROOT / "docs/results/first"), Store(ROOT / "docs/results/memory")):
        for row in store.rows():
            kind = next(name for name in found if name in row["env"])
            found[kind].add(len(row["scores"]))
    (frozen_lake,), (mazes,), (others,) = found.values()
    return [others, frozen_lake, mazes]


def looked_at() -> list[float]:
    """
    :return: how many runs of seeds above 99 were looked at while choosing, the first and the last seed, and the pessimism
    """
    runs = [run for run in runs_in("experiments/data/caution_development.json") if run["seed"] > 99]
    seeds = [run["seed"] for run in runs]
    (pessimism,) = {run["pessimism"] for run in runs}
    return [len(runs), min(seeds), max(seeds), float(pessimism)]


CLAIMS: dict[str, Callable[[], list[Any]]] = {
    r"looked at {} runs of seeds {}-{}, with a constant pessimism of {},": looked_at,
    r"mean of {} deterministic episodes .* In FrozenLake it is of {}, in the passive T-mazes of {}\.": episodes,
    r"with nets of {} in the last {} tasks": nets_of_the_last_tasks,
    r"All its {} runs are here": lambda: [finished_runs()],
    r"is solved by {} of {} runs: {} on average, with it {}\.": lambda: [
        *solved_by_curiosity()[:2],
        *(scores(path).mean() for path in CURIOSITY["MountainCarContinuous-v0"]),
    ],
    r"On four other tasks {} seeds show no difference of {} standard errors: CartPole {} without and {} with it, "
    r"MountainCar {} and {}, LunarLander {} and {}, Pendulum {} and {}\.": lambda: [
        5,
        2,
        *(scores(path).mean() for paths in [*CURIOSITY.values()][1:] for path in paths),
    ],
    r"of {} seeds of CartPole {} ends below {}": lambda: [below(475, *CARTPOLE)[i] for i in (1, 0, 2)],
}
