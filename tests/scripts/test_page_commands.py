"""The commands of the documentation: each is run, most with fewer steps, or a table says why not."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from guides import GUIDES, ROOT, blocks, commands, name_of, without_taskset

NOT_RUN = {
    "python3 -m venv *": "the tests have their environment",
    ". .venv/bin/activate": "the same",
    "pip install *": "it loads from the network; the names of its extras are tested",
    "python -m pytest *": "it would run this test again",
    "rsync *": "it needs another machine",
    "dask *": "it runs until it is stopped",
    "ray start *": "it leaves processes behind",
    "* --address *": "it needs a cluster",
}
"""Commands that are not run, and why."""

ADDED = {
    "*.zoo train *--save-replay-buffer*": "-n 2000 -params learning_starts:1900",  # The next one goes on from step 2000
    "*.zoo train *--optimize *": "-n 120 --n-trials 8 --n-evaluations 1 --eval-episodes 1",  # The next one trains trial 7
    "*.zoo train *": "-n 200 --eval-freq 100 --eval-episodes 1 --save-freq 100",
    "*.zoo enjoy *": "-n 600",
    "*.zoo record_video *": "-n 20",
    "python scripts/belief_figure.py *": "--steps 200",
    "python scripts/benchmark.py *--dry-run": "",
    # In stores of their own, else nothing would be left to run
    "python scripts/benchmark.py *--engine dask *": "--store by_dask --jobs 1 --only CartPole-v1:*",
    "python scripts/benchmark.py *--engine ray *": "--store by_ray --jobs 1 --only CartPole-v1:*",
    "python scripts/benchmark.py *--store results *": "--only CartPole-v1:* Pendulum-v1:dai",
    "python scripts/benchmark.py *memory.yml *": "--jobs 1 --only CartPoleNoVel-v1:* sb3_dai/PassiveTMaze10-v0:*",
    "python scripts/benchmark.py *": "--jobs 1",
    "python scripts/benchmark_speed.py *": "--repeats 1 --gradient-steps 4",
    "python scripts/benchmark_training.py *": "--steps 150",
    "python scripts/evaluate.py *": "--steps 200 --seeds 100 --episodes 1 --jobs 1",
    "python scripts/fault_injection.py * training": "--kills 2 --steps 600",
    "python scripts/fault_injection.py * sweep": "--kills 1 --seeds 3 --longest 1",
    "python scripts/fault_injection.py * workers": "--seeds 2 --steps 300 --engines loky",  # The others: test_benchmark.py
    "python scripts/fault_injection.py *": "",
    "python scripts/hidden_states.py *": "--seeds 100 --blocks 1 --jobs 1",
    "python scripts/hidden_worlds.py *": "--seeds 140 --jobs 1",
    "python scripts/hidden_worlds_pymdp.py *": "--seeds 140",
    "python scripts/report.py *": "",
    "bash scripts/rerun_results.sh *": "",
}
"""What is added to a command that is run: the last value of an option counts. Of the patterns that fit, the first counts."""

SMALLER = [
    ("scripts/suites/*.yml", r", episodes: \d+", ""),
    ("scripts/suites/*.yml", r"\bsteps: \d+, seeds: (\d+)-\d+", r"steps: 60, episodes: 1, seeds: \1"),
    ("scripts/rerun_results.sh", r"\d+ (100)-\d+", r"60 \1"),
    ("scripts/suite_tables.py", r"REPETITIONS = \d+", "REPETITIONS = 40"),
    ("scripts/belief_figure.py", r"N_TWEENS = \d+", "N_TWEENS = 1"),
    ("scripts/hidden_worlds.yml", r"n_timesteps: \d+", "n_timesteps: 240"),
    ("scripts/hidden_worlds_pymdp.py", r"trials=\d+", "trials=3"),
    ("scripts/speed_of_memory.py", r"N_STEPS = \d+", "N_STEPS = 16"),
    ("scripts/benchmark_speed.py", r"N_RANDOM = \d+", "N_RANDOM = 100"),
    ("scripts/benchmark_speed.py", r"200 \* n_envs", "20 * n_envs"),
    ("scripts/benchmark_speed.py", r", 512, (1024|2048, 4096)\]", "]"),
    ("scripts/benchmark_training.py", r'"FrozenLake-v1", "sb3_dai_benchmark/ThreeChoices-v0"', ""),
    ("scripts/benchmark_training.py", r"turns: int = \d+", "turns: int = 1"),
]
"""What no option makes smaller: file, and what is replaced in the copy of it that the commands use."""

MISSING = [
    r"No module named '(\w+)",
    r"--engine (\w+): it is not installed",
    r"needs (\w+), which is not installed",
    r"(Box2D|MuJoCo) is not installed",
    r"(unshare): .*not permitted",
]
"""How a command says what the machine lacks."""

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1", "JOBS": "1", "MPLBACKEND": "Agg"}
"""Of the commands. Nothing is compiled, which would take a minute each time, and no window is shown."""


def entry_of(words):
    """
    :param words: of a command
    :return: the first pattern of the tables that fits it, None if none does
    """
    text = " ".join(without_taskset(words))
    return next((pattern for pattern in (*NOT_RUN, *ADDED) if fnmatchcase(text, pattern)), None)


def commands_to_run(page):
    return [words for words in commands(page) if entry_of(words) not in NOT_RUN]


def smaller(name, text):
    """
    :param name: of a file, its path in the repository
    :param text: what is in it
    :return: what is in the copy of it
    """
    for files, old, new in SMALLER:
        if fnmatchcase(name, files):
            text = re.sub(old, new, text)
    return text


# ----- The tables -----


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_every_command_is_run_or_a_table_says_why_not(page):
    for words in commands(page):
        assert entry_of(words), f"{page.name}: `{shlex.join(words)}` fits no pattern of NOT_RUN and ADDED"


def test_every_entry_of_the_tables_is_needed():
    used = {entry_of(words) for page in GUIDES for words in commands(page)}
    assert used >= {*NOT_RUN, *ADDED}, {*NOT_RUN, *ADDED} - used
    for files, old, _ in SMALLER:
        assert any(re.search(old, path.read_text()) for path in ROOT.glob(files)), (files, old)


@pytest.mark.parametrize("path", sorted((ROOT / "scripts" / "suites").glob("*.yml")), ids=name_of)
def test_all_tasks_of_a_suite_are_made_small(path):
    tasks = yaml.safe_load(smaller(name_of(path), path.read_text()))["tasks"]
    assert {(task["steps"], task["episodes"], "-" in str(task["seeds"])) for task in tasks} == {(60, 1, False)}


def test_extras_of_the_commands_exist():
    section = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    extras = {*re.findall(r"^([\w-]+) = ", section, re.MULTILINE)}
    installs = [words for page in GUIDES for words in commands(page) if words[:2] == ["pip", "install"]]
    named = {name for words in installs for found in re.findall(r"\[(.+)\]", words[-1]) for name in found.split(",")}
    assert len(installs) > 5 and named and named <= extras, named - extras
    for words in installs:
        assert words[2] == "-c" and (ROOT / words[3]).is_file(), shlex.join(words)


# ----- Blocks of YAML -----


def yaml_block(page):
    (text,) = blocks(ROOT / page, "yaml")
    return text


def test_other_pages_have_no_yaml():
    assert [name_of(page) for page in GUIDES if blocks(page, "yaml")] == ["docs/benchmark.md", "docs/zoo.md"]


def test_the_suite_of_the_page_is_understood(monkeypatch, tmp_path, capsys):
    benchmark = pytest.importorskip("benchmark")
    (tmp_path / "suite.yml").write_text(yaml_block("docs/benchmark.md"))
    command = ["benchmark.py", str(tmp_path / "suite.yml"), "--store", str(tmp_path / "store"), "--dry-run"]
    monkeypatch.setattr(sys, "argv", command)
    benchmark.main()
    assert "20 jobs, 0 of them finished" in capsys.readouterr().out


def test_the_hyperparameters_of_the_page_train_an_agent(monkeypatch, tmp_path):
    pytest.importorskip("rl_zoo3")
    from zoo_runs import run_zoo

    (tmp_path / "mine.yml").write_text(yaml_block("docs/zoo.md"))
    options = ["--algo", "dai", "--env", "Pendulum-v1", "--conf-file", str(tmp_path / "mine.yml"), "-f", str(tmp_path)]
    run_zoo(monkeypatch, "train", *options, "-n", "200")
    assert (tmp_path / "dai" / "Pendulum-v1_1" / "Pendulum-v1.zip").is_file()


# ----- Commands -----


@pytest.fixture
def copied(tmp_path):
    """A folder with what the commands need of the repository, in which they may write."""
    for name in ("docs", "hyperparams", "scripts", "sb3_dai"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for path in {path for files, _, _ in SMALLER for path in ROOT.glob(files)}:
        (tmp_path / name_of(path)).write_text(smaller(name_of(path), path.read_text()))
    return tmp_path


def missing(output):
    """
    :param output: of a command that failed
    :return: packages that it did not find, and that really are not there
    """
    names = {name for pattern in MISSING for name in re.findall(pattern, output)}
    return sorted(name for name in names if not any(map(importlib.util.find_spec, (name, name.lower()))))


def run(words, folder):
    """
    Run a command as its entry has it.

    :param words: of the command
    :param folder: where it runs, with a copy of the repository
    """
    added = shlex.split(ADDED[entry_of(words)])
    if words[0] == "taskset" and not (shutil.which("taskset") and int(words[2]) in os.sched_getaffinity(0)):
        words = without_taskset(words)
    paths = {"PATH": Path(sys.executable).parent, "PYTHONPATH": folder}
    paths = {name: os.pathsep.join(filter(None, (str(path), os.environ.get(name)))) for name, path in paths.items()}
    ended = subprocess.run(
        [*words, *added], cwd=folder, env={**os.environ, **ENVIRONMENT, **paths}, timeout=300, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if ended.returncode and missing(ended.stdout):
        pytest.skip(f"this machine lacks {', '.join(missing(ended.stdout))} for `{shlex.join(words)}`")
    assert ended.returncode == 0, f"{shlex.join([*words, *added])}\n{ended.stdout[-4000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in GUIDES if commands_to_run(page)], ids=name_of)
def test_the_commands_of_a_page_run_in_their_order(page, copied, subtests):
    for words in commands_to_run(page):
        for option, value in pairwise(words):
            if option == "--out" and value.endswith(".json"):  # Scripts add nothing to results that older code has made
                (copied / value).unlink(missing_ok=True)
    for words in commands_to_run(page):
        with subtests.test(shlex.join(words)):
            run(words, copied)
