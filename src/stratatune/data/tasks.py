"""The thirteen tasks of the two papers: columns, classes, label words, templates, metrics and split sizes.

Sources: BFT table 4 (sizes), table 5 (templates and label words) and appendix A (which metric); SPAFIT table 2 and its
appendix (metric of each GLUE task); LPT's code for the ``lpt`` templates and TREC's label words. Pure data: no torch.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from stratatune.errors import DataError, did_you_mean

Kind = Literal["classification", "regression"]
Metric = Literal["accuracy", "f1", "acc_f1", "matthews", "pearson", "spearman"]

_GLUE = "nyu-mll/glue"
CUT_SEED = 0  # of the draw in `Task.cut`


_TRUTH = ("false", "true")


@dataclass(frozen=True)
class Task:
    """One task, as in both papers and both file layouts.

    ``text`` and ``label`` are the hub's column names; ``tsv_text`` and ``tsv_label`` those of GLUE's own tsv files
    (empty where they are the same). ``labels`` are the class names in order of their number; a file may write a class
    by its name, its number, or a word of ``aliases``. For regression ``labels`` is empty and ``words`` names the two
    ends of ``range``, as in LM-BFF: the target is soft, P(high) = (y - low) / (high - low).
    """

    name: str
    title: str
    text: tuple[str, ...]
    labels: tuple[str, ...]
    words: Mapping[str, str]
    templates: Mapping[str, str]
    splits: Mapping[str, int]
    hub: tuple[str, str] = ("", "")  # repository and configuration
    label: str = "label"
    tsv_text: tuple[str, ...] = ()
    tsv_label: str = ""
    tsv_header: tuple[str, ...] = ()  # the columns of a tsv file that has no header line
    aliases: Mapping[str, str] = field(default_factory=dict)
    metric: Metric = "accuracy"  # selects the best checkpoint under BFT's protocol
    glue_metric: Metric = "accuracy"  # the same under SPAFIT's
    reported: tuple[Metric, ...] = ("accuracy",)
    kind: Kind = "classification"
    range: tuple[float, float] | None = None
    dev_splits: tuple[str, ...] = ("dev",)  # the score is the mean over these (BFT)
    glue_dev_splits: tuple[str, ...] = ("dev",)
    cuts: tuple[str, ...] = ()  # the splits that are cut from one `.all` file, see `cut`
    drops_incomplete: bool = False  # the published file itself holds rows with a field missing

    @property
    def pair(self) -> bool:
        """Whether the task reads two texts."""
        return len(self.text) == 2

    @property
    def numeric(self) -> bool:
        """Whether its labels are numbers, not classes."""
        return not self.labels

    @property
    def is_glue(self) -> bool:
        """Whether its files have GLUE's layout: tabs, and quotes that are text."""
        return self.hub[0] == _GLUE

    def class_of(self, written: str) -> str | None:
        """The class name for a label in a file, or None if it is not a label of this task."""
        word = written.strip()
        if word in self.labels:
            return word
        number = word.removesuffix(".0")  # tables turn whole numbers into floats next to a gap
        if number.isdecimal() and int(number) < len(self.labels):
            return self.labels[int(number)]
        folded = {**{name.casefold(): name for name in self.labels}, **self.aliases}
        if len(self.labels) == len(_TRUTH):
            folded = {**dict(zip(_TRUTH, self.labels, strict=True)), **folded}
        return folded.get(word.casefold())

    def cut(self, rows: int, split: str, seed: int = CUT_SEED) -> list[int]:
        """The 0-based rows of ``split`` in the task's one `.all` file of ``rows`` lines, in file order.

        A seeded shuffle, then the sizes of BFT's table 4 from its end; training takes the rest, before them. The papers
        give the sizes, not the rows, so the draw is ours.

        Raises:
            DataError: the split is not one that is cut, or the file is too short.
        """
        if split not in self.cuts:
            raise DataError(f"{self.name}: no split {split!r} in its .all file", did_you_mean(split, self.cuts))
        held_out = sum(self.splits[name] for name in self.cuts if name != "train")
        if rows <= held_out:
            raise DataError(
                f"{self.name}: {rows} rows are too few to hold out {held_out} for evaluation",
                "name the evaluation data with --eval FILE: files that are named are used whole",
            )
        order = list(range(rows))
        random.Random(seed).shuffle(order)
        start = 0
        for name in self.cuts:
            size = rows - held_out if name == "train" else self.splits[name]
            if name == split:
                return sorted(order[start : start + size])
            start += size
        raise AssertionError("unreachable: split is one of cuts")


