"""The picture of a bench as one self-contained SVG: an epoch of each way, measured and predicted."""

from __future__ import annotations

from collections.abc import Iterator

from stratatune.costs.cost import ARMS
from stratatune.studies.bench.bench import ArmTimes, BenchReport
from stratatune.svg_frame import WIDTH, picture, text

_LEFT, _RIGHT, _TOP, _ROW, _BAR = 190, 250, 92, 52, 15

_RULES = """
.measured{fill:$trained}.today{fill:$plain}.predicted{fill:none;stroke:currentColor;stroke-dasharray:3 2}
"""


def svg(report: BenchReport) -> str:
    """The picture as SVG: no script, no font or file from outside, readable in light and dark."""
    height = _TOP + len(report.ways) * _ROW + 18
    widest = max(max(way.seconds, way.predicted) for way in report.ways)
    title = f"{report.model}: seconds of an epoch of {report.examples:,} examples"
    flow = "full bars measured, dashed bars predicted from three blocks; plans from the trunk cache"
    shown = "; ".join(
        f"{way.name} {way.seconds:.3g} s measured, {way.predicted:.3g} s predicted" for way in report.ways
    )
    scale = (WIDTH - _LEFT - _RIGHT) / widest
    body = [line for number, way in enumerate(report.ways) for line in _row(report, way, _TOP + number * _ROW, scale)]
    return picture("stb", title, flow, shown, body, height=height, rules=_RULES)


def _row(report: BenchReport, way: ArmTimes, top: float, scale: float) -> Iterator[str]:
    kind = "today" if way.first == way.seconds else "measured"
    name = way.name if len(way.name) <= 24 else way.name[:23] + "…"
    yield text(_LEFT - 12, top + 18, name, "end")
    yield f'<rect class="{kind}" x="{_LEFT}" y="{top}" width="{max(1, way.seconds * scale):.1f}" height="{_BAR}"/>'
    yield (
        f'<rect class="predicted" x="{_LEFT}" y="{top + _BAR + 3}" width="{max(1, way.predicted * scale):.1f}" '
        f'height="{_BAR - 5}"/>'
    )
    end = _LEFT + max(way.seconds, way.predicted) * scale + 10
    ratios = ", ".join(f"{report.ratio(way.name, arm):.1f}x {arm}" for arm in ARMS if arm != way.name)
    thought = f'<tspan class="soft">({way.predicted:,.3g})</tspan>'
    yield f'<text x="{end:.1f}" y="{top + 12}">{way.seconds:,.3g} s {thought}</text>'
    yield text(end, top + 29, ratios, "soft")
