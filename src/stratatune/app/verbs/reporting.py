"""``stratatune report``: report the results of a run or a grid."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stratatune.app.door import Answer, Door, verb

_BY_SUFFIX = {".md": "md", ".markdown": "md", ".tex": "latex"}


@verb()
def report(
    door: Door,
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER...", help="A run, a grid, or a folder of runs; several are compared."),
    ],
    format: Annotated[
        str | None,
        typer.Option(
            help="html, md or latex; by default, that of the suffix of --out, otherwise html.",
            metavar="WORD",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The file, or - for standard output. Default: report.html in the folder, or in the current one for "
            "several; md and latex go to standard output, without figures."
        ),
    ] = None,
    note: Annotated[
        str, typer.Option(help="A sentence to print below the title, for example what else was running.")
    ] = "",
) -> Answer:
    """Write a report of runs: tables with intervals, figures, plans, costs and commands, in one file."""
    from stratatune.errors import ConfigError, did_you_mean
    from stratatune.studies.report import FILE, FORMATS, report_on, text_of, write

    if format is None:
        format = _BY_SUFFIX.get(out.suffix.lower() if out else "", "html")
    if format not in FORMATS:
        raise ConfigError([f"--format: {format!r}"], did_you_mean(format, FORMATS))
    made = report_on(*folders, note=note)
    data = {"title": made.title, "format": format, "facts": {one.label: one.value for one in made.facts}}
    if out == Path("-") or (out is None and format != "html"):
        text = text_of(made, format)
        return Answer({**data, "text": text}, text)
    place = folders[0] if len(folders) == 1 else Path()
    files = [str(path) for path in write(made, format, out or place / FILE)]
    return Answer({**data, "out": files[0], "files": files}, files[0])
