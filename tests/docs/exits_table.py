"""The table in docs/export.md, made from the exits: ``PYTHONPATH=tests python tests/docs/exits_table.py``."""

from __future__ import annotations

from pathlib import Path

from stratatune.exits.registry import EXITS

PAGE = Path(__file__).parents[2] / "docs" / "export.md"
START, END = "<!-- exits: made by tests/docs/exits_table.py -->\n", "<!-- end -->\n"


def table() -> str:
    """A row for each exit."""
    rows = [
        f"| `{one.name}` | {one.summary} | `{one.reader.format(out='DIR')}` | {one.extra or '-'} |"
        for one in EXITS.values()
    ]
    return "\n".join(["| `--to` | what is written | read back with | extra |", "|---|---|---|---|", *rows]) + "\n"


def page(text: str) -> str:
    """The page with the table in its place."""
    before, _, rest = text.partition(START)
    return f"{before}{START}{table()}{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
