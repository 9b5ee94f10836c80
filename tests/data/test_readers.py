"""Readers: every source gives the same table, and every mistake one line."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

from stratatune.data.frames import broken_in
from stratatune.data.read_options import ReadOptions
from stratatune.data.readers import Table, read
from stratatune.data.sources import open_source
from stratatune.data.written import Written
from stratatune.errors import DataError

ROWS = [("good film", "01"), ("a, b", "1"), ('he said "no"', "None"), ("NA", "null")]


@pytest.fixture
def frame():
    import pandas

    return pandas.DataFrame(ROWS, columns=["text", "label"])


def as_csv(rows=ROWS):
    quoted = [[cell.replace('"', '""') for cell in row] for row in rows]
    return "text,label\n" + "".join(f'"{text}",{label}\n' for text, label in quoted)


def check(table):
    assert list(table.texts[0]) == [text for text, _ in ROWS]
    assert table.labels == [label for _, label in ROWS]
    assert list(table.rows) == [1, 2, 3, 4]
    assert (table.columns, table.label_column, len(table)) == (("text",), "label", 4)


# --- the same table from every source --------------------------------------------------------------------------------


def test_csv_keeps_every_cell_as_text(write):
    check(read(write("x.csv", as_csv())))


def test_csv_with_byte_order_mark_and_brackets_in_its_name(write):
    check(read(write("[a] *.csv", as_csv(), "utf-8-sig")))


def test_tsv(write):
    check(read(write("x.tsv", "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in ROWS))))


def test_jsonl_and_json(write):
    records = [{"text": text, "label": label} for text, label in ROWS]
    check(read(write("x.jsonl", "\n".join(map(json.dumps, records)))))
    check(read(write("x.json", json.dumps(records))))


@pytest.mark.parametrize("suffix", ["CSV", "Tsv", "JSONL", "Json", "PARQUET"])
def test_a_suffix_in_capitals_is_that_suffix(suffix, write, frame, tmp_path):
    path = tmp_path / f"train.{suffix}"
    if suffix == "PARQUET":
        frame.to_parquet(path)
    elif suffix == "Json":
        frame.to_json(path, orient="records")
    elif suffix == "JSONL":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix == "Tsv" else ",")
    check(read(path))
    check(read(tmp_path, ReadOptions(split="train")))


def test_json_numbers_and_mixed_labels(write):
    lines = [{"text": "a", "label": 1}, {"text": "b", "label": "x"}, {"text": "c", "label": True}]
    assert read(write("x.jsonl", "\n".join(map(json.dumps, lines)))).labels == ["1", "x", "true"]


def test_parquet(frame, tmp_path):
    frame.to_parquet(tmp_path / "x.parquet")
    check(read(tmp_path / "x.parquet"))


def test_columns_of_parquet_for_which_datasets_has_no_type_are_left_out(frame, tmp_path):
    import pyarrow
    from pyarrow import parquet

    pairs = pyarrow.array([[("a", 1)]] * len(ROWS), pyarrow.map_(pyarrow.string(), pyarrow.int64()))
    table = pyarrow.Table.from_pandas(frame, preserve_index=False)
    parquet.write_table(table.append_column("meta", pairs), tmp_path / "x.parquet")
    found = read(tmp_path / "x.parquet")
    check(found)
    assert any("left out: 'meta' (map<" in notice for notice in found.notices)
    parquet.write_table(pyarrow.table({"meta": pairs}), tmp_path / "y.parquet")
    with pytest.raises(DataError, match=r"y.parquet: the types of its columns are not read: 'meta' \(map"):
        read(tmp_path / "y.parquet")
    (tmp_path / "z.parquet").write_bytes((tmp_path / "x.parquet").read_bytes()[:-40])
    with pytest.raises(DataError, match="z.parquet is not a whole parquet file: .*magic bytes"):
        read(tmp_path / "z.parquet")
    names = ["text", "text", "label"]
    parquet.write_table(pyarrow.table([["a"], ["b"], ["x"]], names=names), tmp_path / "twice.parquet")
    with pytest.raises(DataError, match=r"twice.parquet: two columns are called 'text' .rename"):
        read(tmp_path / "twice.parquet")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_no_cache_of_the_library_is_needed(frame, tmp_path, monkeypatch, suffix):
    """In a container the home folder is often read-only, or is not there."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", "/dev/null/cache")
    path = tmp_path / f"x.{suffix}"
    (frame.to_csv if suffix == "csv" else frame.to_parquet)(path, index=False)
    assert len(read(path)) == len(frame)


