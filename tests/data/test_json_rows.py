"""JSON and JSON Lines: every value as it stands, and what is none in one line."""

from __future__ import annotations

import json

import pytest

from stratatune.data.read_options import ReadOptions
from stratatune.data.readers import read
from stratatune.errors import DataError

ROWS = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    "content",
    [
        lines(ROWS),
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        " \n" + json.dumps({"text": ["a", "b"], "label": ["x", "y"]}),
        json.dumps({"text": {"0": "a", "1": "b"}, "label": {"0": "x", "1": "y"}}, indent=1),
        json.dumps({"version": 2, "data": ROWS}),
        json.dumps({"version": 2, "data": ROWS}, indent=2),
    ],
    ids=["lines", "list", "indented", "columns", "pandas", "under a key", "under a key, indented"],
)
def test_the_forms_of_a_table(write, content):
    table = read(write("x.json", content))
    assert (table.texts, table.labels) == ((["a", "b"],), ["x", "y"])


def test_dates_numbers_and_words_stay_what_they_are(write):
    labels = ["2020-01-02", "2020-01-02T03:04:05Z", 7, 2.0, True, "None", "01", 10**30]
    table = read(write("x.jsonl", lines({"text": "a", "label": label} for label in labels)))
    assert table.labels == ["2020-01-02", "2020-01-02T03:04:05Z", "7", "2", "true", "None", "01", "1" + "0" * 30]


def test_a_column_that_nobody_reads_may_change_its_type(write):
    """Above 10 MB, where readers of blocks guess a type from the first."""
    rows = [{"text": "good film " * 400, "label": "xy"[i % 2], "id": i} for i in range(3_000)]
    rows[-1]["id"] = {"late": ["type"]}
    path = write("x.jsonl", lines(rows))
    assert path.stat().st_size > 12e6
    assert len(read(path)) == 3_000


def test_keys_that_come_late_or_lack(write):
    table = read(write("x.jsonl", '{"text": "a"}\n\n{"text": "b", "label": "x"}\n'), ReadOptions(need_labels=False))
    assert (len(table), table.labels) == (2, None)


def test_a_separator_inside_a_text_ends_no_line(write):
    rows = [{"text": "a\u2028b\x85c", "label": "x"}] * 2
    assert len(read(write("x.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows)))) == 2


def test_other_encodings_by_their_mark(write):
    for encoding in ("utf-8-sig", "utf-16"):
        assert read(write("x.jsonl", lines(ROWS), encoding)).labels == ["x", "y"]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"hello there", "is not valid JSON: it begins with 'hello there'"),
        (b"\x00\x01\x02", "is not valid JSON"),
        (b'"a"\n"b"\n', "is not valid JSON: it begins with"),
        (b"12", "is not valid JSON"),
        (b"\n  \n", "there are no rows"),
        (b"[]", "there are no rows"),
        (b'{"text": "a", "label": 1}\n{"text": ', "line 2: is not valid JSON"),
        (b'{"text": "a", "label": 1}\n[1]\n', "line 2: holds a list, not an object"),
        (b'[{"text": "a"}, 3]', "row 2: holds a number"),
        (b'{"text": "a", "label": 1}\n{"text": "\xff"}\n', "line 2: is not UTF-8"),
        (b"[" * 100_000, "cannot be read as json"),
        (b'{"text": ' + b"1" * 5_000 + b"}", "cannot be read as json"),
    ],
)
def test_what_is_no_table(write, content, match):
    with pytest.raises(DataError, match=match) as caught:
        read(write("x.json", content))
    assert caught.value.hint and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(caught.value.hint)) + 200
