"""Tables of delimited text: what spreadsheets, pandas and Python's csv write, read as it was."""

from __future__ import annotations

import csv
import io

import pytest

from stratatune.data.read_options import ReadOptions
from stratatune.data.readers import read
from stratatune.data.written import Written
from stratatune.errors import DataError

TEXTS = [
    "a good film",
    'he said "no"',
    '"quoted" at the start',
    "a, b; c | d",
    "two\nlines",
    "a\rb",
    "a\tb",
    "\u2028 \x85 \x0c x",
]
LABELS = ["x", "y"] * 4


def written_by_csv(**layout):
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, **layout)
    writer.writerows([("body", "kind"), *zip(TEXTS, LABELS, strict=True)])
    return buffer.getvalue()


@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_what_pythons_csv_writes_is_read_back(write, delimiter, suffix, end):
    table = read(
        write(f"x.{suffix}", written_by_csv(delimiter=delimiter, lineterminator=end)),
        ReadOptions(text="body", label="kind"),
    )
    assert (table.texts[0], table.labels) == (TEXTS, LABELS)
    usual = (delimiter, suffix) == (",", "csv") or (delimiter, suffix) == ("\t", "tsv")
    assert bool(table.notices) != usual


def test_what_pandas_writes_is_read_back(write):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"body": TEXTS, "kind": LABELS})
    for separator, suffix in ((",", "csv"), ("\t", "tsv"), (";", "csv")):
        path = write(f"x.{suffix}", frame.to_csv(index=False, sep=separator))
        assert read(path, ReadOptions(text="body", label="kind")).texts[0] == TEXTS


def test_quotes_that_enclose_no_field_are_text(write):
    """As in GLUE's files: a reader of quotes would join the two rows."""
    path = write("x.tsv", 'body\tkind\n"A film\tx\nof his"\ty\nso "so" he\tx\n')
    table = read(path, ReadOptions(text="body", label="kind"))
    assert table.texts[0] == ['"A film', 'of his"', 'so "so" he']
    assert "quotes are read as text" in table.notices[0]
    odd = read(write("y.tsv", 'body\tkind\n"A" film\tx\n'), ReadOptions(text="body", label="kind"))
    assert odd.texts[0] == ['"A" film']


BROKEN_QUOTES = {
    "a backslash": ('body,kind\n"a ""b""",x\n"a \\"b\\" c",y\n', 3),
    "written once": ('body,kind\na,x\n\n"the "dog" is",y\n', 4),
    "an object": ('meta,body,kind\n"{\\"a\\": 1, \\"b\\": 2}",a,x\n', 2),
    "semicolons": ('body;kind\n"a \\"b\\" c";x\n', 2),
}


@pytest.mark.parametrize("name", BROKEN_QUOTES)
def test_a_quoted_text_that_goes_on_behind_a_quote_is_refused(write, name):
    """Readers end it there, and keep the rest with other quotes: Spark and MySQL write a backslash before a quote."""
    content, line = BROKEN_QUOTES[name]
    with pytest.raises(DataError, match=f"line {line}: a quoted text goes on behind a quote .*twice"):
        read(write("x.csv", content), ReadOptions(text="body", label="kind"))


def test_quotes_in_texts_that_nothing_encloses_are_text(write):
    path = write("x.csv", 'body,kind\na 5" pipe,x\nsay "hi" there,y\n"b" ,x\n"""c"" d, e",y\n')
    table = read(path, ReadOptions(text="body", label="kind"))
    assert table.texts[0] == ['a 5" pipe', 'say "hi" there', "b ", '"c" d, e']


def test_glues_tasks_have_glues_layout(write):
    content = 'sentence\tlabel\n"a good film"\t1\n'
    assert read(write("x.tsv", content), ReadOptions(task="sst2")).texts[0] == ['"a good film"']
    assert read(write("x.tsv", content), ReadOptions(text="sentence", label="label")).texts[0] == ["a good film"]


def test_a_lone_carriage_return_is_text_where_lines_end_otherwise(write):
    table = read(write("x.csv", "kind,body\nx,a\rb\ny,c\n"), ReadOptions(text="body", label="kind"))
    assert (table.texts[0], table.labels) == (["a\rb", "c"], ["x", "y"])
    mixed = read(write("y.csv", "kind,body\r\nx,a\rb\r\ny,c\r\n"), ReadOptions(text="body", label="kind"))
    assert mixed.texts[0] == ["a\rb", "c"]
    old = read(write("z.csv", "kind,body\rx,a\ry,c\r"), ReadOptions(text="body", label="kind"))
    assert old.texts[0] == ["a", "c"]


@pytest.mark.parametrize("place", ["first", "last", "header"])
def test_cells_are_as_long_as_they_are(write, place):
    long = "good film " * 14_000
    rows = [f'"{long}",pos', "bad film,neg"]
    name = "n" * 200_000 if place == "header" else "body"
    table = read(
        write("x.csv", "\n".join([f"{name},kind", *(rows if place == "first" else rows[::-1])]) + "\n"),
        ReadOptions(text=name, label="kind"),
    )
    assert sorted(map(len, table.texts[0])) == [8, len(long)]
    assert csv.field_size_limit() == 131_072


def test_a_delimiter_or_an_encoding_that_is_named(write):
    path = write("x.csv", "body~kind\ncaf\xe9, noir~x\n", "latin-1")
    table = read(path, ReadOptions(text="body", label="kind", written=Written(delimiter="~", encoding="latin-1")))
    assert table.texts[0] == ["caf\xe9, noir"]
    tabs = write("y.csv", "body\tkind\na\tx\n")
    assert read(tabs, ReadOptions(text="body", label="kind", written=Written(delimiter="tab"))).texts[0] == ["a"]
    with pytest.raises(DataError, match="encoding="):
        read(path, ReadOptions(text="body", label="kind", written=Written(delimiter="~")))


def test_a_byte_order_mark_tells_the_encoding(write):
    content = '"body";kind\ncafé;x\n'
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        assert read(write("x.csv", content, encoding), ReadOptions(text="body", label="kind")).texts[0] == ["café"]


def test_a_column_of_texts_with_semicolons_stays_one(write):
    assert read(write("x.csv", "text\na;b\nc;d\n"), ReadOptions(need_labels=False)).texts[0] == ["a;b", "c;d"]


FAULTS = {
    "row 2": ("text,label\nd,e\na,b,c\n", r"line 3: row 2 has 3 fields, the header 2 \(.*quotes.*delimiter"),
    "row 1": ("text,label\na,b,c\n", "line 2: row 1 has 3 fields, the header 2"),
    "behind a cell of two lines": ('text,label\n"d\nx",e\na,b,c\n', "line 4: row 2 has 3 fields, the header 2"),
    "behind a blank line": ("text,label\nd,e\n\na,b,c,d\n", "line 4: row 2 has 4 fields, the header 2"),
    "behind an odd quote": ('text,label\n"d"x,e\na,b,c\n', "line 2: a quoted text goes on behind a quote that ends it"),
    "late": ("text,label\n" + "d,e\n" * 30_000 + "a,b,c\n", "line 30002: row 30001 has 3 fields, the header 2"),
    "an open quote": ('text,label\nd,e\n"a,b\nx,y\n', "line 3: a quote is opened in row 2 and never closed"),
    "no rows": ("\n\n", "there are no rows"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_row_that_does_not_fit_is_named_by_its_line(write, kind):
    text, message = FAULTS[kind]
    with pytest.raises(DataError, match=message) as caught:
        read(write("x.csv", text))
    assert "C error" not in str(caught.value) and "\n" not in str(caught.value)
