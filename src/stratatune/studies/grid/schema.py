"""The JSON Schema of a recipe's YAML file, made from the classes that read it. No torch."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from stratatune.studies.grid.recipe import Recipe
from stratatune.studies.grid.recipe_parts import PLURALS, Claim, Published, ReportLayout
from stratatune.training.schema import DRAFT, run_schema

_VALUE = {"type": ["string", "number"]}
_NAMES = {"anyOf": [_VALUE, {"type": "array", "items": _VALUE}]}
_PLACES = {"type": "object", "additionalProperties": _NAMES}


def recipe_schema() -> dict[str, Any]:
    """The schema of a recipe's file: nothing that a recipe may hold is refused.

    It refuses less than :func:`stratatune.studies.grid.recipe.load_recipe`: names on axes are not compared.
    """
    settings = run_schema()["properties"]
    # In a text of a recipe {name} stands for a folder or a place, and its value has another type.
    free = {name: {"anyOf": [one, {"type": "string"}], **_about(one)} for name, one in settings.items()}
    item = {"anyOf": [_VALUE, {"type": "object", "properties": {"name": _VALUE, **free}, "required": ["name"]}]}
    axis = {"type": "array", "items": item, "minItems": 1}
    own = {
        "extends": {"type": "string", "description": "The file of a recipe whose keys apply where this one has none."},
        "title": {"type": "string"},
        "about": {"type": "string"},
        "paper": {"type": "string"},
        "data": {"description": "Folders by name.", "type": ["object", "string", "null"]},
        "base": {"description": "Settings of every run.", "type": "object", "properties": free},
        "settings": {"description": "Further axes.", "type": "object", "additionalProperties": axis},
        **dict.fromkeys(PLURALS, axis),
        **dict.fromkeys(("pairs", "exclude"), {"type": "array", "items": _PLACES}),
        "report": _report(),
        "published": {"type": "array", "items": _published()},
        "claims": {"type": "array", "items": _claim()},
        "otherwise": {"description": "Keys for where a folder is not there.", "type": "object"},
    }
    missing = Recipe.model_fields.keys() - own.keys()
    assert not missing, f"the schema lacks {missing}"
    return {
        "$schema": DRAFT,
        "title": "A recipe of stratatune",
        "description": "The runs of a table or a figure; docs/grid.md describes the keys.",
        "type": "object",
        "properties": own,
        "additionalProperties": False,
    }


def _about(one: dict[str, Any]) -> dict[str, Any]:
    return {key: one[key] for key in ("description",) if key in one}


def _properties(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()["properties"]


def _report() -> dict[str, Any]:
    own = _properties(ReportLayout)
    for name in ("rows", "columns", "figures"):
        items = own[name].pop("items")
        own[name]["anyOf"] = [{"type": own[name].pop("type"), "items": items}, items]
    return {"type": "object", "properties": own, "additionalProperties": False}


def _published() -> dict[str, Any]:
    """The schema of a number with its coordinates next to it, or in ``where``."""
    own = {name: one for name, one in _properties(Published).items() if name != "where"}
    return {"type": "object", "properties": {**own, "where": _PLACES}, "required": ["value"]}


def _claim() -> dict[str, Any]:
    own = {**_properties(Claim), "better": _PLACES, "worse": _PLACES}
    return {
        "type": "object",
        "properties": own,
        "required": ["text", "better", "worse"],
        "additionalProperties": False,
    }
