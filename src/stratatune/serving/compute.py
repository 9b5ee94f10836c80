"""Answer many requests together: each trunk runs once for all texts, then each task's top for its own texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stratatune.data.encoded import Encoded
from stratatune.data.readers import Table
from stratatune.serving.remembered import RememberedTrunk
from stratatune.serving.task import Row, Task


@dataclass(eq=False)
class Piece:
    """A piece of a request: some texts for some tasks, and the answers.

    Attributes:
        texts: N texts, or pairs of texts.
        tasks: the tasks that answer them.
        rows: N answers of each task by its name, once they are there.
        error: why there are none.
    """

    texts: Sequence[Any]
    tasks: Sequence[Task]
    rows: dict[str, list[Row]] = field(default_factory=dict)
    error: Exception | None = None

    @property
    def columns(self) -> int:
        """The number of texts in one question."""
        return 1 if isinstance(self.texts[0], str) else len(self.texts[0])

    @property
    def size(self) -> int:
        """The number of answers: one for each text and task."""
        return len(self.texts) * len(self.tasks)


@dataclass(frozen=True)
class _Asked:
    """The texts of several pieces for one task."""

    task: Task
    pieces: Sequence[Piece]
    table: Table
    data: Encoded | None


def answer(pieces: Sequence[Piece], trunks: Mapping[str, RememberedTrunk]) -> None:
    """Fill in every piece's rows or its error.

    Args:
        pieces: computed together.
        trunks: the trunks by :attr:`stratatune.serving.task.Task.trunk`, one for every task with a shared one.
    """
    try:
        _answer(pieces, trunks)
    except Exception as error:
        # Whatever went wrong belongs to one of them: alone, each fails or succeeds for itself.
        if len(pieces) == 1:
            pieces[0].error = error
            return
        for piece in pieces:
            piece.rows.clear()
            answer([piece], trunks)


def _answer(pieces: Sequence[Piece], trunks: Mapping[str, RememberedTrunk]) -> None:
    asked = [_encoded(task, found) for task, found in _by_task(pieces)]
    for name, together in _by_trunk(asked):
        parts = [one.data for one in together if one.data is not None]
        first = together[0].task.predictor
        trunks[name].run(first.forward, parts, first.batch_size)
    for one in asked:
        rows = iter(one.task.answers(one.table, one.data, trunks.get(one.task.trunk)))
        for piece in one.pieces:
            piece.rows[one.task.name] = [next(rows) for _ in piece.texts]


def _encoded(task: Task, pieces: Sequence[Piece]) -> _Asked:
    table = task.read([text for piece in pieces for text in piece.texts])
    data = task.predictor.encode(table) if task.trunk else None
    return _Asked(task, pieces, table, data)


def _by_task(pieces: Iterable[Piece]) -> Iterable[tuple[Task, list[Piece]]]:
    """The pieces of each task, with single texts and pairs apart, since a table holds one or the other."""
    found: dict[tuple[int, int], tuple[Task, list[Piece]]] = {}
    for piece in pieces:
        for task in piece.tasks:
            found.setdefault((id(task), piece.columns), (task, []))[1].append(piece)
    return found.values()


def _by_trunk(asked: Iterable[_Asked]) -> Iterable[tuple[str, list[_Asked]]]:
    found: dict[str, list[_Asked]] = {}
    for one in asked:
        if one.task.trunk:
            found.setdefault(one.task.trunk, []).append(one)
    return found.items()
