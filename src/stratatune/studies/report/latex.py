"""A report's tables and findings as LaTeX for a paper: ``booktabs``, with figures as PDF files next to it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from stratatune.studies.report.parts import Cell, Column, Figure, Finding, Part, Report, ReportTable, Text

_SIGNS = {
    "\\": r"\textbackslash{}",
    "|": r"\textbar{}",
    '"': "''",  # there is no straight quote in LaTeX's usual encoding of fonts, OT1
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "<": "$<$",
    ">": "$>$",
    "·": r"$\cdot$",
    "–": "--",
}


def latex(report: Report, figures: str = "") -> str:
    """Write sections to ``\\input`` into a document that loads ``booktabs`` and, for figures, ``graphicx``.

    Args:
        report: the report.
        figures: where the panels' PDF files lie, seen from the document; without it none is included.
    """
    title = " ".join(report.title.split())
    lines = [f"% {title}. {report.made_by}", r"% needs \usepackage{booktabs,graphicx}"]
    if report.facts:
        lines += ["", *_table(_summary(report))]
    for section in report.sections:
        body = [line for part in section.parts for line in _part(part, figures)]
        if body:
            lines += ["", rf"\subsection*{{{escaped(section.title)}}}", *body]
    return "\n".join(lines) + "\n"


def _summary(report: Report) -> ReportTable:
    """The strip below the title, which holds the scores of a single run."""
    rows = tuple((Cell(fact.label), Cell(fact.value), Cell(fact.note)) for fact in report.facts)
    return ReportTable("Summary.", (Column("", False), Column("value"), Column("note", False)), rows)


def _part(part: Part, figures: str) -> Iterator[str]:
    """Write a part; commands and folded parts are left out of a paper."""
    if isinstance(part, ReportTable):
        yield from _table(part)
    elif isinstance(part, Finding):
        yield rf"\paragraph{{{escaped(part.verdict)}}} {escaped(part.claim)} ({escaped(part.numbers.rstrip('.'))})."
    elif isinstance(part, Figure) and figures:
        yield r"\begin{figure}\centering"
        yield from (rf"\includegraphics[width=.32\linewidth]{{{figures}/{panel.name}.pdf}}" for panel in part.panels)
        yield from (rf"\caption{{{escaped(part.caption)}}}", r"\end{figure}")
    elif isinstance(part, Text):
        yield escaped(part.text) + r"\par"


def _table(table: ReportTable) -> Iterator[str]:
    columns = "".join("r" if one.number else "l" for one in table.columns)
    yield from (r"\begin{table}\centering\small", rf"\caption{{{escaped(table.caption)}}}")
    yield from (rf"\begin{{tabular}}{{{columns}}}", r"\toprule")
    yield _row([Cell(one.title, (one.below,) if one.below else ()) for one in table.columns])
    yield r"\midrule"
    yield from map(_row, table.rows)
    yield from (r"\bottomrule", r"\end{tabular}")
    if table.note:
        yield rf"\par\smallskip\footnotesize {escaped(table.note)}"
    yield r"\end{table}"


def _row(cells: list[Cell] | tuple[Cell, ...]) -> str:
    """Write a row, and if cells have secondary lines, a row of these below it."""
    rows = [_line([rf"\textbf{{{escaped(c.text)}}}" if c.strong else escaped(c.text) for c in cells])]
    for number in range(max((len(cell.below) for cell in cells), default=0)):
        quiet = [escaped(cell.below[number]) if number < len(cell.below) else "" for cell in cells]
        if any(quiet):
            rows.append(_line([rf"{{\scriptsize {text}}}" if text else "" for text in quiet]))
    return "\n".join(rows)


def _line(cells: list[str]) -> str:
    """Join cells to a line, which is not taken for an argument of the command above it: ``\\\\`` or ``\\midrule``."""
    return ("{}" if cells[0].startswith(("[", "*")) else "") + " & ".join(cells) + r" \\"


def escaped(text: str) -> str:
    """Escape LaTeX's special characters, and the hyphens that it would join to a dash."""
    return "".join(_SIGNS.get(sign, sign) for sign in re.sub("-(?=-)", "\0", text)).replace("\0", "-{}")
