"""Reading of words with tags and of texts with spans, and every mistake in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stratatune.data.read_options import ReadOptions
from stratatune.data.tagged import WORDS, read_tagged, words_of
from stratatune.data.written import Written
from stratatune.errors import DataError

ROWS = [["a b", "O B-P"], ["c", "O"]]


def _read(tmp_path, name, text, **asked):
    path = tmp_path / name
    path.write_text(text)
    return read_tagged(path, ReadOptions(**asked))


def _words(table):
    return [[text[a:b] for a, b in words] for text, words in zip(table.texts[0], table.further[WORDS], strict=True)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.conll", "a\tO\nb\tB-P\n\nc\tO\n"),
        ("a.bio", "-DOCSTART- O\n\na O\nb B-P\n   \n\t\nc O"),
        ("a.txt", "a O\r\nb B-P\r\n\r\nc O\r\n"),
        ("a.tsv", "# a comment\na\tO\nb\tB-P\n\t\nc\tO\n\n\n"),
        ("a.conll", "a NN x O\nb NN x B-P\n\nc NN x O"),
        ("a.conll", "# id 5 domain=en\na _ _ O\nb _ _ B-P\n\n# id 6 domain=en\nc _ _ O\n"),
        ("a.conll", "# sent_0\na O\nb B-P\n\n# sent_1\nc O\n"),
        ("a.jsonl", '{"tokens": ["a", "b"], "ner_tags": ["O", "B-P"]}\n{"tokens": ["c"], "ner_tags": ["O"]}\n'),
        ("a.csv", 'tokens,tags\n"[""a"", ""b""]","[""O"", ""B-P""]"\n"[""c""]","[""O""]"\n'),
    ],
)
def test_every_layout_is_read(tmp_path, name, text):
    table = _read(tmp_path, name, text)
    assert _words(table) == [row[0].split() for row in ROWS] and table.labels == [row[1].split() for row in ROWS]
    assert table.select([1]).further[WORDS] == [[(0, 1)]]


def test_a_hash_is_a_word_where_it_has_a_tag(tmp_path):
    table = _read(tmp_path, "a.conll", "# O\n1 B-P\nx O\n\n#ada B-P\n")
    assert _words(table) == [["#", "1", "x"], ["#ada"]] and table.labels == [["O", "B-P", "O"], ["B-P"]]
    table = _read(tmp_path, "b.conll", "#yolo\tHT\nis\tO\n\nI\tO\n#cats\tHT\n", need_labels=False)
    assert _words(table) == [["#yolo", "is"], ["I", "#cats"]]  # a tag that only hashtags have


@pytest.mark.parametrize("mark", [" ", "\t", "  \t "])
def test_only_blanks_and_tabs_separate_columns(tmp_path, mark):
    words = ["10\u00a0000", "\u3000", "a\u2009b", "\u00a0", "c\x0bd", "\x85"]
    table = _read(
        tmp_path, "a.conll", "".join(f"{word}{mark}{tag}\n" for word, tag in zip(words, "OPOPOP", strict=True))
    )
    assert _words(table) == [words] and table.labels == [list("OPOPOP")]


def test_a_column_is_named(tmp_path):
    text = "a NN x O\nb VB x B-P\n"
    assert _read(tmp_path, "a.conll", text, label="pos_tags").labels == [["NN", "VB"]]
    assert _read(tmp_path, "a.conll", text, label="2").labels == [["NN", "VB"]]


def test_numbers_with_names_of_parquet(tmp_path):
    from datasets import ClassLabel, Dataset, Features, Sequence, Value

    features = Features({"tokens": Sequence(Value("string")), "ner_tags": Sequence(ClassLabel(names=["O", "B-P"]))})
    data = Dataset.from_dict({"tokens": [["a", "b"]], "ner_tags": [[0, 1]]}, features=features)
    assert read_tagged(data).labels == [["O", "B-P"]]
    data.to_parquet(tmp_path / "a.parquet")
    assert read_tagged(tmp_path / "a.parquet").labels == [["O", "B-P"]]


def _spans(tmp_path, text, *spans, column="spans"):
    return _read(tmp_path, "a.jsonl", json.dumps({"text": text, column: list(spans)}) + "\n")


def test_spans_become_tags(tmp_path):
    table = _spans(tmp_path, "Ada Lovelace, in Rome.", {"start": 0, "end": 13 - 1, "label": "P"}, [17, 21, "L"])
    assert _words(table) == [["Ada", "Lovelace", ",", "in", "Rome", "."]]
    assert table.labels == [["B-P", "I-P", "O", "O", "B-L", "O"]] and not table.notices


def test_a_table_is_told_from_words_a_line_by_the_names_of_its_columns(tmp_path):
    rows = 'sent\tents\nAda in Rome\t[{""start"": 0, ""end"": 3, ""label"": ""P""}]\n'.replace("[", '"[').replace(
        "]", ']"'
    )
    (tmp_path / "a.tsv").write_text(rows)
    named = read_tagged(tmp_path / "a.tsv", ReadOptions(text="sent", label="ents"))
    written = Written(columns=(("text", "sent"), ("spans", "ents")))
    renamed = read_tagged(tmp_path / "a.tsv", ReadOptions(text=("text",), label="spans", written=written))
    for table in (named, renamed):
        assert table.texts == (["Ada in Rome"],) and table.labels == [["B-P", "O", "O"]]


def test_offsets_may_be_numpys(tmp_path):
    spans = [{"start": np.int64(0), "end": np.int32(3), "label": "P"}]
    assert read_tagged([{"text": "Ada in Rome", "spans": spans}]).labels == [["B-P", "O", "O"]]
    with pytest.raises(DataError, match="its ends are not whole numbers"):
        read_tagged([{"text": "Ada in Rome", "spans": [{**spans[0], "end": np.float32(2.5)}]}])


def test_lists_of_words_may_be_in_a_tuple():
    table = read_tagged((["a", "b"], ["c"]), ReadOptions(need_labels=False))
    assert _words(table) == [["a", "b"], ["c"]]


def test_spans_that_meet_no_border_are_counted_and_named(tmp_path):
    spans = ({"start": 1, "end": 4, "label": "P"}, {"start": 0, "end": 12, "label": "L"}, [13, 14, "X"])
    table = _spans(tmp_path, "Parisian life  ", *spans, column="entities")
    assert table.labels == [["B-L", "I-L"]]
    said = " ".join(table.notices)
    assert "1 of 3 spans begin or end inside a word and are widened" in said and "'Parisian lif' (L)" in said
    assert "2 of 3 spans cross a longer span or hold no word, and are left out: row 1" in said and "'ari' (P)" in said


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.conll", "a O\nb\n", "line 2: 1 column, and the first word has 2"),
        ("a.jsonl", '{"tokens": ["a", "b"], "tags": ["O"]}', "row 1: 1 tag for 2 words"),
        ("a.jsonl", '{"tokens": ["a", 5], "tags": ["O", "O"]}', "the word 5 is not a text"),
        ("a.jsonl", '{"tokens": ["a"], "tags": [null]}', "row 1: word 1 has no tag"),
        ("a.jsonl", '{"tokens": ["a"], "other": ["O"]}', "which column holds the tags"),
        ("a.jsonl", '{"words_": ["a"], "tags": ["O"]}', "which column holds the words?"),
        ("a.jsonl", '{"text": "abc"}', "which column holds the spans"),
        ("a.jsonl", '{"text": "abc", "spans": [{"start": 1, "end": 9, "label": "P"}]}', "is not inside its text of 3"),
        ("a.jsonl", '{"text": "abc", "spans": [{"start": 1, "end": 2}]}', "is none"),
        ("a.jsonl", '{"text": "abc", "spans": [{"start": 1, "end": 2, "label": 3}]}', "its label 3 is not a name"),
        ("a.csv", "tokens,tags\na b,O O\n", "column 'tokens' holds texts, not lists of words"),
        ("a.csv", """tokens,tags\n"['a', 'b']","['O', 'O']"\n""", "column 'tokens' is not a JSON list"),
        ("a.jsonl", '{"text": "abc", "spans": [{"start": "1", "end": 2, "label": "P"}]}', "not whole numbers"),
        (
            "a.jsonl",
            '{"text": "abc", "spans": {"start": [0], "end": [1, 2], "label": ["P"]}}',
            "row 1: column 'spans' holds lists of different lengths: 1 of 'start', 2 of 'end', 1 of 'label'",
        ),
        (
            "a.jsonl",
            '{"text": "abc", "spans": {"start": 0, "end": 1, "label": "P"}}',
            "column 'spans' holds an object, not a list",
        ),
        ("a.csv", "text,label\nabc,good\n", "row 1: column 'label' holds a text, not a list"),
        ("a.jsonl", '{"tokens": ["a"], "ner_tags": "O"}', "row 1: column 'ner_tags' holds a text, not a list"),
        ("a.jsonl", '{"tokens": [], "tags": []}', "text column 'tokens' is empty in 1 of 1 rows"),
        ("a.conll", "\n\n", "there are no rows"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, name, text, said):
    with pytest.raises(DataError) as caught:
        _read(tmp_path, name, text)
    assert said in caught.value.message and "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ('{"text": "abc", "label": "good"}', "write a list of spans"),
        ('{"tokens": ["a"], "tags": "O"}', "a tag for each word"),
        ('{"tokens": {"a": 1}, "tags": ["O"]}', "write a list of words"),
    ],
)
def test_the_hint_is_for_the_column_at_fault(tmp_path, text, hint):
    with pytest.raises(DataError) as caught:
        _read(tmp_path, "a.jsonl", text)
    assert hint in (caught.value.hint or "")


def test_a_slip_in_a_column(tmp_path):
    with pytest.raises(DataError, match="has no column 'ner_tag'") as caught:
        _read(tmp_path, "a.jsonl", '{"tokens": ["a"], "ner_tags": ["O"]}', label="ner_tag")
    assert "did you mean 'ner_tags'" in (caught.value.hint or "")


def test_words_of_a_plain_text():
    assert [("it's 3.5 a_b!")[a:b] for a, b in words_of("it's 3.5 a_b!")] == "it ' s 3 . 5 a _ b !".split()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Jose\u0301 Garci\u0301a left.", ["Jose\u0301", "Garci\u0301a", "left", "."]),
        (
            "\u0928\u0930\u0947\u0928\u094d\u0926\u094d\u0930 \u092e\u094b\u0926\u0940 \u0906\u090f",
            ["\u0928\u0930\u0947\u0928\u094d\u0926\u094d\u0930", "\u092e\u094b\u0926\u0940", "\u0906\u090f"],
        ),
        ("caf\u00e9-bar", ["caf\u00e9", "-", "bar"]),
        ("a_b", ["a", "_", "b"]),
        ("\u0301a", ["\u0301", "a"]),
    ],
)
def test_marks_belong_to_the_letters_before_them(text, words):
    assert [text[start:end] for start, end in words_of(text)] == words


def test_spans_of_words_are_no_tags():
    row = {"tokenized_text": ["Ada", "met"], "ner": [[0, 0, "person"], [1, 1, "place"]]}
    with pytest.raises(DataError, match="row 1: .* in column 'ner' is no tag of a word"):
        read_tagged([row], ReadOptions(text=("tokenized_text",), label="ner"))
