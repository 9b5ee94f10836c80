"""``start_from``: what a run takes from the settings of the run that it starts from, before any data are read."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from stratatune.errors import ConfigError, UserError
from stratatune.model.origin import find
from stratatune.model.start import record_of, refused
from stratatune.objectives.chat_templates import NAMED
from stratatune.objectives.registry import OBJECTIVES
from stratatune.outside import path_exists
from stratatune.training.result import RESULT
from stratatune.training.settings import check_source, load_config

_TEMPLATE = "chat_template"
GIVEN_BY_START = ("plan", "lr", "model", "revision", "template")
"""Settings that a run may have from the run that it starts from."""


def settings_of(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that ``values`` lack and that the run ``name``, which they start from, gives.

    Without a plan they get its plan, and its rate where its settings are there; without a model its base model. If both
    learn conversations, they get its chat template where that was not the tokenizer's own.

    Raises:
        ConfigError: one line: the run cannot be read, or its base model is not found.
    """
    folder, record = record_of(name)
    found: dict[str, Any] = {}
    own: Mapping[str, Any] = {}
    with contextlib.suppress(ConfigError):  # an adapter without its run has no rate
        own = load_config(folder.parent / "config.yaml")
    if "plan" not in values:
        found["plan"] = record["plan"]
        rate = own.get("lr")
        found |= {"lr": rate} if "lr" not in values and isinstance(rate, float) else {}
    if values.get("template") is None and (template := _chat_template(record, own, values)):
        found["template"] = template
    if "model" not in values:
        try:
            place, revision = find(record["base"], folder)
        except UserError as error:
            raise refused(name, error.message, "give its new place with --model") from error
        found |= {"model": place, **({"revision": revision} if revision and "revision" not in values else {})}
    return found


def _chat_template(record: Mapping[str, Any], own: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """The chat template by which a run of these ``values`` goes on; empty where it is the tokenizer's own, or none.

    It is the text that was saved with the adapter: a file may have changed since, or be gone.
    """
    name, _, _ = str(values.get("objective") or "").partition("(")
    learns = OBJECTIVES.get(name.strip())
    saved = (record.get("reading") or {}).get(_TEMPLATE)
    if not isinstance(saved, str) or learns is None or _TEMPLATE not in {one.name for one in fields(learns)}:
        return ""
    given = own.get("template")
    if own and given is None:
        return ""
    return given if given in NAMED else saved


def settings_of_finished(out: str, name: str) -> dict[str, Any] | None:
    """Those settings of the finished run in ``out`` that ``name``, which it started from, gave it; None: there is none.

    Nothing of ``name`` is read again, which may be gone.
    """
    folder = Path(out).expanduser()
    try:
        own = load_config(folder / "config.yaml") if path_exists(folder / RESULT) else {}
    except UserError:  # said where the run is resumed
        return None
    if own.get("start_from") not in (name, str(Path(name).expanduser())):
        return None
    return {setting: own[setting] for setting in GIVEN_BY_START if own.get(setting) is not None}


def check_apart(name: str, out: str) -> None:
    """Refuse a run that starts from nothing, or that would be written over the run that it starts from.

    Raises:
        ConfigError: one line.
    """
    if missing := check_source("start_from", name, files=False):
        raise ConfigError([missing])
    start, own = (Path(place).expanduser().resolve() for place in (name, out))
    if start == own or own / "adapter" in (start, *start.parents):
        raise refused(name, "it is the folder of this run as well", "give the new run a folder of its own with --out")
