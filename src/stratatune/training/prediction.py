"""A model's predictions for the rows of a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stratatune.data.every_row import EveryRow
from stratatune.data.readers import Table
from stratatune.errors import counted


@dataclass(frozen=True)
class Prediction:
    """A model's predictions for N texts: one for each row of the source, in its order.

    Rows that were left out (``bad_rows: skip``) have none: their label is None, their numbers are NaN.

    Attributes:
        table: the texts, and in ``table.whole`` the other columns of the source.
        columns: the answers as columns of N values each, by their names.
        labels: N class names, or the text generated for each text; None where the answer is neither.
        probabilities: [N, C] in the order of the model's classes, or None.
        values: [N] numbers, or None.
        chances: the columns that are probabilities, and the class or label of each.
    """

    table: Table
    columns: Mapping[str, Sequence[Any]]
    labels: Sequence[str | None] | None
    probabilities: np.ndarray | None
    values: np.ndarray | None
    chances: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Prediction({counted(len(self.table), 'row')}: {', '.join(self.columns)})"

    def for_every_row(self) -> Prediction:
        """The prediction with a row for each row of the source, including those that were left out."""
        every = EveryRow.of(self.table)
        if every is None:
            return self
        return Prediction(
            every.source(),
            {name: every.values(values) for name, values in self.columns.items()},
            None if self.labels is None else every.values(self.labels),
            None if self.probabilities is None else every.array(self.probabilities),
            None if self.values is None else every.array(self.values),
            self.chances,
        )