def test_a_file_without_permission_is_not_called_damaged(frame, tmp_path, monkeypatch):
    frame.to_parquet(tmp_path / "x.parquet")
    monkeypatch.setattr("stratatune.outside.os.access", lambda *_: False)
    with pytest.raises(DataError, match=r"x.parquet cannot be read: you have no permission to read it"):
        read(tmp_path / "x.parquet")


def test_whole_numbers_beside_a_gap_are_the_same_texts():
    import pandas

    whole, gap = (pandas.DataFrame({"text": [7, other, 9], "label": ["a", "b", "a"]}) for other in (8, None))
    assert read(whole).texts == (["7", "8", "9"],)
    assert read(gap, ReadOptions(written=Written(bad_rows="skip"))).texts == (["7", "9"],)
    assert read(gap, ReadOptions(written=Written(bad_rows="empty"))).texts == (["7", "", "9"],)


def test_data_frame(frame):
    check(read(frame))
    numbered = frame.rename(columns={"text": 0, "label": 1})
    assert read(numbered, ReadOptions(text="0", label="1")).labels == read(frame).labels
    gap = frame.assign(label=["a", None, "b", float("nan")])
    with pytest.raises(DataError, match=r"'label' is empty in 2 of 4 rows \(row 2, 4\)"):
        read(gap)
    assert read(gap, ReadOptions(need_labels=False)).labels is None


def test_series_and_array(frame):
    assert (
        read(frame["text"], ReadOptions(need_labels=False)).texts
        == read(frame["text"].to_numpy(), ReadOptions(need_labels=False)).texts
    )


def test_dataset_and_saved_folder(frame, tmp_path):
    from datasets import Dataset, DatasetDict

    data = Dataset.from_pandas(frame)
    check(read(data))
    both = DatasetDict(train=data, validation=data.select([0]))
    check(read(both, ReadOptions(split="train")))
    both.save_to_disk(tmp_path / "saved")
    assert len(read(str(tmp_path / "saved"), ReadOptions(split="dev"))) == 1
    with pytest.raises(DataError, match=r"several splits \(name one: train, validation\)"):
        read(both)
    with pytest.raises(DataError, match="no split 'test'"):
        read(both, ReadOptions(split="test"))


def test_class_labels_come_by_name():
    from datasets import ClassLabel, Dataset, Features, Value

    kinds = Features(text=Value("string"), coarse_label=ClassLabel(names=["ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"]))
    data = Dataset.from_dict({"text": ["a", "b"], "coarse_label": [2, 0]}, features=kinds)
    assert read(data, ReadOptions(task="trec")).labels == ["description", "abbreviation"]
    hidden = Dataset.from_dict({"text": ["a", "b"], "coarse_label": [-1, -1]}, features=kinds)
    assert read(hidden, ReadOptions(task="trec", need_labels=False)).labels is None
    with pytest.raises(DataError, match="'coarse_label' is empty in 2 of 2 rows"):
        read(hidden, ReadOptions(task="trec"))


def test_lists_of_texts_and_of_pairs(write):
    assert read(["a", "b"], ReadOptions(need_labels=False)).texts == (["a", "b"],)
    assert read([("a", "c"), ("b", "d")], ReadOptions(need_labels=False)).texts == (["a", "b"], ["c", "d"])
    assert read(write("x.txt", "a\nb\n"), ReadOptions(need_labels=False)).texts == (["a", "b"],)
    with pytest.raises(DataError, match="not all texts"):
        read(["a", 1], ReadOptions(need_labels=False))
    with pytest.raises(DataError, match="cannot read texts from a int"):
        read(3)


