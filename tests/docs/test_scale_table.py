"""docs/scale.md is what the cost model says."""

from docs.scale_table import PAGE, page


def test_the_page_is_up_to_date():
    assert page() == PAGE.read_text(encoding="utf-8"), "run: PYTHONPATH=tests python tests/docs/scale_table.py"
