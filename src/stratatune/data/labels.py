"""Convert labels as written to class numbers, and back."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from numbers import Real
from typing import TYPE_CHECKING

from stratatune.errors import DataError, cut, nearest, shown

if TYPE_CHECKING:
    import numpy as np

Labels = list[str] | list[float]
MOST_CLASSES = 1000  # more is taken for a column that holds no classes
SEPARATORS = (",", ";", "|", "\t")
"""Separators that are recognised between two labels in a cell. A blank is none, as it may be inside a label."""
SETS_HINT = "several labels in a cell: --objective multilabel"
"""The hint for data that look like label sets under an objective of one label a text."""
LONGEST_LABEL = 100_000
"""Characters of a label at most: what a run's result may hold."""
_MOST_RATINGS = 10  # different numbers with fractions that may still be classes
_FEW_ROWS = 10  # in so small a table every row may well have a different class
_SHOWN = 20
_NUMBERS = "regression needs numbers; for classes use the classification objective"
_LARGEST = 1e18
"""The largest number that is learnt: its square, and sums of squares, are still numbers of fp32."""


@dataclass(frozen=True)
class LabelSet:
    """The classes in the order of their numbers."""

    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def index(self) -> dict[str, int]:
        """The number of each class."""
        return {name: number for number, name in enumerate(self.names)}

    @cached_property
    def _by_value(self) -> dict[str, int]:
        """The number of each class by :func:`value_of`."""
        return {value_of(name): number for number, name in enumerate(self.names)}

    def number(self, text: str) -> int | None:
        """The number of the class of a label, which another kind of file may write in another way; None: unseen."""
        return self.index.get(text, self._by_value.get(value_of(text)))

    @classmethod
    def infer(cls, labels: Sequence[str | float], place: str = "the training data") -> LabelSet:
        """The distinct labels in sorted order; numbers in numeric order.

        Raises:
            DataError: one class only, or numbers with fractions, or too many labels for a column of classes.
        """
        # Of ways to write one label the shortest, and of these one that does not depend on the order of a set.
        texts = sorted({label_text(label) for label in labels}, key=lambda text: (-len(text), text))
        names = set({value_of(text): text for text in texts}.values())
        _refuse_fractions(labels, names, place)
        if len(names) < 2:
            only = next(iter(names), "nothing")
            raise DataError(f"{place}: every label is {shown(only)}", "training needs at least two classes")
        check_lengths(names, place)
        if len(names) > MOST_CLASSES or (len(names) == len(labels) > _FEW_ROWS):
            several = looks_like_sets(names)
            such = f", such as {shown(several)}" if several else ""
            like = ": this looks like regression" if all(map(_is_number, names)) else such
            raise DataError(
                f"{place}: {len(names)} different labels in {len(labels)} rows are too many to be classes{like}",
                SETS_HINT if several else "for numbers use --objective regression, or name another label column",
            )
        return cls(ordered(names))

    def encode(
        self, labels: Sequence[str | float], place: str = "the data", rows: Sequence[int] | None = None
    ) -> np.ndarray:
        """Encode labels as class numbers int64 [N]; DataError names the first row whose label is not of this set."""
        import numpy as np

        found = np.empty(len(labels), np.int64)
        for at, label in enumerate(labels):
            number = self.number(text := label_text(label))
            if number is None:
                raise unseen(f"{place}, row {rows[at] if rows else at + 1}: label", text, self.names)
            found[at] = number
        return found

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """Decode class numbers to names."""
        return [self.names[int(number)] for number in numbers]


def check_lengths(names: Iterable[str], place: str) -> None:
    """Refuse a label that is longer than any name of a class, before a run learns it.

    Raises:
        DataError: names its length and its beginning.
    """
    for name in names:
        if len(name) > LONGEST_LABEL:
            raise DataError(
                f"{place}: a label has {len(name):,} characters, {LONGEST_LABEL:,} at most: {shown(name)}",
                "name another label column, or shorten it",
            )


def unseen(place: str, found: str, names: Sequence[str]) -> DataError:
    """The error for a label, tag or class at ``place`` that is not among ``names``, those of the training data."""
    several, near = _separated(found, names), nearest(found, names)
    if several:
        hint = (
            f"these look like labels with {several!r} between them, of which --objective multilabel learns any number; "
        )
    else:
        hint = f"did you mean {near!r}? " if near else ""
    return DataError(f"{place} {shown(found)} was not seen in training", f"{hint}legal: {listed(names)}")


def unseen_in_set(place: str, found: str, names: Sequence[str]) -> DataError:
    """The same error where a cell may hold several labels, with any of the usual separators between them."""
    mark = _separated(found, names)
    if not mark:
        return unseen(place, found, names)
    odd = next((part for part in map(str.strip, found.split(mark)) if part and part not in names), None)
    if odd is None:  # which the other cells do not allow
        hint = f"with {mark!r} between labels other cells do not fit: write one separator everywhere, or lists"
    else:
        near = nearest(odd, names)
        hint = f"with {mark!r} between labels {shown(odd)} is left{f': did you mean {near!r}' if near else ''}? "
        hint += f"legal: {listed(names)}"
    return DataError(f"{place} {shown(found)} was not seen in training", hint)


