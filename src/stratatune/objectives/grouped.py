"""What the objectives over several texts have in common: which texts are equal, and what a score may be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from hashlib import blake2b
from typing import Any

import numpy as np

from stratatune.data.readers import Table
from stratatune.errors import DataError, shown
from stratatune.objectives.objective import Asked, Objective


def name_of(*texts: str) -> int:
    """A number that equal texts share, in whatever data set they are; an int64."""
    hashed = blake2b("\0".join(texts).encode(), digest_size=8)
    return int.from_bytes(hashed.digest(), "little", signed=True)


def score_range(asked: Asked) -> tuple[float, float]:
    """The scores that stand for 0 and 1: the task's, or (0, 1) where all are in it, else from 0 or the lowest on.

    Raises:
        DataError: every score is the same.
    """
    if asked.data.labels is None:
        return 0.0, 1.0
    if asked.task and asked.task.range:
        return asked.task.range
    values = np.asarray(asked.data.labels, np.float64)
    low, high = float(values.min()), float(values.max())
    if low == high:
        raise DataError(f"{asked.data.source}: every score is {low:g}", "scores must differ to be learnt from")
    return (0.0, 1.0) if low >= -1 and high <= 1 else (min(low, 0.0), high)


def refuse_equal(table: Table, column: Sequence[str], other: Sequence[str], what: str) -> None:
    """Refuse rows in which two columns hold the same text, as ``what`` says."""
    for row, one, two in zip(table.rows, column, other, strict=True):
        if one == two:
            raise DataError(f"{table.source}, row {row}: {what}: {one[:40]!r}", "correct or remove it")


def saved_fields(kind: type[Objective], names: Iterable[str], data: Mapping[str, Any]) -> dict[str, Any]:
    """Fields with a default, as saved data hold them.

    Raises:
        KeyError: one is missing.
        ValueError: one is not of its default's type.
    """
    defaults = {field.name: field.default for field in fields(kind)}
    found: dict[str, Any] = {}
    for name in names:
        value, like = data[name], defaults[name]
        if isinstance(like, float) and type(value) is int:
            value = float(value)
        if type(value) is not type(like):
            raise ValueError(f"{name}: {shown(value)}")
        found[name] = value
    return found
