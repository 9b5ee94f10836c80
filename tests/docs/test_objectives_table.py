"""docs/objectives.md names the objectives that there are."""

from docs.objectives_table import PAGE, START, page

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_table_is_up_to_date():
    assert START in TEXT
    assert page(TEXT) == TEXT, "run: PYTHONPATH=tests python tests/docs/objectives_table.py"
