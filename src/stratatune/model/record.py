"""What ``adapter.json`` must hold, checked once where it is read, so that nothing behind it meets another type."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from stratatune.outside import Written

Count = Annotated[int, Field(ge=0, lt=2**63)]


class BaseRecord(Written):
    """The base model that the adapter was trained on."""

    name: Annotated[str, Field(min_length=1)]
    model_type: str
    hash: str
    head: str
    attention: str | None = None


class ReadingRecord(Written):
    """How text becomes a label, as far as a model and its precision depend on it."""

    objective: str | None = None
    labels: list[str] | None = None
    kept: Literal["fp32", "bf16", "fp16", "int8"] = "fp32"
    scales: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    score: str = ""
    template: str | None = None


class AdapterRecord(Written):
    """The whole record. ``reading`` is checked further by the objective that takes it."""

    stratatune: str
    plan: Annotated[str, Field(min_length=1)]
    frozen_depth: Count
    trainable: Count
    base: BaseRecord
    output: str
    num_labels: Annotated[int, Field(ge=0, le=100_000)]
    also_train: list[str]
    reading: ReadingRecord

    @classmethod
    def check(cls, record: dict[str, Any]) -> None:
        """Raises pydantic's ValidationError where ``record`` is none."""
        cls.model_validate(record)
