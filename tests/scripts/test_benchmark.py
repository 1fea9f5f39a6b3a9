"""Suites: what is in a suite file, what is run, and what a store keeps."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import benchmark
import numpy as np
import pytest
import torch as th
import yaml
from benchmark import chosen, is_finished, jobs_of, name_of, results_of, texts
from engines import check_threads
from runs import hyperparameters, in_json, resolved_hyperparameters
from saved import make_model
from seeds import seeds_of
from store import Store, code_digest

import sb3_dai

ENTRY = {"policy": "MlpPolicy", "learning_starts": 50, "buffer_size": 200}
SCRIPTS = Path(benchmark.__file__).parent


def suite(**task):
    """One job of 60 steps, or what replaces a part of it."""
    agents = {"dqn": {"algo": "dqn", "entry": ENTRY}, "dai": {"algo": "dai", "entry": ENTRY}}
    common = {"environments": ["CartPole-v1"], "agents": ["dqn"], "steps": 60, "seeds": 0, "episodes": 1}
    return {"agents": agents, "tasks": [{**common, **task}]}


def run_suite(monkeypatch, folder, content, *options):
    """As ``scripts/benchmark.py suite.yml --store store``, in this process."""
    (folder / "suite.yml").write_text(yaml.safe_dump(content))
    command = ["benchmark.py", str(folder / "suite.yml"), "--store", str(folder / "store"), "--jobs", "1", *options]
    monkeypatch.setattr(sys, "argv", command)
    benchmark.main()


# ----- The suite file -----


@pytest.mark.parametrize("file", sorted((SCRIPTS / "suites").glob("*.yml")), ids=lambda path: path.stem)
def test_packaged_suites_are_understood(file):
    described = yaml.safe_load(file.read_text())
    jobs = jobs_of(described)
    assert len({name_of(job) for job in jobs}) == len(jobs)
    used = {name for task in described["tasks"] for name in task["agents"]}
    assert used == set(described["agents"]), "each agent has a task"
    shown = [(env, agent) for env, agents in described.get("short", {}).items() for agent in agents]
    assert set(shown) <= {(job["environment"], job["agent"]) for job in jobs}


def test_a_suite_is_environments_times_agents_times_seeds():
    jobs = jobs_of(suite(environments=["CartPole-v1", "Acrobot-v1"], agents=["dqn", "dai"], seeds="3-5"))
    assert len({name_of(job) for job in jobs}) == len(jobs) == 12
    assert {job["seed"] for job in jobs} == {3, 4, 5}
    tuned = jobs_of({**suite(), "agents": {"dqn": {"algo": "dqn", "params": {"gamma": 0.5}}}})[0]["entry"]
    assert tuned["gamma"] == 0.5 and tuned["train_freq"] == 256, "RL Zoo's entry, with one number replaced"


def agents(**changes):
    return {**suite(), "agents": {"dqn": {"algo": "dqn", **changes}}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (suite(colour=1), "task: unknown key colour. Known are agents, .*threshold"),
        ({**suite(), "task": []}, "suite: unknown key task"),
        ({"tasks": suite()["tasks"]}, "suite: no key agents"),
        (None, "suite: None has no keys"),
        (agents(parameters={}), "agent dqn: unknown key parameters"),
        (suite(agents=["ppo"]), "agents: 'ppo' of CartPole-v1 is not among dai, dqn"),
        ({**suite(), "agents": {"dqn": {"entry": ENTRY}}}, "agent dqn: no key algo"),
        (suite(agents=["dqn", "dqn"]), "CartPole-v1:dqn 60 steps, seed 0 is there more than once"),
        (agents(algo="sac"), "no entry of sac for --env CartPole-v1"),
        (agents(algo="dqqn"), "no entry of dqqn for --env CartPole-v1"),
        (suite(seeds="5-3"), "seeds: '5-3'"),
        (suite(seeds=[1, 2]), r"seeds: \[1, 2\]"),
    ],
)
def test_a_wrong_suite_is_refused(monkeypatch, tmp_path, content, message):
    with pytest.raises(SystemExit, match=rf"suite\.yml: .*{message}"):
        run_suite(monkeypatch, tmp_path, content)
    assert not (tmp_path / "store").exists()


def test_seeds():
    assert seeds_of(7) == seeds_of("7") == [7]
    assert seeds_of("100-103") == [100, 101, 102, 103]


def test_wildcards_choose_jobs():
    job = jobs_of(suite())[0]
    for patterns in (None, ["CartPole-v1:dqn"], ["*:dqn"], ["CartPole*:*"], ["Acrobot-v1:*", "*:d?n"]):
        assert chosen(job, patterns)
    for patterns in (["CartPole-v1"], ["*:dai"], ["cartpole-v1:dqn"], []):
        assert not chosen(job, patterns)


def test_nothing_that_fits_is_said(monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match="--only \\*:ppo: no job of"):
        run_suite(monkeypatch, tmp_path, suite(), "--only", "*:ppo")


# ----- What counts as finished -----


def test_a_row_that_was_made_otherwise_is_refused():
    job = jobs_of(suite(agents=["dai"], env_kwargs={"sutton_barto_reward": False}))[0]
    kwargs = {"sutton_barto_reward": False}
    row = {"entry": texts(ENTRY), "scores": [9.0], "env_kwargs": kwargs, "code": "here", "commit": "abc"}
    assert not is_finished(job, None, "here", False)
    assert is_finished(job, row, "here", False)
    for changes, message in (
        ({"entry": texts({**ENTRY, "gamma": 0.9})}, "other hyperparameters"),
        ({"scores": [9.0, 9.0]}, "with 2 episodes"),
        ({"env_kwargs": None}, "with env_kwargs None"),
        ({"code": "elsewhere"}, "from commit abc, .* --keep-other-code"),
    ):
        with pytest.raises(SystemExit, match=rf"CartPole-v1:dai 60 steps, seed 0: the store has it .*{message}"):
            is_finished(job, {**row, **changes}, "here", False)
    assert is_finished(job, {**row, "code": "elsewhere"}, "here", True)
    assert is_finished(job, {**row, "code": None}, "here", False), "a peer is not ours"


def test_an_entry_with_objects_is_the_same_in_another_process():
    first, second = (texts(hyperparameters("dai:goals", "Pendulum-v1")) for _ in range(2))
    assert first == second and "0x" not in str(first) and "GaussianPreference(" in first["preference"]
    assert first != texts(hyperparameters("dai:goals", "MountainCar-v0"))
    resolved = resolved_hyperparameters(make_model())
    assert "0x" not in json.dumps(resolved)
    assert resolved["policy_parameters"]["net_arch"], "nets that nobody gave as well"


def test_of_arrays_json_has_the_shapes():
    given = {"A": np.eye(3), "D": [th.ones(2)], "n": np.float64(2.5), "policy": Path}
    assert in_json(given) == {"A": "array of shape (3, 3)", "D": ["array of shape (2,)"], "n": 2.5, "policy": "Path"}


def test_the_digest_is_of_what_trains(monkeypatch, tmp_path):
    package = tmp_path / "sb3_dai"
    shutil.copytree(Path(sb3_dai.__file__).parent, package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    monkeypatch.setattr(sb3_dai, "__file__", str(package / "__init__.py"))
    before = code_digest()
    for name in ("diagnostics/vectors.py", "zoo.py", "saving.py"):
        (package / name).write_text("# another text")
    assert code_digest() == before
    (package / "learning" / "step.py").write_text("# another text")
    assert code_digest() != before


def test_a_worker_with_other_sources_runs_nothing():
    job = jobs_of(suite(agents=["dai"]))[0]
    _, row = benchmark.work(job, {"code": "of the driver", "commit": "abc"})
    assert row.keys() == {"error"} and "commit abc" in row["error"]


# ----- Runs -----


def stamps(store):
    return {path.relative_to(store): path.stat().st_mtime_ns for path in store.glob("*/*/*.json")}


def test_a_suite_is_resumed(monkeypatch, tmp_path, capsys):
    run_suite(monkeypatch, tmp_path, suite(agents=["dqn", "dai"]))
    before = stamps(tmp_path / "store")
    assert len(before) == 2
    row = Store(tmp_path / "store").read(jobs_of(suite(agents=["dai"]))[0])
    assert {"commit", "versions", "processor", "hyperparameters", "gradient_steps", "seconds", "peak_memory_mb"} <= row.keys()
    assert row["code"] == code_digest() and row["finished"] and len(row["scores"]) == 1 and sum(row["train_lengths"]) <= 60
    capsys.readouterr()

    run_suite(monkeypatch, tmp_path, suite(agents=["dqn", "dai"]))
    assert stamps(tmp_path / "store") == before and "seed" not in capsys.readouterr().out

    run_suite(monkeypatch, tmp_path, suite(agents=["dqn", "dai"], seeds="0-1"), "--only", "*:dqn")
    after = stamps(tmp_path / "store")
    assert {path: after[path] for path in before} == before
    assert {path.name for path in after.keys() - before.keys()} == {"60_1.json"}


def test_a_dry_run_writes_nothing(monkeypatch, tmp_path, capsys):
    run_suite(monkeypatch, tmp_path, suite(seeds="0-4"), "--dry-run")
    assert "5 jobs, 0 of them finished" in capsys.readouterr().out
    assert os.listdir(tmp_path) == ["suite.yml"]


def test_a_job_that_fails_is_reported_and_stops_no_other(monkeypatch, tmp_path, capsys):
    content = suite(agents=["broken", "dqn"])
    content["agents"]["broken"] = {"algo": "dqn", "entry": {**ENTRY, "colour": 1}}
    with pytest.raises(SystemExit, match="1 of 2 jobs failed"):
        run_suite(monkeypatch, tmp_path, content)
    assert [path.parts[1] for path in stamps(tmp_path / "store")] == ["dqn"]
    said = capsys.readouterr().err
    assert "CartPole-v1:broken 60 steps, seed 0" in said and "unexpected keyword argument 'colour'" in said


def test_workers_that_are_lost_start_again(monkeypatch, capsys):
    jobs, calls = jobs_of(suite(seeds="0-3")), []

    def parallel(**_):
        def ends(tasks):
            calls.append([args[0]["seed"] for _, args, _ in tasks])
            for seed in calls[-1][:2]:
                yield jobs[seed], {"scores": [1.0]}
            if len(calls) < 2:
                raise RuntimeError("a worker was killed")

        return ends

    monkeypatch.setattr(benchmark.joblib, "Parallel", parallel)
    ended = [job["seed"] for job, _ in results_of(jobs, {}, 2, retries=1)]
    assert ended == [0, 1, 2, 3] and calls == [[0, 1, 2, 3], [2, 3]]
    assert "RuntimeError: a worker was killed. 2 unfinished jobs start again" in capsys.readouterr().err
    calls.clear()
    with pytest.raises(RuntimeError, match="killed"):
        [*results_of(jobs, {}, 2, retries=0)]


# ----- The store -----


def test_two_processes_on_one_store_are_refused(monkeypatch, tmp_path):
    with Store(tmp_path / "store").lock(), pytest.raises(SystemExit, match=r"--store .*store: another process is writing"):
        run_suite(monkeypatch, tmp_path, suite())
    assert not stamps(tmp_path / "store")


def test_a_damaged_row_is_named(monkeypatch, tmp_path):
    job = jobs_of(suite())[0]
    path = Store(tmp_path / "store").path(job)
    path.parent.mkdir(parents=True)
    path.write_text('{"scores": [1.0')
    with pytest.raises(SystemExit, match=r"60_0\.json is damaged .*remove it"):
        run_suite(monkeypatch, tmp_path, suite())


def test_a_full_disk_ends_a_suite_with_its_path(monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "work", lambda job, _: (job, {"scores": [1.0], "seconds": 1.0}))

    def fail(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(SystemExit, match=r"No space left on device: .*60_0\.json'\. Finished runs are kept"):
        run_suite(monkeypatch, tmp_path, suite())
    assert not [*(tmp_path / "store").glob("*/*/*")]


def write_and_stop(folder):
    """Write a row, and stop in the midst of the next one."""
    store = Store(folder)
    with store.lock():
        store.write({"environment": "CartPole-v1", "agent": "dqn", "steps": 60, "seed": 0}, {"seed": 0})
        os.replace = lambda *_: time.sleep(60)
        store.write({"environment": "CartPole-v1", "agent": "dqn", "steps": 60, "seed": 1}, {"seed": 1})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
def test_a_killed_process_leaves_no_half_row_and_no_lock(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=write_and_stop, args=(tmp_path,), daemon=True)
    process.start()
    end = time.monotonic() + 20
    while not [*tmp_path.glob("*/*/.60_1.json.*.tmp")] and time.monotonic() < end:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    store, folder = Store(tmp_path), tmp_path / "CartPole-v1" / "dqn"
    assert len(os.listdir(folder)) == 2, "a row and a half"
    assert store.read({"environment": "CartPole-v1", "agent": "dqn", "steps": 60, "seed": 0}) == {"seed": 0}
    assert store.read({"environment": "CartPole-v1", "agent": "dqn", "steps": 60, "seed": 1}) is None
    with store.lock():
        assert os.listdir(folder) == ["60_0.json"]


# ----- Engines -----


def test_a_worker_of_dask_with_several_threads_is_refused():
    check_threads({"tcp://a": 1, "tcp://b": 1})
    with pytest.raises(SystemExit, match=r"--address: worker tcp://b has 4 threads.*--nthreads 1"):
        check_threads({"tcp://a": 1, "tcp://b": 4})


@pytest.mark.parametrize("name", ["dask", "ray"])
def test_an_engine_that_is_not_installed_says_so(monkeypatch, tmp_path, name):
    monkeypatch.setitem(sys.modules, {"dask": "distributed", "ray": "ray"}[name], None)
    with pytest.raises(SystemExit, match=rf"--engine {name}: it is not installed"):
        run_suite(monkeypatch, tmp_path, suite(), "--engine", name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["loky", "dask", "ray"])
def test_a_killed_worker_changes_no_row(name):
    """Two stores by this engine, one with a worker killed, against one of loky."""
    if name != "loky":
        pytest.importorskip({"dask": "distributed", "ray": "ray"}[name])
    command = [sys.executable, str(SCRIPTS / "fault_injection.py"), "workers", "--engines", *dict.fromkeys(["loky", name])]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})


@pytest.mark.slow
@pytest.mark.parametrize("command", ["training --kills 5 --steps 600", "sweep --kills 3 --seeds 5", "subprocess"])
def test_faults(command):
    command = [sys.executable, str(SCRIPTS / "fault_injection.py"), *command.split()]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
