"""
Kill processes and fill disks while agents train, and see what is lost.

Each subcommand prints a line a trial and a summary. It ends with an error if anything finished is lost or a file is damaged.
docs/benchmark.md has what was found.

    python scripts/fault_injection.py training    # 30 kills of a training with checkpoints, each resumed
    python scripts/fault_injection.py sweep       # 10 kills of a benchmark suite, each resumed
    python scripts/fault_injection.py workers     # the same suite on loky, Dask and Ray, with and without a worker killed
    python scripts/fault_injection.py subprocess  # an environment's process is killed while DQN and DAI train
    python scripts/fault_injection.py disk        # every file that is written, on a full disk; needs Linux

``--out FILE`` before the subcommand keeps the lines, in the place of those of the same subcommand.
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import yaml
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, CheckpointCallback, EveryNTimesteps
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import SubprocVecEnv
from store import Row, Store
from trials import keep, say

from sb3_dai import DAI
from sb3_dai.saving import write_json

SCRIPTS = Path(__file__).parent
SMALL = {"learning_starts": 50, "buffer_size": 1000, "device": "cpu", "seed": 0}
VARYING = ("seconds", "cpu_seconds", "peak_memory_mb", "commit", "date", "command", "finished")
"""What differs between two rows of the same job."""

# ----- Training -----


class Progress(BaseCallback):
    """Write the number of steps to a file, where it outlives a kill."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def _on_training_start(self) -> None:
        self.file = os.open(self.path, os.O_WRONLY | os.O_CREAT)

    def _on_step(self) -> bool:
        os.pwrite(self.file, struct.pack("q", self.num_timesteps), 0)
        return True


