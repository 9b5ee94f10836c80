"""Tables of delimited text: csv, tsv and files of spreadsheets with these names."""

from __future__ import annotations

import csv
import mmap
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratatune._compat import drops_late_fields
from stratatune.data.frames import Frame, of_datasets
from stratatune.data.lines import encoding_of_file, not_in
from stratatune.data.loading import load, unreadable
from stratatune.data.tasks import Task
from stratatune.data.written import Written
from stratatune.errors import DataError, counted

if TYPE_CHECKING:
    from datasets import Dataset

_USUAL = {".csv": ",;\t|", ".tsv": "\t,;|"}  # the first that cuts the header
_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_PIECE = 10_000
"""The rows that datasets has pandas read at once."""
_NO_LIMIT = 2**31 - 1  # of a cell's characters; Python's own is 131,072


@dataclass(frozen=True)
class _Layout:
    """The format of one file. ``feeds``: lines end at ``\\n`` alone, and ``\\r`` is text."""

    encoding: str
    delimiter: str
    quoted: bool = True
    feeds: bool = False

    @property
    def quoting(self) -> Any:
        return csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE


def open_table(path: Path, task: Task | None, written: Written) -> Frame:
    """The columns of a csv or tsv file, every cell as the text that it is.

    GLUE's files of GLUE's tasks have no quotes, so that ``"`` is text; elsewhere quotes quote. A delimiter that is not
    the suffix's own is recognised by the header.

    Raises:
        DataError: it cannot be read, or rows and header do not fit.
    """
    from datasets import Features, Value

    layout, notices = _layout(path, task, written)
    names, first = _start(path, layout)
    options: dict[str, Any] = {"header": 0}
    glue = not layout.quoted and layout.delimiter == "\t"
    if glue and task and task.tsv_header and not set(task.text) <= set(names):
        names, options = list(task.tsv_header), {"header": None}
    if layout.quoted and layout.delimiter != "\t":
        _check_quotes(path, layout)
    _check_names(path, names, first)
    if layout.feeds:
        options["lineterminator"] = "\n"
    data = _loaded(
        path,
        layout,
        len(names),
        sep=layout.delimiter,
        quoting=layout.quoting,
        names=names,
        features=Features({name: Value("string") for name in names}),
        keep_default_na=False,  # "None", "NA" and "null" are words, and "01" is not 1
        encoding=layout.encoding,
        **options,
    )
    frame = of_datasets(data, str(path))
    for notice in notices:
        frame = frame.noting(notice)
    return _without_carriage(frame, names[-1]) if layout.feeds else frame


def _loaded(path: Path, layout: _Layout, width: int, **options: Any) -> Dataset:
    """Load the file; where that fails, the file is read once more to find the line at fault.

    Raises:
        DataError: names the line, or what else is wrong.
    """
    try:
        data = load("csv", path, **options)
    except DataError as error:
        open_quote = "EOF inside string" in error.message
        raise _fault(path, layout, width, open_quote=open_quote) or error from error
    late = len(data) > _PIECE and drops_late_fields()
    if late and (fault := _fault(path, layout, width, open_quote=False)):
        raise fault
    return data


def _fault(path: Path, layout: _Layout, width: int, *, open_quote: bool) -> DataError | None:
    """What is wrong with a file of ``width`` columns; None where Python's csv finds nothing.

    ``open_quote``: a quote is not closed, so the last record goes on to the end of the file.
    """
    row, first, last = -1, 1, 0  # the header has number 0
    with _opened(path, layout) as reader:
        for record in reader:
            row, first, last = row + bool(record), last + 1, reader.line_num
            if len(record) > width:
                return _too_many(path, first, row, len(record), width)
    if row < 0:
        return DataError(f"{path}: there are no rows", "give at least one example")
    said = f"{path}, line {first}: a quote is opened in row {row} and never closed"
    return DataError(said, 'close it, and write a quote inside a quoted text twice ("")') if open_quote else None


def _too_many(path: Path, line: int, row: int, fields: int, width: int) -> DataError:
    return DataError(
        f"{path}, line {line}: row {row} has {counted(fields, 'field')}, the header {width}",
        "put quotes around texts with a separator, or name the separator with --delimiter",
    )


def _layout(path: Path, task: Task | None, written: Written) -> tuple[_Layout, list[str]]:
    """The format of a file, and notices about what was recognised."""
    encoding = written.encoding or encoding_of_file(path)
    feeds = _ends_at_feeds(path)
    usual = _USUAL[path.suffix.lower()]
    if path.suffix.lower() == ".tsv" and task and task.is_glue and written.delimiter in (None, "\t"):
        return _Layout(encoding, "\t", quoted=False, feeds=feeds), []
    tried = [_Layout(encoding, mark, feeds=feeds) for mark in written.delimiter or usual]
    found = next((one for one in tried if _cuts(path, one)), tried[0])
    notices = []
    if written.delimiter is None and found.delimiter != usual[0]:
        notices.append(f"columns are separated by {_NAMES[found.delimiter]}")
    if found.delimiter == "\t" and not _is_quoted(path, found):
        # Irregular quotes in a table of tabs are text, as GLUE has them; a reader of quotes would join rows.
        found = _Layout(encoding, "\t", quoted=False, feeds=feeds)
        notices.append("quotes are read as text: they do not enclose whole fields")
    return found, notices


