"""The core of a report for a terminal: its scores, or its costs if it is about these, and its claims."""

from __future__ import annotations

from collections.abc import Iterator

from stratatune.studies.report.parts import Finding, Report, ReportTable


def plain(report: Report) -> str:
    """The first table and the claims as lines of text; empty if there are none."""
    titles = [section.title for section in report.sections]
    wanted = ("Results" if "Results" in titles else "Cost", "Claims")
    parts = [part for section in report.sections if section.title in wanted for part in section.parts]
    blocks = ["\n".join(_table(part)) for part in parts if isinstance(part, ReportTable)]
    claims = [
        f"{part.verdict:<13}  {part.claim}\n{'':<13}  {part.numbers}" for part in parts if isinstance(part, Finding)
    ]
    return "\n\n".join((*blocks, *(["\n".join(claims)] if claims else [])))


def _table(table: ReportTable) -> Iterator[str]:
    """Columns as wide as their cells, with numbers aligned right."""
    rows = [[column.title for column in table.columns], *([cell.text for cell in row] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    yield table.caption.partition(",")[0]
    for row in rows:
        yield "  ".join(
            f"{text:>{width}}" if column.number else f"{text:<{width}}"
            for text, width, column in zip(row, widths, table.columns, strict=True)
        ).rstrip()
