"""Columns by name, not yet interpreted, from objects in memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from stratatune.data.labels import is_missing
from stratatune.data.tasks import Task
from stratatune.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from datasets import ClassLabel, Dataset

#: What a split is called in folders and on the hub, the first that exists is taken.
SPLITS = {
    "train": ("train",),
    "dev": ("dev", "validation", "valid", "dev_matched", "validation_matched"),
    "dev_matched": ("dev_matched", "validation_matched"),
    "dev_mismatched": ("dev_mismatched", "validation_mismatched"),
    "test": ("test", "test_matched"),
    "test_matched": ("test_matched",),
    "test_mismatched": ("test_mismatched",),
}
SPLITS["validation"] = SPLITS["dev"]


_LONE_SURROGATE = re.compile("[\\ud800-\\udfff]")
_WHOLE = "write the whole character; this happens where a text was cut in the middle of one"


def broken_in(value: Any) -> str:
    """The part of a cell that no file, tokenizer or terminal takes: half of a surrogate pair, which JSON can spell."""
    if isinstance(value, str):
        broken = None if value.isascii() else _LONE_SURROGATE.search(value)
        return f"{broken[0]!a}, half of a surrogate pair" if broken else ""
    if isinstance(value, Mapping):
        return next(filter(None, map(broken_in, (*value, *value.values()))), "")
    if isinstance(value, list | tuple):
        return next(filter(None, map(broken_in, value)), "")
    return ""


def dataset_of(columns: Mapping[str, Sequence[Any]]) -> Dataset:
    """A Dataset of columns in memory.

    Raises:
        DataError: a cell holds half of a surrogate pair, which Arrow cannot keep.
    """
    from datasets import Dataset

    for values in columns.values():
        for row, value in enumerate(values, start=1):
            if broken := broken_in(value):
                raise DataError(f"row {row} holds {broken}", _WHOLE)
    return Dataset.from_dict(dict(columns))


class SeveralSplits(DataError):
    """Data of several splits, where one is read and none is named.

    Args:
        place: the data.
        problem: what they are.
        splits: the names of the splits, where these are known.
        hint: how one is named.
    """

    def __init__(self, place: str, problem: str, splits: Sequence[str], hint: str) -> None:
        super().__init__(f"{place} {problem}", hint)
        self.splits = splits


@dataclass(frozen=True)
class Frame:
    """N rows of columns by name, not yet interpreted.

    ``get`` gives a column's N values. ``rows`` numbers them as in the source, from 1, a header line not counted.
    ``task`` is set where the source itself says which it is. ``named`` is False where the names are ours: of lists.
    ``original`` has the names in the source of columns that were renamed. ``mend`` takes a column's name in the source
    and a cell, and gives the cell without what the source's format added to it.
    """

    place: str
    names: list[str]
    get: Callable[[str], list[Any]]
    rows: Sequence[int]
    task: Task | None = None
    notices: tuple[str, ...] = ()
    named: bool = True
    original: Mapping[str, str] = field(default_factory=dict)
    mend: Callable[[str, Any], Any] = lambda _, cell: cell

    def __post_init__(self) -> None:
        for name in self.names:
            if broken := broken_in(name):
                raise DataError(f"{self.place}: the name of column {name!a} holds {broken}", _WHOLE)
        read = self.get

        def checked(name: str) -> list[Any]:
            values = read(name)
            for row, value in zip(self.rows, values, strict=False):
                if broken := broken_in(value):
                    raise DataError(f"{self.place}, row {row}: column {name!r} holds {broken}", _WHOLE)
            return values

        object.__setattr__(self, "get", checked)

    def as_written(self, name: str) -> list[Any]:
        """A column's values without the nulls that Arrow adds.

        Arrow gives all objects of a column the same keys, and those that an object lacks a null. A chat template would
        write it. A null that the author wrote into Arrow data looks the same, and is dropped too.
        """
        source = self.original.get(name, name)
        return [self.mend(source, cell) for cell in self.get(name)]

    def keep(self, at: Sequence[int]) -> Frame:
        """The frame's rows at the 0-based positions ``at``."""

        def kept(name: str) -> list[Any]:
            values = self.get(name)
            return [values[i] for i in at]

        return replace(self, get=kept, rows=[self.rows[i] for i in at])

    def renamed(self, columns: Sequence[tuple[str, str]]) -> Frame:
        """The frame with other names for its columns, given as (new name, name).

        Raises:
            DataError: there is no such column, or another one has the new name.
        """
        if not columns or not (self.rows or self.named):  # an empty list fails for that, not for a column
            return self
        original = dict(columns)
        for name, theirs in columns:
            if theirs not in self.names:
                raise DataError(f"{self.place} has no column {theirs!r}", did_you_mean(theirs, self.names))
            if name in self.names and name not in original.values():
                raise DataError(
                    f"{self.place}: column {theirs!r} cannot stand for {name!r}: there is a column of that name",
                    "leave out --column, or rename one of them",
                )
        ours = {theirs: name for name, theirs in columns}
        names = [ours.get(name, name) for name in self.names]

        def values(name: str) -> list[Any]:
            here: str = original.get(name, name)
            return self.get(here)

        return replace(self, names=names, get=values, original=original)

    def noting(self, notice: str) -> Frame:
        """The frame with one more notice."""
        return replace(self, notices=(*self.notices, notice))


