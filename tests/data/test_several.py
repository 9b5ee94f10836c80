"""Several files are one table, and a list of paths is never read as texts."""

from __future__ import annotations

import gzip
from pathlib import Path

import datasets
import pytest

from stratatune.data.conversations import CONVERSATIONS, read_conversations
from stratatune.data.label_sets import read_sets
from stratatune.data.read_options import ReadOptions
from stratatune.data.readers import read
from stratatune.data.several import are_files, files_in, is_file, names_of_files, refuse_paths
from stratatune.data.sources import SUFFIXES, splits_of
from stratatune.data.tagged import read_tagged
from stratatune.errors import ConfigError, DataError
from stratatune.training.config import validate


@pytest.fixture
def two(write):
    return [write("d/a.csv", "text,label\nfine,1\nbad,0\n"), write("d/b.csv", "label,text\n1,good\n")]


def test_a_pattern_or_a_list_is_one_table(two):
    for name in (str(two[0].with_name("*.csv")), names_of_files(two), f"{two[0]}, {two[1].with_name('b*')}"):
        table = read(name)
        assert table.texts == (["fine", "bad", "good"],) and table.labels == ["1", "0", "1"]
        assert list(table.rows) == [1, 2, 3] and table.source.endswith("(2 files)")
    assert read(names_of_files([*two, two[0]])).texts == (["fine", "bad", "good"],)


def test_the_settings_take_lists(two):
    given = {"model": str(two[0].parent), "plan": "lora", "train": list(map(str, two)), "eval": two}
    config = validate(given)
    assert config.train == config.eval == f"{two[0]},{two[1]}"
    assert validate({**given, "train": str(two[0].with_name("*.csv"))}).train.endswith("*.csv")
    for wrong, what in (("*.tsv", "no file matches"), (f"{two[0]},no.csv", "no file 'no.csv'")):
        with pytest.raises(ConfigError, match=what):
            validate({**given, "train": str(two[0].parent / wrong) if "*" in wrong else wrong})


def test_tags_of_several_files(write):
    for name in "ab":
        write(f"{name}.conll", f"{name} B-X\n\n")
    found = read_tagged(str(write("a.conll", "a B-X\n\n").with_name("*.conll")))
    assert found.labels == [["B-X"], ["B-X"]] and len(found) == 2


def test_files_that_do_not_go_together(two, write):
    write("d/c.csv", "text,mark\nx,1\n")
    with pytest.raises(DataError, match="c.csv has the columns text, mark, and .*a.csv has text, label"):
        read(str(two[0].with_name("*.csv")))
    write("d/a.jsonl", '{"text": "x", "label": 1}\n')
    with pytest.raises(DataError, match="files of several formats, .csv and .jsonl"):
        read(str(two[0].with_name("a.*")))
    with pytest.raises(DataError, match="has a comma in its name"):
        names_of_files(["a,b.csv"])


def test_one_file_stays_one(write):
    odd = write("d/a[1],b.csv", "text,label\nfine,1\nbad,0\n")
    assert files_in(str(odd)) == [] and read(str(odd)).labels == ["1", "0"]
    for text in ("glue/sst2", "well, well", "org/name:config", "a" * 5000, "nul\0*"):
        assert files_in(text) == []


def test_a_list_of_paths(two):
    assert are_files(two) and are_files(list(map(str, two))) and are_files([Path("none.csv")])
    assert not are_files(["none.csv"]) and not are_files([]) and not are_files([str(two[0]), "a text"])
    with pytest.raises(DataError, match="the texts given are names of files") as caught:
        refuse_paths(list(map(str, two)), SUFFIXES)
    assert "not in a list" in caught.value.hint
    refuse_paths(["a text", str(two[0])], SUFFIXES)


def test_columns_and_pairs_with_labels():
    """The forms in which Python has them: a dict of columns, a list of texts with their labels."""
    texts, labels = ["fine", "bad"], ["yes", "no"]
    for given in ({"text": texts, "label": labels}, list(zip(texts, labels, strict=True))):
        table = read(given)
        assert table.texts == (texts,) and table.labels == labels
    assert read(list(zip(texts, [1, 0], strict=True)), ReadOptions(label="stars")).label_column == "stars"
    assert read_sets([("fine", ["a", "b"]), ("bad", [])]).labels == [["a", "b"], []]
    pairs = read([("a", "b")], ReadOptions(need_labels=False))
    assert pairs.texts == (["a"], ["b"])
    with pytest.raises(DataError, match="the columns given are not of one length: 2 in 'text', 1 in 'label'"):
        read({"text": texts, "label": ["yes"]})
    with pytest.raises(DataError, match="'text' is str, not a list"):
        read({"text": "fine", "label": "yes"})


def test_a_misspelt_or_a_home_path_in_a_list_is_no_text(two, monkeypatch):
    monkeypatch.setenv("HOME", str(two[0].parent.parent))
    assert are_files([str(two[0]), str(two[0].with_name("typo.csv"))]) and are_files(["~/d/a.csv", "~/d/b.csv"])
    assert not are_files(["a good film", str(two[0])]) and not are_files(["x.csv", "y.csv"]) and not are_files([])
    with pytest.raises(DataError, match="no file .*typo"):
        files_in(names_of_files([two[0], two[0].with_name("typo.csv")]))


@pytest.mark.parametrize("text", ["long, " * 100, "roughly, ~5 people came", "~nouser9/a.csv,b", "is it good?" * 50])
def test_texts_are_no_lists_of_files(text):
    assert not is_file(text)


def test_compressed_files_have_the_format_inside(two):
    packed = two[1].with_suffix(".csv.gz")
    packed.write_bytes(gzip.compress(two[1].read_bytes()))
    assert read(f"{two[0]},{packed}").texts == (["fine", "bad", "good"],)
    other = packed.with_name("c.jsonl.gz")
    other.write_bytes(gzip.compress(b'{"text": "x", "label": "1"}\n'))
    with pytest.raises(DataError, match=r"several formats, \.csv and \.jsonl"):
        read(f"{packed},{other}")
    with pytest.raises(DataError, match="names of files"):
        refuse_paths([str(packed)], SUFFIXES)


def test_keys_that_arrow_fills_in_are_left_out_of_several_files_too(tmp_path):
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "look", "arguments": {"at": "x"}}}],
    }
    rows = [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}]
    rows.append({"messages": [{"role": "user", "content": "look"}, call]})
    for name in "ab":
        datasets.Dataset.from_list(rows).to_parquet(tmp_path / f"{name}.parquet")
    one = read_conversations(str(tmp_path / "a.parquet")).further[CONVERSATIONS]
    both = read_conversations(str(tmp_path / "*.parquet")).further[CONVERSATIONS]
    assert [each.messages for each in both] == 2 * [each.messages for each in one]


def test_a_folder_of_compressed_files_has_splits(tmp_path):
    for name in ("train", "dev"):
        (tmp_path / f"{name}.csv.gz").write_bytes(gzip.compress(b"text,label\na,0\nb,1\n"))
    assert splits_of(str(tmp_path)) == ["dev", "train"] and read(str(tmp_path), ReadOptions(split="dev")).labels


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_of_rows_with_tags(packed, tmp_path):
    lines = b'{"tokens": ["Ada", "wrote"], "tags": ["B-x", "O"]}\n'
    for name in ("train", "dev"):
        path = tmp_path / f"{name}.jsonl{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(lines) if packed else lines)
    assert len(read_tagged(str(tmp_path), ReadOptions(split="train", text=None, label=None))) == 1
