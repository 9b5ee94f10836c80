"""From a run's settings to its data: tables read, and how text becomes a label settled once for training and use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stratatune.data.causal import TEMPLATES, check_order, suffixes_of
from stratatune.data.labels import LabelSet, numbers
from stratatune.data.readers import Table, read
from stratatune.data.tasks import Task
from stratatune.data.tasks import task as task_named
from stratatune.data.templates import Template, auto_label_words
from stratatune.errors import ConfigError, DataError, did_you_mean
from stratatune.model.base import Objective
from stratatune.objectives.metrics import check_metric
from stratatune.objectives.spec import TEXT_OBJECTIVES, Reading
from stratatune.plan import Plan, shape_of
from stratatune.training.config import RunConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_OWN_TEMPLATES = {1: "{a} It was <mask>.", 2: "{a}<mask>, {b}"}
"""Templates for a user's own data, from BFT table 5."""


@dataclass(frozen=True)
class Tables:
    """The data of a run as read. ``eval`` may be several parts, whose scores are averaged (MNLI's two)."""

    train: Table
    eval: tuple[Table, ...]
    test: Table | None

    @property
    def notices(self) -> list[str]:
        """What the readers had to say."""
        parts = (self.train, *self.eval, *([self.test] if self.test else []))
        return [f"{table.source}: {notice}" for table in parts for notice in table.notices]


def read_tables(config: RunConfig, given: Mapping[str, Any]) -> Tables:
    """Read what the settings name; ``given`` holds data in memory that takes a path's place.

    Raises:
        DataError: a source that cannot be read, or labels that are missing.
    """
    task = task_named(config.task) if config.task else None
    train = _read(given.get("train", config.train), config, task, "train")
    parts = _eval_parts(config, given, task)
    if not parts and isinstance(config.eval_split, float):
        train, held_out = _hold_out(train, config.eval_split, config.seed)
        parts = (held_out,)
    if config.train_samples is not None:
        train = _sample(train, config.train_samples, config.seed, classes=not _text_objective(config))
    test = given.get("test", config.test)
    return Tables(train, parts, None if test is None else _read(test, config, task, "test"))


def _read(source: Any, config: RunConfig, task: Task | None, split: str) -> Table:
    objective = _text_objective(config)
    if objective:
        told = config.label is not None or objective == "seq2seq"
        table = read(source, text=config.text or None, label=config.label, split=split, need_labels=told)
        return table if told else replace(table, labels=None, label_column=None)
    return read(source, text=config.text or None, label=config.label, task=task, split=split)


def _text_objective(config: RunConfig) -> str:
    """The objective where the answer is free text, else empty; ``auto`` tells text by an encoder-decoder."""
    if config.objective == "auto" and not config.task and shape_of(config.model, config.revision).decoder is not None:
        return "seq2seq"
    return config.objective if config.objective in TEXT_OBJECTIVES else ""


def _eval_parts(config: RunConfig, given: Mapping[str, Any], task: Task | None) -> tuple[Table, ...]:
    """The evaluation data: what is named, else the task's own dev splits where ``train`` is a folder or a hub id."""
    source = given.get("eval", config.eval)
    if source is None and not isinstance(config.eval_split, str) and (task is None or "train" in given):
        return ()
    if source is None:
        source = config.train
        if Path(source).is_file():
            return ()
    if isinstance(config.eval_split, str):
        return (_read(source, config, task, config.eval_split),)
    one_file = not isinstance(source, str) or Path(source).is_file()
    splits = ("dev",) if one_file or task is None else task.dev_splits
    return tuple(_read(source, config, task, split) for split in splits)


def _hold_out(table: Table, share: float, seed: int) -> tuple[Table, Table]:
    order = np.random.default_rng(seed).permutation(len(table))
    cut = max(1, round(share * len(table)))
    if cut >= len(table):
        raise DataError(
            f"{table.source} has {len(table)} rows: none is left to train on",
            "hold out less (eval_split), or give --eval",
        )
    return table.select(np.sort(order[cut:])), table.select(np.sort(order[:cut]))


def _sample(table: Table, count: int, seed: int, *, classes: bool = True) -> Table:
    from stratatune.data.encode import sample

    if count >= len(table):
        return table
    return table.select(sample((classes and table.labels) or [0] * len(table), count, seed))


def settle_objective(config: RunConfig, plan: Plan, *, decoder: bool = False, two_stacks: bool = False) -> Objective:
    """How a label is read: what the settings say, else what the plan brings, else what the task allows.

    An encoder-decoder tells the label as text, unless a task says that it is a class or a number.

    Raises:
        ConfigError: classes are asked for where the task's labels are numbers.
    """
    task = task_named(config.task) if config.task else None
    if task and task.kind == "regression" and config.objective == "classification":
        raise ConfigError([f"objective: the labels of {task.name} are numbers, not classes"], "legal: regression, mlm")
    if config.objective != "auto":
        return config.objective
    if task and task.kind == "regression" and (plan.objective == "classification" or two_stacks):
        return "regression"
    if two_stacks:
        return "classification" if task else "seq2seq"
    if plan.objective != "mlm":
        return "classification"
    return "causal" if decoder else "mlm"


