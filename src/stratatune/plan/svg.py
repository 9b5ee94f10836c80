"""The picture of a plan as one self-contained SVG: for a report, a README, a paper."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from stratatune.hashing import digest
from stratatune.plan.picture import Cell, column, headline
from stratatune.plan.resolved import Resolved

_WIDTH, _LEFT, _BOX, _TOP, _GAP = 760, 148, 150, 84, 6
_LINE, _PAD, _BLOCK, _TALLEST = 19, 9, 15, 400
_TEXT_X, _RIGHT, _ARROW_X = _LEFT + _BOX + 26, _WIDTH - 24, _LEFT - 108

# Text takes the page's colour where the page sets one; the strata change with the reader's scheme.
_STYLE = """
.stp{color:#1f2328}
.stp text{font:13px ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif;fill:currentColor}
.stp .title{font-size:15px;font-weight:600}.stp .soft{opacity:.68}.stp .strong{font-weight:600}
.stp .end{text-anchor:end}.stp .mid{text-anchor:middle}.stp .num{text-anchor:end;font-variant-numeric:tabular-nums}
.stp .head{fill:#b7791f}.stp .trained{fill:#1a7f5a}.stp .inserted{fill:#8250df}
.stp .passes{fill:#b9d7ea}.stp .cached{fill:#e3e7ec}
.stp .lead{stroke:#c4cbd3;stroke-width:1}.stp .stop{stroke:currentColor;stroke-width:1.5;stroke-dasharray:5 4}
.stp .flow{stroke:currentColor;stroke-width:1.5;fill:none;opacity:.68}.stp .tip{fill:currentColor;opacity:.68}
@media (prefers-color-scheme:dark){.stp{color:#e6edf3}
.stp .head{fill:#d9a441}.stp .trained{fill:#3fb68b}.stp .inserted{fill:#a982f5}
.stp .passes{fill:#2f4a60}.stp .cached{fill:#2b3138}.stp .lead{stroke:#4a525c}}
""".replace("\n", "")


@dataclass(frozen=True)
class _Placed:
    """A cell and where it stands, in pixels from the top."""

    cell: Cell
    top: float
    height: float

    @property
    def bottom(self) -> float:
        return self.top + self.height

    @property
    def middle(self) -> float:
        return self.top + self.height / 2


def svg(resolved: Resolved, objective: str | None = None) -> str:
    """The picture as inline SVG: no script, no font or file from outside, readable in light and dark.

    Args:
        resolved: the plan on its model.
        objective: whose head is drawn; the plan's own when None.
    """
    objective = objective or resolved.plan.objective
    placed = list(_stacked(column(resolved, objective), resolved.shape.blocks))
    title, flow = headline(resolved, objective)
    name = "stp-" + digest(f"{title}{resolved.plan}", size=4)
    height = placed[-1].bottom + 24
    told = "; ".join(f"{one.cell.label}: {' + '.join(text for text, _ in one.cell.rows)}" for one in placed)
    body = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="stp" role="img" aria-labelledby="{name}-t {name}-d"'
        f' viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}" style="max-width:100%;height:auto">',
        f'<title id="{name}-t">{escape(title)}</title>',
        f'<desc id="{name}-d">{escape(flow)}. From the output down: {escape(told)}.</desc>',
        f"<style>{_STYLE}</style>",
        _text(24, 32, title, "title"),
        _text(24, 54, flow, "soft"),
    ]
    for one in placed:
        body += _drawn(one)
    body += _backward(placed)
    return "\n".join((*body, "</svg>"))


def _stacked(cells: list[Cell], blocks: int) -> Iterator[_Placed]:
    """Cells from the top down, each as tall as its blocks or as its text."""
    block, top = min(_BLOCK, _TALLEST / blocks), float(_TOP)
    for cell in cells:
        height = max(cell.blocks * block, len(cell.rows) * _LINE + _PAD)
        yield _Placed(cell, top, height)
        top += height + _GAP


def _drawn(one: _Placed) -> Iterator[str]:
    """One cell: its blocks, its name at the left, what happens and how many parameters train at the right."""
    cell = one.cell
    count = max(cell.blocks, 1)
    step = one.height / count
    gap = min(2.0, step / 4) if count > 1 else 0.0
    for number in range(count):
        place = f'x="{_LEFT}" y="{one.top + number * step:.1f}" width="{_BOX}" height="{step - gap:.1f}"'
        yield f'<rect class="{cell.kind}" {place} rx="{min(4.0, step / 3):.1f}"/>'
    yield _text(_LEFT - 12, one.middle + 4.5, cell.label, "end soft")
    yield f'<path class="lead" d="M{_LEFT + _BOX + 6} {one.middle:.1f}H{_TEXT_X - 8}"/>'
    first = one.middle - (len(cell.rows) - 1) * _LINE / 2 + 4.5
    for number, (text, trained) in enumerate(cell.rows):
        y = first + number * _LINE
        yield _text(_TEXT_X, y, text, "soft" if trained is None else "")
        if trained:
            yield _text(_RIGHT, y, f"{trained:,}", "num strong")


def _backward(placed: list[_Placed]) -> Iterator[str]:
    """The arrow of the gradient, from the head down to where it stops."""
    reached = [one for one in placed if not one.cell.below_frozen_depth]
    stop = reached[-1].bottom + _GAP / 2
    top, tip = placed[0].middle, stop - 2
    if len(reached) < len(placed):
        yield f'<path class="stop" d="M{_ARROW_X - 12} {stop:.1f}H{_RIGHT}"/>'
    yield f'<path class="flow" d="M{_ARROW_X} {top:.1f}V{tip - 6:.1f}"/>'
    yield f'<path class="tip" d="M{_ARROW_X - 5} {tip - 8:.1f}h10l-5 8z"/>'
    middle = (top + tip) / 2
    if tip - top > 76:
        yield f'<text class="mid soft" transform="translate({_ARROW_X - 8} {middle:.1f}) rotate(-90)">backward</text>'


def _text(x: float, y: float, text: str, classes: str) -> str:
    named = f' class="{classes}"' if classes else ""
    return f'<text{named} x="{x:g}" y="{y:.1f}">{escape(text)}</text>'
