"""Exports of annotation tools: one text, one set of entities, whatever tool wrote them; and what is no such thing."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset

from stratatune.data.label_sets import read_sets
from stratatune.data.read_options import ReadOptions
from stratatune.data.readers import read
from stratatune.data.tagged import WORDS, read_tagged
from stratatune.data.written import Written
from stratatune.errors import DataError

TEXT, OTHER = "Ada Lovelace, in London.", "No one."
TAGS = [["B-PER", "I-PER", "O", "O", "B-LOC", "O"], ["O", "O", "O"]]
PLACES = [(0, 12, "PER"), (17, 23, "LOC")]
LISTS = [list(place) for place in PLACES]
OFFSETS = [{"id": n, "start_offset": a, "end_offset": b, "label": c} for n, (a, b, c) in enumerate(PLACES)]
TOKENS = [{"text": "Ada", "start": 0, "end": 3, "id": 0, "ws": True}, {"text": "Lovelace", "start": 4, "end": 12}]
SPANS = [{"start": a, "end": b, "token_start": 0, "token_end": 1, "label": c} for a, b, c in PLACES]
VALUES = [{"start": a, "end": b, "text": TEXT[a:b], "labels": [c]} for a, b, c in PLACES]
RESULT = [{"id": "r", "from_name": "kind", "to_name": "text", "type": "labels", "value": value} for value in VALUES]
CANCELLED = {"was_cancelled": True, "result": RESULT[:1]}


def _task(text, *results):
    return {"id": 7, "data": {"text": text}, "annotations": [{"result": list(one)} for one in results]}


FORMS = {
    "doccano": [{"id": 1, "text": TEXT, "label": LISTS, "Comments": []}, {"id": 2, "text": OTHER, "label": []}],
    "doccano, an older one": [{"text": TEXT, "labels": LISTS}, {"text": OTHER, "labels": []}],
    "doccano with relations": [
        {"text": TEXT, "entities": OFFSETS, "relations": []},
        {"text": OTHER, "entities": [], "relations": []},
    ],
    "Prodigy": [
        {"text": TEXT, "tokens": TOKENS, "spans": SPANS, "answer": "accept"},
        {"text": OTHER, "tokens": TOKENS[:1], "answer": "accept"},
    ],
    "spaCy": [[TEXT, {"entities": LISTS}], [OTHER, {"entities": [], "cats": {}}]],
    "Label Studio": [_task(TEXT, RESULT), _task(OTHER, [])],
    "Label Studio, an older one": [
        {"data": {"text": TEXT}, "completions": [CANCELLED, {"result": RESULT}]},
        {"data": {"text": OTHER}, "completions": [{"result": []}]},
    ],
    "Label Studio, JSON-MIN": [{"id": 1, "text": TEXT, "kind": VALUES, "annotator": 1}, {"id": 2, "text": OTHER}],
}


def _lines(rows):
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def _file(tmp_path, rows, *, lines=True):
    path = tmp_path / ("a.jsonl" if lines else "a.json")
    path.write_text(_lines(rows) if lines else json.dumps(rows, indent=1))
    return path


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("lines", [True, False])
def test_every_tool_s_form_is_read(tmp_path, form, lines):
    table = read_tagged(_file(tmp_path, FORMS[form], lines=lines))
    assert table.texts == ([TEXT, OTHER],) and table.labels == TAGS
    assert set(table.notices) <= {"spans are read from column 'kind'"}
    asked = ReadOptions(text=("text",), need_labels=False)
    assert read_tagged(_file(tmp_path, FORMS[form], lines=lines), asked).texts == table.texts


@pytest.mark.parametrize("form", FORMS)
def test_rows_in_memory_are_read_too(form):
    rows = [tuple(row) if isinstance(row, list) else row for row in FORMS[form]]
    assert read_tagged(rows).labels == TAGS


@pytest.mark.parametrize("form", [form for form in FORMS if form not in ("doccano", "doccano, an older one", "spaCy")])
def test_arrow_gives_every_object_all_keys(form):
    """Lists of several types have no type in Arrow, so those of the other forms are not stored in it."""
    choice = {"from_name": "tone", "type": "choices", "value": {"choices": ["calm"]}}
    mixed = [_task(TEXT, [choice, *RESULT]), _task(OTHER, [choice])]
    for rows in (FORMS[form], mixed):
        data = Dataset.from_list(rows)
        assert read_tagged(data).labels == read_tagged(data.to_pandas()).labels == TAGS
    assert read(Dataset.from_list(mixed), ReadOptions(label="tone")).labels == ["calm", "calm"]


def test_one_row_of_spacy_s_is_no_list_of_rows(tmp_path):
    for file in (_file(tmp_path, FORMS["spaCy"][:1]), _file(tmp_path, FORMS["spaCy"][:1], lines=False)):
        assert read_tagged(file).labels == TAGS[:1]
    plain = _file(tmp_path, ["a text", "another"], lines=False)
    assert read_tagged(plain, ReadOptions(need_labels=False)).texts == (["a text", "another"],)
    with pytest.raises(DataError, match="row 1: holds a list, not an object"):
        read_tagged(_file(tmp_path, [[TEXT, {"cats": {}}]], lines=False))


def test_a_run_on_one_form_scores_another(tmp_path):
    learnt = {form: read_tagged(_file(tmp_path, rows)).label_column for form, rows in FORMS.items()}
    assert learnt["Label Studio"] == "spans"
    for rows in FORMS.values():
        for label in learnt.values():
            assert read_tagged(_file(tmp_path, rows), ReadOptions(text=("text",), label=label)).labels == TAGS
    assert read_tagged(_file(tmp_path, FORMS["Label Studio"]), ReadOptions(label="kind")).label_column == "kind"


def test_words_are_those_of_plain_texts(tmp_path):
    """Prodigy's tokens are left alone: texts to predict have none."""
    table = read_tagged(_file(tmp_path, FORMS["Prodigy"]))
    assert [TEXT[start:end] for start, end in table.further[WORDS][0]] == ["Ada", "Lovelace", ",", "in", "London", "."]


