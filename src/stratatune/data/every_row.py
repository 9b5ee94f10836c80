"""One answer for each row of a source, if some rows were left out of a prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stratatune.data.labels import cell_text, is_missing
from stratatune.data.readers import Table


@dataclass(frozen=True)
class EveryRow:
    """Maps the n rows of ``table``, which were answered, to the N rows of its source.

    Attributes:
        table: the table as read, with ``whole``.
        at: int64 [n], the position in the source of each row answered.
        count: N.
    """

    table: Table
    at: np.ndarray
    count: int

    @classmethod
    def of(cls, table: Table) -> EveryRow | None:
        """The mapping for ``table``; None if no row was left out, or the source was not kept."""
        whole = table.whole
        if whole is None or len(whole.rows) == len(table):
            return None
        place = {row: at for at, row in enumerate(whole.rows)}
        return cls(table, np.array([place[row] for row in table.rows]), len(whole.rows))

    def source(self) -> Table:
        """The texts of all N rows, missing ones empty."""
        whole = self.table.whole
        assert whole is not None
        texts = tuple(
            ["" if is_missing(text) else cell_text(text) for text in whole.get(name)] for name in self.table.columns
        )
        return replace(self.table, texts=texts, labels=None, rows=whole.rows)

    def values(self, values: Sequence[Any]) -> list[Any]:
        """N values, None for rows that were left out."""
        spread: list[Any] = [None] * self.count
        for place, value in zip(self.at, values, strict=True):
            spread[place] = value
        return spread

    def array(self, values: np.ndarray) -> np.ndarray:
        """[N, ...] of numbers [n, ...], NaN for rows that were left out."""
        spread = np.full((self.count, *values.shape[1:]), np.nan, values.dtype)
        spread[self.at] = values
        return spread
