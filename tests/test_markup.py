"""Names of others in Markdown are shown as they are."""

import pytest

from stratatune import markup


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("a|b", r"a\|b"),
        ("<script>", "&lt;script&gt;"),
        ("[x](y) [90, 94]", r"[x]\(y) [90, 94]"),
        ("# no title", r"\# no title"),
        ("two\nlines", "two lines"),
        ("*a* _b_ `c`", r"\*a\* \_b\_ \`c\`"),
    ],
)
def test_text(written, shown):
    assert markup.text(written) == shown


@pytest.mark.parametrize(
    ("written", "shown"),
    [("a | b", r"`a \| b`"), ("a`b", "``a`b``"), ("`a`", "`` `a` ``"), ("", ""), ("a\nb", "`a b`")],
)
def test_code(written, shown):
    assert markup.code(written) == shown


def test_block():
    assert markup.block("a\n```\nb") == ["````", "a", "```", "b", "````"]