class SaveInPlace(BaseCallback):
    """Replace one model and one buffer."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def _on_step(self) -> bool:
        self.model.save(self.folder / "last")
        self.model.save_replay_buffer(self.folder / "last")  # type: ignore[attr-defined]
        return True


def steps_of(path: Path) -> int:
    """The number in the name of a checkpoint."""
    return int(path.stem.rsplit("_", 2)[1])


def buffer_of(path: Path) -> Path:
    """The replay buffer that belongs to a checkpoint."""
    return path.with_name(f"rl_model_replay_buffer_{steps_of(path)}_steps.pkl")


def train(folder: Path, steps: int, interval: int) -> None:
    """
    Train from the last checkpoint that has a model and a buffer, or from the start.

    :param folder: of the checkpoints
    :param steps: to be done in all
    :param interval: environment steps between two checkpoints
    """
    env = gym.make("CartPole-v1")
    model = DAI("MlpPolicy", env, **{**SMALL, "buffer_size": steps})
    for path in sorted(folder.glob("rl_model_*_steps.zip"), key=steps_of, reverse=True):
        if buffer_of(path).exists():
            model = DAI.load(path, env=env, device="cpu")
            model.load_replay_buffer(buffer_of(path))
            break
    callbacks = [
        Progress(folder / "progress"),
        CheckpointCallback(interval, str(folder), save_replay_buffer=True),
        EveryNTimesteps(interval * 2 // 3, SaveInPlace(folder)),
    ]
    model.learn(steps - model.num_timesteps, callback=CallbackList(callbacks), reset_num_timesteps=False)
    model.save(folder / "finished")


def check_files(folder: Path, seen: dict[Path, int]) -> int:
    """
    Load every file that is new.

    :param folder: of the checkpoints
    :param seen: times of files that were loaded before, by path; it is brought up to date
    :return: steps of the last checkpoint that has a model and a buffer
    """
    model, whole = DAI("MlpPolicy", "CartPole-v1", **SMALL), {0}
    for path in folder.glob("[!.]*"):
        if path.suffix == ".zip":
            if seen.get(path) != path.stat().st_mtime_ns:
                loaded = DAI.load(path, device="cpu", buffer_size=1)
                assert path.stem in ("last", "finished") or loaded.num_timesteps == steps_of(path), path
            if path.stem not in ("last", "finished") and buffer_of(path).exists():
                whole.add(steps_of(path))
        elif path.suffix == ".pkl" and seen.get(path) != path.stat().st_mtime_ns:
            model.load_replay_buffer(path)
        seen[path] = path.stat().st_mtime_ns
    return max(whole)


def training(args: argparse.Namespace) -> None:
    """Kill a training at random moments, and resume it from its last checkpoint."""
    draw, folder = random.Random(args.seed), Path(args.folder)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sb3_dai", "yaml"])
    seen: dict[Path, int] = {}
    lost: list[int] = []
    progress, reached = folder / "progress", 0

    def steps_done() -> int:
        written = progress.read_bytes() if progress.exists() else b""
        return struct.unpack("q", written)[0] if written else 0

    while True:
        process = context.Process(target=train, args=(folder, args.steps, args.interval), daemon=True)
        progress.unlink(missing_ok=True)
        process.start()
        waits = draw.random() < 0.8  # Else the moment may be before the first step
        while waits and not steps_done() and process.exitcode is None:
            time.sleep(0.01)
        process.join(draw.uniform(0, args.longest) if len(lost) < args.kills else None)
        if process.exitcode is not None:
            break
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        reached = steps_done() or reached
        resumed = check_files(folder, seen)
        lost.append(reached - resumed)
        halves = len([*folder.glob(".*.tmp")])
        say(f"kill {len(lost):2d} at step {reached:5d}: goes on from {resumed:5d}, {halves} unfinished files")
        assert lost[-1] <= args.interval, "more than the steps since the last checkpoint are lost"
    kills = len(lost)
    assert process.exitcode == 0, f"the training failed with {process.exitcode}"
    assert kills == args.kills, f"it ended after {kills} kills: give more --steps or a smaller --longest"
    check_files(folder, seen)
    final = DAI.load(folder / "finished", device="cpu", buffer_size=1)
    assert final.num_timesteps == args.steps, final.num_timesteps
    say(f"{kills} kills, {final.num_timesteps} steps at the end, at most {max(lost)} lost at once; {len(seen)} files load")


# ----- Suites -----


def suite_of(folder: Path, seeds: int, steps: int) -> Path:
    """Write the file of a small suite: two agents, so many seeds and steps of each."""
    entry = {"policy": "MlpPolicy", "learning_starts": 50, "buffer_size": 1000}
    agents = {name: {"algo": name, "entry": entry} for name in ("dai", "dqn")}
    task = {"environments": ["CartPole-v1"], "agents": [*agents], "steps": steps, "seeds": f"0-{seeds - 1}", "episodes": 2}
    path = folder / "suite.yml"
    path.write_text(yaml.safe_dump({"agents": agents, "tasks": [task]}))
    return path


def start(suite: Path, store: Path, engine: str) -> subprocess.Popen[bytes]:
    """Start a suite in a process with a group of its own, whose output goes to a file beside the store."""
    command = [sys.executable, str(SCRIPTS / "benchmark.py"), str(suite), "--store", str(store), "--engine", engine]
    with store.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def contents(store: Path) -> dict[Path, tuple[int, bytes]]:
    """When each row of a store was written, and what it says, by its path."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in store.glob("*/*/[!.]*")}


def wait_for_rows(process: subprocess.Popen[bytes], store: Path, number: int, seconds: float = 300) -> bool:
    """Wait for a number of rows; tell whether they are there and the process still runs."""
    end = time.monotonic() + seconds
    while len(contents(store)) < number and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    return process.poll() is None and len(contents(store)) >= number


def sweep(args: argparse.Namespace) -> None:
    """Kill all processes of a suite at random moments, and start it again."""
    draw, folder = random.Random(args.seed), Path(args.folder)
    suite, store = suite_of(folder, args.seeds, args.steps), folder / "store"
    known: dict[Path, tuple[int, bytes]] = {}
    for kill in range(1, args.kills + 1):
        process = start(suite, store, "loky")
        wait_for_rows(process, store, len(known) + draw.choice([0, 0, 1, 2]))
        time.sleep(draw.uniform(0, args.longest))
        assert process.poll() is None, f"the suite ended before kill {kill}: give more --seeds"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        now = contents(store)
        for path, row in now.items():
            json.loads(row[1])
            assert known.get(path, row) == row, f"{path} was run twice"
        assert known.keys() <= now.keys(), "a finished run is lost"
        say(f"kill {kill:2d}: {len(now)} of {2 * args.seeds} finished, {len(now) - len(known)} of them new")
        known = now
    process = start(suite, store, "loky")
    assert process.wait() == 0, store.with_suffix(".log").read_text()[-2000:]
    now = contents(store)
    assert all(now[path] == row for path, row in known.items()), "a finished run was run again"
    jobs = {(row["agent_name"], row["seed"]) for row in Store(store).rows()}
    assert len(jobs) == len(now) == 2 * args.seeds, "a job is missing or there twice"
    assert not [*store.glob("*/*/.*.tmp")], "an unfinished file is left"
    say(f"{args.kills} kills: {len(jobs)} jobs finished, each once; {len(known)} rows of killed processes were not touched")


