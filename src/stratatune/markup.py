"""Escape foreign names and texts for Markdown: they are shown as they are, whatever characters they hold."""

from __future__ import annotations

import re

_SIGNS = re.compile(r"([\\`*_|]|(?<=\])[(\[:]|~(?=~))")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def text(written: str) -> str:
    """``written`` on one line, without anything that Markdown or HTML would read as its own."""
    line = " ".join(written.split())
    for sign, entity in _ENTITIES.items():
        line = line.replace(sign, entity)
    line = _SIGNS.sub(r"\\\1", line)
    return f"\\{line}" if re.match(r"[-+=#]+( |$)", line) else line


def code(written: str) -> str:
    """``written`` on one line as code, in a cell of a table too."""
    line = " ".join(written.split()).replace("|", r"\|")
    if not line:
        return ""
    fence = "`" * (_longest(line) + 1)
    room = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{room}{line}{room}{fence}"


def block(written: str, language: str = "") -> list[str]:
    """The lines of ``written`` as a block of code."""
    fence = "`" * max(3, _longest(written) + 1)
    return [f"{fence}{language}", *written.splitlines(), fence]


def _longest(written: str) -> int:
    """The longest run of backticks."""
    return max(map(len, re.findall("`+", written)), default=0)
