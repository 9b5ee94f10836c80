"""Convert an objective to plain data, and back.

What is written follows from an objective's fields, and is checked by their types where it is read: a saved adapter
comes from outside. The fields that all objectives have are here, since version 0.1.0 wrote them in another way.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, field, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_type_hints

import pydantic
from pydantic import AfterValidator, BaseModel, ConfigDict, create_model

from stratatune.data.tasks import TASKS
from stratatune.outside import Written

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_NAME = "saved as"
Model = TypeVar("Model", bound=BaseModel)


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        raise ValueError("names that differ")
    return names


def _known(task: str | None) -> str | None:
    if task is not None and task not in TASKS:
        raise ValueError("the name of a task, see `stratatune list tasks`")
    return task


Names = Annotated[tuple[str, ...], AfterValidator(_distinct)]
"""The type of a field that holds names of classes, each once."""


class SavedObjective(Written):
    """The fields that all objectives have."""

    text: Annotated[tuple[Annotated[str, pydantic.Field(min_length=1)], ...], pydantic.Field(min_length=1)]
    label: str | None = None
    metric: str = "accuracy"
    max_length: Annotated[int, pydantic.Field(ge=1, le=2**31)] = 256
    task: Annotated[str | None, AfterValidator(_known)] = None
    family: Literal["encoder", "decoder", "encoder-decoder"] = "encoder"


class _Flags(Written):
    """The flags that version 0.1.0 wrote in place of the family."""

    decoder: bool = False
    two_stacks: bool = False

    @property
    def family(self) -> str:
        """The family that the flags stand for."""
        return "encoder-decoder" if self.two_stacks else "decoder" if self.decoder else "encoder"


def common_from(data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that all objectives have, from saved data.

    Raises:
        ValidationError: pydantic's: one is missing, or not of its type.
    """
    return dict(checked(SavedObjective, {"family": checked(_Flags, data).family, **data}))


def saved_as(name: str) -> Any:
    """A field, without a default, that is saved under another name than its own."""
    return field(metadata={_NAME: name})


def unsaved(default: Any) -> Any:
    """A field of which only training needs the value: it is not saved, and is the default where the rest is loaded."""
    return field(default=default, metadata={_NAME: None})


def saved_fields(objective: DataclassInstance) -> dict[str, Any]:
    """An objective's own fields as plain data for JSON: all but those of :class:`SavedObjective`."""
    kind = type(objective)
    values = {_name(one): getattr(objective, one.name) for one in _own(kind)}
    return _model(kind).model_validate(values).model_dump(mode="json")


def fields_from(kind: type[DataclassInstance], data: Mapping[str, Any]) -> dict[str, Any]:
    """The own fields from saved data; a field with a default may be missing, as in data saved before it existed.

    Raises:
        ValidationError: pydantic's: one is missing, or not of its type.
    """
    found = checked(_model(kind), data)
    return {one.name: getattr(found, _name(one)) for one in _own(kind)}


def checked(model: type[Model], data: Mapping[str, Any]) -> Model:
    """Validate ``data`` as JSON by a pydantic model, whose strict rules accept a list for a tuple in JSON alone.

    Raises:
        ValidationError: pydantic's.
    """
    return model.model_validate_json(json.dumps({name: data[name] for name in model.model_fields if name in data}))


def _own(kind: type[DataclassInstance]) -> list[Field[Any]]:
    every = (one for one in fields(kind) if one.name not in SavedObjective.model_fields)
    return [one for one in every if one.metadata.get(_NAME, one.name) is not None]


def _name(one: Field[Any]) -> str:
    return one.metadata.get(_NAME, one.name)


class _Fields(Written):
    model_config = ConfigDict(**{**Written.model_config, "allow_inf_nan": False})


@functools.cache
def _model(kind: type[DataclassInstance]) -> type[BaseModel]:
    """A pydantic model of an objective's own fields, which checks them."""
    types = get_type_hints(kind, include_extras=True)
    known: dict[str, Any] = {_name(one): (types[one.name], _default(one)) for one in _own(kind)}
    return create_model(kind.__name__, __base__=_Fields, **known)


def _default(one: Field[Any]) -> Any:
    if one.default_factory is not MISSING:
        return pydantic.Field(default_factory=one.default_factory)
    return ... if one.default is MISSING else one.default
