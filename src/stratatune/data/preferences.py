"""Preferences whose columns hold messages: each answer to a prompt becomes one conversation.

The forms are those of TRL: ``prompt``, ``chosen`` and ``rejected`` as lists of messages, or the last two with the whole
conversation each.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from stratatune.data.conversations import SYSTEM, rows_kept
from stratatune.data.frames import Frame
from stratatune.data.messages import TOOLS, Cells, Conversation, conversation_of, messages_in
from stratatune.data.written import BadRows

ANSWERS = "answers"
"""In ``Table.further``: the :class:`Conversation` of each column of answers, by its name, of every row."""
QUERY = "query"
"""The role of the column that holds the prompt."""


def read_answers(
    frame: Frame, roles: Mapping[str, str], queries: Sequence[str], bad_rows: BadRows
) -> tuple[Frame, list[dict[str, Conversation]]]:
    """Read each answer of each row with its prompt before it.

    The prompt of a separate column goes before answers that begin with the assistant; the others contain theirs.

    Args:
        frame: the data.
        roles: the role of each requested column, where the prompt may be missing.
        queries: the names of columns of prompts.
        bad_rows: what happens to rows that are not conversations.

    Returns:
        The frame without the rows that are skipped, and for each row the conversation of each column of answers.

    Raises:
        DataError: a row that is bad, or all of them.
    """
    columns = [name for name, role in roles.items() if role != QUERY]
    prompts = [name for name in roles if name not in columns]
    prompts += [name for name in frame.names if name.casefold() in queries and name not in columns]
    query = next(iter(prompts), None)
    return rows_kept(frame, _rows(frame, query, columns, blanks=bad_rows == "empty"), bad_rows)


def _rows(
    frame: Frame, query: str | None, columns: Sequence[str], *, blanks: bool
) -> Iterator[Callable[[], dict[str, Conversation]]]:
    def values(*names: str) -> list[Any]:
        name = next((name for name in names if name in frame.names), None)
        return [None] * len(frame.rows) if name is None else frame.as_written(name)

    prompts, beside = values(*filter(None, [query])), zip(values(*SYSTEM), values(TOOLS), strict=True)
    answers = zip(*(frame.as_written(name) for name in columns), strict=True)
    for prompt, (system, tools), row in zip(prompts, beside, answers, strict=True):
        cells = [
            Cells(query, prompt, name, answer, None, system, tools)
            if query is not None and _answers_only(answer)
            else Cells(name, answer, None, None, None, system, tools)
            for name, answer in zip(columns, row, strict=True)
        ]
        yield functools.partial(_conversations, columns, cells, blanks=blanks)


def _answers_only(value: Any) -> bool:
    """Whether a cell lacks the prompt: a text, or messages of which the assistant says the first."""
    messages = messages_in(value)
    return not messages or messages[0].get("role", messages[0].get("from")) not in (
        "system",
        "developer",
        "user",
        "human",
    )


def _conversations(columns: Sequence[str], cells: Sequence[Cells], *, blanks: bool) -> dict[str, Conversation]:
    made = (conversation_of(one, need_labels=True, blanks=blanks) for one in cells)
    return dict(zip(columns, made, strict=True))
