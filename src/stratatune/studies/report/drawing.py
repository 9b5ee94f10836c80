"""Draw panels with matplotlib: as SVG in the colours and font of the page, or as PDF for a paper."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from stratatune._compat import needs_extra, quieted
from stratatune.studies.report.parts import Panel, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

COLOURS = ("#0b63b0", "#c2410c", "#0f7a55", "#7a3fc4", "#8a5a00", "#b3246b", "#0e7490", "#57606a")
"""The series' colours in light; the page's ``--s1`` to ``--s8``. Markers and dashes distinguish them too."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
DASHES = ("solid", (0, (5, 1.6)), (0, (1.2, 1.4)), (0, (6, 1.5, 1.2, 1.5)))
_LOG_FROM = 8.0
"""The least ratio of the largest x to the smallest at which a panel that may be logarithmic is."""
_INK, _SOFT, _RULE = "#1f2328", "#59636e", "#d1d9e0"
_SIZE, _SWATCH = (4.6, 3.05), (38 / 72, 14 / 72)  # inches of 72 units
_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 11,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _SOFT,
    "axes.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.7,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "pdf.fonttype": 42,
}


def check_drawing() -> None:
    """Refuse, before any work, if figures cannot be drawn.

    Raises:
        ResourceError: matplotlib is not installed.
    """
    # On a home that cannot be written it takes a temporary folder, and says so in two long lines.
    with needs_extra("report", "a report with figures"), quieted("matplotlib"):
        import matplotlib  # noqa: F401


def svg(panel: Panel) -> str:
    """The panel as inline SVG, without colours, fonts or names that could clash with the page's."""
    with _settings(panel.name):
        text = _written(_drawn(panel))
    name = f"{panel.name}-desc"
    opening = f'<svg class="panel" role="img" aria-labelledby="{name}"'
    return _for_page(text, panel.name, opening, f'<desc id="{name}">{escape(panel.description)}</desc>')


def standalone(panel: Panel) -> str:
    """The panel as an SVG file, with a legend, in light and dark."""
    with _settings(panel.name):
        text = _written(_drawn(panel, legend=True))
    opening = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" role="img"'
    font = "text{font-family:system-ui,sans-serif}"
    return _for_page(
        text, panel.name, opening, f"<desc>{escape(panel.description)}</desc><style>{own('colours.css')}{font}</style>"
    )


def own(name: str) -> str:
    """The text of a file of this package."""
    return (files("stratatune.studies.report") / name).read_text(encoding="utf-8")


def swatch(style: int, figure: str) -> str:
    """The line and the marker of a style as inline SVG, for the legend of a figure."""
    name = f"{figure}-style-{style}"
    with _settings(name):
        from matplotlib.figure import Figure as Canvas

        canvas = Canvas(figsize=_SWATCH)
        axes = canvas.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, 2)
        _draw(axes, Series("", (0, 1, 2), (0, 0, 0), style=style), every=(1, 2))
        text = _written(canvas)
    return _for_page(text, name, '<svg aria-hidden="true"')


def pdf(panel: Panel) -> bytes:
    """The panel as PDF, in the light colours, with its own legend."""
    with _settings(panel.name):
        buffer = io.BytesIO()
        _drawn(panel, legend=True).savefig(buffer, format="pdf", metadata={"CreationDate": None})
    return buffer.getvalue()


@contextmanager
def _settings(name: str) -> Iterator[None]:
    """Matplotlib's settings; the same drawing gives the same file."""
    check_drawing()
    from matplotlib import rc_context

    settings: dict[Any, Any] = {**_SETTINGS, "svg.hashsalt": name}
    with rc_context(settings):
        yield


def _drawn(panel: Panel, *, legend: bool = False) -> Canvas:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=_SIZE, layout="constrained")
    axes = canvas.add_subplot()
    for series in panel.series:
        _draw(axes, series)
    _scale(axes, panel)
    axes.set_xlabel(panel.x_label)
    axes.set_title(panel.title, loc="left", fontsize=11.5, fontweight="bold", color=_INK)
    if legend and len(panel.series) > 1:
        axes.legend(frameon=False, fontsize=8, labelcolor=_INK)
    return canvas


def _written(canvas: Canvas) -> str:
    buffer = io.StringIO()
    canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _draw(axes: Axes, series: Series, every: Any = None) -> None:
    """Draw a line with its band, or single points with error bars; ``every`` selects the points with markers."""
    colour = COLOURS[series.style % len(COLOURS)]
    look: dict[str, Any] = {"color": colour, "marker": _marker(series.style), "label": series.name}
    if series.joined:
        axes.plot(series.x, series.y, linestyle=_dashes(series.style), clip_on=False, markevery=every, **look)
        if series.low:
            axes.fill_between(series.x, series.low, series.high, color=colour, alpha=0.14, linewidth=0)
        return
    if series.low:
        axes.vlines(series.x, series.low, series.high, colors=colour, linewidth=1.2)
    axes.plot(series.x, series.y, linestyle="none", clip_on=False, **{**look, "markersize": 8})


def _marker(style: int) -> str:
    """The marker of a style; once the colours are used up, each comes back with another marker."""
    return MARKERS[(style + 3 * (style // len(COLOURS))) % len(MARKERS)]


def _dashes(style: int) -> Any:
    """The dashes of a style's line: they change once the colours are used up, and from one colour to the next."""
    return DASHES[(style + style // len(COLOURS)) % len(DASHES)]


def _scale(axes: Axes, panel: Panel) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axes.margins(x=0.06, y=0.08)
    values = [x for one in panel.series for x in one.x]
    ratio = max(values) / min(values) if panel.log_x and values and min(values) > 0 else 1.0
    if ratio >= _LOG_FROM:
        axes.set_xscale("log")
        wide = ratio > 30
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        whole = all(x == int(x) for x in values)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=whole))
        if panel.log_x:  # a cost: from 0, so that a few per cent look like a few per cent
            axes.set_xlim(left=0, right=1.06 * max(values, default=1.0))
    axes.xaxis.set_major_formatter(FuncFormatter(_tick))
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _tick(value: float, _: int | None = None) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _for_page(text: str, name: str, opening: str, desc: str = "") -> str:
    """Make matplotlib's file part of a page: with the page's colours and font, and ids that do not clash."""
    body = text[text.index("<svg") :]
    for pattern, put in (
        (r"<metadata>.*?</metadata>\s*", ""),
        (r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>\s*", ""),
        (r' transform="rotate\(-0 [^"]*"', ""),
        (r'<g id="[^"]*"(?=[ >/])', "<g"),
        (r"<g/>\s*", ""),
        (r'\b(id="|href="#|url\(#)', rf"\1{name}-"),
        (r"font-family: [^;\"]*;?\s*", ""),
    ):
        body = re.sub(pattern, put, body, flags=re.DOTALL)
    for number, colour in enumerate(COLOURS, start=1):
        body = body.replace(colour, f"var(--s{number})")
    body = body.replace(_INK, "var(--ink)").replace(_SOFT, "var(--soft)").replace(_RULE, "var(--rule)")
    box = re.search(r'viewBox="[^"]*"', body)
    assert box is not None
    return f"{opening} {box[0]}>{desc}{body[body.index('>') + 1 :].strip()}"
