"""Every command in README and docs is one that the command line takes, every YAML block one that is read, every Python
block one that names what there is. Those of README and guides are also run (``test_blocks_run.py``)."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

import stratatune as st
from stratatune.app.cli import app, plans_behind
from stratatune.app.door import build_only
from stratatune.studies.grid.schema import recipe_schema
from stratatune.training.config import load_config
from stratatune.training.schema import run_schema

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(*languages: str) -> list[Any]:
    """The blocks of these languages on all pages."""
    return [
        pytest.param(text, id=f"{page.relative_to(ROOT)}:{number}")
        for page in PAGES
        for number, (language, text) in enumerate(_BLOCK.findall(page.read_text(encoding="utf-8")), start=1)
        if language in languages
    ]


def commands(text: str) -> list[list[str]]:
    """The words behind `stratatune` of each line that calls it, up to a pipe, a redirection or a remark in brackets."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        line = line.partition("  (")[0]
        line = re.sub(r"^\s*(?:\$ |[A-Z_]+=\S+ )*", "", line)
        if line.startswith("stratatune "):
            words = shlex.split(line, comments=True)[1:]
            ends = [number for number, word in enumerate(words) if word in ("|", ">", ">>", "&&", "&", "<", "2>")]
            found.append(words[: min(ends, default=len(words))])
    return found


@functools.cache
def _whole() -> Any:
    """The command line with the options of every verb."""
    build_only(None)
    return typer.main.get_command(app)


def parse(words: list[str]) -> None:
    """What the command line makes of the words, short of running the verb; raises where it takes no such words."""
    words = plans_behind(words)
    command, context = _whole(), None
    while True:
        if not hasattr(command, "commands"):
            command.make_context(command.name, words, parent=context)
            return
        if words[0].startswith("-"):  # --version, --install-completion
            assert words[0] in {name for one in command.get_params(typer.Context(command)) for name in one.opts}
            return
        context = command.make_context(command.name, list(words), parent=context)
        # A group with a default verb (grid RECIPE.yaml) puts it in front of the words.
        _, command, words = command.resolve_command(context, [*context._protected_args, *context.args])


@pytest.mark.parametrize("text", blocks("sh", "bash", ""))
def test_commands_are_taken(text):
    for words in commands(text):
        if "..." not in words:
            parse(words)


def test_what_is_no_command_is_found():
    from click.exceptions import UsageError

    for line in ("stratatune trian", "stratatune train --modle x", "stratatune predict runs/x --seed many"):
        (words,) = commands(line)
        with pytest.raises(Exception) as error:  # typer may bring its own copy of click
            parse(words)
        assert type(error.value).__name__ in {one.__name__ for one in (UsageError, *UsageError.__subclasses__())}


@pytest.mark.parametrize("text", blocks("yaml"))
def test_yaml_is_read(text, tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    (tmp_path / "it.yaml").write_text(text)
    data = load_config(tmp_path / "it.yaml")
    if "apiVersion" in data:  # Kubernetes'
        return
    schema = run_schema() if "train" in data else recipe_schema()
    assert [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(data)] == []


@pytest.mark.parametrize("text", blocks("python"))
def test_python_names_what_there_is(text):
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stratatune"):
            module = __import__(str(node.module), fromlist=["x"])
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
        if isinstance(node, ast.Call) and (name := _of_st(node.func)):
            _check_keywords(getattr(st, name), node)
        if name := _of_st(node):
            assert hasattr(st, name), name


def _of_st(node: ast.AST) -> str:
    inside = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "st"
    return node.attr if inside else ""  # pyright: ignore[reportAttributeAccessIssue]


def _check_keywords(function: Any, call: ast.Call) -> None:
    taken = inspect.signature(function).parameters
    if any(one.kind is one.VAR_KEYWORD for one in taken.values()):
        taken = {**taken, **st.RunConfig.model_fields}
    assert {keyword.arg for keyword in call.keywords if keyword.arg} <= set(taken), ast.unparse(call)


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "results").glob("*.md")), ids=lambda page: page.name)
def test_no_page_of_results_names_the_folders_of_one_machine(page):
    """A report's own commands do, so that they run from anywhere on the machine that trained."""
    found = re.findall(r"(?:cd|train|directory) /\S+", page.read_text(encoding="utf-8"))
    assert not found, f"{page.name}: {found[0]}; write the path from the grid's folder, such as runs/NAME"
