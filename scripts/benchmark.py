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
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import yaml
from provenance import machine, provenance
from runs import hyperparameters, replace, run
from store import Row, Store, code_digest
from tqdm import tqdm

SCRIPTS = Path(__file__).parent
Job = dict[str, Any]

TASK_KEYS = {"environments", "agents", "steps", "seeds", "episodes", "threshold", "env_kwargs", "register", "stop_when_solved"}
AGENT_KEYS = {"algo", "entry", "params", "label"}


def seeds_of(text: str | int) -> list[int]:
    """
    :param text: one seed, or the first and the last, as "100-104"
    :return: all of them
    """
    first, _, last = str(text).partition("-")
    return [*range(int(first), int(last or first) + 1)]


def jobs_of(suite: dict[str, Any]) -> list[Job]:
    """
    :param suite: as read from its file
    :return: its jobs: what :func:`work` runs
    :raises ValueError: if a key is unknown, an agent is not described, an entry is missing, or a job is there twice
    """
    jobs: list[Job] = []
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


def _check_keys(what: str, given: dict[str, Any], known: set[str]) -> None:
    """Raise a ValueError that names a key that nothing reads."""
    unknown = given.keys() - known
    if unknown:
        raise ValueError(f"{what}: unknown key {', '.join(sorted(unknown))}. Known are {', '.join(sorted(known))}")


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
    :param origin: commit, versions and command of the process that asks for it
    :return: the job and its row, which has "error" if it failed
    """
    try:
        row = run(
            job["algo"], job["environment"], job["steps"], job["seed"], entry=dict(job["entry"]),
            n_eval_episodes=job["episodes"], env_kwargs=job["env_kwargs"], register_envs=job["register"],
            stop_when_solved=job["stop_when_solved"], max_points=job["points"], threshold=job["threshold"],
        )  # fmt: skip
    except Exception:
        return job, {"error": traceback.format_exc()}
    names = {"agent_name": job["agent"], "label": job["label"], "entry": texts(job["entry"])}
    code = code_digest() if job["algo"] == "dai" else None
    return job, {**row, **names, "code": code, **origin, **machine()}


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


@contextlib.contextmanager
def engine(name: str, address: str | None, jobs: int) -> Iterator[int]:
    """
    Choose where joblib runs jobs.

    :param name: "loky", "dask" or "ray"
    :param address: of a cluster that exists, None for a local one
    :param jobs: workers of a local one
    :return: number of jobs at once for joblib, -1 for what a cluster has
    """
    if name == "loky":
        yield jobs
    elif name == "dask":
        from distributed import Client, LocalCluster
        from distributed.diagnostics.plugin import UploadDirectory

        with contextlib.ExitStack() as stack:
            cluster = None if address else stack.enter_context(LocalCluster(n_workers=jobs, threads_per_worker=1))
            client = stack.enter_context(Client(address or cluster))
            client.register_plugin(UploadDirectory(str(SCRIPTS), update_path=True))
            stack.enter_context(joblib.parallel_config("dask"))
            yield -1
    else:
        import ray
        from ray.util.joblib.ray_backend import RayBackend

        class Backend(RayBackend):
            """Ray's, whose pool calls back as each job ends: rows are kept at once."""

            supports_return_generator = True

        joblib.register_parallel_backend("ray", Backend)
        sent = {"working_dir": str(SCRIPTS)}
        ray.init(address=address, num_cpus=None if address else jobs, runtime_env=sent, log_to_driver=False)
        try:
            with joblib.parallel_config("ray", ray_remote_args={"max_restarts": 3, "max_task_retries": 3}):
                yield -1
        finally:
            ray.shutdown()


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
    store, code = Store(args.store), code_digest()
    try:
        jobs = [job for job in jobs_of(yaml.safe_load(Path(args.suite).read_text())) if chosen(job, args.only)]
    except ValueError as error:
        sys.exit(f"{args.suite}: {error}")
    if not jobs:
        sys.exit(f"--only {' '.join(args.only)}: no job of {args.suite} fits")
    todo = [job for job in jobs if not is_finished(job, store.read(job), code, args.keep_other_code)]
    rows = store.rows()
    if args.dry_run:
        return dry_run(jobs, todo, rows)

    failed: list[str] = []
    layout = "{l_bar}{bar}| {postfix} [{elapsed}<{remaining}]"
    with contextlib.ExitStack() as stack:
        stack.enter_context(store.lock())
        n_jobs = stack.enter_context(engine(args.engine, args.address, args.jobs))
        bar = stack.enter_context(tqdm(total=sum(cost_of(job, rows) for job in todo), bar_format=layout))
        # The longest first, so that none is left alone at the end
        todo.sort(key=lambda job: -cost_of(job, rows))
        bar.set_postfix_str(f"{len(jobs) - len(todo)} of {len(jobs)} finished")
        for n_ended, (job, row) in enumerate(results_of(todo, provenance(), n_jobs, args.retries), 1):
            if "error" in row:
                failed.append(f"{name_of(job)}\n{row['error']}")
            else:
                store.write(job, {**row, "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})
                tqdm.write(f"{name_of(job)}: {np.mean(row['scores']):.1f} in {row['seconds']:.0f} s")
            bar.set_postfix_str(f"{len(jobs) - len(todo) + n_ended - len(failed)} of {len(jobs)} finished", refresh=False)
            bar.update(cost_of(job, rows))
    for text in failed:
        print(text, file=sys.stderr)
    if failed:
        sys.exit(f"{len(failed)} of {len(jobs)} jobs failed; the same command tries them again")


if __name__ == "__main__":
    main()
