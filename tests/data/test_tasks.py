"""The task table: what the papers print, and the ways a label may be written."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stratatune.data.tasks import TASKS, task
from stratatune.data.templates import Template
from stratatune.errors import DataError

NAMES = "sst2 mpqa mr subj trec mnli mrpc qnli qqp rte cola stsb wnli".split()
# BFT table 4: train, dev, test, classes.
TABLE_4 = {
    "SST-2": (67349, 872, 1821, 2),
    "MPQA": (7606, 1000, 2000, 2),
    "MR": (7662, 1000, 2000, 2),
    "Subj": (7000, 1000, 2000, 2),
    "TREC": (4952, 500, 500, 6),
    "MNLI": (392702, 19647, 19643, 3),
    "MRPC": (3668, 408, 1725, 2),
    "QNLI": (104743, 5463, 5463, 2),
    "QQP": (363846, 40430, 390965, 2),
    "RTE": (2490, 277, 3000, 2),
}


def test_there_are_thirteen():
    assert list(TASKS) == NAMES


@pytest.mark.parametrize("name", TABLE_4)
def test_sizes_are_those_of_table_4(name):
    row = task(name)
    assert (*row.splits.values(), len(row.labels)) == TABLE_4[name]


@pytest.mark.parametrize("written", ["SST-2", "sst2", "Sst_2", "SST 2"])
def test_lookup_ignores_case_and_dashes(written):
    assert task(written) is TASKS["sst2"]


def test_unknown_task_names_the_nearest():
    with pytest.raises(DataError, match=r"no task 'sts-c' \(did you mean 'stsb'\?"):
        task("sts-c")


@pytest.mark.parametrize("name", NAMES)
def test_every_row_is_whole(name):
    row = TASKS[name]
    ends = ["0", "5"] if row.kind == "regression" else list(row.labels)
    assert list(row.words) == ends or set(row.words) == set(ends)
    assert len(set(row.words.values())) == len(ends)
    assert set(row.templates) == {"bft", "lpt"}
    assert all(Template.parse(text).columns == len(row.text) for text in row.templates.values())
    assert row.metric in row.reported and row.glue_metric in row.reported
    assert row.pair == (len(row.text) == 2)


@pytest.mark.parametrize("name", [name for name in NAMES if TASKS[name].labels])
def test_a_class_is_known_by_name_and_number(name):
    row = TASKS[name]
    for number, label in enumerate(row.labels):
        assert row.class_of(label) == row.class_of(str(number)) == row.class_of(label.upper()) == label
    assert row.class_of(str(len(row.labels))) is None
    assert row.class_of("-1") is None


def test_the_papers_templates():
    assert TASKS["sst2"].templates == {"bft": "{a} It was <mask>.", "lpt": "{a} . It was <mask> ."}
    assert TASKS["qnli"].templates["bft"] == "Two sentences are <mask>. {a}, {b}."
    assert TASKS["qqp"].templates == {"bft": "{a}<mask>, {b}", "lpt": "{a} <mask> , {b}"}
    assert TASKS["trec"].templates["lpt"] == "<mask> : {a}"


def test_the_papers_metrics():
    assert {n: TASKS[n].metric for n in NAMES if TASKS[n].metric != "accuracy"} == {
        "mrpc": "acc_f1",
        "qqp": "acc_f1",
        "cola": "matthews",
        "stsb": "pearson",
    }
    assert {n: TASKS[n].glue_metric for n in NAMES if TASKS[n].glue_metric != "accuracy"} == {
        "mrpc": "f1",
        "cola": "matthews",
        "stsb": "pearson",
    }
    assert TASKS["mnli"].dev_splits == ("dev_matched", "dev_mismatched")
    assert TASKS["mnli"].glue_dev_splits == ("dev_matched",)


@pytest.mark.parametrize("name", ["mr", "mpqa", "subj", "trec"])
def test_cuts_cover_the_file_once_and_repeat(name):
    row = TASKS[name]
    rows = sum(row.splits[split] for split in row.cuts)
    parts = {split: row.cut(rows, split) for split in row.cuts}
    assert {split: len(part) for split, part in parts.items()} == {split: row.splits[split] for split in row.cuts}
    assert sorted(i for part in parts.values() for i in part) == list(range(rows))
    assert parts["dev"] == row.cut(rows, "dev") != row.cut(rows, "dev", seed=1)


def test_cuts_that_cannot_be():
    with pytest.raises(DataError, match="no split 'test'"):
        TASKS["trec"].cut(5452, "test")
    with pytest.raises(DataError, match="too few"):
        TASKS["mr"].cut(100, "train")


def test_the_table_is_light():
    heavy = "{'torch', 'transformers', 'datasets', 'pandas', 'numpy'} & set(sys.modules)"
    code = f"import sys, stratatune.data.tasks, stratatune.data.templates; sys.exit(str({heavy}) if {heavy} else 0)"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
