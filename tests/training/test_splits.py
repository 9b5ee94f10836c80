"""Which rows a run trains on and is scored on: what is named whole, a split only where none is named."""

from __future__ import annotations

import json

import pytest

from stratatune.data.readers import Table
from stratatune.errors import ConfigError, DataError
from stratatune.objectives.registry import OBJECTIVES, written
from stratatune.training.config import validate
from stratatune.training.prepare import drawn, read_tables
from stratatune.training.trials.sharing import Shared


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
        return read_tables(config, {}, OBJECTIVES[written(settings.get("objective", "mlm"))[0]])

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
    with pytest.raises(DataError, match='20 rows are too few.*eval="FILE"'):
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


PLAIN = [{"text": "good film", "x": "a", "y": "p"}, {"text": "bad film", "x": "b", "y": "q"}] * 8
RARE = [{"text": "so so film", "x": "a", "y": "rare"}, {"text": "dull film", "x": "rare", "y": "q"}]
TOKENS = [{"tokens": ["anna", "sleeps"], "tags": ["B-PER", "O"]}, {"tokens": ["it", "rains"], "tags": ["O", "O"]}] * 8
ROWS = PLAIN + RARE
ENTITIES = [["in", "new", "york"], ["O", "B-LOC", "I-LOC"]], [["nato"], ["B-ORG"]]
SCORES = [{"query": f"film {at % 6}", "text": row["text"], "score": at // 17} for at, row in enumerate(ROWS)]
KINDS = {
    "columns": ("multitask", ROWS, "x,y"),
    "numbers in a column": ("multitask(y=regression)", [{**row, "y": at // 17} for at, row in enumerate(ROWS)], "x,y"),
    "gaps in a column": (
        "multitask",
        [{**row, "y": None if at < 16 else at / 4} for at, row in enumerate(ROWS)],
        "x,y",
    ),
    "sets in a column": (
        "multitask(y=multilabel(separator=space))",
        [{**row, "y": f"{row['x']} {row['y']}"} for row in ROWS],
        "x,y",
    ),
    "lists": ("multilabel", [{**row, "labels": [row["x"], row["y"]]} for row in ROWS], "labels"),
    "cells": ("multilabel(separator=space)", [{**row, "labels": f"{row['x']} {row['y']}"} for row in ROWS], "labels"),
    "flags": ("multilabel", [{**row, "a": int(at > 3), "b": int(at > 16)} for at, row in enumerate(ROWS)], "a,b"),
    "entities": ("tags", TOKENS + [{"tokens": words, "tags": tags} for words, tags in ENTITIES], "tags"),
    "parts of speech": ("tags(scheme=plain)", [*TOKENS, {"tokens": ["oh"], "tags": ["UH"]}], "tags"),
    "numbers": ("regression", [{**row, "label": float(at > 16)} for at, row in enumerate(ROWS)], "label"),
    "scored candidates": ("rank", SCORES, None),
    "scored pairs": (
        "vectors",
        [{"sentence1": "film", "sentence2": one["text"], "score": one["score"]} for one in SCORES],
        None,
    ),
}
"""Rows of which some have the only label of their kind."""


@pytest.mark.parametrize("drawn", ["held out", "sampled"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_label_is_lost_by_a_draw(tmp_path, tables, kind, drawn):
    """The labels of the whole are in the part that is trained on, with the number of rows that was asked for."""
    objective, rows, label = KINDS[kind]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = {"objective": objective, "train": str(path), "label": label}
    own |= {} if label is None else {"text": "tokens" if label == "tags" else "text"}
    named, options = written(objective)
    share = {"eval_split": 0.4} if drawn == "held out" else {"train_samples": 7}
    count = len(rows) - round(0.4 * len(rows)) if drawn == "held out" else 7

    def labels(table):
        return {label for row in OBJECTIVES[named].labels_by_row(table, options) for label in row}

    whole = labels(tables(**own).train)
    for seed in range(6):
        train = tables(**own, **share, seed=seed).train
        assert len(train) == count or (objective == "rank" and abs(len(train) - count) < 2)  # whole queries
        assert labels(train) == whole


def test_what_is_held_out_is_told(tmp_path, tables):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": f"film {at}", "label": at % 2}) + "\n" for at in range(10)))
    found = tables(objective="classification", train=str(path), text="text", label="label", eval_split=0.3)
    assert any("3 of 10 rows are held out to score the epochs; 7 train" in line for line in found.train.notices)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("drawn", [{"eval_split": 0.4}, {"train_samples": 6}], ids=["held out", "sampled"])
def test_label_columns_are_learnt_from_a_part_of_the_rows(tmp_path, run, drawn, seed):
    """A rare class of one column ended in "label 'rare' was not seen in training"."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PLAIN + RARE))
    given = {"train": str(path), "eval": None if "eval_split" in drawn else str(path), "text": "text"}
    found = run(**given, label="x,y", plan="1: full", epochs=1, seed=seed, out=str(tmp_path / "out"), **drawn)
    assert found.best["mean"] >= 0


def test_a_sample_has_a_row_of_each_class_or_is_refused(tmp_path, tables):
    """With fewer rows the classes that were not drawn would not be learned, without a word."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": f"film {at}", "label": at % 6}) + "\n" for at in range(60)))
    given = {"train": str(path), "text": "text", "label": "label"}
    assert set(tables(objective="classification", train_samples=6, **given).train.labels) == set("012345")
    with pytest.raises(DataError, match=r"train_samples: 5; .* has 6 classes, and no class is learned without a row"):
        tables(objective="classification", train_samples=5, **given)
    assert len(tables(objective="regression", train_samples=5, **given).train) == 5


@pytest.mark.parametrize(("count", "said"), [(12, []), (13, ["all 12 rows train; train_samples asks for 13"])])
def test_a_sample_larger_than_the_data_is_all_of_them(tmp_path, tables, count, said):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": f"film {at}", "label": at % 2}) + "\n" for at in range(12)))
    found = tables(objective="classification", train=str(path), text="text", label="label", train_samples=count).train
    assert len(found) == 12 and list(found.notices) == said


def test_a_sample_too_small_for_every_label_is_as_it_was_drawn(tmp_path, tables):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PLAIN + RARE))
    found = tables(objective="multitask", train=str(path), text="text", label="x,y", train_samples=1)
    assert len(found.train) == 1


def test_labels_that_cannot_serve_are_reported_by_their_head(tmp_path, tables):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({**row, "y": f"note {at}"}) + "\n" for at, row in enumerate(PLAIN + RARE)))
    found = tables(objective="multitask", train=str(path), text="text", label="x,y", eval_split=0.4)
    assert "rare" in found.train.further["x"]


