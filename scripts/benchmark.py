"""
Run a suite of training runs, on one machine or a cluster, and keep what is finished.

A suite names agents, environments, steps and seeds: scripts/suites/*.yml. Each run is a job of its own, and its row goes to a
file in the store as soon as it ends. Call the same command again after a crash: finished runs are not made again.

    python scripts/benchmark.py scripts/suites/first.yml --store docs/results/first --dry-run
    python scripts/benchmark.py scripts/suites/first.yml --store docs/results/first --jobs 2
    python scripts/benchmark.py scripts/suites/first.yml --store docs/results/first --only CartPole-v1:dai
    python scripts/benchmark.py scripts/suites/first.yml --store docs/results/first --engine dask --address tcp://host:8786
    python scripts/benchmark.py scripts/suites/first.yml --store docs/results/first --engine ray --address auto

Dask and Ray run on clusters that exist already, or start one of ``--jobs`` workers on this machine if no address is given.
Their workers need this package installed; these scripts are sent to them. ``scripts/report.py`` makes tables and figures of
the store.
"""

import argparse
import contextlib
import fnmatch
import platform
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import yaml
from engines import engine
from provenance import provenance
from runs import hyperparameters, replace
from seeds import seeds_of
from store import Row, Store, code_digest
from tqdm import tqdm

Job = dict[str, Any]

SUITE_KEYS = {"tasks", "agents"}, {"points", "scale", "short"}
TASK_KEYS = (
    {"environments", "agents", "steps", "seeds"},
    {"episodes", "threshold", "env_kwargs", "register", "stop_when_solved"},
)
AGENT_KEYS = {"algo"}, {"entry", "params", "label"}
"""Keys that have to be there, and others that may be."""


def jobs_of(suite: dict[str, Any]) -> list[Job]:
    """
    :param suite: as read from its file
    :return: its jobs: what :func:`work` runs
    :raises ValueError: if a key is unknown or missing, an agent is not described, an entry is missing, or a job is there twice
    """
    jobs: list[Job] = []
    _check_keys("suite", suite, SUITE_KEYS)
    for task in suite["tasks"]:
        _check_keys("task", task, TASK_KEYS)
        for environment in task["environments"]:
            for name in task["agents"]:
                if name not in suite["agents"]:
                    raise ValueError(f"agents: {name!r} of {environment} is not among {', '.join(suite['agents'])}")
                agent = suite["agents"][name]
                _check_keys(f"agent {name}", agent, AGENT_KEYS)
                named = agent["algo"] if agent.get("entry") is None else f"{agent['algo']}:{agent['entry']}"
                entry = agent["entry"] if isinstance(agent.get("entry"), dict) else hyperparameters(named, environment)
                job = {
                    "environment": environment, "agent": name, "label": agent.get("label", name), "algo": agent["algo"],
                    "steps": int(task["steps"]), "entry": replace(entry, agent.get("params") or {}),
                    "episodes": int(task.get("episodes", 20)), "threshold": task.get("threshold"),
                    "env_kwargs": task.get("env_kwargs"), "register": task.get("register"),
                    "stop_when_solved": bool(task.get("stop_when_solved")), "points": int(suite.get("points", 100)),
                }  # fmt: skip
                jobs += [{**job, "seed": seed} for seed in seeds_of(task["seeds"])]
    names = [name_of(job) for job in jobs]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"tasks: {', '.join(sorted(twice))} is there more than once")
    return jobs


def _check_keys(what: str, given: Any, known: tuple[set[str], set[str]]) -> None:
    """Raise a ValueError that names a key that nothing reads, or one that is missing."""
    if not isinstance(given, dict):
        raise ValueError(f"{what}: {given!r} has no keys")
    needed, others = known
    for problem, keys in (("unknown", given.keys() - needed - others), ("no", needed - given.keys())):
        if keys:
            all_keys = ", ".join(sorted(needed | others))
            raise ValueError(f"{what}: {problem} key {', '.join(sorted(keys))}. Known are {all_keys}")


def name_of(job: Job) -> str:
    """
    :param job: of a suite
    :return: how messages call it
    """
    return f"{job['environment']}:{job['agent']} {job['steps']} steps, seed {job['seed']}"