def called(split: str) -> tuple[str, ...]:
    """The names that ``split`` may have, the likeliest first."""
    return SPLITS.get(split, (split,))


def of_datasets(data: Any, place: str, split: str | None = None) -> Frame:
    """Make a frame of a `datasets.Dataset`, of one split of a `DatasetDict`, or of a column of texts.

    A format (``with_format("torch")``) is put aside: its columns are tensors, and texts are needed. A function of the
    user's own (``with_transform``) is run, once over all rows.

    Raises:
        DataError: there is no such split, or the rows are a stream.
    """
    from datasets import Column, Dataset

    if isinstance(data, Column):
        column: Any = data  # its annotation lacks slices
        return of_texts(column[:])
    if isinstance(data, dict):
        chosen = _split_of(data, place, split)
        return of_datasets(data[chosen], f"{place} [{chosen}]")
    if not isinstance(data, Dataset):
        raise DataError(
            f"cannot read {place}: {type(data).__name__} is a stream, and rows are read by their numbers",
            "give rows of it: Dataset.from_list(list(data.take(10_000)))",
        )
    if data.format["type"] == "custom":
        return _transformed(data, place)
    data = data.with_format(None)
    rows, kinds = range(1, len(data) + 1), data.features
    return Frame(
        place,
        list(data.column_names),
        lambda name: _with_names(kinds[name], data[name][:]),  # whole: a row at a time takes many times as long
        rows,
        mend=lambda n, cell: _typed(kinds[n], cell),
    )


def _transformed(data: Dataset, place: str) -> Frame:
    """The columns that the user's own function makes of the rows, whatever these are called."""
    made, kinds = of_columns(data[:]), data.features
    return replace(made, place=place, get=lambda name: _with_names(kinds.get(name), made.get(name)))


def _typed(kind: Any, value: Any) -> Any:
    """A value of a type of `datasets` without the nulls of missing keys; a cell of JSON is as it was written."""
    if isinstance(kind, Mapping) and isinstance(value, Mapping):
        return {name: _typed(kind.get(name), one) for name, one in value.items() if one is not None}
    if isinstance(value, list) and (inner := getattr(kind, "feature", None)) is not None:
        return [_typed(inner, one) for one in value]
    return value


