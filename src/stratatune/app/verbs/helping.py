"""``stratatune doctor`` and ``stratatune schema``: a check of this machine, and schemas for editors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from stratatune.app.door import Answer, Door, verb
from stratatune.app.run_options import completing
from stratatune.errors import ConfigError, did_you_mean
from stratatune.files import make_folder, write_text


@verb()
def doctor(door: Door) -> Answer:
    """Check this installation: versions, extras, devices, memory, caches, disk; with the command for what is missing.

    The exit code is 1 if a problem was found.
    """
    from stratatune.app.doctor import as_text, examine

    found = examine()
    return Answer(found, as_text(found), exit_code=int(bool(found["problems"])))


def _run() -> dict[str, Any]:
    from stratatune.training.schema import run_schema

    return run_schema()


def _recipe() -> dict[str, Any]:
    from stratatune.studies.grid.schema import recipe_schema

    return recipe_schema()


_SCHEMAS: Mapping[str, Callable[[], dict[str, Any]]] = {"run": _run, "recipe": _recipe}


@verb()
def schema(
    door: Door,
    what: Annotated[
        str,
        typer.Argument(
            help=f"One of: {', '.join(_SCHEMAS)}.",
            metavar="WHAT",
            show_default=False,
            autocompletion=completing(lambda: _SCHEMAS),
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="A file, instead of standard output.", show_default=False)] = None,
) -> Answer:
    """Print the JSON Schema of a run's or a recipe's YAML file, with which editors complete and check it."""
    if what not in _SCHEMAS:
        raise ConfigError([f"schema: {what!r}"], did_you_mean(what, _SCHEMAS))
    from stratatune.training.schema import editor_line

    found = _SCHEMAS[what]()
    text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    if out is None:
        return Answer(found, text)
    hint = "choose a file in a folder that you can write to"
    make_folder(out.parent, hint)
    write_text(out, text, hint)
    return Answer({"out": str(out)}, note=f"wrote {out}; first line of the YAML file: {editor_line(out.name)}")