def test_hub(monkeypatch):
    import datasets

    asked = []

    def load_dataset(*address):
        asked.append(address)
        return datasets.DatasetDict(validation=datasets.Dataset.from_dict({"sentence": ["x"], "label": ["1"]}))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    table = read("glue/sst2", ReadOptions(split="dev"))
    assert (table.labels, table.source) == (["positive"], "glue/sst2 [validation]")
    read("org/name:config")
    assert asked == [("nyu-mll/glue", "sst2"), ("org/name", "config")]


def test_a_slip_in_a_path_does_not_ask_the_hub(write, monkeypatch):
    monkeypatch.chdir(write("sets/train.csv", as_csv()).parent.parent)
    with pytest.raises(DataError, match="no file 'sets/train'.*did you mean 'sets/train.csv'"):
        read("sets/train")


def test_hub_failure_is_one_line(monkeypatch):
    import datasets

    def load_dataset(*_):
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError) as caught:
        read("org/name")
    assert caught.value.message == "no file or folder 'org/name', and the hub gives no such data set: no network"


# --- tasks' own layouts ----------------------------------------------------------------------------------------------


def test_cola_has_no_header(write):
    path = write("CoLA/train.tsv", 'gj04\t1\t\tOur "friends\ngj04\t0\t*\tBad go.\n')
    table = read(path.parent, ReadOptions(split="train"))
    assert table.texts == (['Our "friends', "Bad go."],)
    assert table.labels == ["acceptable", "unacceptable"]
    assert "read as the task cola" in table.notices[0]
    assert (
        read(write("CoLA/test.tsv", "index\tsentence\n0\tBill.\n"), ReadOptions(task="cola", need_labels=False)).labels
        is None
    )


def test_mnli_dev_is_matched(write):
    head = "index\tsentence1\tsentence2\tlabel1\tgold_label\n"
    for name, label in (("matched", "neutral"), ("mismatched", "contradiction")):
        folder = write(f"MNLI/dev_{name}.tsv", f"{head}0\ta\tb\tneutral\t{label}\n").parent
    assert read(folder, ReadOptions(task="mnli", split="dev")).labels == ["neutral"]
    assert read(folder, ReadOptions(task="mnli", split="dev_mismatched")).labels == ["contradiction"]


def test_qqp_drops_rows_that_are_broken_as_published(write):
    text = "id\tquestion1\tquestion2\tis_duplicate\n1\ta\tb\t0\n2\tc\n3\te\tf\t1\n"
    table = read(write("train.tsv", text), ReadOptions(task="qqp"))
    assert (table.labels, list(table.rows)) == (["not_duplicate", "duplicate"], [1, 3])
    assert "1 row without" in table.notices[0]


def test_all_files_are_latin_1_and_cut(write):
    path = write("trec/TREC.train.all", "".join(f"{i % 6} caf\xe9 {i}\n" for i in range(700)), "latin-1")
    write("trec/TREC.test.all", "5 how far\n", "latin-1")
    assert read(path, ReadOptions(task="trec")).texts[0][1] == "caf\xe9 1"
    assert len(read(path)) == 700
    train, dev, test = (read(path.parent, ReadOptions(task="trec", split=split)) for split in ("train", "dev", "test"))
    assert (len(train), len(dev), test.labels) == (200, 500, ["number"])
    assert sorted([*train.rows, *dev.rows]) == list(range(1, 701))
    assert "200 of 700 rows are the split 'train', which is drawn for the task trec" in train.notices[0]
    assert not test.notices
    with pytest.raises(DataError, match="row 1: no class number"):
        read(write("x.all", "hello there\n"))


def test_a_tasks_file_with_other_columns_is_still_read(write):
    assert read(write("x.csv", "text,label\nx,1\n"), ReadOptions(task="sst2")).labels == ["positive"]
    assert read(write("y.csv", "review,label\nx,1\n"), ReadOptions(task="mr", text="review")).columns == ("review",)