def task(name: str) -> Task:
    """The task called ``name``; case, dashes and underscores do not matter (``SST-2``, ``sts_b``).

    Raises:
        DataError: there is no such task; the hint names the nearest.
    """
    found = TASKS.get(_key(name))
    if found is None:
        raise DataError(f"no task {name!r}", did_you_mean(_key(name), TASKS))
    return found


def _key(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def _sizes(train: int, dev: int, test: int) -> dict[str, int]:
    return {"train": train, "dev": dev, "test": test}


# BFT table 5 writes one single-sentence template for all five; LPT's code puts spaces around every piece.
_SINGLE = {"bft": "{a} It was <mask>.", "lpt": "{a} . It was <mask> ."}
_QUESTION = {"bft": "{a}<mask>, {b}", "lpt": "{a} ? <mask> , {b}"}
_SENTENCES = {"bft": "Two sentences are <mask>. {a}, {b}.", "lpt": "{a} ? <mask> , {b}"}
_ENTAILS = {"entailment": "Yes", "not_entailment": "No"}
_POLARITY = {"negative": "terrible", "positive": "great"}
_ALIGNED = {"neg": "negative", "pos": "positive"}
_ALL = ("train", "dev", "test")

_TABLE = (
    Task(
        name="sst2",
        title="SST-2, sentiment of film reviews",
        hub=(_GLUE, "sst2"),
        text=("sentence",),
        labels=("negative", "positive"),
        words=_POLARITY,
        templates=_SINGLE,
        splits=_sizes(67349, 872, 1821),
    ),
    Task(
        name="mpqa",
        title="MPQA, polarity of opinions",
        text=("text",),
        labels=("negative", "positive"),
        aliases=_ALIGNED,
        words=_POLARITY,
        templates=_SINGLE,
        splits=_sizes(7606, 1000, 2000),
        cuts=_ALL,
    ),
    Task(
        name="mr",
        title="MR, sentiment of film reviews",
        text=("text",),
        labels=("negative", "positive"),
        aliases=_ALIGNED,
        words=_POLARITY,
        templates=_SINGLE,
        splits=_sizes(7662, 1000, 2000),
        cuts=_ALL,
    ),
    Task(
        name="subj",
        title="Subj, subjective or objective",
        text=("text",),
        labels=("objective", "subjective"),
        words={"objective": "objective", "subjective": "subjective"},
        templates=_SINGLE,
        splits=_sizes(7000, 1000, 2000),
        cuts=_ALL,
    ),
    Task(
        name="trec",
        title="TREC, what a question asks for",
        text=("text",),
        labels=("description", "entity", "abbreviation", "human", "location", "number"),
        # The hub numbers these classes otherwise, but its ClassLabel names them, and by name they meet ours.
        aliases={
            "desc": "description",
            "enty": "entity",
            "abbr": "abbreviation",
            "hum": "human",
            "loc": "location",
            "num": "number",
        },
        label="coarse_label",
        words={
            "description": "Description",
            "entity": "Entity",
            "abbreviation": "Expression",
            "human": "Human",
            "location": "Location",
            "number": "Number",
        },
        templates={"bft": _SINGLE["bft"], "lpt": "<mask> : {a}"},
        splits=_sizes(4952, 500, 500),
        cuts=("train", "dev"),
    ),
    Task(
        name="mnli",
        title="MNLI, inference across genres",
        hub=(_GLUE, "mnli"),
        text=("premise", "hypothesis"),
        tsv_text=("sentence1", "sentence2"),
        tsv_label="gold_label",
        labels=("entailment", "neutral", "contradiction"),
        words={"entailment": "Yes", "neutral": "Maybe", "contradiction": "No"},
        templates=_QUESTION,
        splits=_sizes(392702, 19647, 19643),
        dev_splits=("dev_matched", "dev_mismatched"),
        glue_dev_splits=("dev_matched",),
    ),
    Task(
        name="mrpc",
        title="MRPC, paraphrases in the news",
        hub=(_GLUE, "mrpc"),
        text=("sentence1", "sentence2"),
        tsv_text=("#1 String", "#2 String"),
        tsv_label="Quality",
        labels=("not_equivalent", "equivalent"),
        words={"not_equivalent": "No", "equivalent": "Yes"},
        templates=_SENTENCES,
        splits=_sizes(3668, 408, 1725),
        metric="acc_f1",
        glue_metric="f1",
        reported=("accuracy", "f1", "acc_f1"),
    ),
    Task(
        name="qnli",
        title="QNLI, whether a sentence answers a question",
        hub=(_GLUE, "qnli"),
        text=("question", "sentence"),
        labels=("entailment", "not_entailment"),
        words=_ENTAILS,
        templates=_SENTENCES,
        splits=_sizes(104743, 5463, 5463),
    ),
    Task(
        name="qqp",
        title="QQP, questions that ask the same",
        hub=(_GLUE, "qqp"),
        text=("question1", "question2"),
        tsv_label="is_duplicate",
        labels=("not_duplicate", "duplicate"),
        words={"not_duplicate": "No", "duplicate": "Yes"},
        templates={"bft": "{a}<mask>, {b}", "lpt": "{a} <mask> , {b}"},
        splits=_sizes(363846, 40430, 390965),
        metric="acc_f1",
        reported=("accuracy", "f1", "acc_f1"),
        drops_incomplete=True,
    ),
    Task(
        name="rte",
        title="RTE, inference",
        hub=(_GLUE, "rte"),
        text=("sentence1", "sentence2"),
        labels=("entailment", "not_entailment"),
        words=_ENTAILS,
        templates=_QUESTION,
        splits=_sizes(2490, 277, 3000),
    ),
    # SPAFIT alone uses the last three, and without a prompt: their templates and label words below are ours.
    Task(
        name="cola",
        title="CoLA, whether a sentence is grammatical",
        hub=(_GLUE, "cola"),
        text=("sentence",),
        tsv_header=("source", "label", "mark", "sentence"),
        labels=("unacceptable", "acceptable"),
        words={"unacceptable": "incorrect", "acceptable": "correct"},
        templates={"bft": "{a} This is <mask>.", "lpt": "{a} This is <mask> ."},
        splits=_sizes(8551, 1043, 1063),
        metric="matthews",
        glue_metric="matthews",
        reported=("matthews", "accuracy"),
    ),
    Task(
        name="stsb",
        title="STS-B, how alike two sentences are, 0 to 5",
        hub=(_GLUE, "stsb"),
        text=("sentence1", "sentence2"),
        tsv_label="score",
        labels=(),
        words={"0": "No", "5": "Yes"},
        templates={"bft": "{a}<mask>, {b}", "lpt": "{a} <mask> , {b}"},
        splits=_sizes(5749, 1500, 1379),
        metric="pearson",
        glue_metric="pearson",
        reported=("pearson", "spearman"),
        kind="regression",
        range=(0.0, 5.0),
    ),
    Task(
        name="wnli",
        title="WNLI, what a pronoun stands for",
        hub=(_GLUE, "wnli"),
        text=("sentence1", "sentence2"),
        labels=("not_entailment", "entailment"),
        words=_ENTAILS,
        templates=_QUESTION,
        splits=_sizes(635, 71, 146),
    ),
)

TASKS: dict[str, Task] = {row.name: row for row in _TABLE}