def test_only_what_was_accepted_is_learnt(tmp_path):
    odd = [{"text": "x", "spans": [{"start": 5, "end": 3}], "answer": "reject"}, {"text": "y", "answer": "ignore"}]
    rows = [odd[0], *FORMS["Prodigy"], odd[1], {"text": "z"}]
    table = read_tagged(_file(tmp_path, rows))
    assert table.labels == TAGS and list(table.rows) == [2, 3]
    assert table.notices == ("3 of 5 rows are left out: their answer is not accept (row 1, 4, 5)",)
    assert len(read_tagged(_file(tmp_path, rows), ReadOptions(need_labels=False))) == 5  # predictions are for all
    with pytest.raises(DataError, match="no row is accepted"):
        read_tagged(_file(tmp_path, odd))


def test_tasks_that_nobody_annotated_are_left_out(tmp_path):
    skipped = {"data": {"text": "later", "source": "b"}, "annotations": [CANCELLED]}
    rows = [*FORMS["Label Studio"], _task("never"), skipped]
    table = read_tagged(_file(tmp_path, rows))
    assert table.labels == TAGS and table.label_column == "spans"
    assert table.notices[0] == "2 of 4 rows are left out: their task has no annotation (row 3, 4)"
    asked = read_tagged(_file(tmp_path, rows), ReadOptions(need_labels=False, keep_whole=True))
    assert asked.texts == ([TEXT, OTHER, "never", "later"],)
    assert asked.whole is not None and asked.whole.names == ["id", "text", "source", "kind"]
    plain = read_tagged(_file(tmp_path, [{"data": {"text": TEXT}}]), ReadOptions(need_labels=False))
    assert plain.texts == ([TEXT],)


def test_annotations_of_a_task_that_differ_are_refused(tmp_path):
    alike = read_tagged(_file(tmp_path, [_task(TEXT, RESULT, RESULT[::-1])]))
    assert alike.labels == TAGS[:1]
    rows = [*FORMS["Label Studio"], _task(TEXT, RESULT, RESULT[:1])]
    with pytest.raises(DataError, match="row 3: the task has 2 annotations that differ.*keep one annotation"):
        read_tagged(_file(tmp_path, rows))
    assert len(read_tagged(_file(tmp_path, rows), ReadOptions(need_labels=False))) == 3


def test_relations_are_not_read_and_said_so(tmp_path):
    related = [{"text": TEXT, "entities": OFFSETS, "relations": [{"from_id": 0, "to_id": 1, "type": "in"}]}]
    linked = [_task(TEXT, [*RESULT, {"type": "relation", "from_id": "r", "to_id": "r"}])]
    for rows in (related, linked):
        table = read_tagged(_file(tmp_path, rows))
        assert table.labels == TAGS[:1] and "relations are not read" in table.notices


def _wrong(form, *places):
    made = {
        "doccano": lambda a, b, c: [a, b, c],
        "doccano with relations": lambda a, b, c: {"start_offset": a, "end_offset": b, "label": c},
        "Prodigy": lambda a, b, c: {"start": a, "end": b, "token_start": 0, "token_end": 0, "label": c},
        "Label Studio": lambda a, b, c: {"start": a, "end": b, "labels": [c]},
    }[form]
    return [{"text": OTHER, "entities": []}, {"text": TEXT, "entities": [made(*place) for place in places]}]


