"""docs/integrations.md names the integrations that there are, and the tests that use them."""

from docs.integrations_table import PAGE, ROOT, START, page, rows


def test_the_table_is_up_to_date():
    text = PAGE.read_text(encoding="utf-8")
    assert START in text
    assert page(text) == text, "run: PYTHONPATH=tests python tests/docs/integrations_table.py"


def test_every_integration_has_its_page_and_its_test():
    for _, _, name, path, test in rows():
        assert (ROOT / "docs" / name).is_file(), name
        if path:
            assert f"def {test}" in (ROOT / "tests" / path).read_text(encoding="utf-8"), (path, test)