def test_regression_labels_are_floats(write):
    assert read(write("x.csv", "sentence1,sentence2,score\na,b,2.5\n"), ReadOptions(task="stsb")).labels == [2.5]
    with pytest.raises(DataError, match="row 1: label 'high' is not a number"):
        read(write("y.csv", "sentence1,sentence2,score\na,b,high\n"), ReadOptions(task="stsb"))


# --- which columns ---------------------------------------------------------------------------------------------------


def test_the_only_plausible_columns_are_taken_and_said(write):
    table = read(write("x.csv", "id,Sentence,sentence1,sentence2,label\n1,q,a,b,y\n"))
    assert table.columns == ("sentence1", "sentence2")
    assert "'sentence1' and 'sentence2'" in table.notices[0]


def test_named_columns(write):
    path = write("x.csv", '"first, or",second,y\na,b,1\n')
    assert read(path, ReadOptions(text="second", label="y")).texts == (["b"],)
    assert read(path, ReadOptions(text="first, or", label="y")).texts == (["a"],)
    assert read(path, ReadOptions(text=["second", "first, or"], label="y")).texts == (["b"], ["a"])
    with pytest.raises(DataError, match="has no column 'secnd'.*did you mean 'second'"):
        read(path, ReadOptions(text="secnd", label="y"))
    with pytest.raises(DataError, match="has no column 'z'.*columns: first, or, second, y"):
        read(path, ReadOptions(text="second", label="z"))
    with pytest.raises(DataError, match="has no column 'second, y'.*learned by objective=.multitask"):
        read(path, ReadOptions(text="first, or", label="second, y"))
    with pytest.raises(DataError, match="3 text columns"):
        read(path, ReadOptions(text=["a", "b", "c"], label="y"))
    with pytest.raises(DataError, match="which column holds the label"):
        read(path, ReadOptions(text="second"))


def test_select_keeps_row_numbers():
    table = Table((["a", "b", "c"],), labels=["x", "y", "z"])
    assert list(table.select([2, 0]).rows) == [3, 1]
    assert table.select([2, 0]).labels == ["z", "x"]


# --- mistakes, one line each -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("x.csv", "", "x.csv is empty"),
        ("x.csv", "text,label\n", "there are no rows"),
        ("x.jsonl", "\n\n", "x.jsonl"),
        ("x.xlsx", "x", r"cannot read .xlsx \(legal: .csv"),
        ("x.conll", "Ada B-person", r"cannot read .conll .*objective=\"tags\" reads any ending"),
        ("x.json", "{not json", "cannot be read as json"),
        ("x.csv", "text,text,label\na,b,c\n", "two columns are called 'text'"),
        ("x.csv", "text,label\nhello, world,1\n", "row 1 has 3 fields, the header 2"),
        ("x.csv", "text,label\na,1\nhello, world,1\n", "line 3: row 2 has 3 fields, the header 2"),
        ("x.csv", "text,comment,label\na,b,c\n", "which column holds the text.*columns: text, comment, label.*text="),
        ("x.csv", "text,label\na,1\nb,\nc,2\nd\n", r"label column 'label' is empty in 2 of 4 rows \(row 2, 4\)"),
        ("x.csv", "text,label\na,1\n  ,2\n", r"text column 'text' is empty in 1 of 2 rows \(row 2\)"),
        ("x.jsonl", '{"text": ["a"], "label": 1}', "column 'text' holds list values"),
    ],
)
def test_bad_files(write, name, text, match):
    with pytest.raises(DataError, match=match) as caught:
        read(write(name, text))
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_missing_file_names_the_nearest(write):
    path = write("train.csv", as_csv())
    with pytest.raises(DataError, match=r"no file .*did you mean .*train\.csv"):
        read(path.with_name("trian.csv"))
    with pytest.raises(DataError, match="there is no folder"):
        read(path.parent / "nowhere" / "train.csv")


