"""The picture of a plan as one self-contained SVG: for a report, a README, a paper."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stratatune.hashing import digest
from stratatune.plan.picture import Band, column, headline
from stratatune.plan.resolved import Resolved
from stratatune.svg_frame import LINE, WIDTH, picture, text

_LEFT, _BOX, _TOP, _GAP = 148, 150, 84, 6
_LINE, _PAD, _BLOCK, _TALLEST = 19, 9, 15, 400
_TEXT_X, _RIGHT, _ARROW_X = _LEFT + _BOX + 26, WIDTH - 24, _LEFT - 108

_RULES = """
.head{fill:$chosen}.trained{fill:$trained}.inserted{fill:$inserted}.passes{fill:$passes}.cached{fill:$cached}
.lead{stroke:$rule;stroke-width:1}.stop{stroke:currentColor;stroke-width:1.5;stroke-dasharray:5 4}
.flow{stroke:currentColor;stroke-width:1.5;fill:none;opacity:.68}.tip{fill:currentColor;opacity:.68}
"""


@dataclass(frozen=True)
class _Placed:
    """A cell and where it is, in pixels from the top."""

    cell: Band
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
    cells = "; ".join(f"{one.cell.label}: {' + '.join(words for words, _ in one.cell.rows)}" for one in placed)
    body = [line for one in placed for line in _drawn(one)]
    description = f"{flow}. From the output down: {cells}."
    return picture(name, title, flow, description, [*body, *_backward(placed)], height=height, rules=_RULES)


def _stacked(cells: list[Band], blocks: int) -> Iterator[_Placed]:
    """Cells from the top down, each as tall as its blocks or as its text."""
    block, top = min(_BLOCK, _TALLEST / blocks), float(_TOP)
    for cell in cells:
        height = max(cell.blocks * block, len(cell.rows) * _LINE + _PAD)
        yield _Placed(cell, top, height)
        top += height + _GAP


def _drawn(one: _Placed) -> Iterator[str]:
    """Draw one cell: its blocks, its name at the left, its methods and trained parameters at the right."""
    cell = one.cell
    count = max(cell.blocks, 1)
    step = one.height / count
    gap = min(2.0, step / 4) if count > 1 else 0.0
    for number in range(count):
        place = f'x="{_LEFT}" y="{one.top + number * step:.1f}" width="{_BOX}" height="{step - gap:.1f}"'
        yield f'<rect class="{cell.kind}" {place} rx="{min(4.0, step / 3):.1f}"/>'
    yield text(_LEFT - 12, one.middle + LINE, cell.label, "end soft")
    yield f'<path class="lead" d="M{_LEFT + _BOX + 6} {one.middle:.1f}H{_TEXT_X - 8}"/>'
    first = one.middle - (len(cell.rows) - 1) * _LINE / 2 + LINE
    for number, (words, trained) in enumerate(cell.rows):
        y = first + number * _LINE
        yield text(_TEXT_X, y, words, "soft" if trained is None else "")
        if trained:
            yield text(_RIGHT, y, f"{trained:,}", "num strong")


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
