"""The common frame of our pictures: a self-contained SVG file, its text, and one palette for light and dark.

No script, no font and no file from outside. Text takes the page's colour where the page sets one; fills and lines
follow the reader's colour scheme. Colours are written out, as not every program that draws SVG knows CSS variables.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

WIDTH = 760
"""The width of every picture in pixels; it shrinks to the width of its page."""
LINE = 4.5
"""The distance of the baseline of a line of text below its middle."""

_COLOURS = {  # light, dark
    "ink": ("#1f2328", "#e6edf3"),
    "rule": ("#c9d1d9", "#3d454f"),
    "trained": ("#1a7f5a", "#3fb68b"),
    "inserted": ("#8250df", "#a982f5"),
    "chosen": ("#b7791f", "#d9a441"),
    "passes": ("#b9d7ea", "#2f4a60"),
    "cached": ("#e3e7ec", "#2b3138"),
    "first": ("#0b63b0", "#6cb2f7"),
    "plain": ("#6b7785", "#98a4b1"),
    "wrong": ("#b3261e", "#ff8f86"),
}
_TEXT = (
    'text{font:13px ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif;fill:currentColor}'
    ".title{font-size:15px;font-weight:600}.strong{font-weight:600}.soft{opacity:.68}"
    ".end{text-anchor:end}.mid{text-anchor:middle}.num{text-anchor:end;font-variant-numeric:tabular-nums}"
)


def picture(
    name: str, title: str, subtitle: str, description: str, body: Iterable[str], *, height: float, rules: str
) -> str:
    """A whole picture: title and subtitle at the top, ``body`` below them.

    Args:
        name: an identifier that no other picture of the same page has.
        title, subtitle: the two lines of its head.
        description: its content, for those who do not see it.
        body: its elements; they begin at about y = 76.
        height: the height in pixels; the picture is :data:`WIDTH` wide.
        rules: CSS of its elements, with ``$trained`` and the like for colours of the palette.
    """
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="{name}" role="img" aria-labelledby="{name}-t {name}-d"'
        f' viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" style="max-width:100%;height:auto">',
        f'<title id="{name}-t">{escape(title)}</title>',
        f'<desc id="{name}-d">{escape(description)}</desc>',
        f"<style>{_style(name, rules)}</style>",
        text(24, 32, _cut(title), "title"),
        text(24, 54, subtitle, "soft"),
    ]
    return "\n".join((*head, *body, "</svg>"))


def text(x: float, y: float, words: str, classes: str = "") -> str:
    """A line of text at its baseline."""
    named = f' class="{classes}"' if classes else ""
    return f'<text{named} x="{x:g}" y="{y:.1f}">{escape(words)}</text>'


def _style(name: str, rules: str) -> str:
    """The style sheet: every rule for this picture alone, those with colours once more for dark pages."""
    own = f"&{{color:$ink}}{_TEXT}{''.join(rules.split(chr(10)))}"
    each = re.findall(r"([^{}]+)\{([^{}]*)\}", own)
    light = "".join(_rule(name, selectors, values, 0) for selectors, values in each)
    dark = "".join(_rule(name, selectors, values, 1) for selectors, values in each if "$" in values)
    return f"{light}@media (prefers-color-scheme:dark){{{dark}}}"


def _rule(name: str, selectors: str, values: str, scheme: int) -> str:
    scoped = ",".join(f".{name}" if one == "&" else f".{name} {one}" for one in selectors.strip().split(","))
    return f"{scoped}{{{re.sub(r'[$]([a-z]+)', lambda found: _COLOURS[found[1]][scheme], values)}}}"


def _cut(title: str) -> str:
    return title if len(title) < 92 else title[:90] + "…"
