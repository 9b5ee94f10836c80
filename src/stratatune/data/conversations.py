"""Conversations as one `Table`: columns of messages, or a prompt and its answer.

Read are OpenAI's ``messages`` (role, content), ShareGPT's ``conversations`` (from, value), Alpaca's ``instruction``,
``input``, ``output``, and ``prompt`` with ``completion``, each a text or a list of messages. Every failure is one
DataError line.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from stratatune.data.frames import Frame
from stratatune.data.labels import cell_text, is_missing, listed
from stratatune.data.messages import HISTORY, TOOLS, BadRow, Cells, conversation_of
from stratatune.data.read_options import DEFAULTS, ReadOptions
from stratatune.data.readers import SINGLES, Table, is_conversation, preferences_hint
from stratatune.data.sources import open_source
from stratatune.data.written import BadRows, Written
from stratatune.errors import DataError, nearest

CONVERSATIONS = "conversations"
"""The key in ``Table.further`` of each row's :class:`Conversation`."""
WHOLE = ("messages", "conversations", "conversation")
PROMPTED = (("prompt", "completion"), ("prompt", "response"))
PAIRS = (
    *PROMPTED,
    ("instruction", "output"),  # Alpaca
    ("instruction", "response"),  # Dolly
    ("question", "answer"),
)
MORE = {"instruction": ("input", "context")}
"""Columns whose text follows that of another, where they are there."""
SYSTEM = ("system", "system_prompt")

_SHOWN = 5
Row = TypeVar("Row")


def read_conversations(source: Any, options: ReadOptions = DEFAULTS) -> Table:
    """Read ``source`` into a Table with a :class:`Conversation` a row; the labels are the last answers.

    Args:
        source: a source of :func:`stratatune.data.readers.read`; or a list of lists of messages.
        options: ``text`` is the column of messages or prompts, ``label`` that of answers. Without ``need_labels`` the
            last answer is left out: it is to be written. Then texts are prompts too.

    Raises:
        DataError: whatever is wrong with the source, in one line.
    """
    need_labels, written = options.need_labels, options.written
    frame = _open(source, options.split, written)
    if not frame.rows:
        raise DataError(f"{frame.place}: there are no rows", "give at least one conversation")
    prompt, answer = _columns(frame, options.text_columns, options.label, need_labels)
    cells, blanks, whole = _cells(frame, prompt, answer), written.bad_rows == "empty", frame
    rows = (functools.partial(conversation_of, one, need_labels=need_labels, blanks=blanks) for one in cells)
    frame, found = rows_kept(frame, rows, written.bad_rows)
    labels: Any = [one.messages[one.answers[-1]]["content"] for one in found] if need_labels else None
    return Table(
        texts=(["" if is_missing(value) else cell_text(value) for value in frame.get(prompt)],),
        labels=labels,
        columns=(prompt,),
        label_column=answer,
        source=frame.place,
        rows=frame.rows,
        notices=frame.notices,
        whole=whole if options.keep_whole else None,
        further={CONVERSATIONS: found},
    )


def rows_kept(frame: Frame, rows: Iterable[Callable[[], Row]], bad_rows: BadRows) -> tuple[Frame, list[Row]]:
    """What each row of a frame gives, and the frame without the bad ones where these are skipped, which a notice says.

    Raises:
        DataError: a row that is bad, or all of them.
    """
    found, kept, bad = list[Row](), list[int](), list[str]()
    for at, (row, made) in enumerate(zip(frame.rows, rows, strict=True)):
        try:
            found.append(made())
            kept.append(at)
        except BadRow as error:
            if bad_rows != "skip":
                raise DataError(f"{frame.place}, row {row}: {error.what}", error.fix) from error
            bad.append(f"row {row}: {error.what}")
    if not bad:
        return frame, found
    if not kept:
        raise DataError(f"{frame.place}: no row holds a conversation; {bad[0]}", "name other columns with --text")
    more = "; ..." if len(bad) > _SHOWN else ""
    said = f"{len(bad):,} of {len(frame.rows):,} rows are left out ({'; '.join(bad[:_SHOWN])}{more})"
    return frame.keep(kept).noting(said), found


def _open(source: Any, split: str | None, written: Written) -> Frame:
    if isinstance(source, list) and source and all(map(is_conversation, source)):
        return Frame("the conversations given", ["messages"], lambda _: source, range(1, len(source) + 1), named=False)
    if isinstance(source, str | Path):
        source = str(source)
    return open_source(source, None, split, written)


# --- columns -------------------------------------------------------------------------------------------------------


def _columns(frame: Frame, text: Sequence[str] | None, label: str | None, need_labels: bool) -> tuple[str, str | None]:
    """The columns of the messages or prompts and of the answers; None where the first holds both.

    One of the usual names stands for the layouts of the others.
    """
    if text and len(text) > 1:
        raise DataError(f"{len(text)} text columns were named: {', '.join(text)}", "a conversation is read of one")
    known = {*WHOLE, *(prompt for prompt, _ in PAIRS), *SINGLES}
    if text and text[0] not in frame.names:
        if text[0] not in known:
            raise _missing(frame, text[0])
        text = None  # the data are laid out in another way than those of training
        label = None if label in {answer for _, answer in PAIRS} - set(frame.names) else label
    if label is not None and label not in frame.names and need_labels:
        raise _missing(frame, label)
    answers = [label] if label is not None else []
    if text and text[0] in frame.names:
        answers += [answer for prompt, answer in PAIRS if prompt == text[0] and label is None]
        return text[0], next((name for name in answers if name in frame.names and need_labels), None)
    for name in WHOLE:
        if name in frame.names and label is None:
            return name, None
    for prompt, answer in PAIRS:
        if prompt in frame.names and (not need_labels or (label or answer) in frame.names):
            return prompt, (label or answer) if need_labels else None
    if not need_labels and (single := next((name for name in SINGLES if name in frame.names), None)):
        return single, None
    raise DataError(
        f"{frame.place}: which column holds the conversations? columns: {listed(frame.names)}",
        preferences_hint(frame)
        or "name it with --text COLUMN, or a prompt and its answer with --text PROMPT --label ANSWER",
    )


def _missing(frame: Frame, name: str) -> DataError:
    near = nearest(name, frame.names)
    hint = (f"did you mean {near!r}? " if near else "") + f"columns: {listed(frame.names)}"
    return DataError(f"{frame.place} has no column {name!r}", hint)


def _cells(frame: Frame, prompt: str, answer: str | None) -> Iterator[Cells]:
    def column(names: Sequence[str]) -> list[Any]:
        name = next((name for name in names if name in frame.names and name not in (prompt, answer)), None)
        return [None] * len(frame.rows) if name is None else frame.as_written(name)

    answers = [None] * len(frame.rows) if answer is None else frame.as_written(answer)
    more, system, tools = column(MORE.get(prompt, ())), column(SYSTEM), column((TOOLS,))
    history = column((HISTORY,) if prompt in MORE else ())
    for values in zip(frame.as_written(prompt), answers, more, system, tools, history, strict=True):
        yield Cells(prompt, values[0], answer, *values[1:])
