"""Pages of the documentation: their tables and sentences, and whether a printed number is a value."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
NUMBER = r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?"
WORDS = {
    "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "seven": "7", "eight": "8", "eleven": "11",
    "sixteen": "16", "second": "2", "fourth": "4", "quarter": "0.25",
}  # fmt: skip

TABLES = {
    "more seeds": ("docs/results.md", "| agent | environment steps | seeds | interquartile mean"),
    "deep sea": ("docs/results.md", "| world | agent | solved | at episode |"),
    "grid": ("docs/results.md", "| where a block starts | agent |"),
    "hidden worlds": ("docs/results.md", "| world | seeds | episodes until 95 of the last 100 succeed"),
    "every action space": ("docs/results.md", "| task | solved in environment steps |"),
}
"""Tables that a test compares with files: their page, and how their first line begins."""


def read(page: str) -> str:
    """
    :param page: its path in the repository
    :return: its text
    """
    return (ROOT / page).read_text()


def table_of(page: str, start: str, text: str | None = None) -> tuple[str, list[dict[str, str]]]:
    """
    :param page: its path
    :param start: how the first line of the table begins
    :param text: of the page, or the part of it where the table is the first one of this kind
    :return: the table as it is printed, and its rows by column
    """
    lines = (read(page) if text is None else text).splitlines()
    (first, *_) = [number for number, line in enumerate(lines) if line.startswith(start)]
    table = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        table.append(line)
    columns, _, *rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table]
    return "\n".join(table), [dict(zip(columns, row, strict=True)) for row in rows]


def rows_of(name: str) -> list[dict[str, str]]:
    """
    :param name: of TABLES
    :return: its rows
    """
    return table_of(*TABLES[name])[1]


def runs_in(path: str) -> list[dict[str, Any]]:
    """
    :param path: a result file or a folder of a store, in docs
    :return: the runs there
    """
    where = ROOT / "docs" / path
    runs: list[dict[str, Any]] = []
    for file in sorted(where.glob("*.json")) if where.is_dir() else [where]:
        found = json.loads(file.read_text())
        runs += found if isinstance(found, list) else [found]
    assert runs, f"{path} has no run"
    return runs


def scores(*paths: str) -> np.ndarray:
    """
    :param paths: see :func:`runs_in`
    :return: mean score of each run
    """
    return np.array([np.mean(run["scores"]) for path in paths for run in runs_in(path)])


def is_printed(text: str, value: float | str) -> bool:
    """
    :param text: a number on a page
    :param value: what it is to be
    :return: whether it is the value, to the digits that are printed
    """
    text = WORDS.get(text, text)
    if isinstance(value, str):
        return text == value
    decimals = len(text.partition(".")[2])
    return abs(float(text.replace(",", "").replace("_", "")) - value) <= 0.5 * 10.0**-decimals + 1e-9


def are_printed(text: str, values: list[float]) -> bool:
    """
    :param text: of cells
    :param values: of all numbers in them, in order
    :return: whether the numbers are the values
    """
    printed = re.findall(NUMBER, text)
    return len(printed) == len(values) and all(map(is_printed, printed, values))


def pattern_of(sentence: str) -> re.Pattern[str]:
    """
    :param sentence: a part of a page, with each number as ``{}`` and regular expressions elsewhere
    :return: what finds it, wherever its lines are broken; a number or its word is a group
    """
    number = "(" + "|".join(WORDS) + r"|-?\d[\d,_]*(?:\.\d+)?)"
    return re.compile(sentence.replace(" .* ", " .*? ").replace(" ", r"\s+").replace("{}", number), re.S)
