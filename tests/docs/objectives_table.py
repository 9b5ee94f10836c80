"""The table in docs/objectives.md, made from the table of objectives: ``python tests/docs/objectives_table.py``."""

from __future__ import annotations

from pathlib import Path

from stratatune.objectives.registry import OBJECTIVES

PAGE = Path(__file__).parents[2] / "docs" / "objectives.md"
START, END = "<!-- objectives: made by tests/docs/objectives_table.py -->\n", "<!-- end -->\n"


def table() -> str:
    """A row for each objective."""
    rows = [
        f"| `{one.name}` | {one.summary} | {', '.join(sorted(one.families))} | {', '.join(one.metrics)} |"
        for one in OBJECTIVES.values()
    ]
    return "\n".join(["| objective | what is learnt | models | metrics |", "|---|---|---|---|", *rows]) + "\n"


def page(text: str) -> str:
    """The page with the table in its place."""
    before, _, rest = text.partition(START)
    return f"{before}{START}{table()}{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
