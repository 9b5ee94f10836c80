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

from stratatune.data.encoded import Encoded, Targets
from stratatune.data.readers import Table
from stratatune.data.roles import ROLES
from stratatune.data.written import BadRows
from stratatune.errors import ConfigError, DataError, counted
from stratatune.objectives.asked import Asked
from stratatune.objectives.written import chosen

if TYPE_CHECKING:
    from torch import Tensor

    from stratatune.data.batching import Batch

Text = TypeVar("Text")
_SHOWN = 3


def name_of(*texts: str) -> int:
    """An int64 that equal texts share, in any data set."""
    hashed = blake2b("\0".join(texts).encode(), digest_size=8)
    return int.from_bytes(hashed.digest(), "little", signed=True)


def score_range(asked: Asked, least: float) -> tuple[float, float]:
    """The scores that map to 0 and 1: the task's, or (0, 1) if all are from ``least`` to 1, else from 0 or the lowest.

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
    return (0.0, 1.0) if low >= least and high <= 1 else (min(low, 0.0), high)


def equal_texts(column: Sequence[str], other: Sequence[str], what: str) -> dict[int, str]:
    """The fault of each row in which two columns hold the same text, by its position; ``what`` says it."""
    pairs = enumerate(zip(column, other, strict=True))
    return {at: f"{what}: {one[:40]!r}" for at, (one, two) in pairs if one == two}


def without_faulty(table: Table, faults: Mapping[int, str], bad_rows: BadRows) -> Table:
    """The table without the rows at fault, given by their positions, where bad ones are skipped; a notice names them.

    Raises:
        DataError: names the first, where they are not, or where no row is left.
    """
    if not faults:
        return table
    said = [f"row {table.rows[at]}: {faults[at]}" for at in sorted(faults)]
    if bad_rows != "skip":
        raise DataError(f"{table.source}, {said[0]}", "correct or remove it; --bad-rows skip leaves such rows out")
    kept = [at for at in range(len(table)) if at not in faults]
    if not kept:
        raise DataError(f"{table.source}: every row is left out; {said[0]}", "correct the rows")
    more = "; ..." if len(said) > _SHOWN else ""
    notice = f"{table.source}: {counted(len(said), 'row')} left out ({'; '.join(said[:_SHOWN])}{more})"
    return replace(table.select(kept), notices=(*table.notices, notice))


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


def starts_of_rows(groups: Targets) -> np.ndarray:
    """The start of each group of several texts, int64: a text that is a group alone is a document of a corpus."""
    return groups.starts[groups.sizes > 1]


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
