"""Reports: the results of runs as one HTML file, as Markdown or as LaTeX. No torch."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from stratatune._compat import VERSION
from stratatune.files import make_folder, write_bytes
from stratatune.studies.grid.records import compared, earlier_said, read_caches, read_records
from stratatune.studies.report import drawing
from stratatune.studies.report.comparison import many
from stratatune.studies.report.html import html
from stratatune.studies.report.latex import latex
from stratatune.studies.report.markdown import markdown
from stratatune.studies.report.parts import Panel, Report
from stratatune.studies.report.single import single
from stratatune.studies.report.wording import listed

_HINT = "point --out to a file that you can write to"
FILE = "report.html"
"""The name of the report in a run folder or a grid folder."""
FORMATS: Mapping[str, Callable[[Report, str], str]] = {
    "html": lambda report, _: html(report),
    "md": markdown,
    "latex": latex,
}
"""The writer of each format: called with the report, and the relative path of its figures' files."""


def report_on(folder: str | Path, *others: str | Path, note: str = "") -> Report:
    """Make the report of a run, of a folder of runs or of a grid, with ``note`` below its title.

    ``others`` are more folders, whose runs are compared with those of the first. Runs that a grid made of an earlier
    recipe are left out, and the report says how many.

    Raises:
        ConfigError: a folder is none of these, or damaged.
    """
    folders = [Path(one).expanduser() for one in (folder, *others)]
    names = [one.resolve().name for one in folders]
    read = [read_records(one, earlier=True) for one in folders]
    every = [record for _, own in read for record in own]
    records = [record for record in every if record.current]
    left_out = earlier_said(len(every) - len(records))
    recipe = None if others else read[0][0]
    records = compared(records) if others else records
    alone = recipe is None and len(records) == 1
    caches = [cache for one in folders for cache in read_caches(one)]
    report = single(records[0]) if alone else many(recipe, records, listed(names), caches, left_out)
    about = " ".join(filter(None, [report.about, note]))
    command = f"stratatune report {shlex.join(names)}"
    return replace(report, about=about, made_by=f"Written by stratatune {VERSION}: {command}")


def text_of(report: Report, format: str) -> str:
    """The report's text alone; Markdown and LaTeX then have no figures.

    Raises:
        ResourceError: a library that it needs is not installed.
    """
    return FORMATS[format](report, "")


def write(report: Report, format: str, out: Path) -> list[Path]:
    """Write a report; the figures of Markdown (SVG) and LaTeX (PDF) go into a folder next to it.

    Returns:
        The files, the report first.

    Raises:
        ResourceError: a file cannot be written, or a library that it needs is not installed.
    """
    panels = [panel for figure in report.figures for panel in figure.panels] if format != "html" else []
    folder = out.with_name(f"{out.stem}-figures")
    files = {out: FORMATS[format](report, folder.name if panels else "").encode()}
    files |= {folder / f"{panel.name}.{'svg' if format == 'md' else 'pdf'}": _drawn(panel, format) for panel in panels}
    make_folder(folder if panels else out.parent, _HINT)
    for path, content in files.items():
        write_bytes(path, content, _HINT)
    return list(files)


def _drawn(panel: Panel, format: str) -> bytes:
    return drawing.pdf(panel) if format == "latex" else drawing.standalone(panel).encode()