def test_a_file_without_splits_is_not_read_under_the_name_of_one(write):
    for file in (write("one.csv", "text,label\na,b\n"), write("one.jsonl", '{"text": "a", "label": "b"}\n')):
        with pytest.raises(DataError, match=r"one\.\w+ is one file and has no split 'test' \(leave the split out"):
            read(file, ReadOptions(split="test"))
    lines = write("TREC.train.all", "1 a film\n" * 700)
    with pytest.raises(DataError, match=r"has no split 'test' \(its splits: train, dev\)"):
        read(lines, ReadOptions(task="trec", split="test"))
    with pytest.raises(DataError, match="is one file"):
        read(lines, ReadOptions(split="dev"))


def test_folder_needs_a_split_that_is_there(write):
    folder = write("set/train.csv", as_csv()).parent
    with pytest.raises(DataError, match="is a folder.*name a split"):
        read(folder)
    with pytest.raises(DataError, match="no file for the split 'dev'.*there is: train.csv"):
        read(folder, ReadOptions(split="dev"))
    assert len(read(folder, ReadOptions(split="train"))) == 4


def test_not_utf8(write):
    with pytest.raises(DataError, match="save the file as UTF-8"):
        read(write("x.csv", "text,label\ncaf\xe9,1\n", "latin-1"))


def test_label_of_another_task(write):
    with pytest.raises(DataError, match="row 2: '7' is not a label of sst2.*legal: negative, positive"):
        read(write("x.csv", "sentence,label\na,1\nb,7\n"), ReadOptions(task="sst2"))


def test_the_libraries_stay_silent(write, capfd):
    with pytest.raises(DataError):
        read(write("x.json", "{not json"))
    read(write("x.csv", as_csv()))
    assert capfd.readouterr() == ("", "")


# --- rows that are not whole -----------------------------------------------------------------------------------------

HOLES = "body,kind\na good film,pos\n ,neg\na bad film,\n,neg\nso so,neg\n"


def test_bad_rows_are_refused_with_the_setting_named(write):
    with pytest.raises(DataError, match=r"'body' is empty in 2 of 5 rows \(row 2, 4\)") as caught:
        read(write("x.csv", HOLES), ReadOptions(text="body", label="kind"))
    assert 'bad_rows="skip"' in caught.value.hint and "empty" in caught.value.hint
    with pytest.raises(DataError, match="'kind' is empty") as caught:
        read(write("x.csv", "body,kind\na,x\nb,\n"), ReadOptions(text="body", label="kind"))
    assert 'bad_rows="skip"' in caught.value.hint


def test_bad_rows_are_skipped_and_said(write):
    table = read(write("x.csv", HOLES), ReadOptions(text="body", label="kind", written=Written(bad_rows="skip")))
    assert (table.labels, list(table.rows)) == (["pos", "neg"], [1, 5])
    assert "3 of 5 rows are left out: 'body' or 'kind' is empty (row 2, 3, 4)" in table.notices[0]
    with pytest.raises(DataError, match="empty in every row"):
        read(
            write("y.csv", "body,kind\n,a\n ,b\n"),
            ReadOptions(text="body", label="kind", written=Written(bad_rows="skip")),
        )


def test_a_blank_text_may_be_read_as_empty_but_a_missing_label_may_not(write):
    empty = Written(bad_rows="empty")
    table = read(write("x.csv", "body,kind\n ,neg\n,pos\n"), ReadOptions(text="body", label="kind", written=empty))
    assert (table.texts, table.labels) == (([" ", ""],), ["neg", "pos"])
    with pytest.raises(DataError, match="'kind' is empty in 1 of 5"):
        read(write("y.csv", HOLES), ReadOptions(text="body", label="kind", written=empty))


def test_what_was_left_out_is_kept_on_request(write):
    table = read(
        write("x.csv", HOLES),
        ReadOptions(text="body", need_labels=False, written=Written(bad_rows="skip"), keep_whole=True),
    )
    assert (len(table), list(table.rows)) == (3, [1, 3, 5])
    assert table.whole.names == ["body", "kind"] and table.whole.get("kind")[3] == "neg"


