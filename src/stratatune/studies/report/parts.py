"""The parts of a report, in whatever form it is written: sections of text, tables and figures. Pure data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from stratatune.studies.statistics import Verdict


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: its content.
        below: quieter lines, such as an interval.
        strong: the best of its column.
        code: a command or a setting.
    """

    text: str
    below: tuple[str, ...] = ()
    strong: bool = False
    code: bool = False


@dataclass(frozen=True)
class Column:
    """A column's heading; numbers are aligned right."""

    title: str
    number: bool = True
    below: str = ""


@dataclass(frozen=True)
class ReportTable:
    """Rows under columns; the first cell of a row is its heading."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Series:
    """Points (x, y) of one name, in order of x, with their bands.

    Attributes:
        low, high: the band or the error bar of y; empty for none.
        style: the number of its colour and marker: the same name has the same in every panel.
        joined: whether a line goes through the points.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    style: int = 0
    joined: bool = True


@dataclass(frozen=True)
class Panel:
    """One set of axes; its title names y.

    Attributes:
        name: a word that no other panel of the report has; a file name.
        log_x: x may be logarithmic, where it spans much.
        digits: the digits of y in the text that describes the panel.
    """

    name: str
    title: str
    x_label: str
    series: tuple[Series, ...]
    log_x: bool = False
    digits: int = 1

    @property
    def description(self) -> str:
        """The panel in words, for those who do not see it."""
        lines = "; ".join(f"{one.name}: {self._course(one)}" for one in self.series)
        return f"{self.title} against {self.x_label}. {lines}."

    def _course(self, one: Series) -> str:
        ends = [0] if len(one.x) == 1 else [0, len(one.x) - 1]
        said = [f"{one.y[at]:.{self.digits}f} at {_short(one.x[at])}" for at in ends]
        top = max(range(len(one.y)), key=one.y.__getitem__)
        if top not in ends:
            said.insert(1, f"highest {one.y[top]:.{self.digits}f} at {_short(one.x[top])}")
        return ", ".join(said)


@dataclass(frozen=True)
class Figure:
    """Panels with a common legend and caption."""

    name: str
    caption: str
    panels: tuple[Panel, ...]
    note: str = ""

    @property
    def legend(self) -> tuple[tuple[str, int], ...]:
        """Every series' name and style, once."""
        return tuple(dict.fromkeys((one.name, one.style) for panel in self.panels for one in panel.series))


@dataclass(frozen=True)
class Picture:
    """A finished drawing.

    Attributes:
        svg: inline SVG.
        plain: the same as text, where no drawing can be shown.
        description: its content, in a line.
    """

    svg: str
    plain: str
    description: str


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Code:
    """Lines of a command, or of a program's output."""

    text: str


@dataclass(frozen=True)
class Finding:
    """A claim and its verdict by the numbers."""

    claim: str
    verdict: Verdict
    numbers: str


@dataclass(frozen=True)
class Folded:
    """Parts that open on a click; in print and in plain text they are always open."""

    title: str
    parts: tuple[Part, ...]
    open: bool = False


Part: TypeAlias = ReportTable | Figure | Picture | Text | Code | Finding | Folded


@dataclass(frozen=True)
class Fact:
    """One number of the strip below the title."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A heading and what follows it."""

    title: str
    parts: tuple[Part, ...]

    @property
    def anchor(self) -> str:
        """The anchor for links to the section."""
        return "".join(c if c.isalnum() else "-" for c in self.title.lower())


@dataclass(frozen=True)
class Report:
    """A whole report: a title, its facts, its sections."""

    title: str
    about: str
    facts: tuple[Fact, ...]
    sections: tuple[Section, ...]
    made_by: str = field(default="")

    def parts(self) -> Iterator[Part]:
        """Every part, those inside folded ones included."""
        waiting: list[Part] = [part for section in self.sections for part in section.parts]
        while waiting:
            part = waiting.pop(0)
            yield part
            if isinstance(part, Folded):
                waiting[:0] = part.parts

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Every figure."""
        return tuple(part for part in self.parts() if isinstance(part, Figure))


def _short(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.3g}"
