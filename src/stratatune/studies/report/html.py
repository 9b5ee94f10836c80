"""A report as one HTML file: no script, nothing fetched, light and dark, readable on phones and on paper."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import groupby
from typing import Any

from stratatune._compat import needs_extra
from stratatune.studies.report import drawing
from stratatune.studies.report.parts import Part, Report


def html(report: Report) -> str:
    """Write the page; its only template is ``page.html.j2``, its style ``page.css``.

    Raises:
        ResourceError: the libraries of the extra ``report`` are not installed.
    """
    drawing.check_drawing()
    with needs_extra("report", "the report's page"):
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["groupby_kind"] = _by_kind
    drawn = {"svg": drawing.svg, "swatch": drawing.swatch}
    marked: dict[str, Any] = {name: partial(_marked, draw, Markup) for name, draw in drawn.items()}
    template = environment.from_string(drawing.own("page.html.j2"))
    return template.render(report=report, css=drawing.own("colours.css") + drawing.own("page.css"), **marked)


def _marked(draw: Any, mark: Any, *what: Any) -> Any:
    """A drawing, marked as markup."""
    return mark(draw(*what))


def _by_kind(parts: Iterable[Part]) -> Iterator[tuple[str, list[Part]]]:
    """Group neighbours of one kind, so that findings make one list."""
    for kind, ones in groupby(parts, key=lambda part: type(part).__name__):
        yield kind, list(ones)
