"""The format of a source by keywords: which are legal for which source."""

from __future__ import annotations

import pytest

from stratatune.data.source_form import of_source
from stratatune.data.written import AS_USUAL, Written
from stratatune.errors import ConfigError, DataError

ROWS = [{"review": "good"}]


def test_what_is_given_overrides_the_usual():
    usual = Written(delimiter=";", bad_rows="skip")
    assert of_source("a.csv", usual) is not None and of_source("a.csv", usual) == usual
    found = of_source("a.csv", usual, bad_rows="empty", delimiter=None, encoding="latin-1", columns={"text": "review"})
    assert found == Written(";", "latin-1", "empty", (("text", "review"),))
    assert of_source(ROWS, AS_USUAL, columns={"text": "review"}).columns == (("text", "review"),)
    assert of_source(["a text"], AS_USUAL, bad_rows="skip").bad_rows == "skip"


@pytest.mark.parametrize(
    ("source", "given", "said"),
    [
        (["a text"], {"delimiter": ";"}, "delimiter: ';' is that of a file, and the data are in memory"),
        (ROWS, {"encoding": "latin-1"}, "encoding: 'latin-1' is that of a file"),
        (["a text"], {"columns": {"text": "review"}}, "is for a table, and the data are a list of texts"),
        ("data.jsonl.gz", {"delimiter": ";"}, "delimiter: ';' is that of csv and tsv, and data is 'data.jsonl.gz'"),
        ("data.csv", {"columns": "text=review"}, "columns: 'text=review'"),
        ("data.csv", {"columns": {"text": 1}}, "columns: {'text': 1}"),
        ("data.csv", {"delimiter": "ab"}, "delimiter: 'ab'"),
        ("data.csv", {"bad_rows": "drop"}, "bad_rows: 'drop'"),
    ],
)
def test_mistakes_get_one_line(source, given, said):
    with pytest.raises((ConfigError, DataError)) as caught:
        of_source(source, AS_USUAL, **given)
    assert said in str(caught.value) and "\n" not in str(caught.value)
