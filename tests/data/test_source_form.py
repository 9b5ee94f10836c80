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
    assert of_source([], AS_USUAL, columns={"text": "review"}).columns  # no row says that these are texts


@pytest.mark.parametrize(
    ("source", "given", "said"),
    [
        (
            ["a text"],
            {"delimiter": ";"},
            "delimiter: ';'; only csv and tsv files have a delimiter, and the data are in",
        ),
        (ROWS, {"encoding": "latin-1"}, "encoding: 'latin-1'; only files have an encoding, and the data are in memory"),
        (["a text"], {"columns": {"text": "review"}}, "columns: {'text': 'review'}; only a table has columns of"),
        (["a text"], {"columns": {"text": "review"}}, "(leave it out, or give a table, rows or the path of a file)"),
        (["a text"], {"columns": {"a": "b"}, "encoding": "utf-8"}, "(leave them out, or give the path of a file)"),
        ("data.jsonl.gz", {"delimiter": ";"}, "delimiter: ';'; only csv and tsv files have a delimiter"),
        ("data.jsonl.gz", {"delimiter": ";"}, "and the data are 'data.jsonl.gz' (leave it out)"),
        ("data.csv", {"columns": "text=review"}, "columns: 'text=review'"),
        ("data.csv", {"columns": {"text": 1}}, "columns: {'text': 1}"),
        ("data.csv", {"delimiter": "ab"}, "delimiter: 'ab'"),
        ("data.csv", {"bad_rows": "drop"}, "bad_rows: 'drop'"),
        ("data.csv", {"bad_rows": ["skip"]}, "bad_rows: ['skip']"),
        ("data.csv", {"delimiter": 5}, "delimiter: 5"),
        ("data.csv", {"delimiter": b";"}, "delimiter: b';'"),
        ("data.csv", {"encoding": 5}, "encoding: 5 is not a text encoding"),
        ("data.csv", {"encoding": "utf-9" * 99}, "is not a text encoding"),
        ("data.jsonl", {"delimiter": 5}, "delimiter: 5"),
    ],
)
def test_mistakes_get_one_line(source, given, said):
    with pytest.raises((ConfigError, DataError)) as caught:
        of_source(source, AS_USUAL, **given)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("columns", [{"text": "review"}, [("text", "review")], (("text", 1),), ("text",), "ab", None])
def test_columns_are_pairs_of_names(columns):
    with pytest.raises(DataError, match="columns: .* such as") as caught:
        Written(columns=columns)
    assert "\n" not in str(caught.value)
