"""docs/export.md names the exits that there are."""

from docs.exits_table import PAGE, START, page


def test_the_table_is_up_to_date():
    text = PAGE.read_text(encoding="utf-8")
    assert START in text
    assert page(text) == text, "run: PYTHONPATH=tests python tests/docs/exits_table.py"