def test_missing_texts_of_a_list_are_bad_rows():
    with pytest.raises(DataError, match=r"empty in 2 of 3 rows \(row 2, 3\)"):
        read(["a", None, float("nan")], ReadOptions(need_labels=False))
    assert len(read(["a", None], ReadOptions(need_labels=False, written=Written(bad_rows="skip")))) == 1


# --- by name ---------------------------------------------------------------------------------------------------------


def test_lists_are_asked_for_no_names():
    table = read([("a", "b")], ReadOptions(text=["premise", "hypothesis"], need_labels=False))
    assert table.texts == (["a"], ["b"])


def test_two_columns_of_a_data_frame_with_one_name():
    import pandas

    with pytest.raises(DataError, match="two columns are called 'text'"):
        read(pandas.DataFrame([["a", "b", "x"]], columns=["text", "text", "label"]))


@pytest.mark.parametrize("kind", ["numpy", "torch", "pandas"])
def test_a_set_in_another_format(kind):
    from datasets import Dataset

    data = Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}).with_format(kind)
    assert read(data).texts == (["a", "b"],)
    assert read(data).labels == ["1", "0"]


def test_what_a_function_of_the_users_own_makes_is_read():
    from datasets import ClassLabel, Dataset

    data = Dataset.from_dict({"plain": ["a", "b"], "label": [1, 0]}).cast_column("label", ClassLabel(names=["x", "y"]))
    table = read(data.with_transform(lambda rows: {"text": [f"{one}!" for one in rows["plain"]], **rows}))
    assert table.texts == (["a!", "b!"],) and table.labels == ["y", "x"]


def test_a_column_of_a_set_is_a_list_of_texts():
    from datasets import Dataset

    data = Dataset.from_dict({"review": ["a", "b"]})
    assert read(data["review"], ReadOptions(need_labels=False)).texts == (["a", "b"],)


def test_a_stream_is_refused():
    from datasets import Dataset, IterableDatasetDict

    stream = Dataset.from_dict({"text": ["a"], "label": [1]}).to_iterable_dataset()
    for data in (stream, IterableDatasetDict({"train": stream})):
        with pytest.raises(DataError, match=r"IterableDataset is a stream.*Dataset.from_list\(list\(data.take"):
            read(data)


def test_dates_are_labels():
    import datetime

    from datasets import Dataset

    days = [datetime.date(2020, 1, 2), datetime.date(2020, 1, 3)]
    assert read(Dataset.from_dict({"text": ["a", "b"], "label": days})).labels == ["2020-01-02", "2020-01-03"]


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_half_a_character_is_refused(tmp_path):
    with pytest.raises(DataError, match="row 2: column 'text' holds .*half of a surrogate pair"):
        read(["a", "b \ud83d"], ReadOptions(need_labels=False))
    with pytest.raises(DataError, match="row 1: column 'label' holds .*half of a surrogate pair"):
        read(lines(tmp_path / "a.jsonl", [{"text": "a", "label": "x\udc00"}, {"text": "b", "label": "y"}]))
    with pytest.raises(DataError, match="the name of column .* holds .*half of a surrogate pair"):
        read(lines(tmp_path / "b.jsonl", [{"text": "a", "label": "x", "more\ud83d": 1}]))


@pytest.mark.parametrize(
    "cell", ["a\ud800", ["a", "\udfff"], {"role": "\ud83d"}, {"\ud83d": 1}, [{"text": ("b", ["\ud800"])}]]
)
def test_half_a_character_is_found_wherever_it_is(cell):
    assert "half of a surrogate pair" in broken_in(cell)
    assert not broken_in(["\U0001f600", {"é": ("b", 1, None)}])


# --- the published files ---------------------------------------------------------------------------------------------

SIZES = {
    "CoLA": (8551, 1043),
    "SST-2": (67349, 872),
    "RTE": (2490, 277),
    "WNLI": (635, 71),
    "STS-B": (5749, 1500),
    "MRPC": (3668, 408),
    "QNLI": (8999, 5463),
}