def worker_of(process: subprocess.Popen[bytes]) -> Any:
    """The worker that works most, of a process that runs a suite."""
    import psutil

    names = ("popen_loky", "multiprocessing.spawn", "multiprocessing.forkserver", "ray::")

    def is_worker(child: Any) -> bool:
        try:
            command = " ".join(child.cmdline())
        except psutil.Error:
            return False
        return any(name in command for name in names) and "IDLE" not in command and "resource_tracker" not in command

    workers = [child for child in psutil.Process(process.pid).children(recursive=True) if is_worker(child)]
    return max(workers, key=lambda child: child.cpu_times().user)


def comparable(row: Row) -> dict[str, Any]:
    """What has to be the same in a row wherever it is run."""
    return {name: value for name, value in row.items() if name not in VARYING}


def workers(args: argparse.Namespace) -> None:
    """Compare the stores of all engines, without kills and with a worker killed in mid-run."""
    folder = Path(args.folder)
    suite = suite_of(folder, args.seeds, args.steps)
    expected: list[dict[str, Any]] = []
    for engine in args.engines:
        for kills in (0, 1):
            began, store = time.monotonic(), folder / f"{engine}_{kills}"
            process = start(suite, store, engine)
            killed = ""
            if kills:
                assert wait_for_rows(process, store, 1), f"{engine}: the suite ended before the kill: give more --seeds"
                worker = worker_of(process)
                killed = f", worker {worker.pid} killed after {len(contents(store))} rows"
                worker.kill()
            code = process.wait(timeout=600)
            log = store.with_suffix(".log").read_text()
            assert code == 0, f"{engine}: {log[-3000:]}"
            rows = [comparable(row) for row in Store(store).rows()]
            expected = expected or rows
            again = log.count("start again")
            say(f"{engine}{killed}: {len(rows)} rows in {time.monotonic() - began:.0f} s, {again} new starts")
            assert len(rows) == 2 * args.seeds, "a job is missing"
            assert rows == expected, f"{engine}: its rows differ from those of {args.engines[0]}"
    say(f"{', '.join(args.engines)}: equal rows, with and without a kill")


# ----- Environments -----


