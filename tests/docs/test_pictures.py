"""The pictures of README and docs are what the package says and measured, and the pages show them."""

import re
import xml.etree.ElementTree as xml

import pytest

from docs.pictures import FOLDER, MEASURED, PICTURES, ROOT

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_up_to_date(name):
    if name == "depths" and not MEASURED.is_file():
        pytest.skip("benchmarks/ is not part of a source distribution")
    drawn = PICTURES[name]()
    xml.fromstring(drawn)
    saved = (FOLDER / f"{name}.svg").read_text(encoding="utf-8")
    assert saved == drawn.rstrip("\n") + "\n", "run: PYTHONPATH=tests python tests/docs/pictures.py"


def test_every_picture_is_shown_and_there():
    shown = set()
    for page in PAGES:
        for place in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / place).is_file(), f"{page.name}: {place}"
            shown.add((page.parent / place).resolve())
    assert {path.resolve() for path in FOLDER.glob("*.svg")} <= shown