def test_trials_share_rows_only_where_they_read_labels_alike(tiny_folder, files, tmp_path):
    def key(**settings):
        given = {
            "model": str(tiny_folder("bert")),
            "train": str(files / "train.csv"),
            "out": str(tmp_path / "out"),
            **settings,
        }
        return Shared().of_tables(validate(given), OBJECTIVES["multilabel"])

    options = [f"multilabel(separator={name})" for name in ("comma", "space")]
    assert len({key(objective=one, eval_split=0.1) for one in options}) == 2
    assert len({key(objective=one, eval_split=0.1) for one in ("auto", "multilabel")}) == 1
    assert len({key(objective=one) for one in options}) == 1


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


def test_numbers_are_drawn_alike_from_every_kind_of_file(tmp_path, tables):
    """As text each number was a class of its own, of which the smallest were drawn."""
    values = [round(0.618 * at % 1, 6) for at in range(200)]
    rows = [{"text": f"film {at}", "label": value} for at, value in enumerate(values)]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "r.csv").write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows))
    given = {"objective": "regression", "text": "text", "label": "label", "train_samples": 40}
    one, two = (tables(train=str(tmp_path / f"r.{kind}"), **given).train for kind in ("jsonl", "csv"))
    assert list(one.rows) == list(two.rows)
    assert max(map(float, two.labels)) > 0.9


def test_a_share_is_held_out_of_a_task_s_folder_too(tmp_path, tables):
    lines = "".join(f"a film {at}\t{at % 2}\n" for at in range(40))
    for split in ("train", "dev"):
        (tmp_path / f"{split}.tsv").write_text(f"sentence\tlabel\n{lines}")
    found = tables(task="sst2", train=str(tmp_path), eval_split=0.25)
    assert (len(found.train), [len(one) for one in found.eval]) == (30, [10])


