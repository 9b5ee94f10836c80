"""Which labels are classes."""

from __future__ import annotations

import itertools
import json

import pytest

from stratatune.data.labels import LONGEST_LABEL, LabelSet, fraction_in, is_missing, numbers, written_as_sets
from stratatune.data.read_options import ReadOptions
from stratatune.errors import DataError

RATINGS = ["0.5", "1.0", "1.5"] * 4


@pytest.mark.parametrize(
    "labels",
    [[0.5, 1.5] * 8, [3.8, 2.4, 5.0, 0.25], ["3.8", "2.4", "5.0", "0.25"], [str(i / 10) for i in range(40)] * 3],
    ids=["typed", "typed, few", "text", "text, many"],
)
def test_numbers_with_fractions_look_like_regression(labels):
    with pytest.raises(
        DataError, match=r"labels such as \S+ are numbers, not classes: this looks like regression"
    ) as e:
        LabelSet.infer(labels, "train.csv")
    assert 'objective="regression"' in e.value.hint


def test_many_numbers_look_like_regression_too():
    with pytest.raises(DataError, match="too many to be classes: this looks like regression"):
        LabelSet.infer([float(i) for i in range(40)])


def test_few_ratings_written_as_text_are_classes():
    assert LabelSet.infer(RATINGS).names == ("0.5", "1.0", "1.5")
    assert LabelSet.infer(["v1.5", "v2.5", "v1.5"]).names == ("v1.5", "v2.5")


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (["relief,joy", "anger", ""], "relief,joy"),
        (["red; blue", "green"], "red; blue"),
        (["a|b", "c"], "a|b"),
        (["Arts, Culture", "Sports"], ""),
        (["1,5", "2,5"], ""),
        (["a,b", "c;d"], ""),
        (["a,", "b"], ""),
        (["fine", "bad"], ""),
    ],
)
def test_labels_that_are_written_as_sets(labels, found):
    assert written_as_sets(labels) == found


def test_fractions_among_numbers_alone():
    assert fraction_in({"9", "1.5", "3"}) == "1.5" and fraction_in([2.5, 1.0]) == "2.5"
    assert fraction_in(["1", "2.0"]) == fraction_in(["1.5", "low"]) == ""


def test_what_is_missing():
    numpy, pandas = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    missing = [None, float("nan"), numpy.float32("nan"), pandas.NA, pandas.NaT]
    assert all(map(is_missing, missing))
    assert not any(map(is_missing, ["", "nan", 0, False, 0.0, [], numpy.int64(0)]))


@pytest.mark.parametrize(
    ("written", "others"),
    [
        (["0.0", "1.0"], [0.0, "1", 1.0, "0"]),
        (["0", "1"], ["0.0", "1.0", 1.0, "0"]),
        (["1", "1.0", "0", "0.0"], ["0", 1.0, "1", 0.0]),
        (["False", "True"], ["false", "true", "TRUE", "False"]),
    ],
    ids=["as pandas writes gaps", "whole numbers", "both in one file", "booleans"],
)
def test_a_label_is_one_class_in_every_kind_of_file(written, others):
    found = LabelSet.infer(written * 4)
    assert len(found) == 2
    assert found.encode(others).tolist() == [0, 1, 1, 0]


def test_the_name_of_a_label_is_the_same_in_every_process():
    """A set of texts has another order in each process."""
    assert {
        LabelSet.infer(list(order) * 3).names for order in itertools.permutations(["True", "TRUE", "true", "no"])
    } == {("no", "true")}


@pytest.mark.parametrize("labels", [["1.10", "1.1"], ["007", "7"], ["Yes", "yes"], ["a.0", "a"], [".0", "x"]])
def test_labels_that_only_look_alike_are_different_classes(labels):
    assert len(LabelSet.infer(labels * 6)) == 2


LONG = "x" * 140_000


def _messages():
    known = LabelSet(("a", "y" * 90_000))
    yield lambda: LabelSet.infer([LONG, "b"] * 6)
    yield lambda: LabelSet.infer(["z" * 90_000] * 6)
    yield lambda: known.encode([LONG])
    yield lambda: numbers([LONG], "data.csv")
    yield lambda: LabelSet.infer([f"{'z' * 90_000} {number}" for number in range(40)])