def chosen(job: Job, patterns: list[str] | None) -> bool:
    """
    :param job: of a suite
    :param patterns: ENVIRONMENT:AGENT, each with wildcards, None for all jobs
    :return: whether one of them fits
    """
    name = f"{job['environment']}:{job['agent']}"
    return patterns is None or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def work(job: Job, origin: dict[str, Any]) -> tuple[Job, Row]:
    """
    Run one job, wherever it is called.

    :param job: of a suite
    :param origin: commit, versions, command and digest of the sources of the process that asks for it
    :return: the job and its row, which has "error" if it failed
    """
    # Imported here: the scheduler of Dask unpickles this function, and does not have these scripts
    from provenance import machine
    from runs import run
    from store import code_digest

    code = code_digest() if job["algo"] == "dai" else None
    if code not in (None, origin["code"]):
        at_start = f"that the suite began with (commit {origin['commit']})"
        return job, {"error": f"{platform.node()}: the sources of sb3_dai are not those {at_start}. Install these there"}
    try:
        row = run(
            job["algo"], job["environment"], job["steps"], job["seed"], entry=dict(job["entry"]),
            n_eval_episodes=job["episodes"], env_kwargs=job["env_kwargs"], register_envs=job["register"],
            stop_when_solved=job["stop_when_solved"], max_points=job["points"], threshold=job["threshold"],
        )  # fmt: skip
    except Exception:
        return job, {"error": traceback.format_exc()}
    names = {"agent_name": job["agent"], "label": job["label"], "entry": texts(job["entry"])}
    return job, {**row, **names, **origin, "code": code, **machine()}


def texts(entry: dict[str, Any]) -> dict[str, str]:
    """
    :param entry: hyperparameters
    :return: the same as the row of a run has them
    """
    return {name: str(value) for name, value in entry.items()}


def is_finished(job: Job, row: Row | None, code: str, keeps_other_code: bool) -> bool:
    """
    :param job: of a suite
    :param row: of the store, None if there is none
    :param code: digest of the sources here
    :param keeps_other_code: whether a row that other sources made counts as well
    :return: whether the row is that of the job
    :raises SystemExit: if the row was made otherwise
    """
    if row is None:
        return False
    remedy = "Give another --store, or remove the file"
    if row["entry"] != texts(job["entry"]):
        sys.exit(f"{name_of(job)}: the store has it with other hyperparameters. {remedy}")
    if (row.get("env_kwargs") or None) != (job["env_kwargs"] or None):
        sys.exit(f"{name_of(job)}: the store has it with env_kwargs {row.get('env_kwargs')}. {remedy}")
    if len(row["scores"]) != job["episodes"]:
        sys.exit(f"{name_of(job)}: the store has it with {len(row['scores'])} episodes. {remedy}")
    if not keeps_other_code and row["code"] not in (None, code):
        sys.exit(
            f"{name_of(job)}: the store has it from commit {row['commit']}, whose package trains otherwise than this one. "
            f"{remedy}, or --keep-other-code to count it all the same: its row says the commit"
        )
    return True


def cost_of(job: Job, rows: list[Row]) -> float:
    """
    :param job: of a suite
    :param rows: finished ones
    :return: expected seconds of a core: those of the same agent in the same environment a step, else a rough guess
    """
    name = job["agent"], job["environment"]
    alike = [row["cpu_seconds"] / row["steps"] for row in rows if (row["agent_name"], row["env"]) == name]
    if alike:
        return float(np.median(alike)) * job["steps"]
    train_freq = job["entry"].get("train_freq", 1)
    updates = max(job["entry"].get("gradient_steps", 4 if job["algo"] == "dai" else 1), 1)
    per_step = updates / (train_freq if isinstance(train_freq, int) else 1)
    milliseconds = {"dai": 0.7, "dqn": 1.0, "qrdqn": 1.5, "ppo": 0.1}.get(job["algo"], 6.0)
    return (0.3 + milliseconds * per_step) / 1000 * job["steps"]


def results_of(jobs: list[Job], origin: dict[str, Any], n_jobs: int, retries: int) -> Iterator[tuple[Job, Row]]:
    """
    :param jobs: to be run
    :param origin: see :func:`work`
    :param n_jobs: at once
    :param retries: how often to start again when the engine gives up, as loky does when a worker is killed
    :return: jobs with their rows, as they end
    """
    left = {name_of(job): job for job in jobs}
    for attempt in range(retries + 1):
        parallel = joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered", batch_size=1, pre_dispatch="2*n_jobs")
        try:
            for job, row in parallel(joblib.delayed(work)(job, origin) for job in [*left.values()]):
                left.pop(name_of(job))
                yield job, row
            return
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except Exception as error:
            if attempt == retries:
                raise
            print(f"{type(error).__name__}: {error}. {len(left)} unfinished jobs start again", file=sys.stderr, flush=True)


