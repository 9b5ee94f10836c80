"""Several files are one table, and a list of paths is never read as texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from stratatune.data.label_sets import read_sets
from stratatune.data.read_options import ReadOptions
from stratatune.data.readers import read
from stratatune.data.several import are_files, files_in, names_of_files, refuse_paths
from stratatune.data.sources import SUFFIXES
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
