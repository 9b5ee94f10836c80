"""Questions with their contexts: every layout gives the same table, and every mistake is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stratatune.data.questions import Answer, read_questions
from stratatune.data.read_options import ReadOptions
from stratatune.data.written import Written
from stratatune.errors import DataError

CONTEXT = "Ada Lovelace wrote notes in 1843, in London."
ROWS = [
    ("Who wrote notes?", [Answer("Ada Lovelace", 0), Answer("Lovelace", 4)]),
    ("When?", [Answer("1843", 28)]),
    ("Why?", []),
]


def _lists(answers):
    return {"text": [one.text for one in answers], "answer_start": [one.start for one in answers]}


def _dicts(answers):
    return [{"text": one.text, "answer_start": one.start} for one in answers]


def _squad(version: str = "v2.0"):
    asked = [
        {"id": f"q{n}", "question": question, "answers": _dicts(answers), "is_impossible": not answers}
        for n, (question, answers) in enumerate(ROWS)
    ]
    asked[2]["plausible_answers"] = [{"text": "Ada", "answer_start": 0}]
    return {"version": version, "data": [{"title": "Ada", "paragraphs": [{"context": CONTEXT, "qas": asked}]}]}


def _hub():
    return [
        {"id": f"q{n}", "question": question, "context": CONTEXT, "answers": _lists(answers)}
        for n, (question, answers) in enumerate(ROWS)
    ]


@pytest.fixture
def written(tmp_path: Path):
    """Gives ``written(name, rows)``: a file of JSON, JSON Lines, csv or parquet with these rows."""

    def write(name: str, rows) -> str:
        path = tmp_path / name
        if path.suffix == ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        elif path.suffix == ".json":
            path.write_text(json.dumps(rows))
        else:
            import pandas

            frame = pandas.DataFrame(rows)
            frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path)
        return str(path)

    return write


def test_every_layout_gives_the_same_table(written):
    import datasets
    import pandas

    cells = [{**row, "answers": json.dumps(row["answers"])} for row in _hub()]
    listed = [{**row, "answers": _dicts(answers)} for row, (_, answers) in zip(_hub(), ROWS, strict=True)]
    sources = [
        *(written("squad.json", _squad()), written("hub.jsonl", _hub()), written("hub.parquet", _hub())),
        *(written("cells.csv", cells), written("listed.jsonl", listed)),
        *(pandas.DataFrame(_hub()), datasets.Dataset.from_list(_hub()), datasets.Dataset.from_list(listed)),
    ]
    for source in sources:
        table = read_questions(source)
        assert table.columns == ("question", "context") and table.label_column == "answers"
        assert table.texts == ([question for question, _ in ROWS], [CONTEXT] * 3)
        assert table.labels == [answers for _, answers in ROWS] and not table.notices


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_flat_rows_of_one_answer(written, suffix):
    rows = [
        {"question": "When?", "context": CONTEXT, "answer": "1843", "answer_start": 28},
        {"question": "Where?", "context": CONTEXT, "answer": " London", "answer_start": 36},
        {"question": "Why?", "context": CONTEXT, "answer": "", "answer_start": -1},
    ]
    table = read_questions(written(f"flat.{suffix}", rows))
    assert table.labels == [[Answer("1843", 28)], [Answer("London", 37)], []]
    assert table.label_column == "answer,answer_start"
    names = {"question": "q", "context": "c", "answer": "a", "answer_start": "at"}
    renamed = [{names[key]: value for key, value in row.items()} for row in rows]
    asked = ReadOptions(text="q,c", label="a,at")
    assert read_questions(written(f"named.{suffix}", renamed), asked).labels == table.labels
    # A data frame has the whole numbers of a column with a gap as floats.
    assert read_questions([{"question": "When?", "context": CONTEXT, "answer": 1843.0}]).labels == [
        [Answer("1843", 28)]
    ]
    # Without a start the answer is found where it occurs once; a flag says that there is none.
    found = [{"question": "When?", "context": CONTEXT, "answer": "1843", "is_impossible": False}]
    found.append({"question": "Why?", "context": CONTEXT, "answer": "", "is_impossible": True})
    assert read_questions(written(f"found.{suffix}", found)).labels == [[Answer("1843", 28)], []]


def test_data_to_predict_need_no_answers(written):
    plain = [{"question": question, "context": CONTEXT} for question, _ in ROWS]
    for source in (written("plain.jsonl", plain), [("Who?", CONTEXT)], written("squad.json", _squad())):
        assert read_questions(source, ReadOptions(need_labels=False)).labels is None
    wrong = [{**plain[0], "answer": "nowhere"}]
    assert read_questions(written("wrong.jsonl", wrong), ReadOptions(need_labels=False)).labels is None


MISTAKES = {
    "another start": (
        {"answer": "1843", "answer_start": 27},
        "not at answer_start 27: the context has ' 184'",
        "at 28",
    ),
    "behind the end": ({"answer": "1843", "answer_start": 99}, "the context has 44 characters", "at 28"),
    "no number": ({"answer": "1843", "answer_start": "late"}, "answer_start 'late'", "counts characters from 0"),
    "not there": ({"answer": "1844"}, "'1844' does not occur in its context", "copy it"),
    "twice there": ({"answer": "in"}, "occurs 2 times in its context, at 25, 34", "answer_start"),
    "empty": ({"answer": " ", "answer_start": 3}, "the answer is empty", "is_impossible true"),
    "both": ({"answer": "1843", "is_impossible": True}, "is_impossible is true", "leave out one"),
    "neither": ({"answers": {"text": [], "answer_start": []}, "is_impossible": False}, "is false", "empty lists"),
    "lengths": ({"answers": {"text": ["1843"], "answer_start": []}}, "1 text and 0 starts", "one start"),
    "printed": ({"answers": "{'text': ['1843']}"}, "is not JSON", "answer_start"),
    "flag": ({"answer": "1843", "is_impossible": "perhaps"}, "is_impossible is 'perhaps'", "true or false"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_or_left_out(written, name):
    own, message, hint = MISTAKES[name]
    good = {"question": "When?", "context": CONTEXT, "answer": "1843", "answers": {"text": ["1843"]}}
    good = {key: value for key, value in good.items() if key in {"question", "context", *own}}
    row = {"id": "q7", "question": "When?", "context": CONTEXT, **own}
    source = written("rows.jsonl", [good, row])
    with pytest.raises(DataError) as caught:
        read_questions(source)
    assert "row 2 (id q7): " in caught.value.message and message in caught.value.message
    assert hint in str(caught.value.hint)
    table = read_questions(source, ReadOptions(written=Written(bad_rows="skip")))
    assert len(table) == 1 and "1 of 2 rows are left out (row 2: " in table.notices[0]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"query": "Who?", "answers": []}], {}, "which column holds the context"),
        ([{"context": "a", "answers": []}], {}, "which column holds the question"),
        ([{"question": "Who?", "context": "a"}], {}, "which column holds the answers"),
        ([{"question": "Who?", "context": "a"}], {"text": "question"}, "1 text columns were named"),
        ([{"question": "Who?", "context": "a"}], {"label": "anser"}, "has no column 'anser'"),
        ([{"question": "Who?", "context": "a"}], {"label": "a,b,c"}, "3 label columns were named"),
        ([{"question": "", "context": "a", "answer": "a"}], {}, "text column 'question' is empty in 1 of 1 rows"),
        ([{"title": "x", "paragraphs": 3}], {}, "article 1: 'paragraphs' is not a list of objects"),
        ([{"title": "x", "paragraphs": [{"context": "a"}]}], {}, "article 1, paragraph 1: 'qas' is not a list"),
        (["one text"], {}, "are single texts"),
    ],
)
def test_what_cannot_be_read_says_why(written, rows, options, message):
    source = rows if isinstance(rows[0], str) else written("rows.jsonl", rows)
    with pytest.raises(DataError) as caught:
        read_questions(source, ReadOptions(**options))
    assert message in caught.value.message and caught.value.hint