def _cuts(path: Path, layout: _Layout) -> bool:
    header, first = _start(path, layout)
    return len(header) > 1 and len(first) in (0, len(header))


def _start(path: Path, layout: _Layout) -> tuple[list[str], list[str]]:
    """The fields of the header and of the first row."""
    with _records(path, layout) as records:
        filled = (record for record in records if record)
        return next(filled, []), next(filled, [])


@contextmanager
def _records(path: Path, layout: _Layout, *, strict: bool = False) -> Iterator[Iterator[list[str]]]:
    """The file's records, as Python's csv reads them; cells may have any length.

    The reader refuses a lone carriage return, so where it is text it is replaced by a space.
    """
    try:
        with _opened(path, layout, strict=strict) as reader:
            yield ([field.removeprefix("\ufeff") for field in record] for record in reader)
    except csv.Error as error:
        if strict:
            raise
        raise unreadable(path, error) from error


@contextmanager
def _opened(path: Path, layout: _Layout, *, strict: bool = False, trimmed: bool = False) -> Iterator[Any]:
    """Python's csv reader of the file, whose ``line_num`` is the last line that it has read.

    With ``trimmed``, blanks between a quote and the end of its field are left out, which ``strict`` would refuse.
    """
    limit = csv.field_size_limit(_NO_LIMIT)
    try:
        with path.open(encoding=layout.encoding, newline="\n" if layout.feeds else "") as file:
            lines = (line.rstrip("\r\n").replace("\r", " ") + "\n" for line in file) if layout.feeds else file
            if trimmed:
                blanks = re.compile(rf'"[ \t]+(?={re.escape(layout.delimiter)}|[\r\n]*$)')
                lines = (blanks.sub('"', line) for line in lines)
            yield csv.reader(lines, delimiter=layout.delimiter, quoting=layout.quoting, strict=strict)
    except UnicodeDecodeError as error:
        raise not_in(str(path), error) from error
    finally:
        csv.field_size_limit(limit)


def _is_quoted(path: Path, layout: _Layout) -> bool:
    """Whether quotes in a table of tabs are a csv writer's: each encloses a field, and no row is torn.

    Where lines are whole records without quotes, two of them that a quote would join are two.
    """
    with path.open("rb") as file:
        if not _holds(file.fileno(), b'"'):
            return True
    plain = _Layout(layout.encoding, layout.delimiter, quoted=False, feeds=layout.feeds)
    try:
        with _records(path, layout, strict=True) as records:
            sizes = [len(record) for record in records if record]
    except csv.Error:
        return False
    with _records(path, plain) as records:
        alone = [len(record) for record in records if record]
    return len(set(sizes)) == 1 and (len(sizes) == len(alone) or len(set(alone)) > 1)


def _check_quotes(path: Path, layout: _Layout) -> None:
    """Refuse a quoted text that goes on behind a single quote in it, as where ``\\"`` stands for a quote.

    A reader would end the text there, keep what follows with other quotes, and cut it at the next separator.

    Raises:
        DataError: names the line.
    """
    mark = re.escape(layout.delimiter.encode())
    # Inside quotes a quote is written twice. An odd run of them in the midst of words is a fault there, or is text
    # where nothing encloses it (a 5" pipe), so only a file that has such a run is parsed once more.
    inside = re.compile(rb'[^"\r\n%b]"(?:"")*[ \t]*[^"\r\n\t %b]' % (mark, mark))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if inside.search(content) is None:
            return
    line = 0
    try:
        with _opened(path, layout, strict=True, trimmed=True) as reader:
            for _ in reader:
                line = reader.line_num
    except csv.Error as error:
        if "expected after" in str(error):  # an open quote is found when the file is loaded
            raise DataError(
                f"{path}, line {line + 1}: a quoted text goes on behind a quote that ends it",
                'write a quote inside a quoted text twice (""), not with a backslash',
            ) from error


def _holds(number: int, word: bytes) -> bool:
    with mmap.mmap(number, 0, access=mmap.ACCESS_READ) as content:
        return content.find(word) >= 0


def _ends_at_feeds(path: Path) -> bool:
    r"""Whether lines end at ``\n`` and a lone ``\r`` occurs, which then is text: pandas writes such texts unquoted."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        lone = re.search(rb"\r(?!\n)", content)
        feed = content.find(b"\n")
        return lone is not None and 0 <= feed < lone.start() and content[:1] not in (b"\xff", b"\xfe")


def _without_carriage(frame: Frame, last: str) -> Frame:
    r"""Strip the ``\r`` of rows that end in ``\r\n`` from their last column."""

    def get(name: str, plain: Any = frame.get) -> list[Any]:
        values = plain(name)
        return [value.removesuffix("\r") if value else value for value in values] if name == last else values

    return Frame(frame.place, frame.names, get, frame.rows, frame.task, frame.notices)


def _check_names(path: Path, names: Sequence[str], first: Sequence[str]) -> None:
    """Refuse two columns of one name, and a row with more fields than names, which pandas would shift in silence."""
    if len(first) > len(names):
        raise _too_many(path, 2, 1, len(first), len(names))
    twice = next((name for at, name in enumerate(names) if name in islice(names, at)), None)
    if twice is not None:
        raise DataError(f"{path}: two columns are called {twice!r}", "rename one of them")