@pytest.mark.parametrize("asked", list(_messages()), ids=range(5))
def test_a_long_label_is_cut_in_messages(asked):
    with pytest.raises(DataError) as caught:
        asked()
    assert len(str(caught.value)) < 600


def test_a_label_that_no_result_could_hold_is_refused():
    with pytest.raises(DataError, match="train.csv: a label has 140,000 characters, 100,000 at most: 'xxx.*shorten it"):
        LabelSet.infer([LONG, "b"] * 6, "train.csv")
    assert len(LabelSet.infer(["x" * LONGEST_LABEL, "b"] * 6)) == 2


@pytest.mark.parametrize("value", [[1], {"a": 1}, 10**400], ids=["a list", "an object", "too large a number"])
def test_what_is_no_number_is_named_by_its_row(tmp_path, value):
    from stratatune.objectives.registry import OBJECTIVES

    path = tmp_path / "scores.jsonl"
    rows = [{"query": "a", "text": "b", "score": 1}, {"query": "a", "text": "c", "score": value}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"(row 2|not a number|scores\.jsonl)") as caught:
        OBJECTIVES["rank"].read(str(path), ReadOptions())
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("value", [1e300, -3e38, "2e18", 10**30])
def test_a_number_whose_square_no_run_could_hold_is_refused(value):
    """It would be infinite in fp32, and so would the loss be, of which the rate would be blamed."""
    with pytest.raises(DataError, match=r"x\.csv, row 2: label .* is too large to compute with.*up to 1e\+18"):
        numbers([1.0, value], "x.csv")
    assert numbers([1e18, "-1e18", 1.7e18 / 2], "x.csv") == [1e18, -1e18, 8.5e17]


def test_the_largest_numbers_are_not_missing():
    assert not is_missing(10**400) and is_missing(float("nan"))


def test_a_hidden_label_in_a_list_is_missing():
    from datasets import ClassLabel, Dataset, Features, Sequence, Value

    from stratatune.data.frames import of_datasets

    kinds = Features({"text": Value("string"), "tags": Sequence(ClassLabel(names=["O", "P"]))})
    data = Dataset.from_dict({"text": ["a", "b"], "tags": [[0, 1], [1, -1]]}, features=kinds)
    assert of_datasets(data, "here").get("tags") == [["O", "P"], ["P", None]]


def test_columns_of_0_and_1_may_be_written_as_floats(tmp_path):
    from stratatune.data.label_sets import read_sets

    path = tmp_path / "flags.csv"
    path.write_text("text,joy,anger\ngood,1.0,0.0\nbad,0.0,1.0\nboth,True,true\n")
    assert read_sets(str(path), ReadOptions(label="joy,anger")).labels == [["joy"], ["anger"], ["joy", "anger"]]


def test_classes_of_a_task_may_be_written_as_floats_or_truth_values(tmp_path):
    from stratatune.data.readers import read

    path = tmp_path / "films.csv"
    path.write_text("sentence,label\ngood,1.0\nbad,0.0\nfine,True\npoor,false\n")
    found = read(str(path), ReadOptions(task="sst2", text=("sentence",), label="label")).labels
    assert found == ["positive", "negative", "positive", "negative"]


@pytest.mark.parametrize("labels", [["?", "2"], ["", "duplicate"], ["", ""], [{"a": 1}, {"a": 2}]])
@pytest.mark.parametrize("task", ["stsb", "qqp", None])
def test_texts_are_predicted_whatever_is_in_a_column_of_labels(tmp_path, task, labels):
    from stratatune.data.readers import read

    path = tmp_path / "asked.jsonl"
    text = ("question1", "question2") if task == "qqp" else ("sentence1", "sentence2")
    name = "score" if task == "stsb" else "label"
    rows = [{text[0]: "good", text[1]: "bad", name: label} for label in labels]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = read(str(path), ReadOptions(task=task, text=text, need_labels=False))
    assert len(table) == 2 and table.texts[0] == ["good", "good"]
