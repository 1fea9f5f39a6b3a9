"""Tables and figures of a benchmark store, from rows worked by hand."""

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rliable")
import benchmark
import report
import yaml
from PIL import Image
from report import write_between
from rliable import metrics
from store import Store
from suite_figures import draw, fingerprint
from suite_tables import improvement, improvement_table, markdown, matrix, middle_mean, score_table, short_table

ROOT = Path(__file__).parent.parent.parent
SUITE = {
    "scale": {"A": [0.0, 100.0], "B": [-10.0, 10.0]},
    "agents": {
        "dai": {"label": "DAI", "algo": "dai"},
        "dai_wide": {"label": "DAI", "algo": "dai"},
        "dqn": {"label": "DQN", "algo": "dqn"},
    },
    "tasks": [
        {"environments": ["A"], "agents": ["dai", "dqn"], "steps": 10, "seeds": "0-1", "threshold": 50},
        {"environments": ["B"], "agents": ["dai_wide", "dqn"], "steps": 10, "seeds": "0-1", "threshold": 5},
    ],
}


def row(env, agent, seed, score):
    return {
        "env": env, "agent_name": agent, "label": SUITE["agents"][agent]["label"], "steps": 10, "seed": seed,
        "scores": [score - 1.0, score + 1.0], "gradient_steps": 40, "cpu_seconds": 3.0, "train_returns": [score, score],
        "train_lengths": [5, 5], "steps_to_threshold": {"threshold": 50, "steps": 8 if score > 50 else None},
        "commit": "abc", "processor": "P",
        "versions": dict.fromkeys(("torch", "stable-baselines3", "sb3-contrib", "gymnasium"), "1"),
    }  # fmt: skip


@pytest.fixture
def few_repetitions(monkeypatch):
    monkeypatch.setattr("suite_tables.REPETITIONS", 100)
    monkeypatch.setattr("suite_figures.REPETITIONS", 100)


@pytest.fixture
def rows():
    scores = {("A", "dai"): (100, 60), ("A", "dqn"): (40, 60), ("B", "dai_wide"): (10, 0), ("B", "dqn"): (-10, -10)}
    return [row(*key, seed, float(score)) for key, pair in scores.items() for seed, score in enumerate(pair)]


def test_a_row_has_the_mean_its_error_all_seeds_and_the_failures(rows, few_repetitions):
    lines = score_table(rows, SUITE)
    (dqn,) = [line for line in lines if "`A:dqn`" in line]
    cells = [cell.strip() for cell in dqn.strip("|").split("|")]
    # Standard error of 40 and 60: their deviation 14.14 by the root of 2
    assert cells[:2] == ["DQN", "40"]
    assert cells[3:7] == ["50.0 ± 10.0", "40.0 60.0", "1 of 2", "- (1 of 2)"]
    assert lines[0] == "### A, 10 steps"


def test_agents_of_one_environment_share_a_table_whatever_their_tasks(rows, few_repetitions):
    first, second = SUITE["tasks"]
    apart = [{**first, "agents": ["dqn"], "seeds": "0"}, second, {**first, "agents": ["dai"]}]
    lines = score_table(rows, {**SUITE, "tasks": apart})
    assert [line for line in lines if line.startswith("### ")] == ["### A, 10 steps", "### B, 10 steps"]
    assert [line.split(" | ")[0] for line in lines[lines.index("### A, 10 steps") :][4:6]] == ["| DQN", "| DAI"]


def test_tasks_are_put_together_by_their_scales_alone(rows, few_repetitions):
    assert "### All tasks together" in markdown(rows, SUITE)
    assert "together" not in markdown(rows, {name: value for name, value in SUITE.items() if name != "scale"})


def test_an_agent_with_one_label_and_two_names_is_compared_over_all_environments(rows, few_repetitions):
    scores = matrix(rows, ["dai", "dai_wide"], ["A", "B"], SUITE)
    assert scores.tolist() == [[1.0, 1.0], [0.6, 0.5]]
    longer = {**SUITE["tasks"][0], "agents": ["ppo"], "steps": 20}  # Another task of the same environment
    suite = {**SUITE, "tasks": [*SUITE["tasks"], longer]}
    (line,) = [line for line in improvement_table(rows, suite) if line.startswith("| DQN")]
    # A: of four pairs three are won and one is a tie; B: all are won
    assert "| A, B | 2 | 0.94 [" in line


