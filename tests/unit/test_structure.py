"""The layout of the package: imports go one way, and a file holds one idea."""

import ast
from pathlib import Path

import pytest

import sb3_dai

ROOT = Path(sb3_dai.__file__).parent

LAYERS = (
    ("equations", "checks"),
    ("nets",),
    ("actions", "world_model", "preferences"),
    ("efe",),
    ("legacy", "files"),
    ("saving",),
    ("policy_base",),
    ("policy",),
    ("policy_recurrent",),
    ("policy_hidden_states",),
    ("learning",),
    ("acceleration",),
    ("rollouts",),
    ("dai",),
    ("diagnostics", "envs", "zoo"),
)
"""What stands further down may import what stands above it, and its own row."""

LEVEL = {room: level for level, row in enumerate(LAYERS) for room in row}


def modules():
    return {".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path for path in sorted(ROOT.rglob("*.py"))}


def imports_of(path):
    """Names of modules that a file imports, inside functions and for typing as well."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module != "sb3_dai":  # Of the package itself only what is named of it
                yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(name):
    parts = name.split(".")
    return parts[1] if parts[0] == "sb3_dai" and len(parts) > 1 and parts[1] in LEVEL else None


@pytest.mark.parametrize("name", modules())
def test_imports_go_one_way(name):
    room = room_of(name)
    if room is None:
        assert name == "sb3_dai.__init__", f"{name} has no place in LAYERS"
        return
    lower = {imported for imported in imports_of(modules()[name]) if LEVEL.get(room_of(imported), -1) > LEVEL[room]}
    assert not lower


@pytest.mark.parametrize("name", modules())
def test_a_file_has_at_most_400_lines(name):
    assert len(modules()[name].read_text().splitlines()) <= 400


def test_no_files_import_each_other_in_a_circle():
    known = {name.removesuffix(".__init__"): path for name, path in modules().items()}
    graph = {name: {i for i in imports_of(path) if i in known and i != name} for name, path in known.items()}
    while True:
        leaves = {name for name, imported in graph.items() if not imported}
        if not leaves:
            break
        graph = {name: imported - leaves for name, imported in graph.items() if name not in leaves}
    assert not graph, f"circles among {sorted(graph)}"
