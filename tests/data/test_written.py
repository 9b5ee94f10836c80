"""What may be said of how a table is written."""

import pytest

from stratatune.data.written import Written
from stratatune.errors import DataError


def test_delimiters_have_names():
    assert [Written(delimiter=word).delimiter for word in ("tab", ";", "\\t", "Pipe")] == ["\t", ";", "\t", "|"]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"delimiter": ";;"}, "delimiter: ';;'.*semicolon"),
        ({"delimiter": "a"}, "delimiter: 'a'"),
        ({"delimiter": '"'}, "delimiter"),
        ({"encoding": "utf-ate"}, "encoding: 'utf-ate' is not a text encoding"),
        ({"encoding": "base64"}, "encoding: 'base64'"),
        ({"bad_rows": "skipp"}, "did you mean 'skip'.*refuse, skip, empty"),
    ],
)
def test_mistakes(settings, match):
    with pytest.raises(DataError, match=match):
        Written(**settings)
