"""The page as a browser shows it, on a phone and on a desk, in light and dark."""

import re

import pytest

from browser import look
from stratatune.studies.report import text_of
from stratatune.studies.report.comparison import many
from stratatune.studies.report.parts import Column, Report, ReportTable, Section


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("browser")


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False)])
def test_page_in_a_browser(recipe, unfinished, folder, width, dark):
    page = text_of(many(recipe, unfinished, "grid"), "html").replace("<details>", "<details open>")
    seen = look(page, folder, width, dark=dark)
    assert seen["width"] == width
    assert seen["scroll"] <= seen["width"], seen["outside"]
    assert seen["outside"] == [] and seen["cut"] == []
    assert seen["text"] > 3000
    assert seen["signs"] > 4 and seen["missing"] == []
    assert seen["console"] == []
    paper, ink = (sum(map(int, re.findall(r"\d+", seen[what])[:3])) for what in ("background", "ink"))
    assert (paper < ink) is dark


def test_the_caption_of_a_table_that_scrolls_can_be_read(folder):
    columns = tuple(Column(f"a column with a name {number}") for number in range(12))
    table = ReportTable("What stands in this table, which is wider than a phone. " * 4, columns, ())
    page = text_of(Report("wide", "", (), (Section("Results", (table,)),)), "html")
    seen = look(page, folder, 390, dark=False)
    assert seen["cut"] == [] and seen["outside"] == []


def test_the_browser_does_see_faults(folder):
    """The checks above would fail: each fault is there in this page."""
    page = (
        '<!doctype html><body><div style="width:900px">\U0010fffd\u2264 ' + "x" * 20 + "</div>"
        "<script>console.error('a fault')</script>"
    )
    seen = look(page, folder, 390, dark=False)
    assert seen["scroll"] > seen["width"] and seen["outside"] == ["DIV."]
    assert seen["missing"] == ["\U0010fffd"]
    assert any("a fault" in line for line in seen["console"])
