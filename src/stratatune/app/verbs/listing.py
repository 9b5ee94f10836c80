"""``stratatune list`` and ``stratatune init``: lists of what exists, and a file to begin with. No torch."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from stratatune.app.door import Answer, Door, verb
from stratatune.app.run_options import completing
from stratatune.errors import ConfigError, did_you_mean
from stratatune.files import make_folder, write_text

Row = dict[str, Any]


def _shown(row: Row) -> str:
    """One entry: its name and summary, then each further fact on a separate line."""
    name, what, *facts = row.items()
    lines = [f"{name[1]}  {what[1]}"]
    lines += [f"    {key.replace('_', ' ')}: {_flat(value)}" for key, value in facts if value not in ("", [], {}, None)]
    return "\n".join(lines)


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={_flat(one)}" for key, one in value.items() if one is not None)
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _methods() -> list[Row]:
    from stratatune.plan import BLOCK_METHODS, INSERTIONS

    places = {**dict.fromkeys(BLOCK_METHODS, "a stratum"), **dict.fromkeys(INSERTIONS, "a depth")}
    return [
        {
            "name": kind,
            "summary": _first_sentence(config.__doc__),
            "stands_in": places[kind],
            "options": _options(config),
        }
        for kind, config in {**BLOCK_METHODS, **INSERTIONS}.items()
    ]


def _first_sentence(doc: str | None) -> str:
    return " ".join((doc or "").strip().split("\n\n")[0].replace("``", "").split()).rstrip(".")


def _options(config: Any) -> Row:
    """The options of a method with their defaults; a depth has none and must be named."""
    fields = {name: field for name, field in config.model_fields.items() if name != "kind"}
    return {name: "(must be named)" if field.is_required() else _plain(field.default) for name, field in fields.items()}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _presets() -> list[Row]:
    from stratatune.plan import list_presets

    return [
        {"name": one.name, "summary": one.summary, "plan": one.text, "source": one.source} for one in list_presets()
    ]


def _tasks() -> list[Row]:
    from stratatune.data.tasks import TASKS

    return [
        {
            "name": one.name,
            "summary": one.title,
            "text": list(one.text),
            "label": one.label,
            "labels": list(one.labels),
            "label_words": dict(one.words),
            "templates": dict(one.templates),
            "metric": one.metric,
            "splits": dict(one.splits),
        }
        for one in TASKS.values()
    ]


def _backbones() -> list[Row]:
    from stratatune.plan import ARCHITECTURES, BUILTIN, architecture_of
    from stratatune.shapes.builtin import builtin_config

    configs = {name: builtin_config(name) or {} for name in BUILTIN}
    rows = {name: architecture_of(str(config["model_type"]), config).name for name, config in configs.items()}
    return [
        {
            "name": row.name,
            "summary": f"{len(row.roles)} roles a block, {row.heads}",
            "model_types": list(row.model_types),
            "roles": list(row.roles),
            "built_in_shapes": [name for name in BUILTIN if rows[name] == row.name],
        }
        for row in ARCHITECTURES
    ]


def _objectives() -> list[Row]:
    from stratatune.objectives.registry import OBJECTIVES

    return [
        {
            "name": one.name,
            "summary": one.summary,
            "families": sorted(one.families),
            "head": one.head,
            "reads": one.reads,
            "metrics": list(one.metrics),
            "options": {option: kind.__name__ for option, kind in one.options.items()},
        }
        for one in OBJECTIVES.values()
    ]


def _exits() -> list[Row]:
    from stratatune.exits.registry import EXITS

    return [
        {"name": one.name, "summary": one.summary, "extra": one.extra, "read_back_with": one.reader.format(out="DIR")}
        for one in EXITS.values()
    ]


_LISTS: Mapping[str, Callable[[], list[Row]]] = {
    "methods": _methods,
    "presets": _presets,
    "tasks": _tasks,
    "backbones": _backbones,
    "objectives": _objectives,
    "exits": _exits,
}
"""The lists by their word; each makes rows with a name and a summary before the other facts."""


@verb("list")
def list_(
    door: Door,
    what: Annotated[
        str,
        typer.Argument(
            help=f"One of: {', '.join(_LISTS)}.",
            metavar="WHAT",
            show_default=False,
            autocompletion=completing(lambda: _LISTS),
        ),
    ],
) -> Answer:
    """List what is available: methods, presets, tasks, backbones, objectives, exits."""
    if what not in _LISTS:
        raise ConfigError([f"list: {what!r}"], did_you_mean(what, _LISTS))
    rows = _LISTS[what]()
    return Answer(rows, "\n".join(_shown(row) for row in rows))


@verb()
def init(
    door: Door,
    file: Annotated[
        Path | None, typer.Argument(help="The file to write; run.yaml by default.", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The same: the file to write.", show_default=False)] = None,
    model: Annotated[str, typer.Option(help="The base model to write into it.")] = "roberta-base",
    train: Annotated[str, typer.Option(help="The training data to write into it.")] = "train.csv",
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> Answer:
    """Write a commented YAML file with every setting at its default, for `stratatune train`."""
    from stratatune.training.config import commented_yaml
    from stratatune.training.schema import RUN_SCHEMA, editor_line, run_schema

    if file is not None and out is not None and file != out:
        raise ConfigError([f"out: {out}; the file is named {file} already"], "name the file once")
    file = file or out or Path("run.yaml")
    if file.exists() and not force:
        raise ConfigError([f"{file} already exists"], "choose another file, or overwrite it with --force")
    hint = "choose a file in a folder that you can write to"
    beside = file.with_name(RUN_SCHEMA)
    # The file that must not be there comes last: whoever had no room for both can give the same command again.
    make_folder(file.parent, hint)
    write_text(beside, json.dumps(run_schema(), indent=2) + "\n", hint)
    write_text(file, f"{editor_line(RUN_SCHEMA)}\n{commented_yaml(model, train)}", hint)
    then = f"stratatune train {shlex.quote(str(file))}"
    note = f"wrote {file}, and {beside} for editors; change what you need, then: {then}"
    return Answer({"out": str(file)}, note=note)
