"""Tables of docs/speed.md are those of their result files, and its commands are those that made them."""

import re
import statistics

import pytest
from printed.claims_speed import MEMORY, PAGE, result
from printed.pages import ROOT, are_printed, is_printed, read, table_of

TEXT = read(PAGE)
BESIDE = {"speed": "DQN", "speed_wide": "DQN", "speed_box": "SAC"}


def after(place, start):
    """Rows of the first table that starts so after a place on the page."""
    return table_of(PAGE, start, TEXT[TEXT.index(place) :])[1]


@pytest.mark.parametrize(("name", "peer"), BESIDE.items())
def test_steps_beside_other_agents(name, peer):
    found = result(name)
    rows = after(f"(`docs/results/{name}.json`", "| | microseconds a gradient step |")
    assert rows[0][""] == peer and len(rows) == 6
    for row in rows:
        agent = re.sub("^DAI, (one member, )?", lambda kind: f"DAI, ensemble of {1 if kind[1] else 5}, ", row[""])
        figures = [found["results"][agent][kind] for kind in ("median_step", "ratio_step", "ratio_predict")]
        assert are_printed(" | ".join(list(row.values())[1:]), figures), (agent, figures)


@pytest.mark.parametrize("name", BESIDE)
def test_settings_beside_other_agents(name):
    found, first = result(name), result("speed")
    (width, again), of_file = found["net_arch"], f"(`docs/results/{name}.json`"
    if f"{found['env']}, {width}x{again}, batch {found['batch_size']} {of_file}" not in TEXT:
        assert f"The same with {width}x{again} {of_file}" in TEXT
        assert [found[key] for key in ("env", "batch_size")] == [first[key] for key in ("env", "batch_size")]


def test_processor():
    assert f"AMD EPYC of family {result('speed')['processor'].split('family ')[1].split(',')[0]})" in TEXT


def test_other_spaces():
    images = result("speed_images")
    assert f"images of 3x64x64 with `NatureCNN`, batch {images['batch_size']}, " in TEXT
    for row in after("Other spaces", "| | native | compile | eager |"):
        results, name = (images["results"], "ensemble of 5") if row[""] == "images" else (result("speed")["results"], row[""])
        for backend in ("native", "compile", "eager"):
            assert is_printed(row[backend], results[f"DAI, {name}, {backend}"]["ratio_step"]), (row, backend)


@pytest.mark.parametrize("name", MEMORY)
def test_costs_of_policies_with_a_memory(name):
    rows = {row.pop(""): row for row in after(f"`docs/results/{name}.json`)", "| | transitions a gradient step")}
    results = result(name)["results"]
    assert rows.keys() == results.keys()
    for agent, found in results.items():
        figures = [found[kind] for kind in ("transitions", "median_step", "ratio_step", "ratio_predict", "ratio_learn")]
        assert are_printed(" | ".join(rows[agent].values()), figures), agent


def test_whole_training_runs():
    worlds = {"three choices of three": "sb3_dai_benchmark/ThreeChoices-v0"}
    found = {(run["env"], run["agent"], run.get("cache")): run["seconds"] for run in result("training_seconds")}
    for row in after("## A whole training run", "| world |"):
        env = worlds.get(row["world"], row["world"])
        columns = ("DAI", "cold"), ("DAI", "warm"), ("DQN", None)
        for cell, (agent, cache) in zip(list(row.values())[1:], columns, strict=True):
            seconds = found.get((env, agent, cache))
            assert cell == "cannot" if seconds is None else are_printed(cell, [seconds]), (row, agent, cache)
    assert {run["gradient_steps"] for run in result("training_seconds")} == {39_600}, "of 10,000 steps"
    assert "to the end of 10,000 steps" in TEXT


def test_busy_cores():
    ((found,), (row,)) = result("busy_cores"), after("## Threads", "| torch's default threads |")
    times = found["default_ms"], found["one_thread_ms"]
    assert are_printed(" ".join(row.values()), [*map(statistics.median, times), found["ratio"]])
    assert "medians of seven turns" in TEXT and {*map(len, times)} == {7}


def test_commands_are_those_of_the_files():
    commands = re.findall(r"python scripts/(benchmark_\w+\.py .*--out docs/results/(\w+)\.json.*)$", TEXT, re.M)
    stored = [(command, name) for command, name in commands if (ROOT / f"docs/results/{name}.json").exists()]
    assert len(stored) >= 8
    for command, name in stored:
        found = result(name)
        assert command == (found[0] if isinstance(found, list) else found)["command"]