def _separated(found: str, names: Sequence[str]) -> str:
    """The separator that cuts a label into several of which one is known; empty where none does."""
    marks = (mark for mark in SEPARATORS if mark in found)
    return next((mark for mark in marks if {part.strip() for part in found.split(mark)} & set(names)), "")


def listed(names: Sequence[str]) -> str:
    """Names as a message shows them: the first of many, and how many there are."""
    more = f", ... ({len(names)} in all)" if len(names) > _SHOWN else ""
    return f"{', '.join(map(cut, names[:_SHOWN]))}{more}"


def ordered(names: Collection[str]) -> tuple[str, ...]:
    """Sort labels; numbers in numeric order."""
    return tuple(sorted(names, key=_number) if all(map(_is_number, names)) else sorted(names))


def looks_like_sets(labels: Collection[str | float]) -> str:
    """A label that looks like several labels with a separator between them; empty if none does.

    So it is where cutting leaves fewer different labels than there were: ``a,b``, ``b,c`` and ``c,a,b``.
    """
    texts = {label for label in labels if isinstance(label, str)}
    for mark in SEPARATORS:
        several = [text for text in texts if mark in text]
        if several and len({part.strip() for text in texts for part in text.split(mark)}) < len(texts):
            return min(several, key=lambda text: (len(text), text))
    return ""


def written_as_sets(labels: Collection[str | float]) -> str:
    """A label that is written as several are: ``relief,joy`` or ``red; blue``; empty if none is.

    A comma with a blank beside it may be part of a name (``Arts, Culture``), and numbers with one are numbers.
    """
    texts = sorted((label for label in labels if isinstance(label, str)), key=lambda text: (len(text), text))
    marks = [mark for mark in SEPARATORS if any(mark in text for text in texts)]
    if len(marks) != 1:
        return ""
    mark = marks[0]
    for text in texts:
        parts = text.split(mark)
        whole = [part if mark == "," else part.strip() for part in parts]
        apart = all(part and part == part.strip() for part in whole) and len(set(whole)) == len(whole)
        if len(whole) > 1 and apart and not all(map(_is_number, whole)):
            return text
    return ""


def fraction_in(labels: Collection[str | float]) -> str:
    """A number with a fraction, where all labels are numbers; empty if there is none, or another label."""
    names = [str(label) for label in labels]
    if not all(map(_is_number, names)):
        return ""
    return next((name for name in sorted(names, key=_number) if not float(name).is_integer()), "")


def _refuse_fractions(labels: Sequence[str | float], names: Collection[str], place: str) -> None:
    """Refuse numbers with fractions, unless they are text, few and often repeated, such as half points of a rating."""
    fraction = fraction_in(names)
    few = len(names) <= _MOST_RATINGS and 2 * len(names) <= len(labels)
    if fraction and not (few and all(isinstance(label, str) for label in labels)):
        raise DataError(
            f"{place}: labels such as {fraction} are numbers, not classes: this looks like regression",
            "use --objective regression, with a plan that reads no label words such as lora",
        )


def value_of(text: str) -> str:
    """The value that a label writes: text files write ``1.0`` and ``True`` where others have a number or ``true``."""
    if text.lower() in ("true", "false"):
        return text.lower()
    return text[:-2] if text.endswith(".0") and text[:-2].lstrip("-").isdecimal() else text


def _number(text: str) -> tuple[float, str]:
    return float(text), text


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def is_missing(value: object) -> bool:
    """Whether ``value`` is missing: None, NaN, or one of pandas' and numpy's own marks."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, Decimal):
        return value.is_nan()
    # Before the numbers, among which numpy counts a difference of times; its NaT is equal to nothing.
    if type(value).__name__ in ("datetime64", "timedelta64"):
        return bool(value != value)
    return isinstance(value, Real) and value != value  # noqa: PLR0124  math.isnan refuses long integers


def cell_text(value: str | float) -> str:
    """A cell as text; 1.0 becomes 1, since tables turn whole numbers into floats next to a gap."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def label_text(value: str | float) -> str:
    """A label as text: that of its cell without the blanks around it."""
    return cell_text(value).strip()


def numbers(
    labels: Sequence[str | float], place: str, rows: Sequence[int] | None = None, hint: str = _NUMBERS
) -> list[float]:
    """Labels as floats a run can compute with; DataError names the first row that is none, with ``hint`` as the fix."""
    values: list[float] = []
    for row, label in zip(rows or range(1, len(labels) + 1), labels, strict=True):
        try:
            value = float(label)
        except (TypeError, ValueError, OverflowError):  # a list or a date; a text; a whole number of 309 digits
            value = math.nan
        if not math.isfinite(value):
            raise DataError(f"{place}, row {row}: label {shown(label)} is not a number", hint)
        if abs(value) > _LARGEST:
            fix = f"give numbers up to {_LARGEST:g} in size: divide all of them by the same number"
            raise DataError(f"{place}, row {row}: label {shown(label)} is too large to compute with", fix)
        values.append(value)
    return values
