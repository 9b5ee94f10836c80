"""The JSON Schema of a run's YAML file, made from ``RunConfig``. No torch."""

from __future__ import annotations

import copy
from typing import Any

from stratatune.training.config import RunConfig, words

DRAFT = "https://json-schema.org/draft/2020-12/schema"
RUN_SCHEMA = "stratatune-run.schema.json"
"""The file that `stratatune init` writes next to its own."""
_LISTS = ("text", "loggers")
"""Settings that may also be written as one text, with commas."""
_OF_A_TYPE = ("type", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_AS_TEXT = {
    "integer": r"^\s*[+-]?\d[\d_]*(\.0*)?\s*$",
    "number": r"^\s*[+-]?(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$",
    "boolean": "^([Tt]rue|TRUE|[Ff]alse|FALSE|[Yy]es|YES|[Nn]o|NO|[Oo]n|ON|[Oo]ff|OFF)$",
}
"""How a value of a type looks as a text."""
_QUOTIENT = r"^\s*\d{1,6}\s*/\s*\d{1,6}\s*$"


def run_schema() -> dict[str, Any]:
    """The schema of a run's file: it accepts all that :func:`stratatune.training.config.validate` accepts.

    It refuses less than that: it does not check whether a plan parses or a file is there.
    """
    whole = RunConfig.model_json_schema()
    properties = {name: setting(name, one) for name, one in whole["properties"].items()}
    return {
        "$schema": DRAFT,
        "title": "A run of stratatune",
        "description": "The settings of `stratatune train FILE`; `stratatune init` writes a file with all of them.",
        "type": "object",
        "properties": properties,
        "required": whole["required"],
        "additionalProperties": False,
    }


def setting(name: str, made: dict[str, Any]) -> dict[str, Any]:
    """Pydantic's schema of a setting, widened by the other ways in which the setting may be written."""
    found = {key: value for key, value in copy.deepcopy(made).items() if key != "title"}
    if name in _LISTS:
        several = {key: found.pop(key) for key in ("type", "items")}
        return _described(found, [{**several, "items": _texts(several["items"])}, _text_of(name)])
    if name == "label":
        columns = {"type": "array", "items": _texts({"type": "string"}), "minItems": 1}
        return _texts({**found, "anyOf": [*found["anyOf"], columns]})
    if name == "plan":
        return _described(found, [{"type": found.pop("type")}, {"type": "object"}])
    if name == "label_words":  # a label may look like a number, and YAML takes it for one
        found.pop("additionalProperties", None)
    if name == "eval_every":  # whole or not; pydantic names the bound of such a setting in its own way
        del found["anyOf"]
        found = _numbers({"type": "number", "exclusiveMinimum": found.pop("gt"), **found})
        return {**found, "anyOf": [*found["anyOf"], {"type": "string", "pattern": _QUOTIENT}]}
    if name == "objective":
        return {**found, "examples": list(words("objective"))}
    return _numbers(_texts(found))


def _text_of(name: str) -> dict[str, Any]:
    return _texts({"type": "string"}) if name == "text" else {"type": "string"}


def _described(found: dict[str, Any], ways: list[dict[str, Any]]) -> dict[str, Any]:
    return {"anyOf": ways, **found}


def _texts(found: dict[str, Any]) -> dict[str, Any]:
    """Allow numbers for texts: YAML takes a text that looks like one (a column called 1) for a number."""
    if found.get("type") == "string" and "enum" not in found:
        found["type"] = ["string", "number"]
    for way in found.get("anyOf", ()):
        _texts(way)
    return found


def _numbers(found: dict[str, Any]) -> dict[str, Any]:
    """Allow texts for numbers and switches: in quotes, and ``1e-3``, which YAML takes for a text."""
    ways = found.pop("anyOf", None) or [{key: found.pop(key) for key in _OF_A_TYPE if key in found}]
    more = [{"type": "string", "pattern": _AS_TEXT[way["type"]]} for way in ways if _written_as_text(way)]
    # Where any text is legal, it is so already.
    more = [] if any("string" in way.get("type", ()) for way in ways) else more
    return _described(found, [*ways, *more]) if more or len(ways) > 1 else {**ways[0], **found}


def _written_as_text(way: dict[str, Any]) -> bool:
    return isinstance(way.get("type"), str) and way["type"] in _AS_TEXT


def editor_line(schema: str) -> str:
    """The first line of a YAML file by which editors with a YAML language server find its schema."""
    return f"# yaml-language-server: $schema={schema}"
