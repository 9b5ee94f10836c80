"""A report as Markdown in GitHub's dialect, with figures as files next to it."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from stratatune import markup
from stratatune.studies.report.parts import (
    Cell,
    Code,
    Column,
    Figure,
    Finding,
    Folded,
    Part,
    Picture,
    Report,
    ReportTable,
    Text,
)


def markdown(report: Report, figures: str = "") -> str:
    """The report as Markdown.

    Args:
        report: the report.
        figures: where the panels' files lie, seen from the text (``table2-figures``); without it they are described.
    """
    lines = [f"# {markup.text(report.title)}", ""]
    if report.about:
        lines += [markup.text(report.about), ""]
    lines += ["| | | |", "|---|---|---|"]
    lines += [_row([Cell(fact.label), Cell(fact.value), Cell(fact.note)]) for fact in report.facts]
    for section in report.sections:
        lines += ["", f"## {markup.text(section.title)}"]
        for part in section.parts:
            lines += ["", *_part(part, figures)]
    return "\n".join((*lines, "", report.made_by)).rstrip() + "\n"


def _part(part: Part, figures: str) -> Iterator[str]:
    if isinstance(part, ReportTable):
        yield from _table(part)
    elif isinstance(part, Finding):
        yield f"- **{part.verdict}**: {markup.text(part.claim)}  "
        yield f"  {markup.text(part.numbers)}"
    elif isinstance(part, Figure):
        for panel in part.panels:
            alt = markup.text(panel.description)
            yield from ((f"![{alt}]({quote(figures)}/{quote(panel.name)}.svg)",) if figures else (alt, ""))
        yield ""
        yield f"*{markup.text(' '.join(filter(None, [part.caption, part.note])))}*"
    elif isinstance(part, Code | Picture):
        yield from markup.block(part.text if isinstance(part, Code) else part.plain)
    elif isinstance(part, Text):
        yield markup.text(part.text)
    elif isinstance(part, Folded):
        yield from ("<details>", f"<summary>{markup.text(part.title)}</summary>")
        for inner in part.parts:
            yield from ("", *_part(inner, figures))
        yield from ("", "</details>")


def _table(table: ReportTable) -> Iterator[str]:
    yield from (markup.text(table.caption), "")
    yield _row([Cell(one.title, (one.below,) if one.below else ()) for one in table.columns])
    yield "|" + "|".join(map(_rule, table.columns)) + "|"
    yield from map(_row, table.rows)
    if table.note:
        yield from ("", markup.text(table.note))


def _rule(column: Column) -> str:
    return "---:" if column.number else "---"


def _row(cells: list[Cell] | tuple[Cell, ...]) -> str:
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(cell: Cell) -> str:
    text = markup.code(cell.text) if cell.code else markup.text(cell.text)
    text = f"**{text}**" if cell.strong else text
    return "<br>".join((text, *map(markup.text, cell.below)))