def test_the_short_table_names_each_task_once(rows, few_repetitions):
    lines = short_table(rows, {**SUITE, "short": {"A": ["dai", "dqn"], "B": ["dai_wide"]}}).splitlines()
    assert lines[2:] == [
        "| A, 50 wanted | **DAI** | 10 | 40 | 80.0 ± 20.0 | 0 of 2 |",
        "|  | DQN | 10 | 40 | 50.0 ± 10.0 | 1 of 2 |",
        "| B, 5 wanted | **DAI** | 10 | 40 | 5.000 ± 5.000 | 1 of 2 |",
    ]


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (5, 1), (8, 1), (10, 1), (5, 2)])
def test_the_interquartile_mean_is_that_of_rliable(shape):
    scores = np.random.default_rng(0).normal(size=shape)
    assert middle_mean(scores) == pytest.approx(metrics.aggregate_iqm(scores))


def test_improvement_is_that_of_rliable():
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 5, (6, 3)).astype(float), generator.integers(0, 5, (4, 3)).astype(float)
    assert improvement(x, y) == pytest.approx(metrics.probability_of_improvement(x, y))


def test_agents_without_rows_are_left_out(rows, few_repetitions):
    some = [row for row in rows if row["agent_name"] != "dqn"]
    assert not any("DQN" in line for line in score_table(some, SUITE) + improvement_table(some, SUITE))


def test_figures_are_written_and_do_not_change(rows, tmp_path, few_repetitions):
    for folder in ("one", "two"):
        draw(rows, SUITE, tmp_path / folder)
    names = {f"{name}.{suffix}" for name in ("scores", "curves", "seconds", "profiles") for suffix in ("png", "svg")}
    assert {path.name for path in (tmp_path / "one").iterdir()} == names
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)


def description_of(path):
    if path.suffix == ".png":
        with Image.open(path) as image:
            return image.text["Description"]
    return re.search(r"<dc:description>(\w+)</dc:description>", path.read_text())[1]


def test_a_figure_tells_what_it_was_drawn_from(rows, tmp_path, few_repetitions):
    draw(rows, SUITE, tmp_path)
    assert {description_of(path) for path in tmp_path.iterdir()} == {fingerprint(rows, SUITE)}
    assert fingerprint(rows[::-1], SUITE) == fingerprint(rows, SUITE) != fingerprint(rows[1:], SUITE)


@pytest.mark.parametrize("name", ["scores", "curves", "seconds", "profiles"])
def test_figures_of_the_pages_are_of_the_rows_in_the_store(name):
    rows = Store(ROOT / "docs/results/first").rows()
    suite = yaml.safe_load((ROOT / "scripts/suites/first.yml").read_text())
    for suffix in ("png", "svg"):
        assert description_of(ROOT / f"docs/figures/first/{name}.{suffix}") == fingerprint(rows, suite), "draw it again"


def test_a_part_of_a_page_is_replaced(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- suite x -->\nold\n<!-- end of suite x -->\nafter\n")
    write_between(page, "suite x", "new\n")
    assert page.read_text() == "before\n<!-- suite x -->\nnew\n<!-- end of suite x -->\nafter\n"
    with pytest.raises(SystemExit, match="suite y"):
        write_between(page, "suite y", "new\n")


def test_a_store_without_runs_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["report.py", "suite", str(tmp_path), "--suite", str(ROOT / "scripts/suites/first.yml")])
    with pytest.raises(SystemExit, match="no finished run"):
        report.main()


SUITES = sorted(path.stem for path in (ROOT / "scripts" / "suites").glob("*.yml"))
STORES = [name for name in SUITES if (ROOT / "docs" / "results" / name).is_dir()]


@pytest.mark.parametrize("name", STORES)
def test_the_results_page_and_the_readme_have_the_tables_of_the_store(name):
    suite, rows = yaml.safe_load((ROOT / f"scripts/suites/{name}.yml").read_text()), Store(ROOT / "docs/results" / name).rows()
    assert markdown(rows, suite) in (ROOT / "docs" / "results.md").read_text()
    if "short" in suite:
        assert short_table(rows, suite) in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", STORES)
def test_rows_are_those_that_the_suite_says(name):
    """Else the command of the page would refuse to go on from them."""
    store = Store(ROOT / "docs/results" / name)
    jobs = benchmark.jobs_of(yaml.safe_load((ROOT / f"scripts/suites/{name}.yml").read_text()))
    found = [job for job in jobs if benchmark.is_finished(job, store.read(job), code="", keeps_other_code=True)]
    assert len(found) == len(store.rows()), "a row is of no job"