def dry_run(jobs: list[Job], todo: list[Job], rows: list[Row]) -> None:
    """
    Print the plan and its cost.

    :param jobs: all of the suite
    :param todo: those that are to be run
    :param rows: finished ones
    """
    groups: dict[tuple[str, str, int], list[Job]] = {}
    for job in todo:
        groups.setdefault((job["environment"], job["agent"], job["steps"]), []).append(job)
    for (environment, agent, steps), group in groups.items():
        seconds = sum(cost_of(job, rows) for job in group)
        print(f"{environment:32s} {agent:20s} {steps:>9,} steps  {len(group):3d} seeds  {seconds / 60:7.1f} core minutes")
    total = sum(cost_of(job, rows) for job in todo)
    print(f"{len(jobs)} jobs, {len(jobs) - len(todo)} of them finished; the others take about {total / 3600:.1f} core hours")


def run_jobs(todo: list[Job], n_jobs: int, store: Store, origin: dict[str, Any], args: argparse.Namespace) -> list[str]:
    """
    Run jobs and keep their rows.

    :param todo: jobs to be run
    :param n_jobs: of the suite, with those that are finished
    :param store: of the rows
    :param origin: see :func:`work`
    :param args: of the command line
    :return: what failed, and why
    """
    failed: list[str] = []
    rows = store.rows()
    # The longest first, so that none is left alone at the end
    todo = sorted(todo, key=lambda job: -cost_of(job, rows))
    layout = "{l_bar}{bar}| {postfix} [{elapsed}<{remaining}]"
    with contextlib.ExitStack() as stack:
        at_once = stack.enter_context(engine(args.engine, args.address, args.jobs))
        bar = stack.enter_context(tqdm(total=sum(cost_of(job, rows) for job in todo), bar_format=layout))
        n_finished = n_jobs - len(todo)
        bar.set_postfix_str(f"{n_finished} of {n_jobs} finished")
        for job, row in results_of(todo, origin, at_once, args.retries):
            if "error" in row:
                failed.append(f"{name_of(job)}\n{row['error']}")
            else:
                store.write(job, {**row, "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})
                tqdm.write(f"{name_of(job)}: {np.mean(row['scores']):.1f} in {row['seconds']:.0f} s")
                n_finished += 1
            bar.set_postfix_str(f"{n_finished} of {n_jobs} finished", refresh=False)
            bar.update(cost_of(job, rows))
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", help="a YAML file")
    parser.add_argument("--store", type=Path, required=True, help="folder of the finished runs")
    parser.add_argument("--jobs", type=int, default=2, help="at once, on this machine")
    parser.add_argument("--engine", choices=["loky", "dask", "ray"], default="loky")
    parser.add_argument("--address", help="of an existing cluster of Dask or Ray")
    parser.add_argument("--retries", type=int, default=3, help="how often unfinished jobs start again when workers are lost")
    parser.add_argument("--only", nargs="+", metavar="ENVIRONMENT:AGENT", help="run these alone; wildcards are understood")
    parser.add_argument("--keep-other-code", action="store_true", help="count rows of commits that train otherwise")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and its cost")
    args = parser.parse_args()
    try:
        jobs = [job for job in jobs_of(yaml.safe_load(Path(args.suite).read_text())) if chosen(job, args.only)]
    except (OSError, ValueError, yaml.YAMLError) as error:
        sys.exit(f"{args.suite}: {error}")
    if not jobs:
        sys.exit(f"--only {' '.join(args.only or [])}: no job of {args.suite} fits")
    store, origin = Store(args.store), {**provenance(), "code": code_digest()}
    # Before a row is read: else another process could finish jobs between the reading and the lock
    with contextlib.nullcontext() if args.dry_run else store.lock():
        todo = [job for job in jobs if not is_finished(job, store.read(job), origin["code"], args.keep_other_code)]
        if args.dry_run:
            return dry_run(jobs, todo, store.rows())
        try:
            failed = run_jobs(todo, len(jobs), store, origin, args)
        except OSError as error:
            sys.exit(f"{type(error).__name__}: {error}. Finished runs are kept; the same command goes on")
    for text in failed:
        print(text, file=sys.stderr)
    if failed:
        sys.exit(f"{len(failed)} of {len(jobs)} jobs failed; the same command tries them again")


if __name__ == "__main__":
    main()
