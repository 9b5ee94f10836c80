"""No file imports one that imports it: imports inside functions and for type checking alone count too."""

from __future__ import annotations

import ast
from pathlib import Path

import stratatune

ROOT = Path(stratatune.__file__).parent


def modules() -> dict[str, Path]:
    """Every module of the package by its name."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = ("stratatune", *path.relative_to(ROOT).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, known: set[str]) -> set[str]:
    """What a file imports of the package; ``from package import module`` is the module."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (whole & known) or {node.module}
    return names & known


def circles() -> list[set[str]]:
    """Groups of files of which each reaches every other."""
    paths = modules()
    graph = {name: imported(path, set(paths)) for name, path in paths.items() if name != "stratatune"}
    reach = {name: {name} for name in graph}
    while True:
        more = {name: set().union(seen, *(graph.get(one, ()) for one in seen)) for name, seen in reach.items()}
        if more == reach:
            break
        reach = more
    groups = {frozenset(b for b in graph if b in reach[a] and a in reach.get(b, ())) for a in graph}
    return sorted((set(group) for group in groups if len(group) > 1), key=sorted)


def test_there_is_none_outside_the_models():
    assert [group for group in circles() if not any(name.startswith("stratatune.model.") for name in group)] == []


def test_there_is_none():
    assert circles() == []
