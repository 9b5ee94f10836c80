"""docs/reference is what the code says."""

import pytest

from docs.reference import FOLDER, pages


@pytest.mark.parametrize("name", ["commands.md", "settings.md", "python.md"])
def test_the_page_is_up_to_date(name):
    assert (FOLDER / name).read_text(encoding="utf-8") == pages()[name], (
        "run: PYTHONPATH=tests python tests/docs/reference.py"
    )
