"""The picture of a bench as one self-contained SVG: an epoch of each way, measured above predicted."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from stratatune.studies.bench.bench import Report, Way

_WIDTH, _LEFT, _RIGHT, _TOP, _ROW, _BAR = 760, 190, 250, 92, 52, 15

# Text takes the page's colour where the page sets one; the bars change with the reader's scheme.
_STYLE = """
.stb{color:#1f2328}
.stb text{font:13px ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif;fill:currentColor}
.stb .title{font-size:15px;font-weight:600}.stb .soft{opacity:.68}.stb .end{text-anchor:end}
.stb .measured{fill:#1a7f5a}.stb .today{fill:#6b7785}.stb .predicted{fill:none;stroke:currentColor;stroke-dasharray:3 2}
@media (prefers-color-scheme:dark){.stb{color:#e6edf3}.stb .measured{fill:#3fb68b}.stb .today{fill:#8b97a5}}
""".replace("\n", "")


def svg(report: Report) -> str:
    """The picture as SVG: no script, no font or file from outside, readable in light and dark."""
    height = _TOP + len(report.ways) * _ROW + 18
    widest = max(max(way.seconds, way.predicted) for way in report.ways)
    title = f"{report.model}: seconds of an epoch of {report.examples:,} examples"
    flow = "full bars measured, dashed bars predicted from three blocks; plans from the trunk cache"
    told = "; ".join(f"{way.name} {way.seconds:.3g} s measured, {way.predicted:.3g} s predicted" for way in report.ways)
    body = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="stb" role="img" aria-labelledby="stb-t stb-d"'
        f' viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" style="max-width:100%;height:auto">',
        f'<title id="stb-t">{escape(title)}</title><desc id="stb-d">{escape(told)}</desc>',
        f"<style>{_STYLE}</style>",
        f'<text x="24" y="32" class="title">{escape(title)}</text>',
        f'<text x="24" y="54" class="soft">{escape(flow)}</text>',
    ]
    for number, way in enumerate(report.ways):
        body += _row(report, way, _TOP + number * _ROW, (_WIDTH - _LEFT - _RIGHT) / widest)
    return "\n".join((*body, "</svg>"))


def _row(report: Report, way: Way, top: float, scale: float) -> Iterator[str]:
    kind = "today" if way.first == way.seconds else "measured"
    name = way.name if len(way.name) <= 24 else way.name[:23] + "…"
    yield f'<text x="{_LEFT - 12}" y="{top + 18}" class="end">{escape(name)}</text>'
    yield f'<rect class="{kind}" x="{_LEFT}" y="{top}" width="{max(1, way.seconds * scale):.1f}" height="{_BAR}"/>'
    yield (
        f'<rect class="predicted" x="{_LEFT}" y="{top + _BAR + 3}" width="{max(1, way.predicted * scale):.1f}" '
        f'height="{_BAR - 5}"/>'
    )
    end = _LEFT + max(way.seconds, way.predicted) * scale + 10
    ratios = ", ".join(f"{report.ratio(way.name, arm):.1f}x {arm}" for arm in ("A", "B", "F") if arm != way.name)
    thought = f'<tspan class="soft">({way.predicted:,.3g})</tspan>'
    yield f'<text x="{end:.1f}" y="{top + 12}">{way.seconds:,.3g} s {thought}</text>'
    yield f'<text x="{end:.1f}" y="{top + 29}" class="soft">{ratios}</text>'