def settle_reading(
    config: RunConfig,
    objective: Objective,
    table: Table,
    tokenizer: PreTrainedTokenizerBase,
    longest: int,
    *,
    decoder: bool = False,
    two_stacks: bool = False,
) -> tuple[Reading, list[str]]:
    """How text becomes a label in this run, and notices about what was chosen; the model takes ``longest`` tokens.

    Raises:
        DataError: labels or label words that cannot serve.
        ConfigError: a metric or template that does not exist.
    """
    task = task_named(config.task) if config.task else None
    is_text = objective in TEXT_OBJECTIVES
    is_value = not is_text and _is_value(objective, task)
    labels = class_names(config, objective, table)
    metric = config.metric or ("loss" if is_text else _default_metric(task, is_value))
    check_metric(metric, is_value, is_text)
    reading: dict[str, Any] = {
        "objective": objective,
        "text": table.columns,
        "label": table.label_column,
        "labels": labels,
        "value_range": _value_range(table, task) if is_value else None,
        "max_length": min(config.max_length, longest),
        "metric": metric,
        "task": task.name if task else None,
        "loss": config.loss,
        "decoder": decoder,
        "two_stacks": two_stacks,
    }
    notices: list[str] = []
    if objective == "mlm":
        reading["template"] = _template(config, task, table)
        reading["label_words"], notices = _label_words(config, task, labels, tokenizer)
    elif objective == "causal":
        reading["template"], notices = _causal_template(config, task, table)
        reading["label_words"] = _causal_words(config, task, labels)
        template = Template.parse(reading["template"])
        reading["suffixes"] = suffixes_of(tokenizer, template, reading["label_words"])
    return Reading(**reading), notices


def _is_value(objective: str, task: Task | None) -> bool:
    """Whether a label is a number, not a class."""
    return objective == "regression" or (task is not None and task.kind == "regression")


def class_names(config: RunConfig, objective: str, table: Table) -> tuple[str, ...]:
    """The classes in the order of the logits, the task's where there is one; none for numbers and text.

    Raises:
        DataError: no labels, or labels that are no classes to learn from.
    """
    if objective in TEXT_OBJECTIVES:
        return ()
    task = task_named(config.task) if config.task else None
    if table.labels is None:
        raise DataError(f"{table.source} has no labels", "name the label column with --label")
    if _is_value(objective, task):
        return ()
    found = LabelSet.infer(table.labels, table.source)
    return task.labels if task and task.labels else found.names


def _default_metric(task: Task | None, is_value: bool) -> str:
    return task.metric if task else ("pearson" if is_value else "accuracy")


def _value_range(table: Table, task: Task | None) -> tuple[float, float]:
    if task and task.range:
        return task.range
    values = np.asarray(numbers(table.labels or [], table.source, table.rows))
    if np.ptp(values) == 0:
        raise DataError(f"{table.source}: every label is {values[0]:g}", "regression needs labels that differ")
    return float(values.min()), float(values.max())


def _template(config: RunConfig, task: Task | None, table: Table) -> str:
    """The hard prompt: the settings' text, a named template of the task, or the default."""
    templates = dict(task.templates) if task else {"bft": _OWN_TEMPLATES[len(table.texts)]}
    written = config.template or "bft"
    text = templates.get(written, written)
    if text == written and "<mask>" not in written:
        raise ConfigError(
            [f"template: {written!r} is neither a template's name nor a text with <mask>"],
            did_you_mean(written, templates),
        )
    Template.parse(text).check(table.columns)
    return text


def _causal_template(config: RunConfig, task: Task | None, table: Table) -> tuple[str, list[str]]:
    """As :func:`_template`; ours, with a notice, where the task's has text behind its word and no other was named."""
    text = _template(config, task, table)
    try:
        check_order(Template.parse(text))
    except DataError:
        if config.template:
            raise
        ours = TEMPLATES[len(table.texts)]
        return ours, [f"template {text!r} has text behind its label word; a decoder reads {ours!r} instead"]
    return text, []


def _causal_words(config: RunConfig, task: Task | None, labels: Sequence[str]) -> tuple[str, ...]:
    """One word a class, of any number of tokens: the settings', the task's, or the labels themselves."""
    ends = tuple(task.words) if task else ("low", "high")
    if config.label_words:
        return _chosen_words(config.label_words, tuple(labels) or ends)
    words = dict(task.words) if task else {}
    return tuple(words.get(label, label) for label in (labels or ends))


def _label_words(
    config: RunConfig, task: Task | None, labels: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> tuple[tuple[str, ...], list[str]]:
    """One word a class (or the low and the high end's), and a notice when they were made up."""
    if config.label_words:
        return _chosen_words(config.label_words, tuple(labels) or tuple(task.words if task else ())), []
    if task:
        return tuple(task.words[label] for label in labels) if labels else tuple(task.words.values()), []
    words, notices = auto_label_words(tokenizer, labels or ("low", "high"))
    return tuple(words.values()), notices


def _chosen_words(words: Mapping[str, str], labels: Sequence[str]) -> tuple[str, ...]:
    odd = sorted(words.keys() ^ set(labels))
    if odd:
        kind = "has no word" if odd[0] in labels else "is no label of the data"
        raise ConfigError([f"label_words: {odd[0]!r} {kind}"], "labels: " + ", ".join(labels))
    return tuple(words[label] for label in labels)


def base_settings(config: RunConfig, labels: Sequence[str]) -> dict[str, Any]:
    """What :func:`stratatune.model.base.load_base` is told by a run's settings, beside the model and the objective."""
    return {
        "num_labels": len(labels),
        "seed": config.seed,
        "revision": config.revision,
        "trust_remote_code": config.trust_remote_code,
        "attention": None if config.attention == "auto" else config.attention,
    }
