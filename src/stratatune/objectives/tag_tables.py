"""Convert the tags of a table, in any scheme, to IOB2."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stratatune.data.readers import Table
from stratatune.errors import DataError
from stratatune.objectives.entities import OUTSIDE, PLAIN, parts, scheme_of, to_iob2


@dataclass(frozen=True)
class TagTables:
    """The scheme in which the tags of all tables of a run are written.

    Attributes:
        scheme: one of :data:`stratatune.objectives.entities.SCHEMES`; ``auto``: as each table's tags show it.
        names: the names of tags that are written as numbers, in their order.
        entities: whether the run has entities: types alone are then ``raw``, also in a table that has no ``O``.
    """

    scheme: str
    names: tuple[str, ...] = ()
    entities: bool = False

    def of_run(self, train: Table) -> TagTables:
        """Fix the scheme for all tables of a run: its training data show whether there are entities.

        A few rows alone may not show it.
        """
        return replace(self, scheme=PLAIN) if self.scheme_in(train) == PLAIN else replace(self, entities=True)

    def scheme_in(self, table: Table) -> str:
        """The scheme that a table is written in."""
        if self.scheme != "auto":
            return self.scheme
        found = scheme_of(self._named(table))
        return "raw" if found == PLAIN and self.entities else found

    def in_iob2(self, table: Table) -> Iterator[list[str]]:
        """The tags of each text of a table in IOB2; plain ones as they are.

        Raises:
            DataError: a tag that the scheme does not have there, or a number without a name.
        """
        scheme = self.scheme_in(table)
        for number, row in zip(table.rows, self._named(table), strict=True):
            yield to_iob2(row, scheme, f"{table.source}, row {number}")

    def classes_in(self, tables: Iterable[Table]) -> tuple[str, ...]:
        """The classes of the tags.

        With entities these are both tags of every type: the data may begin no two entities of a type in a row, and so
        lack one of them, while new texts need it; and ``O``, though every word may be in one. Without entities ``O`` is
        a class like any other, and comes first where there is one.
        """
        tags = {tag for table in tables for row in self.in_iob2(table) for tag in row}
        if self.scheme == PLAIN:
            return tuple(sorted(tags, key=lambda tag: (tag != OUTSIDE, tag)))
        kinds = sorted({parts(tag)[1] for tag in tags} - {""})
        return (OUTSIDE, *(f"{prefix}-{kind}" for kind in kinds for prefix in "BI"))

    def _named(self, table: Table) -> Sequence[Sequence[str]]:
        """The tags as written, with names in place of numbers."""
        rows: Any = table.labels or []
        if not rows or not all(tag.isdecimal() for row in rows for tag in row):
            return rows
        if not self.names:
            raise DataError(
                f"{table.source}: its tags are numbers", "name them: --objective 'tags(names=O B-PER I-PER ...)'"
            )
        for number, row in zip(table.rows, rows, strict=True):
            if over := next((tag for tag in row if int(tag) >= len(self.names)), None):
                raise DataError(
                    f"{table.source}, row {number}: tag {over}, and {len(self.names)} names were given",
                    "name all tags, from that of 0 on",
                )
        return [[self.names[int(tag)] for tag in row] for row in rows]
