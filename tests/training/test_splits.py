"""Which rows a run trains on and is scored on: what is named whole, a split only where none is named."""

from __future__ import annotations

import pytest

from stratatune.errors import ConfigError, DataError
from stratatune.objectives.registry import OBJECTIVES
from stratatune.training.config import validate
from stratatune.training.prepare import read_tables


@pytest.fixture
def trec(tmp_path):
    """A folder as TREC is published: 700 rows to train on, 600 to test on."""
    for part, rows in (("train", 700), ("test", 600)):
        text = "".join(f"{i % 6} question {part} {i}\n" for i in range(rows))
        (tmp_path / f"TREC.{part}.all").write_text(text)
    return tmp_path


@pytest.fixture
def tables(tiny_folder, tmp_path):
    def read(**settings):
        config = validate({"model": str(tiny_folder("bert")), "out": str(tmp_path / "out"), **settings})
        return read_tables(config, {}, OBJECTIVES[settings.get("objective", "mlm")])

    return read


def test_files_that_are_named_are_used_whole(trec, tables):
    train, test = str(trec / "TREC.train.all"), str(trec / "TREC.test.all")
    found = tables(task="trec", train=train, eval=test, test=test)
    assert (len(found.train), [len(part) for part in found.eval], len(found.test)) == (700, [600], 600)
    assert not found.notices


def test_a_file_without_evaluation_data_loses_no_row(trec, tables):
    found = tables(task="trec", train=str(trec / "TREC.train.all"))
    assert (len(found.train), found.eval) == (700, ())


def test_a_split_is_drawn_where_none_is_named_and_said(trec, tables):
    found = tables(task="trec", train=str(trec), test=str(trec))
    assert (len(found.train), [len(part) for part in found.eval], len(found.test)) == (200, [500], 600)
    assert sum("drawn for the task trec" in notice for notice in found.notices) == 2
    assert not set(found.train.texts[0]) & set(found.eval[0].texts[0])


def test_a_split_of_one_file_may_be_asked_for_by_its_name(trec, tables):
    found = tables(task="trec", train=str(trec / "TREC.train.all"), eval_split="dev", test=str(trec / "TREC.test.all"))
    assert (len(found.train), [len(part) for part in found.eval], len(found.test)) == (200, [500], 600)


@pytest.mark.parametrize(("name", "rows"), [("mr", 3100), ("subj", 3100), ("mpqa", 3100)])
def test_one_file_of_all_splits(tmp_path, tables, name, rows):
    folder = tmp_path / name
    folder.mkdir()
    path = folder / f"{name}.all"
    path.write_text("".join(f"{i % 2} text {i}\n" for i in range(rows)))
    whole = tables(task=name, train=str(path), eval=str(path))
    assert (len(whole.train), len(whole.eval[0])) == (rows, rows)
    parts = tables(task=name, train=str(path), eval_split="dev", test=str(path))
    assert (len(parts.train), len(parts.eval[0]), len(parts.test)) == (100, 1000, 2000)
    of_folder = tables(task=name, train=str(folder), test=str(folder))
    assert [len(of_folder.train), len(of_folder.eval[0]), len(of_folder.test)] == [100, 1000, 2000]


def test_a_split_that_a_file_has_not(trec, files, tables):
    for settings in (
        {"task": "trec", "train": str(trec / "TREC.train.all"), "eval_split": "test"},
        {"train": str(files / "train.csv"), "label": "label", "eval_split": "dev"},
        {"train": str(files / "train.csv"), "eval": str(files / "train.csv"), "label": "label", "eval_split": "dev"},
    ):
        with pytest.raises(ConfigError, match=r"eval_split: '\w+'; .* is one file"):
            tables(**settings)
    (trec / "TREC.train.all").write_text("1 too few\n" * 20)
    with pytest.raises(DataError, match="20 rows are too few.*--eval FILE"):
        tables(task="trec", train=str(trec / "TREC.train.all"), eval_split="dev")


def test_a_split_of_the_file_that_is_named_for_evaluation(trec, tables):
    train, dev = str(trec / "TREC.test.all"), str(trec / "TREC.train.all")
    found = tables(task="trec", train=train, eval=dev, eval_split="dev")
    assert (len(found.train), [len(part) for part in found.eval]) == (600, [500])


@pytest.mark.parametrize("seed", range(4))
def test_a_class_of_one_row_is_not_held_out(tmp_path, tables, seed):
    path = tmp_path / "rare.csv"
    path.write_text("text,label\n" + "good,pos\nbad,neg\n" * 8 + "so so,mixed\n")
    found = tables(train=str(path), eval_split=0.3, seed=seed)
    assert "mixed" in found.train.labels and "mixed" not in found.eval[0].labels


def test_texts_are_held_out_without_regard_to_labels(tmp_path, tables):
    path = tmp_path / "answers.csv"
    path.write_text("text,label\n" + "".join(f"question {i},answer {i}\n" for i in range(20)))
    found = tables(objective="completion", train=str(path), text="text", label="label", eval_split=0.25)
    assert (len(found.train), len(found.eval[0])) == (15, 5)


def test_bad_rows_are_left_out_of_every_part(tmp_path, tables):
    path = tmp_path / "holes.csv"
    path.write_text("text;label\ngood;pos\n ;neg\nbad;neg\nfine;\n")
    found = tables(train=str(path), eval=str(path), bad_rows="skip")
    assert (len(found.train), len(found.eval[0])) == (2, 2)
    with pytest.raises(DataError, match="bad_rows"):
        tables(train=str(path))


def test_how_a_file_is_written_may_be_named(tmp_path, tables):
    path = tmp_path / "x.csv"
    path.write_bytes("text~label\ncaf\xe9~a\nth\xe9~b\n".encode("latin-1"))
    assert tables(train=str(path), delimiter="~", encoding="latin-1").train.texts[0] == ["caf\xe9", "th\xe9"]
    with pytest.raises(ConfigError) as caught:
        tables(train=str(path), delimiter="ab", encoding="nope", bad_rows="drop")
    assert len(caught.value.errors) == 3