def test_a_split_of_data_in_memory_is_named(tmp_path, tiny_folder):
    from datasets import Dataset, DatasetDict

    rows = {"text": [f"film {at}" for at in range(20)], "label": [at % 2 for at in range(20)]}
    data = DatasetDict(train=Dataset.from_dict(rows), validation=Dataset.from_dict({k: v[:8] for k, v in rows.items()}))
    given = {"model": str(tiny_folder("bert")), "plan": "1: lora", "train": "in-memory", "eval_split": "validation"}
    config = validate({**given, "text": "text", "label": "label"})
    found = read_tables(config, {"train": data}, OBJECTIVES["classification"])
    assert (len(found.train), [len(one) for one in found.eval]) == (20, [8])


@pytest.mark.parametrize("place", ["memory", "folder", "hub"])
def test_a_validation_split_scores_every_epoch(place, tmp_path, tiny_folder, monkeypatch):
    import datasets
    from datasets import Dataset, DatasetDict

    rows = {"text": [f"film {at}" for at in range(20)], "label": [at % 2 for at in range(20)]}
    few, test = ({k: v[:count] for k, v in rows.items()} for count in (8, 6))
    data = DatasetDict(train=Dataset.from_dict(rows), test=Dataset.from_dict(test), validation=Dataset.from_dict(few))
    data.save_to_disk(tmp_path / "saved")
    given = {"model": str(tiny_folder("bert")), "plan": "1: lora", "text": "text", "label": "label"}
    given["train"] = {"memory": "in-memory", "folder": str(tmp_path / "saved"), "hub": "org/films"}[place]
    plain = datasets.load_dataset  # which reads files, too
    found_there = {"org/films": data}
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, *how, **more: found_there.get(name) or plain(name, *how, **more)
    )
    said = "its split 'validation' scores every epoch; eval or eval_split names other data"
    other = tmp_path / "other.csv"
    other.write_text("text,label\nfilm,0\nfilm,1\n")
    wanted = (({}, 8), ({"eval_split": "validation"}, 8), ({"eval_split": 0.2}, 4), ({"eval": str(other)}, 2))
    for more, count in wanted:
        tables = {"train": data} if place == "memory" else {}
        found = read_tables(validate({**given, **more}), tables, OBJECTIVES["classification"])
        assert [len(one) for one in found.eval] == [count] and found.test is None
        assert (said in found.train.notices) == (not more)
    del data["validation"]
    if place == "folder":
        data.save_to_disk(tmp_path / "without")
        given["train"] = str(tmp_path / "without")
    tables = {"train": data} if place == "memory" else {}
    assert not read_tables(validate(given), tables, OBJECTIVES["classification"]).eval


def test_notices_of_rows_that_are_held_out_are_said_once(tmp_path, tiny_folder):
    file = tmp_path / "x.csv"
    file.write_text("text,label\n" + "a,0\nb,1\n" * 10)
    config = validate({"model": str(tiny_folder("bert")), "plan": "1: lora", "train": str(file), "eval_split": 0.2})
    said = read_tables(config, {}, OBJECTIVES["classification"]).notices
    assert len(said) == len(set(said)) == 3 and "text is read from column 'text'" in said[0]


def test_a_folder_of_files_has_splits_too(tmp_path, tiny_folder):
    for name, rows in (("train", 8), ("valid", 4), ("test", 2)):
        (tmp_path / f"{name}.csv").write_text("text,label\n" + "a,0\nb,1\n" * (rows // 2))
    config = validate({"model": str(tiny_folder("bert")), "plan": "1: lora", "train": str(tmp_path)})
    found = read_tables(config, {}, OBJECTIVES["classification"])
    assert len(found.train) == 8 and [len(one) for one in found.eval] == [4]
    (tmp_path / "valid.csv").write_text("text\na\n")
    with pytest.raises(DataError, match="the split 'valid' was taken to score the epochs.*eval_split="):
        read_tables(config, {}, OBJECTIVES["classification"])


def test_classes_that_a_gap_made_floats_of_are_drawn_by_their_shares(tmp_path):
    """pandas and parquet hold whole numbers beside a gap as floats."""
    kind, labels = OBJECTIVES["classification"], [float(at % 10 == 0) for at in range(200)]
    table = Table(([f"film {at}" for at in range(200)],), labels)
    for seed in range(4):
        found = drawn(table, 20, seed, kind, {})
        assert sum(labels[at] for at in found) == 2
