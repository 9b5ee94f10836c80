"""Find answers, given by their characters, among the tokens of the windows that show their contexts.

Shapes: N windows, of C + 1 tokens that are read each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stratatune.data.context_windows import NULL, ContextWindows
from stratatune.data.encoded import offsets_of
from stratatune.data.questions import Answer
from stratatune.data.readers import Table


def answers_on_tokens(
    found: ContextWindows, answers: Sequence[Sequence[Answer]], table: Table
) -> tuple[np.ndarray, list[str]]:
    """The first and the last token of each window's answer, by their numbers among the tokens that are read.

    In a window that does not show the whole of its question's first reference answer both are the null token.

    Args:
        found: the windows of R questions.
        answers: the reference answers of each question, R lists.
        table: the questions; notices name its rows.

    Returns:
        int64 [N, 2], and notices about answers that do not fit the tokens.
    """
    assert found.encoded.places is not None
    offsets = offsets_of(found.encoded.places.sizes)
    targets = np.zeros((len(found.rows), 2), np.int64)
    widened, whole = set[int](), set[int]()
    reach = _reaches(found, offsets, len(answers))
    for number, row in enumerate(found.rows.tolist()):
        characters = found.characters[offsets[number] : offsets[number + 1]]
        targets[number] = int(np.flatnonzero(characters[:, 0] == NULL)[0])
        if not answers[row]:
            continue
        first = answers[row][0]
        start, end = max(first.start, reach[row, 0]), min(first.end, reach[row, 1])
        real = np.flatnonzero((characters[:, 0] >= 0) & (characters[:, 0] < characters[:, 1]))
        if not len(real) or characters[real[0], 0] > start or characters[real[-1], 1] < end:
            continue
        met = real[(characters[real, 1] > start) & (characters[real, 0] < end)]
        if len(met):
            targets[number] = met[0], met[-1]
            whole.add(row)
            if (characters[met[0], 0], characters[met[-1], 1]) != (first.start, first.end):
                widened.add(row)
    lost = [row for row, own in enumerate(answers) if own and row not in whole]
    said = {
        "begin or end inside a token and are widened to whole ones": sorted(widened),
        "lie whole in no window, or have no token, and teach that there is none": lost,
    }
    there = sum(map(bool, answers))
    shown = {what: ", ".join(_named(table, answers, row) for row in rows[:3]) for what, rows in said.items()}
    return targets, [
        f"{len(rows):,} of {there:,} answers of {table.source} {what}: {shown[what]}{', ...' if len(rows) > 3 else ''}"
        for what, rows in said.items()
        if rows
    ]


def _named(table: Table, answers: Sequence[Sequence[Answer]], row: int) -> str:
    return f"row {table.rows[row]} {answers[row][0].text!r:.40}"


def _reaches(found: ContextWindows, offsets: np.ndarray, count: int) -> np.ndarray:
    """The first character of each context that is in a token, and the one after the last: int64 [rows, 2]."""
    reach = np.tile(np.array([2**40, 0]), (count, 1))
    owners = np.repeat(found.rows, np.diff(offsets))
    real = (found.characters[:, 0] >= 0) & (found.characters[:, 0] < found.characters[:, 1])
    np.minimum.at(reach[:, 0], owners[real], found.characters[real, 0])
    np.maximum.at(reach[:, 1], owners[real], found.characters[real, 1])
    return reach