@pytest.mark.parametrize("name", SIZES)
def test_published_glue_sizes(shared, name):
    tables = [read(shared / "data" / "glue" / name, ReadOptions(task=name, split=split)) for split in ("train", "dev")]
    assert tuple(map(len, tables)) == SIZES[name]
    assert all(table.labels and not table.notices for table in tables)


def test_published_trec_sizes(shared):
    folder = shared / "data" / "sentence" / "TREC"
    whole = [len(read(folder / f"TREC.{part}.all", ReadOptions(task="trec"))) for part in ("train", "test")]
    cut = [len(read(folder, ReadOptions(task="trec", split=split))) for split in ("train", "dev", "test")]
    assert (whole, cut) == ([5452, 500], [4952, 500, 500])


# --- a column of 0 and 1 for each class of a run ----------------------------------------------------------------------

OF_RUN = ReadOptions(text="text", label="label", labels=("no", "yes"))


def test_classes_are_read_from_columns_of_their_names(write):
    path = write("x.csv", "text,yes,id,no\na,1,0,0\nb,0,1,1\nc,true,0,false\n")
    table = read(path, OF_RUN)
    assert table.labels == ["yes", "no", "yes"] and table.columns == ("text",) and list(table.rows) == [1, 2, 3]
    assert table.notices == ("the labels are the columns of 0 and 1: no, yes",)
    assert read(write("y.csv", "text,label,no,yes\na,no,0,1\n"), OF_RUN).labels == ["no"]  # as in training comes first
    with pytest.raises(DataError, match="no column 'label'"):  # data to train on name their column
        read(path, ReadOptions(text="text", label="label"))
    kept = read(path, ReadOptions(text="text", label="label", labels=("no", "yes"), keep_whole=True)).whole
    assert kept is not None and kept.names == ["text", "yes", "id", "no"]


def test_a_row_without_a_class_is_a_bad_row(write):
    path = write("x.csv", "text,no,yes\na,1,0\nb,0,0\n")
    with pytest.raises(DataError, match=r"label column 'no, yes' is empty in 1 of 2 rows \(row 2\)"):
        read(path, OF_RUN)
    table = read(path, ReadOptions(text="text", label="label", labels=("no", "yes"), written=Written(bad_rows="skip")))
    assert table.labels == ["no"] and list(table.rows) == [1]


@pytest.mark.parametrize(
    ("content", "problem", "hint"),
    [
        ("text,no,yes\na,1,1\n", "row 1: columns 'no' and 'yes' are both 1", "one class per text"),
        ("text,no,yes\na,1,2\n", "row 1: label column 'yes' holds '2'", "hold 0 or 1"),
        ("text,no\na,1\n", "no column 'label', but columns of 0 and 1 for some of its labels alone: no", "add yes"),
        ("text,labels\na,no\n", "no column 'label'", "did you mean 'labels'? columns: text, labels; one of 0 and 1"),
    ],
)
def test_columns_of_classes_in_doubt(write, content, problem, hint):
    with pytest.raises(DataError, match=problem) as caught:
        read(write("x.csv", content), OF_RUN)
    assert hint in (caught.value.hint or "")


# --- what a newcomer has ---------------------------------------------------------------------------------------------


def test_rows_as_dicts():
    rows = [{"text": text, "label": label} for text, label in ROWS]
    check(read(rows))
    assert read([*rows, {"text": "no label"}], ReadOptions(need_labels=False)).labels is None
    with pytest.raises(DataError, match="not all texts, all pairs of texts, or all rows"):
        read([*rows, "a text"])


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_a_list_of_texts_and_one_of_labels_are_told_from_rows(kind):
    texts, labels = zip(*ROWS, strict=True)
    with pytest.raises(DataError, match="two lists of one length, not rows") as caught:
        read((kind(texts), kind(labels)))
    assert "list(zip(texts, labels))" in caught.value.hint


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({"id": 1, "tokens": ["Ada", "wrote"], "ner_tags": ["B-PER", "O"]}, 'objective="tags"'),
        ({"text": "Ada wrote", "entities": [{"start": 0, "end": 3, "label": "PER"}]}, 'objective="tags"'),
        ({"turns": [{"role": "user", "content": "hello"}]}, 'objective="chat"'),
        ({"prompt": "Sum up.", "completion": "It ends well."}, 'objective="completion"'),
        ({"text": "It ends well."}, 'objective="completion"'),
        ({"instruction": "Sum up.", "input": "A tale.", "output": "It ends well."}, 'objective="chat"'),
        ({"a": "x", "b": "y"}, 'text="COLUMN"'),
    ],
)
def test_columns_of_another_objective_are_pointed_to(row, hint):
    with pytest.raises(DataError) as caught:
        read([row, row])
    assert hint in caught.value.hint