def _without_nulls(value: Any) -> Any:
    """A value of Arrow's without the nulls of missing keys, and with lists for its arrays."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, Mapping):
        return {name: _without_nulls(one) for name, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value


def _with_names(kind: Any, values: Sequence[Any]) -> list[Any]:
    """A column's values; a ClassLabel as its name, and its -1 (the hub's mark for a hidden label) as missing."""
    from datasets import ClassLabel

    inner = getattr(kind, "feature", None)  # of a list
    if isinstance(inner, ClassLabel):
        return [row and [_class_name(inner, value) for value in row] for row in values]
    return [_class_name(kind, value) for value in values] if isinstance(kind, ClassLabel) else list(values)


def _class_name(kind: ClassLabel, value: int | str | None) -> str | None:
    if isinstance(value, str):  # which a function of the user's own has written
        return value
    return None if value is None or value < 0 else str(kind.int2str(value))


def _split_of(splits: dict[str, Any], place: str, split: str | None) -> str:
    if split is None and len(splits) == 1:
        return next(iter(splits))
    if split is None:
        raise SeveralSplits(place, "has several splits", list(splits), f"name one: {', '.join(splits)}")
    found = next((name for name in called(split) if name in splits), None)
    if found is None:
        raise DataError(f"{place} has no split {split!r}", did_you_mean(split, splits))
    return found


def of_pandas(data: Any) -> Frame:
    """Make a frame of a pandas DataFrame; its missing values become None.

    Raises:
        DataError: two of its columns have one name.
    """
    place, names = "the data frame given", [str(name) for name in data.columns]
    _refuse_twice(place, names)

    def values(name: str) -> list[Any]:
        column = data.iloc[:, names.index(name)]  # by place, as a column's name need be no string
        return column.astype(object).where(column.notna(), None).tolist()

    def mended(_: str, cell: Any) -> Any:
        # pandas has an array where Arrow has a list; a list is one that Python made, and its nulls were written.
        of_arrow = any(hasattr(one, "tolist") for one in (cell, *(cell.values() if isinstance(cell, Mapping) else ())))
        return _without_nulls(cell) if of_arrow else cell

    return Frame(place, names, values, range(1, len(data) + 1), mend=mended)


def of_polars(data: Any) -> Frame:
    """Make a frame of a polars DataFrame; its nulls are None."""
    names, rows = list(data.columns), range(1, len(data) + 1)
    return Frame(
        "the data frame given",
        names,
        lambda name: data[name].to_list(),
        rows,
        mend=lambda _, cell: _without_nulls(cell),
    )


def of_arrow(data: Any) -> Frame:
    """Make a frame of a table or a batch of rows of pyarrow; its nulls are None.

    Raises:
        DataError: two of its columns have one name.
    """
    place, names = "the table given", list(data.schema.names)
    _refuse_twice(place, names)
    return Frame(
        place,
        names,
        lambda name: data.column(names.index(name)).to_pylist(),
        range(1, len(data) + 1),
        mend=lambda _, cell: _without_nulls(cell),
    )


def _refuse_twice(place: str, names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{place}: two columns are called {twice!r}", "rename one of them")


def of_columns(columns: Mapping[Any, Any]) -> Frame:
    """Make a frame of a dict of columns, lists of N values each; missing ones (NaN) become None.

    Raises:
        DataError: a column that is no list, or is of another length than the first.
    """
    place, found = "the dict of columns", dict[str, list[Any]]()
    hint = "give a dict of lists of one length, such as {'text': [...], 'label': [...]}; or a DataFrame or a Dataset"
    for name, values in columns.items():
        listed = values.tolist() if hasattr(values, "tolist") else values
        if not isinstance(listed, Sequence) or isinstance(listed, str | bytes):
            raise DataError(f"{place}: {str(name)!r} is {type(values).__name__}, not a list of values", hint)
        found[str(name)] = [None if is_missing(value) else value for value in listed]
    sizes = {name: len(values) for name, values in found.items()}
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{count:,} in {name!r}" for name, count in sizes.items())
        raise DataError(f"the columns given are not of one length: {said}", hint)
    return Frame(place, list(found), found.__getitem__, range(1, max(sizes.values(), default=0) + 1))


def of_texts(texts: Sequence[Any]) -> Frame:
    """Make a frame of a list of N texts, N pairs of texts or N rows (dicts); missing ones (None, NaN) become None."""
    place, rows = "the list of texts", [None if is_missing(text) else of_spacy(text) for text in texts]
    if all(text is None or isinstance(text, str) for text in rows):
        return Frame(place, ["text"], lambda _: list(rows), range(1, len(rows) + 1), named=False)
    if all(text is None or (isinstance(text, list | tuple) and len(text) == 2) for text in rows):
        columns = {name: [pair and pair[at] for pair in rows] for at, name in enumerate(("text1", "text2"))}
        return Frame(place, list(columns), columns.__getitem__, range(1, len(rows) + 1), named=False)
    records: list[Mapping[str, Any]] = [row for row in rows if isinstance(row, Mapping)]
    if records and len(records) == len(rows):
        names = list(dict.fromkeys(str(name) for row in records for name in row))
        place = "the list of rows"
        return Frame(place, names, lambda name: [row.get(name) for row in records], range(1, len(rows) + 1))
    if len(rows) == 2 and all(_is_column(one) for one in texts) and len(texts[0]) == len(texts[1]):  # noqa: PLR2004
        fix = "give the pairs, list(zip(texts, labels)), or the columns, {'text': texts, 'label': labels}"
        raise DataError("the texts given are two lists of one length, not rows", fix)
    raise DataError(
        "the texts given are not all texts, all pairs of texts, or all rows",
        "give a list of strings, of pairs of strings, or of dicts of a row each; or a DataFrame or a Dataset",
    )


def _is_column(value: Any) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, str | bytes | Mapping)


def of_spacy(row: Any) -> Any:
    """A row in spaCy's form, ``[text, {"entities": [[0, 3, "PER"]]}]``, as an object; everything else as it is."""
    if isinstance(row, list | tuple) and len(row) == 2 and isinstance(row[0], str):  # noqa: PLR2004
        said = row[1]
        if isinstance(said, Mapping) and "entities" in said:
            return {"text": row[0], **{name: value for name, value in said.items() if name != "text"}}
    return row