class KillWorker(BaseCallback):
    """Kill the first process of a SubprocVecEnv at a step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.step:
            self.training_env.processes[0].kill()  # type: ignore[attr-defined]
            self.training_env.processes[0].join()  # type: ignore[attr-defined]
            self.step = 1 << 60
        return True


def environments(args: argparse.Namespace) -> None:
    """Kill a process of a SubprocVecEnv while an agent trains."""
    classes: list[type[OffPolicyAlgorithm]] = [DQN, DAI]
    for algorithm in classes:
        env = make_vec_env("CartPole-v1", 2, vec_env_cls=SubprocVecEnv, vec_env_kwargs={"start_method": "forkserver"})
        model = algorithm("MlpPolicy", env, **SMALL)  # type: ignore[arg-type]
        saved = Path(args.folder) / algorithm.__name__
        model.learn(100).save(saved)
        model.save_replay_buffer(saved)
        steps = model.num_timesteps
        try:
            model.learn(400, callback=KillWorker(200), reset_num_timesteps=False)
            raise AssertionError("nothing was raised")
        except (EOFError, OSError, RuntimeError) as error:
            said = repr(error)
        model.save(saved.with_name("after"))
        env.processes[1].terminate()  # env.close() would raise the same error
        again = algorithm.load(saved, env=make_vec_env("CartPole-v1", 2), device="cpu")
        again.load_replay_buffer(saved)
        assert again.num_timesteps == steps and again.replay_buffer is not None and again.replay_buffer.size() == steps // 2
        again.learn(100, reset_num_timesteps=False)
        say(f"{algorithm.__name__}: {said} at step {model.num_timesteps}; the last save loads and trains on")


# ----- Full disks -----


def writers(folder: Path) -> Iterator[tuple[Path, Callable[[Path], Any], Callable[[Path], Any]]]:
    """
    :param folder: on a small disk
    :return: paths, what writes there, and what reads it
    """
    model = DAI("MlpPolicy", "CartPole-v1", **SMALL).learn(120)
    store, key = Store(folder / "store"), {"environment": "CartPole-v1", "agent": "dai", "steps": 1, "seed": 0}
    row = {"scores": [500.0] * 2000}
    yield folder / "model.zip", model.save, lambda path: DAI.load(path, device="cpu")
    yield folder / "buffer.pkl", model.save_replay_buffer, model.load_replay_buffer
    yield folder / "policy.pt", model.policy.save, lambda path: type(model.policy).load(path, device="cpu")
    yield store.path(key), lambda _: store.write(key, row), lambda _: store.read(key)
    yield folder / "results.json", lambda path: write_json(path, [row] * 5), lambda path: json.loads(path.read_text())


def disk(args: argparse.Namespace) -> None:
    """Let each writer run out of room, at its start, in its midst and at its end."""
    if args.inside is None:
        command = 'mount -t tmpfs -o size=8m none "$0" && exec "$@"'
        again = [sys.executable, __file__, "disk", "--inside", args.folder]
        done = subprocess.run(["unshare", "-rm", "sh", "-c", command, args.folder, *again], stdout=subprocess.PIPE, text=True)
        for line in done.stdout.splitlines()[:-1]:  # The last one tells its time, as this process does
            say(line)
        if done.returncode:
            sys.exit(done.returncode)
        return
    folder = Path(args.inside)
    for path, write, read in writers(folder):
        write(path)
        old, said = path.read_bytes(), set()
        for share in (0.0, 0.02, 0.3, 0.6, 0.9, 0.97, 0.995):
            system = os.statvfs(folder)
            room = system.f_bavail * system.f_bsize
            (folder / "filler").write_bytes(b"x" * (room - int(share * len(old))))
            try:
                write(path)
                raise AssertionError(f"{path}: nothing was raised with room for {share:.1%} of it")
            except OSError as error:
                assert error.filename == str(path), f"{path}: {error!r} does not name it"
                said.add(str(error))
            (folder / "filler").unlink()
            read(path)
            assert path.read_bytes() == old, f"{path}: the old content is lost"
            assert not [*folder.rglob(".*.tmp")], f"{path}: a temporary file is left"
        say(f"{path.name}: 7 of 7 times the old file stays and loads; {', '.join(sorted(said))}")
        write(path)  # With room it goes on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, help="JSON file of the lines that are printed")
    commands = parser.add_subparsers(required=True)
    for name, function, numbers in (
        ("training", training, {"kills": 30, "steps": 6000, "interval": 50, "longest": 2}),
        ("sweep", sweep, {"kills": 10, "seeds": 12, "steps": 400, "longest": 4}),
        ("workers", workers, {"seeds": 4, "steps": 400}),
        ("subprocess", environments, {}),
        ("disk", disk, {}),
    ):
        command = commands.add_parser(name, help=function.__doc__)
        command.set_defaults(function=function, name=name)
        for option, default in numbers.items():
            command.add_argument(f"--{option}", type=float if option == "longest" else int, default=default)
        if name == "workers":
            command.add_argument("--engines", nargs="+", default=["loky", "dask", "ray"])
        if name == "disk":
            command.add_argument("--inside", help=argparse.SUPPRESS)
    args = parser.parse_args()
    began = time.monotonic()
    given = {name: value for name, value in vars(args).items() if name not in ("function", "name", "out", "inside")}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as args.folder:
        args.function(args)
    say(f"passed in {time.monotonic() - began:.0f} s")
    if args.out:
        keep(args.out, args.name, given, SMALL)


if __name__ == "__main__":
    main()