@pytest.mark.parametrize("label", [1, "joy", [-100, 1, -100]])
def test_data_that_are_tokenized_already_are_told(label):
    """Of every objective, before it looks for its columns."""
    row = {"input_ids": [2, 5, 3], "attention_mask": [1, 1, 1], "labels": label}
    for given in ([row, row], Dataset.from_list([row, row]), pd.DataFrame([row, row])):
        with pytest.raises(DataError, match="tokenized already, and texts are needed; columns: input_ids") as caught:
            open_source(given, None, None)
        assert "give the texts" in caught.value.hint
    with_texts = [{"text": "a film", **row, "labels": 1}] * 2
    assert tuple(map(list, read(with_texts).texts)) == (["a film"] * 2,)


def test_labels_that_differ_in_case_only_are_said():
    rows = [{"text": f"a {n}", "label": label} for n, label in enumerate(["yes", "Yes", "no", "YES", "no"])]
    assert read(rows).notices[-1] == "labels that differ only in case are separate classes: 'YES', 'Yes', 'yes'"
    assert not any("case" in said for said in read([{"text": "a", "label": one} for one in ("yes", "no")]).notices)
    assert not any("case" in said for said in read(rows, ReadOptions(verbatim=True)).notices)


def test_a_pair_of_usual_names_is_taken_where_it_is_asked_for():
    rows = [{"prompt": "name: Ada", "completion": "Ada is here."}]
    found = read(rows, ReadOptions(pairs=[("prompt", "completion")], verbatim=True))
    assert (found.columns, found.label_column, found.labels) == (("prompt",), "completion", ["Ada is here."])
    assert "prompts are read from column 'prompt'" in found.notices[0]
    with pytest.raises(DataError, match="which column holds the text"):
        read(rows)


def test_a_span_without_its_ends_says_which():
    from stratatune.data.tagged import read_tagged

    row = {"text": "Ada wrote", "entities": [{"from": 0, "to": 3, "label": "PER"}]}
    with pytest.raises(DataError, match="has no start and end"):
        read_tagged([row])


def test_a_missing_pair_of_a_list_is_a_bad_row():
    pairs = [("a", "b"), None, ("c", "d")]
    with pytest.raises(DataError, match="'text1' is empty in 1 of 3 rows"):
        read(pairs, ReadOptions(need_labels=False))
    kept = read(pairs, ReadOptions(need_labels=False, written=Written(bad_rows="skip")))
    assert kept.texts == (["a", "c"], ["b", "d"]) and list(kept.rows) == [1, 3]


@pytest.mark.parametrize(("name", "text"), [("x.csv", as_csv()), ("x.jsonl", '{"text": "a", "label": "b"}')])
def test_a_home_that_cannot_be_written_is_no_obstacle(name, text, write, tmp_path, monkeypatch):
    """`datasets` makes its cache folder even for a file that it streams; a file stands where it would be."""
    import datasets

    (tmp_path / "home").touch()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "home" / "datasets"))
    assert len(read(write(name, text))) > 0


def test_a_file_without_permission_is_named(write):
    from stratatune.data.loading import unreadable

    said = unreadable(write("x.csv", ""), PermissionError(13, "Permission denied", "/data/x.csv"))
    assert "Permission denied" in said.message and "permissions" in (said.hint or "")
