"""Texts with any number of labels each, none included, as one `Table`.

Three ways to write them: a list in a cell, several labels in a cell with a separator between them, or a 0/1 column for
each label. Every failure is one DataError line.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from stratatune.data.annotated import annotated, choices_in
from stratatune.data.flags import columns_of, is_flags, no_labels, noting_columns, sets_of
from stratatune.data.frames import Frame
from stratatune.data.labels import SEPARATORS, is_missing, label_text, listed
from stratatune.data.read_options import DEFAULTS, ReadOptions
from stratatune.data.readers import Table, existing, labelled, text_columns, texts_of, without_bad
from stratatune.data.sources import open_source
from stratatune.data.written import DELIMITERS
from stratatune.errors import DataError, did_you_mean, shown

Cell = list[str] | str
"""The labels of a text: a list, or a text to split at a separator."""

LABELS = ("labels", "label", "tags", "classes", "class", "categories", "category", "targets", "target")
_BRACKETED_NAME = re.compile(r"""\[[^\[\]"',]*\][^\]]*""")
_NAMES = {**{mark: name for name, mark in DELIMITERS.items()}, "\t": "tab", " ": "space"}


def read_sets(source: Any, options: ReadOptions = DEFAULTS) -> Table:
    """Read ``source`` into a Table whose labels are a :data:`Cell` for each text.

    Args:
        source: a source of :func:`stratatune.data.readers.read`.
        options: ``label`` names one column of labels, or several 0/1 columns as ``"a,b,c"`` (a name with a comma in
            quotes). Recognised by a usual name, or where all columns of 0 and 1 are meant; with ``labels`` the one
            may take the place of the other. A row without a label is never bad.

    Raises:
        DataError: whatever is wrong with the source, in one line.
    """
    frame = whole = open_source(source, None, options.split, options.written)
    if not frame.rows:
        raise DataError(f"{frame.place}: there are no rows", "give at least one example")
    frame = whole = annotated(labelled(frame, options), needed=options.need_labels, label=options.label)
    frame, columns = text_columns(frame, options.text if frame.named else None, None)
    names: tuple[str, ...] = ()
    flagged = False
    if options.need_labels:
        frame, names, flagged = _label_columns(frame, columns, options.label, options.labels)
    if options.written.bad_rows == "skip":
        frame = without_bad(frame, [*columns])
    return Table(
        texts=tuple(texts_of(frame, name, options.written.bad_rows) for name in columns),
        labels=_sets(frame, names, flagged) if names else None,  # pyright: ignore[reportArgumentType]  whose cells are ours
        columns=columns,
        label_column=joined(names) if names else None,
        source=frame.place,
        rows=frame.rows,
        notices=frame.notices,
        whole=whole if options.keep_whole else None,
    )


# --- columns -------------------------------------------------------------------------------------------------------


def columns_in(label: str) -> tuple[str, ...]:
    """The columns that ``"a,b"`` names, as a line of csv does.

    Raises:
        DataError: a name that is empty.
    """
    names = tuple(name.strip() for name in next(csv.reader([label], skipinitialspace=True), []))
    if not names or not all(names):
        raise DataError(f"label: {label!r} names an empty column", "write --label A,B,C")
    return names


def columns_named(frame: Frame, label: str) -> tuple[str, ...]:
    """The columns of a frame that ``"a,b"`` names; a column may also be called that as a whole.

    Raises:
        DataError: one that is not there, or is named twice.
    """
    names = (label,) if label in frame.names else columns_in(label)
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"label: column {twice!r} is named twice", "name each column once")
    return tuple(existing(frame, name) for name in names)


