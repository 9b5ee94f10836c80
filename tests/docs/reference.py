"""The pages of docs/reference, made from the code: ``PYTHONPATH=tests python tests/docs/reference.py``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

import stratatune as st
from stratatune.app.cli import app
from stratatune.app.door import build_only
from stratatune.training.config import RunConfig, headings, words

FOLDER = Path(__file__).parents[2] / "docs" / "reference"
_MADE = "<!-- made by tests/docs/reference.py -->\n"
#: Public names that ``dir(stratatune)`` leaves out.
RARER = ("Adapters", "Answerer", "Embedder", "Tagger", "add_architecture", "remove")
_EVERYWHERE = ("json", "quiet", "debug", "help")


def pages() -> dict[str, str]:
    """Each page by its name."""
    return {"commands.md": commands(), "settings.md": settings(), "python.md": python()}


# --- commands ------------------------------------------------------------------------------------------------------


def commands() -> str:
    """Every verb with its arguments and options."""
    build_only(None)
    group: Any = typer.main.get_command(app)
    parts = [
        "# Commands",
        "",
        _MADE,
        "Every verb takes `--json` (one JSON object on standard output), `--quiet` (notices and errors only) and",
        "`--debug` (the traceback of an error). The exit code is 0 for success, 2 for a mistake in the input, and 1",
        "for a failure of the program or the machine. The settings of a run are options of `train`, `suggest` and",
        "`cache build`; [Settings of a run](settings.md) lists them once.",
    ]
    for words_, verb in _verbs(group, ("stratatune",)):
        parts += ["", f"## `{' '.join(words_)}`", "", _flat(verb.help), "", *_options(verb)]
    return _page(parts)


def _verbs(group: Any, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, one in group.commands.items():
        if hasattr(one, "commands"):
            yield from _verbs(one, (*above, name))
        else:
            yield (*above, name), one


def _options(verb: Any) -> list[str]:
    runs = set(RunConfig.model_fields) & {one.name for one in verb.params}
    whole = len(runs) > len(RunConfig.model_fields) / 2  # it takes the settings of a run
    shown = [one for one in verb.params if one.name not in _EVERYWHERE and not (whole and one.name in runs)]
    if not shown:
        return ["It takes the settings of a run."] if whole else []
    rows = [f"| {_written(one)} | {_cell(_flat(one.help))} | {_default(one)} |" for one in shown]
    more = ["", "It also takes the settings of a run."] if whole else []
    return ["| | | default |", "|---|---|---|", *rows, *more]


def _written(one: Any) -> str:
    if one.param_type_name == "argument":
        return f"`{_cell(one.metavar or one.name.upper())}`"
    return ", ".join(f"`{name}`" for name in (*one.opts, *one.secondary_opts))


def _default(one: Any) -> str:
    value = one.default
    if value is None or value is False or callable(value) or value in ((), [], ""):
        return ""
    return f"`{_cell(str(getattr(value, 'value', value)))}`"


# --- settings ------------------------------------------------------------------------------------------------------


def settings() -> str:
    """Every setting of a run under its heading."""
    parts = [
        "# Settings of a run",
        "",
        _MADE,
        "In a YAML file (`stratatune init` writes one), as options (`--batch-size 16`), with `--set batch_size=16`,",
        "and as keywords of `st.train`.",
        "`stratatune schema run` prints the JSON Schema.",
    ]
    heading = ""
    for name, field in RunConfig.model_fields.items():
        if headings()[name] != heading:
            heading = headings()[name]
            parts += ["", f"## {heading}", "", "| setting | meaning | default |", "|---|---|---|"]
        legal = words(name)
        meaning = (field.description or "") + (f" One of: {', '.join(f'`{word}`' for word in legal)}." if legal else "")
        value = "required" if field.is_required() else field.get_default(call_default_factory=True)
        parts.append(f"| `{name}` | {_cell(meaning)} | {_value(value)} |")
    return _page(parts)


def _value(value: Any) -> str:
    if value in (None, (), {}):
        return ""
    return value if value == "required" else f"`{str(value).lower() if isinstance(value, bool) else value}`"


# --- Python --------------------------------------------------------------------------------------------------------


def python() -> str:
    """Every public name with its signature and its docstring."""
    parts = ["# Python", "", _MADE, "`import stratatune as st` imports no torch; each name brings what it needs."]
    for name in sorted({*st.__all__, *RARER}, key=str.lower):
        one = getattr(st, name)
        if callable(one):
            parts += ["", f"## `st.{name}`", "", *_described(name, one)]
    return _page(parts)


def _described(name: str, one: Any) -> list[str]:
    lines = ["```", f"st.{name}{_signature(one)}", "```", "", *_doc(one)]
    if not inspect.isclass(one) or issubclass(one, Exception) or one is RunConfig:
        return lines
    for member, function in inspect.getmembers(one):
        own = inspect.isfunction(function) or inspect.ismethod(function)
        if own and not member.startswith("_") and function.__module__.startswith("stratatune") and function.__doc__:
            lines += ["", f"**`.{member}{_signature(function)}`**", "", *_doc(function)]
    return lines


def _signature(one: Any) -> str:
    try:
        found = inspect.signature(one)
    except ValueError:
        return "(...)"
    kept = [parameter for name, parameter in found.parameters.items() if name not in ("self", "cls")]
    kept = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in kept]
    text = str(found.replace(parameters=kept, return_annotation=inspect.Signature.empty))
    return text if len(text) < 400 else "(...)"


def _doc(one: Any) -> list[str]:
    """A docstring as Markdown: its sections as lists."""
    doc = inspect.getdoc(one) or ""
    doc = re.sub(r":(?:class|func|meth|attr|mod|data):`~?([^`]+)`", r"`\1`", doc).replace("``", "`")
    doc = doc.replace("\n::\n", "\n")  # the mark of an indented block, which Markdown does without
    doc, _, listed = doc.partition("\nSettings:\n")
    doc = doc.replace("they are listed below", "[Settings of a run](settings.md) lists them") if listed else doc
    lines: list[str] = []
    section = ""
    for line in doc.splitlines():
        if found := re.fullmatch(r"(Args|Returns|Raises|Attributes|Yields):", line):
            section = found[1]
            lines += ["", f"*{line}*", ""]
        elif section in ("Returns", "Yields") and line.startswith("    "):
            lines.append(line.strip())
        elif section and (found := re.match(r"    ([\w*][\w, .*]*): (.*)", line)):
            lines.append(f"- `{found[1]}`: {found[2]}")
        elif section and line.startswith("    "):
            lines.append(f"  {line.strip()}")
        else:
            section = section if not line.strip() else ""
            lines.append(line)
    return lines


# --- both ----------------------------------------------------------------------------------------------------------


def _flat(text: str | None) -> str:
    return re.sub(r" \n", "\n", "\n\n".join(" ".join(part.split()) for part in (text or "").split("\n\n")))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _page(parts: list[str]) -> str:
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
