"""The options of a run on the command line, one for each setting of ``RunConfig``, made from its fields.

Name, type, help, default and panel are the field's own; a new setting has its option without a line here.
"""

from __future__ import annotations

import csv
import functools
import inspect
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

import typer

from stratatune.progress import Reporter
from stratatune.spelling import settings_are_in_a_file

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from stratatune.training.config import RunConfig

_PLAIN = (int, float, bool)
_LETTERS = {int: "N", float: "X", str: "TEXT", tuple: "NAME,...", dict: "LABEL=WORD,..."}
_METAVARS = {
    **dict.fromkeys(("train", "eval", "test", "corpus"), "FILE"),
    **{"out": "DIR", "start_from": "RUN", "cache": "WORD|DIR", "cache_limit": "SIZE", "text": "COL[,COL]"},
    **{"label": "COL[,COL]", "model": "MODEL", "plan": "PLAN", "task": "TASK", "metric": "NAME"},
    **{"corpus_column": "COL", "eval_every": "N|1/N"},
}
"""Metavars for options whose kind of value says more than its type."""
_REPEATED = ("text", "label")
"""Options that may be given more than once, a column each."""


class RunOptions:
    """The options of a run: the file's settings, overridden by the options given, and these by ``--set``."""

    @property
    def __signature__(self) -> inspect.Signature:
        from stratatune.training.config import RunConfig, headings

        panels = headings()
        made = [_option(name, field, panels[name]) for name, field in RunConfig.model_fields.items()]
        return inspect.Signature([_FILE, *made, _SET])

    def __call__(self, file: Path | None, set: list[str] | None, **given: Any) -> RunConfig:
        from stratatune.training.config import RunConfig, load_config, merge, validate

        given = {name: value for name, value in given.items() if value is not None}
        given |= {name: given[name][0] for name in _REPEATED if len(given.get(name, ())) == 1}
        if "label_words" in given:
            given["label_words"] = _words(given["label_words"])
        mixed = {name for name in given if _reads_as(RunConfig.model_fields[name]) is None}
        as_set = [f"{name}={given.pop(name)}" for name in sorted(mixed)]
        if file:
            settings_are_in_a_file({*given, *mixed})
        asked = load_config(file) if file else {}
        config = validate(merge({**asked, **given}, [*as_set, *(set or [])]))
        if config.trust_remote_code and asked.get("trust_remote_code") and "trust_remote_code" not in given:
            Reporter().notice(remote_code(file, config.model))
        return config


run_options = RunOptions()


def remote_code(file: Path | None, model: str) -> str:
    """The notice about a file that lets a model bring its own code."""
    return f"{file} sets trust_remote_code: true, so Python code that comes with {model} runs on this machine"


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


_FILE = _parameter(
    "file",
    Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN.yaml", help="A YAML file of settings; the options below override it.", show_default=False
        ),
    ],
)
_SET = _parameter(
    "set",
    Annotated[
        list[str] | None,
        typer.Option(help="Any setting, as in RUN.yaml; repeatable.", metavar="NAME=VALUE", show_default=False),
    ],
)


def _option(name: str, field: FieldInfo, panel: str) -> inspect.Parameter:
    """The option of one setting. If not given, it is None, and the file's value or the default applies."""
    from stratatune.training.config import choices

    kind = _reads_as(field) or str
    made = typer.Option(
        f"--{name.replace('_', '-')}",
        help=f"{field.description}{choices(name)}{_default(field)}",
        metavar=None if kind is bool else _metavar(name, field, kind),
        rich_help_panel=panel,
        show_default=False,
        autocompletion=None if kind is bool else completing(functools.partial(_legal, name)),
    )
    return _parameter(name, Annotated[list[str] | None if name in _REPEATED else kind | None, made])


def completing(legal: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """The completions of a partial word: the legal words that start with it."""

    def offered(incomplete: str) -> list[str]:
        return [word for word in legal() if word.startswith(incomplete)]

    return offered


def _legal(name: str) -> Iterable[str]:
    """The words that a setting accepts."""
    from stratatune.training.config import words

    if name == "plan":
        from stratatune.plan import list_presets

        return [preset.name for preset in list_presets()]
    if name == "task":
        from stratatune.data.tasks import TASKS

        return TASKS
    return words(name)


def _types(field: FieldInfo) -> list[Any]:
    """The types of a setting's values, without None."""
    joined = get_origin(field.annotation) in (Union, types.UnionType)
    return [one for one in (get_args(field.annotation) if joined else [field.annotation]) if one is not type(None)]


def _reads_as(field: FieldInfo) -> type | None:
    """The type by which the command line reads a value; None if it may have several, as in ``--set``."""
    kinds = _types(field)
    if len(kinds) > 1:
        return None
    return kinds[0] if kinds[0] in _PLAIN else str


def _metavar(name: str, field: FieldInfo, kind: type) -> str:
    from stratatune.training.config import words

    (first, *_) = _types(field)
    origin = get_origin(first)
    return _METAVARS.get(name) or ("WORD" if words(name) else _LETTERS.get(origin or kind, "TEXT"))


def _default(field: FieldInfo) -> str:
    value = None if field.is_required() else field.get_default(call_default_factory=True)
    return "" if value is None or value in ((), {}) or isinstance(value, bool) else f" Default: {value}."


def _words(text: str) -> dict[str, str]:
    """Parse ``yes=good,no=bad`` as a mapping: a line of csv, so that quotes enclose a label with a comma.

    Raises:
        ConfigError: a part that is not ``label=word``.
    """
    from stratatune.errors import ConfigError

    parts = next(csv.reader([text], skipinitialspace=True), []) or [""]
    # At the last sign: a label may hold one, and a word hardly does.
    pairs = [
        (label if sign else word, word if sign else "") for label, sign, word in (p.rpartition("=") for p in parts)
    ]
    odd = [f"label_words: {label!r} has no word" for label, word in pairs if not (label.strip() and word.strip())]
    if odd:
        raise ConfigError(odd, "write --label-words yes=good,no=bad")
    return {label.strip(): word.strip() for label, word in pairs}
