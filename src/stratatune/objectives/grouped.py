"""Shared parts of the objectives over several texts an example.

An example has a text for each role (a query and a document, an anchor and a positive), and rows share texts. So the
trunk runs once for each text, and examples are groups of texts by their numbers (``Encoded.groups``).

Shapes: B texts of a batch, N texts of a data set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from stratatune.data.encoded import Encoded
from stratatune.data.readers import Table
from stratatune.data.roles import ROLES
from stratatune.errors import ConfigError, DataError
from stratatune.objectives.asked import Asked
from stratatune.objectives.written import chosen

if TYPE_CHECKING:
    from torch import Tensor

    from stratatune.data.batching import Batch

Text = TypeVar("Text")


def name_of(*texts: str) -> int:
    """An int64 that equal texts share, in any data set."""
    hashed = blake2b("\0".join(texts).encode(), digest_size=8)
    return int.from_bytes(hashed.digest(), "little", signed=True)


def score_range(asked: Asked) -> tuple[float, float]:
    """The scores that map to 0 and 1: the task's, or (0, 1) if all are in it, else from 0 or the lowest on.

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
    """Refuse rows in which two columns hold the same text; ``what`` is the message."""
    for row, one, two in zip(table.rows, column, other, strict=True):
        if one == two:
            raise DataError(f"{table.source}, row {row}: {what}: {one[:40]!r}", "correct or remove it")


def loss_for(objective: str, name: str, data: str, legal: Mapping[str, Sequence[str]]) -> str:
    """The named loss, or for ``auto`` the usual one of such data.

    Args:
        objective: the name of the objective, for errors.
        name: the loss, or ``auto``.
        data: the kind of data, one of the keys of ``legal``.
        legal: the losses that learn from each kind of data, the usual one first.

    Raises:
        ConfigError: there is no such loss, or it learns from other data.
    """
    chosen(objective, "loss", name, ("auto", *(one for losses in legal.values() for one in losses)))
    if name != "auto" and name not in legal[data]:
        problem = f"objective: {objective}: loss {name!r}, and the data are {data}"
        raise ConfigError([problem], f"for these: {' or '.join(legal[data])}")
    return legal[data][0] if name == "auto" else name


def numbered(rows: Iterable[Sequence[Text]]) -> tuple[list[Text], list[list[int]]]:
    """Every text once, in the order of appearance, and the rows as numbers of their texts."""
    numbers: dict[Text, int] = {}
    groups = [[numbers.setdefault(text, len(numbers)) for text in row] for row in rows]
    return list(numbers), groups


def only_columns(table: Table, at: Sequence[int], roles: Sequence[str]) -> Table:
    """A table of some of the text columns, by their places, without labels; ``roles`` are those of all columns."""
    return replace(
        table,
        texts=tuple(table.texts[place] for place in at),
        columns=tuple(table.columns[place] for place in at),
        further={ROLES: [tuple(roles[place] for place in at)] * len(table)},
        labels=None,
        whole=None,
    )


def of_members(values: Tensor, batch: Batch) -> Tensor:
    """The rows of each text [B, ...], one example's texts after another's, repeated where examples share a text."""
    return values if batch.groups is None else values[batch.groups[batch.groups >= 0]]


def members(data: Encoded) -> np.ndarray:
    """The number of texts of each example, int64 [examples]: the rows of :func:`of_members`."""
    return np.ones(len(data), np.int64) if data.groups is None else data.groups.sizes
