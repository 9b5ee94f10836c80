"""The report that every run leaves in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stratatune.errors import ResourceError

if TYPE_CHECKING:
    from stratatune.progress import Reporter


def leave_report(folder: str | Path, reporter: Reporter) -> None:
    """Write ``report.html`` into a run folder; an error there is reported and stops nothing else."""
    from stratatune.studies import report

    out = Path(folder) / report.FILE
    try:
        report.write(report.report_on(folder), "html", out)
    except ResourceError as error:
        reporter.say(f"no {out}: {error}")
