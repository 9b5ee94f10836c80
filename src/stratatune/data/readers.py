"""Read any labelled text into one `Table`: files, folders, the hub, data frames, lists.

`sources` opens; here the columns are chosen and their content is checked. Every failure is one DataError line that
names the place, the value, what is legal and the fix.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, time
from decimal import Decimal
from typing import Any

from stratatune.data.annotated import annotated, choices_in
from stratatune.data.flags import columns_of, no_labels, with_classes
from stratatune.data.frames import Frame
from stratatune.data.labels import (
    SETS_HINT,
    Labels,
    cell_text,
    is_missing,
    label_text,
    listed,
    looks_like_sets,
    numbers,
    written_as_sets,
)
from stratatune.data.read_options import DEFAULTS, ReadOptions
from stratatune.data.sources import open_source
from stratatune.data.tasks import Task
from stratatune.data.written import BadRows
from stratatune.errors import DataError, MissingColumn, counted, nearest, shown

SINGLES = ("text", "sentence", "content", "review", "document", "comment", "question", "title")
PAIRS = (
    ("sentence1", "sentence2"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
)
LABELS = ("label", "labels", "class", "category", "target", "gold_label", "score")

_BAD_TEXTS = "fill these rows; --bad-rows skip leaves them out, --bad-rows empty reads them as empty texts"
_CHAT = "the data hold conversations: --objective chat reads them"
_TAGS = "the data hold tags of words, or spans of characters: --objective tags reads them"
_PLAIN = "give a column of labels; texts without any are learnt by a decoder, with --objective completion"
_NAME_THEM = "name it with --text COLUMN, or two with --text A,B"
SPAN_COLUMNS = ("spans", "entities")
"""The usual names of a column with spans of characters."""
_BAD_LABELS = "fill these rows, or leave them out with --bad-rows skip"


@dataclass(frozen=True)
class Table:
    """Texts and labels as read, N rows.

    ``texts`` holds one or two columns of N strings. ``labels`` are class names of the task where a task is known, the
    file's own values as text otherwise, floats for regression, None where there are none. ``rows`` numbers the rows as
    in the source, from 1, a header line not counted. ``further`` are columns of an objective's own reader, N values
    each. ``corpus`` has documents that are searched besides those of the rows.
    """

    texts: tuple[list[str], ...]
    labels: Labels | None = None
    columns: tuple[str, ...] = ("text",)
    label_column: str | None = None
    source: str = "the list of texts"
    rows: Sequence[int] = ()
    notices: tuple[str, ...] = ()
    whole: Frame | None = None
    further: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    corpus: Table | None = None

    def __post_init__(self) -> None:
        if not self.rows:
            object.__setattr__(self, "rows", range(1, len(self.texts[0]) + 1))

    def __len__(self) -> int:
        return len(self.texts[0])

    def select(self, index: Iterable[int]) -> Table:
        """The rows at the 0-based positions ``index``, in that order."""
        at = [int(i) for i in index]
        texts = tuple([column[i] for i in at] for column in self.texts)
        labels: Any = None if self.labels is None else [self.labels[i] for i in at]
        further = {name: [values[i] for i in at] for name, values in self.further.items()}
        return replace(self, texts=texts, labels=labels, rows=[self.rows[i] for i in at], further=further)


def read(source: Any, options: ReadOptions = DEFAULTS) -> Table:
    """Read ``source`` into a Table.

    Args:
        source: a csv, tsv, json, jsonl, parquet, txt or `.all` file; a GLUE folder or one written by
            `save_to_disk` (these need ``options.split``); a hub id (``glue/sst2``, ``org/name:config``); a
            `datasets.Dataset` or `DatasetDict`; a pandas DataFrame; a dict of columns; a list of texts, of pairs of
            texts (where labels are needed: of texts and labels), or of rows as dicts.
        options: the part to read. ``text`` is one column, or two, and ``label`` one: guessed, with a notice, where
            only one is plausible. Lists have no names, so they need neither. Data that lack the label column of a run
            may have a column of 0 and 1 for each of its ``labels``.

    Raises:
        DataError: whatever is wrong with the source, in one line.
    """
    known, need_labels, written = options.known_task, options.need_labels, options.written
    whole = frame = open_source(source, known, options.split, written)
    if not frame.rows:
        raise DataError(f"{frame.place}: there are no rows", "give at least one example")
    frame = whole = annotated(labelled(frame, options), needed=need_labels, label=options.label)
    known = frame.task or known
    text, label = options.text, options.label
    if not known and text is None and label is None and (pair := _pair(frame, options.pairs)):
        (text, label), need_labels = pair, True
        frame = frame.noting(f"prompts are read from column {text!r}, and what is written for them from {label!r}")
    frame, columns = text_columns(frame, text if frame.named else None, known)
    if need_labels and not known and label is not None and label not in frame.names and options.labels:
        if not columns_of(frame, options.labels, columns):
            raise no_labels(frame, label, options.labels)
        frame, label = with_classes(frame, options.labels)
    frame, label_column = _label_column(frame, columns, label, known, need_labels)
    frame = _single(frame, label_column, need_labels)
    checked = [*columns, *([label_column] if label_column and need_labels else [])]
    if known and known.drops_incomplete:
        frame = _without_incomplete(frame, checked)
    if written.bad_rows == "skip":
        frame = without_bad(frame, checked)
    texts = tuple(texts_of(frame, name, written.bad_rows) for name in columns)
    labels = None
    # Where labels are not needed, a column of another thing that is called like one does not matter.
    with contextlib.nullcontext() if need_labels else contextlib.suppress(DataError):
        labels = _labels(frame, label_column, known, need_labels, options.verbatim) if label_column else None
    if labels is not None and need_labels and not known:
        frame = _noting_case(_noting_sets(frame, labels), labels) if not options.verbatim else frame
    return Table(
        texts=texts,
        labels=labels,
        columns=columns,
        label_column=label_column,
        source=frame.place,
        rows=frame.rows,
        notices=frame.notices,
        whole=whole if options.keep_whole else None,
    )


def labelled(frame: Frame, options: ReadOptions) -> Frame:
    """A list of pairs where each text needs a label: the second of each pair is it. Other frames as they are."""
    pairs = not frame.named and len(frame.names) == 2  # noqa: PLR2004
    if not pairs or not options.need_labels or len(options.text_columns or ()) > 1:
        return frame
    text, label = next(iter(options.text_columns or ()), "text"), options.label or "label"
    first, second = frame.names
    return replace(frame, named=True).renamed([(text, first), (label, second)]).noting("pairs are a text and its label")


# --- which columns -------------------------------------------------------------------------------------------------


def _pair(frame: Frame, pairs: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
    """The one of the pairs that the frame has."""
    return next((pair for pair in pairs if set(pair) <= set(frame.names)), None)


def text_columns(frame: Frame, text: str | Sequence[str] | None, task: Task | None) -> tuple[Frame, tuple[str, ...]]:
    """The text columns: those named, those of the task, or the only plausible ones, with a notice that names them.

    Raises:
        DataError: a column that is not there, or none or several plausible ones.
    """
    if text is not None:
        return frame, _named_texts(frame, text)
    if not frame.named:
        return frame, tuple(frame.names)
    for names in (task.text, task.tsv_text) if task else ():
        if names and set(names) <= set(frame.names):
            return frame, names
    pairs = [pair for pair in PAIRS if set(pair) <= set(frame.names)]
    paired = {name for pair in pairs for name in pair}
    found = [*pairs, *((name,) for name in SINGLES if name in frame.names and name not in paired)]
    if task:
        found = [names for names in found if len(names) == len(task.text)]
    if len(found) != 1:
        raise DataError(
            f"{frame.place}: which column holds the text? columns: {listed(frame.names)}",
            preferences_hint(frame) or _hint_at_lists(frame) or _hint_at_instructions(frame) or _NAME_THEM,
        )
    said = " and ".join(map(repr, found[0]))
    return (frame if task else frame.noting(f"text is read from column {said}")), found[0]


def _named_texts(frame: Frame, text: str | Sequence[str]) -> tuple[str, ...]:
    if isinstance(text, str):
        # A column's own name may hold a comma.
        text = (text,) if text in frame.names else [name.strip() for name in text.split(",")]
    if not 1 <= len(text) <= 2:
        raise DataError(f"{len(text)} text columns were named: {', '.join(text)}", "name one or two")
    return tuple(existing(frame, name) for name in text)


def existing(frame: Frame, name: str) -> str:
    """``name``, where the frame has such a column; else a :class:`MissingColumn` names the nearest."""
    if name not in frame.names:
        near = nearest(name, frame.names)
        hint = (f"did you mean {near!r}? " if near else "") + f"columns: {listed(frame.names)}"
        raise MissingColumn(f"{frame.place} has no column {name!r}", hint, name)
    return name


def _label_column(
    frame: Frame, texts: tuple[str, ...], label: str | None, task: Task | None, needed: bool
) -> tuple[Frame, str | None]:
    if label is not None:
        several = {part.strip() for part in label.split(",")}
        if needed and label not in frame.names and len(several) > 1 and several <= {*frame.names}:
            hint = "one column is read here; several label columns are learned by --objective multitask"
            raise MissingColumn(f"{frame.place} has no column {label!r}", hint, label)
        return frame, existing(frame, label) if needed or label in frame.names else None
    for name in (task.label, task.tsv_label) if task else ():
        if name in frame.names:
            return frame, name
    found = [name for name in LABELS if name in frame.names and name not in texts]
    found = found or [name for name in (choices_in(frame),) if name]
    if len(found) == 1:
        return (frame if task or not needed else frame.noting(f"labels are read from column {found[0]!r}")), found[0]
    if needed:
        raise DataError(
            f"{frame.place}: which column holds the label? columns: {listed(frame.names)}",
            _hint_at_lists(frame) or (_PLAIN if set(frame.names) <= set(texts) else "name it with --label COLUMN"),
        )
    return frame, None


# --- their content -------------------------------------------------------------------------------------------------


def texts_of(frame: Frame, name: str, bad_rows: BadRows) -> list[str]:
    """The texts of a column; DataError names the rows that are blank where that is refused."""
    values = [plain(value, frame.place, name) for value in frame.get(name)]
    if bad_rows == "refuse":
        _refuse(frame, [_is_blank(value) for value in values], f"text column {name!r} is empty", _BAD_TEXTS)
    return [_or_empty(value) for value in values]


def _labels(frame: Frame, name: str, task: Task | None, needed: bool, verbatim: bool) -> Labels | None:
    if any(map(is_list, frame.get(name))):  # where labels are needed these are refused before
        return None
    values = [plain(value, frame.place, name) for value in frame.get(name)]
    missing = [_is_blank(value) for value in values]
    if any(missing) and not needed:
        return None
    sets = task is None and looks_like_sets({_or_empty(value).strip() for value in values} - {""})  # one may be empty
    _refuse(frame, missing, f"label column {name!r} is empty", SETS_HINT if sets else _BAD_LABELS)
    if task is None and verbatim:
        return [value if isinstance(value, str) else label_text(value) for value in values]  # type: ignore[arg-type]
    if task is None:
        return values if all(isinstance(v, float) for v in values) else [label_text(v) for v in values]  # type: ignore[return-value]
    if task.numeric:
        return numbers(values, frame.place, frame.rows)  # type: ignore[arg-type]
    classes = [task.class_of(label_text(value)) for value in values]  # type: ignore[arg-type]
    if None in classes:
        at = classes.index(None)
        if not needed:
            return None
        raise DataError(
            f"{frame.place}, row {frame.rows[at]}: {shown(values[at])} is not a label of {task.name}",
            f"legal: {', '.join(task.labels)}, or their numbers from 0",
        )
    return [str(name) for name in classes]


def _single(frame: Frame, column: str | None, needed: bool) -> Frame:
    """The frame with the labels of a column of lists that hold one at most, as doccano and Prodigy write a label."""
    if column is None or not any(map(is_list, frame.get(column))):
        return frame
    cells = [value.tolist() if hasattr(value, "tolist") else value for value in frame.get(column)]
    nested = any(is_list(one) and any(map(_holds, one)) for one in cells)
    if nested or any(is_list(one) and len(one) > 1 for one in cells):
        if not needed:
            return frame
        raise DataError(f"{frame.place}: label column {column!r} holds lists", _TAGS if nested else SETS_HINT)
    single = [next(iter(one), None) if is_list(one) else one for one in cells]
    return replace(frame, get=lambda name: list(single) if name == column else frame.get(name))


def _holds(value: Any) -> bool:
    """Whether a part of a list is a list or an object itself, as a span is."""
    return is_list(value) or isinstance(value, Mapping)


def _noting_sets(frame: Frame, labels: Labels) -> Frame:
    """Add a notice where labels that occur more than once look like several labels each."""
    distinct = set(labels)
    again = 2 * len(distinct) <= len(labels)
    several = (looks_like_sets(distinct) or written_as_sets(distinct)) if again else ""
    return frame.noting(f"the label {shown(several)} looks like {SETS_HINT}") if several else frame


def _noting_case(frame: Frame, labels: Labels) -> Frame:
    """Add a notice where labels differ in the case of their letters only."""
    spelt: dict[str, set[str]] = {}
    for label in {one for one in labels if isinstance(one, str)}:
        spelt.setdefault(label.casefold(), set()).add(label)
    alike = [shown(name) for names in spelt.values() if len(names) > 1 for name in names]
    return (
        frame.noting(f"labels that differ only in case are separate classes: {listed(sorted(alike))}")
        if alike
        else frame
    )


def is_list(value: Any) -> bool:
    """Whether a cell holds several values."""
    return isinstance(value, list | tuple) or getattr(value, "ndim", 0) > 0


def plain(value: Any, place: str, name: str) -> str | float | None:
    """One cell as plain data: text, or a number that was one in the file; None if missing; a date in ISO 8601."""
    if isinstance(value, str):
        return str(value)
    if is_missing(value):
        return None
    if isinstance(value, bool | int):
        return str(value).lower()
    if isinstance(value, float):
        return value
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if hasattr(value, "item"):  # a numpy scalar out of an object column
        return plain(value.item(), place, name)
    raise DataError(
        f"{place}: column {name!r} holds {type(value).__name__} values",
        _CHAT if is_conversation(value) else "text or numbers are read; convert the column",
    )


def preferences_hint(frame: Frame) -> str:
    """A hint at the objectives that learn from a chosen and a rejected text; empty for a frame without such columns."""
    named = {"chosen", "rejected"} <= {name.casefold() for name in frame.names}
    return "these look like preferences: --objective dpo learns to answer, rank to score texts" if named else ""


def _hint_at_lists(frame: Frame) -> str:
    """A hint at the objective that reads the lists in the first row; empty where there are none of these kinds."""
    first = {name: frame.get(name)[0] for name in frame.names}
    if any(map(is_conversation, first.values())):
        return _CHAT
    lists = {name: value for name, value in first.items() if is_list(value)}
    return _TAGS if len(lists) > 1 or set(SPAN_COLUMNS) & lists.keys() else ""


def _hint_at_instructions(frame: Frame) -> str:
    """A hint at the objective for a prompt, or an instruction and its input (Alpaca, Dolly), and what answers it.

    Empty for other columns.
    """
    if "prompt" in frame.names and {"completion", "response"} & set(frame.names):
        return f"a decoder learns what follows a prompt with --objective completion or chat; else {_NAME_THEM}"
    if "instruction" not in frame.names or not {"output", "response"} & set(frame.names):
        return ""
    return f"--objective chat reads an instruction with its input and output; else {_NAME_THEM}"


def is_conversation(value: Any) -> bool:
    """Whether a cell holds a list of messages."""
    value = value.tolist() if hasattr(value, "tolist") else value
    first = value[0] if isinstance(value, list | tuple) and value else None
    return isinstance(first, Mapping) and bool({"role", "from"} & first.keys())


def _or_empty(value: str | float | None) -> str:
    return "" if value is None else cell_text(value)


def _is_blank(value: str | float | None) -> bool:
    return not _or_empty(value).strip()


def _refuse(frame: Frame, bad: list[bool], what: str, fix: str) -> None:
    at = [row for row, is_bad in zip(frame.rows, bad, strict=True) if is_bad]
    if at:
        raise DataError(f"{frame.place}: {what} in {len(at):,} of {len(bad):,} rows ({_rows(at)})", fix)


def _rows(at: Sequence[int]) -> str:
    return f"row {', '.join(map(str, at[:5]))}{', ...' if len(at) > 5 else ''}"


def _whole_rows(frame: Frame, names: list[str]) -> list[int]:
    """The 0-based positions of the rows without a gap in these columns."""
    columns = [[_is_blank(plain(value, frame.place, name)) for value in frame.get(name)] for name in names]
    return [at for at, blanks in enumerate(zip(*columns, strict=True)) if not any(blanks)]


def without_bad(frame: Frame, names: list[str]) -> Frame:
    """The rows with text and label, and the number of others."""
    kept = _whole_rows(frame, names)
    if len(kept) == len(frame.rows):
        return frame
    if not kept:
        raise _all_empty(frame, names)
    said = " or ".join(map(repr, names))
    gone = sorted(set(range(len(frame.rows))) - set(kept))
    places = _rows([frame.rows[at] for at in gone])
    left_out = f"{len(gone):,} of {len(frame.rows):,} rows {'is' if len(gone) == 1 else 'are'} left out"
    return frame.keep(kept).noting(f"{left_out}: {said} is empty ({places})")


def _without_incomplete(frame: Frame, names: list[str]) -> Frame:
    """The rows that lack no field, where the published file has some that do."""
    kept = _whole_rows(frame, names)
    if not (left_out := len(frame.rows) - len(kept)):
        return frame
    if not kept:
        raise _all_empty(frame, names)
    return frame.keep(kept).noting(f"{counted(left_out, 'row')} without a field, as published: left out")


def _all_empty(frame: Frame, names: list[str]) -> DataError:
    said = " or ".join(map(repr, names))
    return DataError(f"{frame.place}: {said} is empty in every row", "name other columns with --text and --label")
