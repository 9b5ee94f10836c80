"""What one more of a kind costs: how often the source branches on a family of models, and circles of files."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratatune.model.families.registry import FAMILIES
from stratatune.model.heads.registry import HEADS
from stratatune.shapes.table import ARCHITECTURES

SOURCE = Path(__file__).parents[1] / "src" / "stratatune"
FAMILY_FILES = {
    *("model/families", "shapes/architectures.py", "shapes/encoders.py", "shapes/decoders.py"),
    *("shapes/stateful_decoders.py", "shapes/encoder_decoders.py", "shapes/stacks.py", "shapes/sizes.py"),
}
"""A family's registry and files."""
MOST = 8


def trees(*, without: set[str] = frozenset()) -> Iterator[tuple[str, ast.Module]]:  # pyright: ignore[reportArgumentType]
    """Every source file by its path, but for these files and folders."""
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        if not any(name == one or name.startswith(f"{one}/") for one in without):
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def conditions(tree: ast.AST) -> Iterator[ast.expr]:
    """Everything that decides which way the code goes."""
    asserted = {id(one) for node in ast.walk(tree) if isinstance(node, ast.Assert) for one in ast.walk(node)}
    for node in (one for one in ast.walk(tree) if id(one) not in asserted):
        if isinstance(node, ast.If | ast.IfExp | ast.While):
            yield node.test
        elif isinstance(node, ast.comprehension):
            yield from node.ifs
        elif isinstance(node, ast.BoolOp | ast.Compare):
            yield node
        elif isinstance(node, ast.Match):
            yield node.subject


def names_a_family(node: ast.AST) -> bool:
    """Whether an expression asks which family a model is of."""
    if isinstance(node, ast.Attribute):
        return node.attr in ("causal", "is_encoder_decoder", "walked_by")
    if isinstance(node, ast.Name):
        return node.id in ("causal", "two_stacks", "encoder_decoder")
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        words = [one.value for side in sides for one in ast.walk(side) if isinstance(one, ast.Constant)]
        of_family = any(isinstance(side, ast.Attribute) and side.attr == "family" for side in sides)
        of_stack = any(isinstance(side, ast.Attribute) and side.attr == "decoder" for side in sides)
        return (of_family and bool(set(words) & set(FAMILIES))) or (of_stack and None in words)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
        rows = {"EncoderArchitecture", "DecoderArchitecture", "EncoderDecoderArchitecture"}
        return any(isinstance(one, ast.Name) and one.id in rows for one in ast.walk(node))
    return False


def branches(tree: ast.AST) -> set[int]:
    """The lines on which a condition asks for the family."""
    return {test.lineno for test in conditions(tree) for node in ast.walk(test) if names_a_family(node)}


def test_few_lines_branch_on_a_family():
    found = {f"{name}:{line}" for name, tree in trees(without=FAMILY_FILES) for line in branches(tree)}
    assert len(found) <= MOST, sorted(found)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("if shape.causal: x = 1", 1),
        ("y = 1 if row.family == 'decoder' else 2", 1),
        ("if asked.family in ('encoder', 'decoder'): x = 1", 1),
        ("if shape.decoder is not None: x = 1", 1),
        ("z = [one for one in rows if isinstance(one, EncoderArchitecture)]", 1),
        ("while two_stacks and more: x = 1", 1),
        ("f(causal=shape.causal)", 0),
        ("if plan.family == 'bft': x = 1", 0),
        ("if asked.family in families: x = 1", 0),
    ],
)
def test_what_counts_as_a_branch(text, count):
    assert len(branches(ast.parse(text))) == count


# ---- circles ------------------------------------------------------------------------------------------------------


def imports(name: str, tree: ast.AST, files: set[str]) -> set[str]:
    """The files that a file imports at its top, for type checking too, and not inside a function."""
    inside = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stratatune") and id(node) not in inside:
            module = str(node.module).removeprefix("stratatune").strip(".").replace(".", "/")
            for target in (f"{module}.py", *(f"{module}/{alias.name}.py" for alias in node.names)):
                found |= {target} & files
    return found - {name}


def circles() -> list[frozenset[str]]:
    """The strongly connected sets of more than one file, by Tarjan's algorithm."""
    read = dict(trees())
    graph = {name: imports(name, tree, set(read)) for name, tree in read.items()}
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[frozenset[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in graph[name]:
            if other not in order:
                visit(other)
            if other in stack:
                low[name] = min(low[name], low[other])
        if low[name] == order[name]:
            together = set()
            while name not in together:
                together.add(stack.pop())
            found.append(frozenset(together))

    for name in graph:
        if name not in order:
            visit(name)
    return [one for one in found if len(one) > 1]


def test_no_circle_of_files():
    assert circles() == []


# ---- the registries -----------------------------------------------------------------------------------------------


def test_every_row_names_a_family_that_is_there():
    assert {row.walked_by for row in ARCHITECTURES} == set(FAMILIES)


def test_what_a_row_says_of_its_heads_is_what_the_table_of_heads_says():
    """The list of architectures must not import torch, so a row says it in words."""
    words = {"masked_lm": "masked-LM", "lm": "language-model", "seq2seq_lm": "language-model"}
    words |= {"sequence": "classification", "token": "token", "span": "span"}
    for row in ARCHITECTURES:
        heads = [one.name for one in HEADS.values() if row.family in one.families and one.name != "none"]
        assert set(row.heads.removesuffix(" heads").replace(" and", ",").split(", ")) == {words[one] for one in heads}
