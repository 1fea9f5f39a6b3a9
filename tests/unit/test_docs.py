"""The pages of the documentation: code blocks run as printed, and links lead somewhere."""

import io
import json
import re
import warnings
from contextlib import redirect_stdout

import numpy as np
import pytest
from guides import GUIDES, ROOT, commands, fences, name_of, without_taskset

PAGES = [*GUIDES, *sorted((ROOT / "docs" / "experiments").glob("*.md")), *sorted((ROOT / ".github").glob("*.md"))]
NOT_RUN = re.compile(r"<!-- not run: (.+) -->")


def python_blocks(page):
    return [(line, text) for before, kind, line, text in fences(page) if kind == "python" and not NOT_RUN.fullmatch(before)]


def prose(page):
    """The text of a page without its code."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(page):
    """Anchors of the headings of a page, as GitHub makes them."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", [page for page in GUIDES if python_blocks(page)], ids=name_of)
def test_the_code_of_a_page_runs_as_printed(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters, about themselves
        for line, text in python_blocks(page):
            # Lines of an error are those of the page
            exec(compile("\n" * (line - 1) + text, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_local_links_lead_to_files_and_headings_that_exist(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = page if not path else (page.parent / path).resolve()
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name} links to {target}: {sorted(anchors(file))}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_block_that_is_not_run_says_why(page):
    for before, kind, line, _ in fences(page):
        if before.startswith("<!--") and kind == "python":
            assert NOT_RUN.fullmatch(before), f"{page.name}, line {line}: write <!-- not run: reason -->"


def test_the_readme_fits_and_its_test_command_is_that_of_ci():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1600
    command = 'pip install -c scripts/constraints.txt -e ".[tests]" && python -m pytest -n 2 --dist worksteal'
    assert command in text


def without_code(page):
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


SCORES = {"docs/results.md": "docs/results", "docs/experiments/version_0_1.md": "docs/experiments/data"}
"""Pages with tables of scores, and where their result files are."""


def test_pages_name_result_files_that_exist():
    for page in PAGES:
        names = re.findall(r"docs/(?:results|experiments/data)/\w+\.json", without_code(page))
        if name_of(page) in SCORES:
            names += [f"{SCORES[name_of(page)]}/{name}" for name in re.findall(r"`(\w+\.json)`", without_code(page))]
            assert len(names) > 5
        for name in names:
            assert (ROOT / name).exists(), f"{page.name} names {name}"


def test_results_say_where_they_come_from():
    for path in (ROOT / "docs" / "results").rglob("*.json"):
        found = json.loads(path.read_text())
        for run in found if isinstance(found, list) else [found]:
            assert {"commit", "versions", "processor", "date", "command"} <= run.keys(), path
            # Files of speed have several agents, and what each was made with beside its times
            agents = run["results"].values() if isinstance(run.get("results"), dict) else [run]
            assert all(isinstance(agent["hyperparameters"], dict) for agent in agents), path


def rows_of_scores(page):
    """Rows of the tables that have a mean and a worst seed, as dictionaries by heading."""
    headings = None
    for line in without_code(page).splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else None
        if cells is None:
            headings = None
        elif headings is None:
            headings = cells
        elif {"mean", "worst seed"} <= {*headings} and not set(line) <= set("|-"):
            yield dict(zip(headings, cells, strict=True))


def interquartile_mean(scores):
    """The mean of the middle half, as scipy.stats.trim_mean has it."""
    cut = len(scores) // 4
    return np.mean(np.sort(scores)[cut : len(scores) - cut])


def test_the_scores_of_version_0_1_are_those_of_its_files():
    page = "docs/experiments/version_0_1.md"  # Those of docs/results.md: tests/unit/printed/
    rows = [row for row in rows_of_scores(ROOT / page) if "result file" in row]
    assert len(rows) > 5
    for row in rows:
        agents = {}
        for run in json.loads((ROOT / SCORES[page] / row["result file"].strip("`")).read_text()):
            agents.setdefault((run["agent"], run.get("variant")), []).append(np.mean(run["scores"]))
        iqm = row["interquartile mean [95 %]"].split(" ")[0]
        printed = [float(cell.replace(",", "")) for cell in (iqm, row["mean"], row["worst seed"])]
        tolerance = 0.051 if "." in row["mean"] else 0.51
        of_file = [(interquartile_mean(scores), np.mean(scores), min(scores)) for scores in agents.values()]
        assert any(np.allclose(printed, found, rtol=0, atol=tolerance) for found in of_file), (row, of_file)


def script_commands(page):
    """Commands that call a script of this repository, as words."""
    found = [without_taskset(words) for words in commands(page)]
    return [words for words in found if re.match(r"(python|bash) scripts/", " ".join(words))]


@pytest.mark.parametrize("page", [page for page in PAGES if script_commands(page)], ids=name_of)
def test_commands_name_scripts_options_and_files_that_exist(page):
    sources = "".join(path.read_text() for path in (ROOT / "scripts").glob("*.py"))
    for _, script, *words in script_commands(page):
        assert (ROOT / script).is_file(), script
        for word in words:
            if word.startswith("--"):
                assert f'"{word}"' in sources, f"{script} {word}"
            if word.startswith(("scripts/", "docs/")) and "{" not in word:
                path = ROOT / word
                assert path.exists() or path.parent.is_dir(), f"{script} {word}"


def sentences(page):
    """Sentences of the paragraphs and lists of a page; code, tables, headings and what a command writes are left out."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    text = re.sub(r"<!-- (suite[^>]*?) -->.*?<!-- end of \1 -->", "", text, flags=re.S)
    text = re.sub(r"^[|#!].*$", "", text, flags=re.M)
    paragraphs = re.split(r"\n\s*\n|\n(?=\s*(?:-|\d+\.) )", text)
    return [part for paragraph in paragraphs for part in re.split(r"(?<=[.?!])\s+(?=[^a-z])", " ".join(paragraph.split()))]


def test_long_sentences_are_rare():
    found = [sentence for page in GUIDES for sentence in sentences(page)]
    long = [text for text in found if len([word for word in text.split() if re.search(r"\w", word)]) > 35]
    assert len(found) > 500 and len(long) <= len(found) // 200, "\n".join(long)