@pytest.mark.parametrize("form", ["doccano", "doccano with relations", "Prodigy", "Label Studio"])
def test_spans_that_overlap_or_leave_their_text_are_refused(tmp_path, form):
    both = r"row 2: the spans 'Ada Lovelace' \(PER\) at 0 and 'Lovelace, in' \(LOC\) at 4 overlap.*a word has one tag"
    inside = r"row 2: the spans 'Ada' \(PER\) at 0 and 'Ada Lovelace' \(PER\) at 0 overlap"
    wrong = {
        both: [PLACES[1], (4, 16, "LOC"), PLACES[0]],
        inside: [PLACES[0], (0, 3, "PER")],
        r"row 2: the spans 'Ada' \(LOC\) at 0 and 'Ada' \(PER\) at 0 overlap": [(0, 3, "PER"), (0, 3, "LOC")],
        "row 2: span .* is not inside its text of 24 characters": [(17, 25, "LOC")],
        "row 2: span .*: its ends are not whole numbers": [("/p[1]", 3, "LOC")],
    }
    for said, places in wrong.items():
        with pytest.raises(DataError, match=said):
            read_tagged(_file(tmp_path, _wrong(form, *places)))
    table = read_tagged(_file(tmp_path, _wrong(form, *PLACES, PLACES[0])))  # one that was marked twice
    assert table.labels == [*TAGS[1:], *TAGS[:1]] and not table.notices


def test_offsets_that_count_otherwise_are_found_by_the_text(tmp_path):
    """JavaScript counts an emoji as two; Label Studio says what it marked."""
    right = [{"text": f"\U0001f600 {TEXT}", "label": [{**VALUES[0], "start": 2, "end": 14}]}]
    assert read_tagged(_file(tmp_path, right)).labels == [["O", *TAGS[0][:2], "O", "O", "O", "O"]]
    wrong = [{"text": f"\U0001f600 {TEXT}", "label": [{**VALUES[0], "start": 3, "end": 15}]}]
    with pytest.raises(DataError, match="row 1: span .*characters 3 to 15 of its text are 'da Lovelace,'.*an emoji"):
        read_tagged(_file(tmp_path, wrong))
    lines = [{"text": "Ada\nLovelace", "label": [{**VALUES[0], "text": "Ada\\nLovelace"}]}]
    assert read_tagged(_file(tmp_path, lines)).labels == [["B-PER", "I-PER"]]


def test_a_span_has_one_label(tmp_path):
    for labels, said in ((["PER", "LOC"], "has 2 labels"), ([], "has 0 labels")):
        with pytest.raises(DataError, match=f"row 1: span .* {said}.*one label"):
            read_tagged(_file(tmp_path, [{"text": TEXT, "label": [{**VALUES[0], "labels": labels}]}]))


# --- classes -------------------------------------------------------------------------------------------------------

OPTIONS = [{"id": "a", "text": "A"}, {"id": "b", "text": "B"}]


def _choice(*names):
    return _task("x", [{"from_name": "label", "type": "choices", "value": {"choices": list(names)}}])


CLASSES = {
    "doccano": [{"text": "x", "label": ["a"]}, {"text": "x", "label": ["b"]}],
    "Prodigy": [{"text": "x", "label": "a", "answer": "accept"}, {"text": "x", "label": "b", "answer": "accept"}],
    "Prodigy, a choice": [
        {"text": "x", "options": OPTIONS, "accept": [one], "answer": "accept", "config": {}} for one in "ab"
    ],
    "Label Studio": [_choice("a"), _choice("b")],
}


@pytest.mark.parametrize("form", CLASSES)
@pytest.mark.parametrize("bad_rows", ["refuse", "skip"])
def test_classes_of_every_tool_are_read(tmp_path, form, bad_rows):
    options = ReadOptions(written=Written(bad_rows=bad_rows))
    assert read(_file(tmp_path, CLASSES[form]), options).labels == ["a", "b"]
    assert [list(row) for row in read_sets(_file(tmp_path, CLASSES[form])).labels or ()] == [["a"], ["b"]]


def test_answers_are_classes_where_they_are_asked_for(tmp_path):
    rows = [*CLASSES["Prodigy"], {"text": "x", "label": "b", "answer": "reject"}]
    table = read(_file(tmp_path, rows))
    assert table.labels == ["a", "b"] and "1 of 3 rows is left out: their answer is not accept (row 3)" in table.notices
    assert read(_file(tmp_path, rows), ReadOptions(label="answer")).labels == ["accept", "accept", "reject"]
    other = [{"text": "x", "label": "a", "answer": "accept"}, {"text": "x", "label": "b", "answer": "maybe"}]
    assert read(_file(tmp_path, other)).labels == ["a", "b"]  # a column that is only called so


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (["a", "b"], "label column 'label' holds lists .several labels in a cell"),
        (LISTS, "label column 'label' holds lists .*--objective tags|objective=.tags"),
        ([], "label column 'label' is empty in 1 of 2 rows .row 2"),
    ],
    ids=["several", "spans", "none"],
)
def test_what_is_no_class_is_refused(tmp_path, label, said):
    with pytest.raises(DataError, match=said):
        read(_file(tmp_path, [{"text": TEXT, "label": ["a"]}, {"text": TEXT, "label": label}]))