def joined(names: Sequence[str]) -> str:
    """Join names of columns so that :func:`columns_in` reads them."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(names)
    return line.getvalue()


def _label_columns(
    frame: Frame, texts: tuple[str, ...], label: str | None, known: Sequence[str]
) -> tuple[Frame, tuple[str, ...], bool]:
    """The columns of the labels, and whether they hold 0 and 1; ``known`` are the labels of a run, if there is one."""
    if label is not None and known:
        return _label_columns_of_run(frame, texts, label, known)
    if label is not None:
        names = columns_named(frame, label)
        return frame, names, len(names) > 1
    usual = [name for name in LABELS if name in frame.names and name not in texts]
    usual = usual or [name for name in (choices_in(frame),) if name]
    if len(usual) == 1:
        return frame.noting(f"labels are read from column {usual[0]!r}"), (usual[0],), False
    columns = [] if usual else [name for name in frame.names if name not in texts and is_flags(frame.get(name))]
    if len(columns) > 1:
        return noting_columns(frame, columns), tuple(columns), True
    raise DataError(
        f"{frame.place}: which column holds the labels? columns: {listed(frame.names)}",
        "name it with --label COLUMN, or columns of 0 and 1 with --label A,B,C",
    )


def _label_columns_of_run(
    frame: Frame, texts: tuple[str, ...], label: str, known: Sequence[str]
) -> tuple[Frame, tuple[str, ...], bool]:
    """The same where data are laid out as those of training, or in the other way that leaves no doubt."""
    names = (label,) if label in frame.names else columns_in(label)
    lacking = [name for name in names if name not in frame.names]
    if not lacking:
        return frame, names, len(names) > 1
    if columns := columns_of(frame, known, texts):
        return noting_columns(frame, columns), columns, True
    usual = [name for name in LABELS if name in frame.names and name not in texts]
    if len(names) > 1 and len(lacking) == len(names) and len(usual) == 1:
        return frame.noting(f"labels are read from column {usual[0]!r}"), (usual[0],), False
    raise no_labels(frame, lacking[0], known)


# --- cells ---------------------------------------------------------------------------------------------------------


def _sets(frame: Frame, names: tuple[str, ...], flagged: bool) -> Sequence[Cell]:
    if flagged:
        return sets_of(frame, names)
    values = frame.get(names[0])
    if _are_vectors(values):
        raise DataError(
            f"{frame.place}: column {names[0]!r} holds vectors of 0 and 1, which name no label",
            "write the names of each text's labels, or a column of 0 and 1 for each label",
        )
    return [cell(frame, row, names[0], value) for row, value in zip(frame.rows, values, strict=True)]


def _are_vectors(values: Sequence[Any]) -> bool:
    """Whether all cells are lists of 0 and 1 of one length, some of which repeat them: names are in a list once."""
    rows = [list(value) for value in values if isinstance(value, list | tuple) or getattr(value, "ndim", 0)]
    if len(rows) < len(values) or len({len(row) for row in rows}) != 1:
        return False
    return all(map(is_flags, rows)) and any(len({float(one) for one in row}) < len(row) for row in rows)


def cell(frame: Frame, row: int, name: str, value: Any) -> Cell:
    """A cell's labels as a list, or as a text that is still to be split.

    A text in brackets is a list in JSON, or a name such as ``[none]``: without a comma or a quote it cannot be a list
    that was written wrong.

    Raises:
        DataError: neither names nor a list of names.
    """
    if isinstance(value, str):
        if not value.lstrip().startswith("["):
            return value.strip()
        try:
            value = json.loads(value)
        except ValueError as error:
            if _BRACKETED_NAME.fullmatch(value.strip()):
                return value.strip()
            raise DataError(
                f"{frame.place}, row {row}: column {name!r} is not a JSON list: {error}: {shown(value, 40)}",
                'write ["a", "b"], or a,b; a name with brackets and commas in it: ["[a, b]"]',
            ) from error
    value = value.tolist() if hasattr(value, "tolist") else value
    if is_missing(value):
        return []
    listed = list(value) if isinstance(value, list | tuple | set | frozenset) else [value]
    if odd := next((one for one in listed if isinstance(one, Mapping | list | tuple)), None):
        raise DataError(f"{frame.place}, row {row}: column {name!r} holds {shown(odd)}", "write a list of names")
    if any(is_missing(one) or not label_text(one) for one in listed):
        raise DataError(f"{frame.place}, row {row}: column {name!r} has an empty label", "leave it out of the list")
    return list(dict.fromkeys(map(label_text, listed)))


def separator_of(cells: Iterable[Cell], place: str) -> str:
    """The separator in cells of text; empty where none of the usual ones is in any.

    Raises:
        DataError: several are.
    """
    texts = {cell for cell in cells if isinstance(cell, str)}
    found = [mark for mark in SEPARATORS if any(mark in text for text in texts)]
    if len(found) > 1:
        such = next(text for text in sorted(texts) if found[1] in text)
        raise DataError(
            f"{place}: label cells hold both {found[0]!r} and {found[1]!r}, such as {shown(such)}",
            f"name the one between two labels: --objective 'multilabel(separator={_NAMES[found[0]]})'",
        )
    return found[0] if found else ""


def separator_for(cells: Sequence[Cell], own: str, known: Collection[str]) -> str:
    """The separator of data of a run: its ``own``, or where labels are unknown then, the only one by which none is."""

    def fits(mark: str) -> bool:
        return all(label in known for cell in cells for label in cut(cell, mark))

    others = [] if fits(own) else [mark for mark in (*SEPARATORS, " ") if mark != own and fits(mark)]
    return others[0] if len(others) == 1 else own


def separator_named(word: str) -> str:
    """The separator that ``word`` names, or ``word`` itself if it is one.

    Raises:
        DataError: it is none.
    """
    marks = {name: mark for mark, name in _NAMES.items()}
    found = marks.get(word.lower(), word)
    if len(found) != 1 or found.isalnum():
        raise DataError(f"separator: {word!r}", did_you_mean(word, marks))
    return found


def cut(cell: Cell, separator: str) -> list[str]:
    """Split a cell into its labels, each once."""
    if not isinstance(cell, str):
        return cell
    parts = cell.split(separator) if separator else [cell]
    return list(dict.fromkeys(label for part in parts if (label := label_text(part))))
