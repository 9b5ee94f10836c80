"""Compare the seconds that ``stratatune bench`` predicts with those that it measures.

    python -m benchmarks.predicted --model roberta-large --plans bft-adapter@18 --rounds 5 --batches 4 --threads 1

Takes the options of ``stratatune bench`` and runs it; the figures are predicted over measured seconds, less one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.jobs import Record, row, show_rows, write_rows

MODULE = "benchmarks.predicted"


def rows(report: dict[str, Any], model: str) -> list[Record]:
    """One row: every arm's epoch, and a plan's first one, which runs the trunk too."""
    said = []
    for way in report["ways"]:
        said.append(f"{way['name']} {way['predicted'] / way['seconds'] - 1:+.0%}")
        if way["first"] != way["seconds"]:
            said.append(f"its first epoch {way['predicted_first'] / way['first'] - 1:+.0%}")
    what = f"{model}: an epoch's seconds, predicted beside measured"
    return [row(f"predicted {model}", what, "within 15 %", "-", ", ".join(said), MODULE)]


def main() -> None:
    """Run the bench, then print the errors of its predictions."""
    command = [sys.executable, "-W", "ignore", "-m", "stratatune", "bench", *sys.argv[1:], "--json"]
    shown = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    report = json.loads(shown.stdout) if shown.returncode == 0 else {}
    if not report:
        raise SystemExit(shown.returncode or 1)
    found = rows(report, Path(sys.argv[sys.argv.index("--model") + 1]).name)
    write_rows(found, int(report["settings"]["threads"]))
    show_rows(found)


if __name__ == "__main__":
    main()
