"""The pages of the documentation: their code blocks, and the commands in these."""

import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def name_of(page):
    return str(page.relative_to(ROOT))


def fences(page):
    """Fenced blocks of a page, as (line before, language, number of the first line, text)."""
    found, start, language = [], None, ""
    lines = page.read_text().splitlines()
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start, language = number, line[3:].strip()
        else:
            before = lines[start - 1].strip() if start else ""
            found.append((before, language, start + 2, "\n".join(lines[start + 1 : number])))
            start = None
    assert start is None, f"{page.name}: a code block does not end"
    return found


def blocks(page, language):
    """Texts of the blocks in a language."""
    return [text for _, kind, _, text in fences(page) if kind == language]


def commands(page):
    """Commands of the bash blocks of a page, each as its words; ``&&`` ends one, and comments are left out."""
    found = []
    for text in blocks(page, "bash"):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while "&&" in words:
                end = words.index("&&")
                found.append(words[:end])
                words = words[end + 1 :]
            if words:
                found.append(words)
    return found


def without_taskset(words):
    """A command without the choice of its core, ``taskset -c N``."""
    return words[3:] if words[0] == "taskset" else words
