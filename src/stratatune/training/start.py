"""``start_from``: what a run takes from the settings of the run that it starts from, before any data are read."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stratatune.errors import ConfigError, UserError
from stratatune.model.origin import find
from stratatune.model.start import record_of, refused
from stratatune.training.config import AUTO, RunConfig
from stratatune.training.settings import check_source, load_config


def settings_of(values: Mapping[str, Any], check_files: bool) -> dict[str, Any]:
    """The settings that ``values``, which have ``start_from``, take from that run: those that they lack.

    Without a plan they get the plan, and where the run's own settings are there its rate; without a model its base
    model. ``check_files``: whether the run must be there even if nothing is missing.

    Raises:
        ConfigError: one line: the run cannot be read, or a plan cannot be both chosen and taken.
    """
    name = str(values["start_from"])
    if str(values.get("plan") or "").strip() == AUTO:
        raise refused(name, "plan: auto is chosen for the base model", "leave out --plan, or name a plan")
    if check_files:
        _check_apart(name, values)
        if missing := check_source("start_from", name, files=False):
            raise ConfigError([missing])
    if not check_files and {"plan", "model"} <= values.keys():
        return {}
    folder, record = record_of(name)
    found: dict[str, Any] = {}
    if "plan" not in values:
        found["plan"] = record["plan"]
        with contextlib.suppress(ConfigError):  # an adapter without its run has no rate
            rate = load_config(folder.parent / "config.yaml").get("lr")
            found |= {"lr": rate} if "lr" not in values and isinstance(rate, float) else {}
    if "model" not in values:
        try:
            place, revision = find(record["base"], folder)
        except UserError as error:
            raise refused(name, error.message, "give its new place with --model") from error
        found |= {"model": place, **({"revision": revision} if revision and "revision" not in values else {})}
    return found


def _check_apart(name: str, values: Mapping[str, Any]) -> None:
    """Refuse a run that would be written over the one that it starts from."""
    out = Path(str(values.get("out") or RunConfig.model_fields["out"].default)).expanduser().resolve()
    start = Path(name).expanduser().resolve()
    if start == out or out / "adapter" in (start, *start.parents):
        raise refused(name, "it is the folder of this run as well", "give the new run a folder of its own with --out")
