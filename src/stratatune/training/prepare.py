"""Settle, once, everything that a run learns from: plan, shape, objective, tables, token ids.

:class:`Outline` follows from the settings alone, :func:`read_tables` reads the data, :func:`settle` decides
the rest. A run, the building of a cache, ``suggest`` and ``plan --lengths`` all begin so; a saved adapter brings its
objective with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stratatune.data.compressed import uncompressed
from stratatune.data.corpus import read_corpus
from stratatune.data.encoded import Encoded, concatenate
from stratatune.data.frames import called
from stratatune.data.label_sets import columns_in
from stratatune.data.read_options import ReadOptions
from stratatune.data.readers import Table
from stratatune.data.several import is_file
from stratatune.data.sources import splits_of
from stratatune.data.splitting import hold_out, sample, sample_groups, with_every_label
from stratatune.data.tasks import Task
from stratatune.data.tasks import task as task_named
from stratatune.errors import ConfigError, DataError, did_you_mean, shown
from stratatune.model.tokenizers import check_ids, check_rows, unknown_words
from stratatune.objectives.asked import Asked
from stratatune.objectives.multitask import Multitask
from stratatune.objectives.objective import Objective
from stratatune.objectives.registry import OBJECTIVES, by_head, choose, written
from stratatune.objectives.weights import WEIGHT
from stratatune.plan import Plan, Resolved, Shape, shape_of
from stratatune.shapes.configs import check_revision
from stratatune.training.config import AUTO, RunConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Encode = Callable[[Objective, Table, "PreTrainedTokenizerBase"], Encoded]


@dataclass(frozen=True)
class Outline:
    """The part of a run that follows from the settings alone, before any data are read."""

    config: RunConfig

    @cached_property
    def plan(self) -> Plan:
        """The plan.

        Raises:
            ConfigError: it has not been chosen yet.
        """
        if self.config.plan == AUTO:
            raise ConfigError(
                ["plan: 'auto' is chosen by `stratatune train`, and this needs a plan that is named"],
                "give --plan, such as '3/4: full'; `stratatune suggest` proposes one",
            )
        return Plan.parse(self.config.plan)

    @cached_property
    def shape(self) -> Shape:
        """The sizes of the model, by its configuration.

        Raises:
            ConfigError: a revision of a local folder.
        """
        check_revision(self.config.model, self.config.revision)
        return shape_of(self.config.model, self.config.revision)

    @cached_property
    def resolved(self) -> Resolved:
        """The plan applied to a model of this shape."""
        return self.plan.resolve(self.shape)

    @cached_property
    def task(self) -> Task | None:
        """The named task."""
        return task_named(self.config.task) if self.config.task else None

    @cached_property
    def asked(self) -> Asked:
        """The request for an objective."""
        config = self.config
        name, options = written(config.objective)
        if name == AUTO and config.label and len(columns_in(config.label)) > 1:
            name = Multitask.name
        return Asked.on(
            self.shape,
            self.plan,
            longest=self.resolved.max_tokens,
            hidden=self.shape.hidden,
            objective=name,
            options=options,
            task=self.task,
            template=config.template,
            label_words=config.label_words,
            loss=config.loss,
            metric=config.metric,
            max_length=config.max_length,
        )

    @cached_property
    def kind(self) -> type[Objective]:
        """The objective that the settings name, or that suits them."""
        return choose(self.asked)


@dataclass(frozen=True)
class Tables:
    """The data of a run as read. ``eval`` may be several parts, whose scores are averaged (MNLI's two)."""

    train: Table
    eval: tuple[Table, ...]
    test: Table | None

    def searching(self, corpus: Table, *, training: bool) -> Tables:
        """The tables with a corpus for each that is scored, and where ``training`` reads it for that too."""
        parts = tuple(replace(part, corpus=corpus) for part in self.eval)
        test = None if self.test is None else replace(self.test, corpus=corpus)
        return Tables(replace(self.train, corpus=corpus) if training else self.train, parts, test)

    @property
    def corpora(self) -> list[Table]:
        """The corpus of each table that has one."""
        parts = (self.train, *self.eval, *([self.test] if self.test else []))
        return [part.corpus for part in parts if part.corpus is not None]

    @property
    def notices(self) -> list[str]:
        """The notices of the readers, each once: rows that are held out are of the same source as the rest."""
        parts = (self.train, *self.eval, *([self.test] if self.test else []), *self.corpora)
        return list(dict.fromkeys(f"{table.source}: {notice}" for table in parts for notice in table.notices))


@dataclass(frozen=True)
class Prepared:
    """A settled run: each part is made once and passed on.

    Attributes:
        outline: the settings, with plan, shape and resolved plan.
        tables: the data as read.
        tokenizer: the model's.
        objective: the objective.
        notices: notices about the choices made.
        train, eval, test: the encoded data; ``eval`` and ``test`` may be missing.
        eval_parts: examples of each part of ``eval``, whose scores are averaged.
    """

    outline: Outline
    tables: Tables
    tokenizer: PreTrainedTokenizerBase
    objective: Objective
    notices: list[str]
    train: Encoded
    eval: Encoded | None
    eval_parts: tuple[int, ...]
    test: Encoded | None = None

    @property
    def config(self) -> RunConfig:
        """The settings."""
        return self.outline.config

    @cached_property
    def learnt(self) -> Encoded:
        """The training data without the documents of a corpus: those are mined, and no example to learn from."""
        groups = self.train.groups
        if self.tables.train.corpus is None or groups is None:
            return self.train
        return self.train.subset(np.flatnonzero(groups.sizes > 1))

    @property
    def base(self) -> dict[str, Any]:
        """The arguments with which :func:`stratatune.model.base.load_base` loads the model for this run."""
        from stratatune.model.base import attention_for_training  # brings in torch

        config = self.config
        return {
            "name": config.model,
            "head": self.objective.head,
            "num_labels": self.objective.outputs,
            "labels": self.objective.labels if len(self.objective.labels) == self.objective.outputs else (),
            "problem_type": self.objective.problem_type,
            "seed": config.seed,
            "revision": config.revision,
            "trust_remote_code": config.trust_remote_code,
            "attention": attention_for_training(config.device) if config.attention == "auto" else config.attention,
            "tokenizer": self.tokenizer,
            "cut": self.outline.resolved.cut_to,
            "shape": self.outline.shape,
            "objectives": by_head(self.outline.shape.family),
        }


def settle(
    outline: Outline,
    tables: Tables,
    tokenizer: PreTrainedTokenizerBase | None = None,
    encode: Encode = lambda objective, table, tokenizer: objective.encode(table, tokenizer),
) -> Prepared:
    """Decide how the data become targets, and encode them.

    Args:
        outline: the part that follows from the settings.
        tables: the data.
        tokenizer: the model's; None: it is loaded.
        encode: replaces the objective's own, for callers that encode a table once for several runs.

    Raises:
        DataError: labels, label words or columns that cannot serve.
        ConfigError: a metric or template that does not exist.
        ModelError: the model has no tokenizer.
    """
    tokenizer = tokenizer or tokenizer_for(outline.config)
    others = (*tables.eval, *([tables.test] if tables.test else []))
    asked = replace(outline.asked, table=tables.train, others=others, tokenizer=tokenizer)
    objective, notices = outline.kind.settle(asked)
    notices = [*_unread(outline.config, outline.kind), *_about_the_rate(outline.config, objective), *notices]
    # Before any text is encoded, and before the weights are loaded: an id beyond the table would fail deep in the
    # trunk.
    check_rows(tokenizer, outline.shape.vocab, outline.config.model)
    train = encode(objective, tables.train, tokenizer)
    parts = [encode(objective, part, tokenizer) for part in tables.eval]
    # Scored at the very end, but a mistake in them must not wait until a model has been trained.
    test = [encode(objective, tables.test, tokenizer)] if tables.test else []
    every = (train, *parts, *test)
    unknown: list[str] = []
    for table, part in zip((tables.train, *others), every, strict=True):
        check_ids(part.ids, tokenizer, outline.shape.vocab, table.source)
        unknown += unknown_words(part.ids, tokenizer, table.source)
    return Prepared(
        outline=outline,
        tables=tables,
        tokenizer=tokenizer,
        objective=objective,
        notices=[*notices, *(notice for part in every for notice in part.notices), *dict.fromkeys(unknown)],
        train=train,
        eval=concatenate(parts) if parts else None,
        eval_parts=tuple(part.examples for part in parts),
        test=test[0] if test else None,
    )


def _unread(config: RunConfig, kind: type[Objective]) -> list[str]:
    """A line for each setting that is given and that this kind of objective does not read."""
    lines = list[str]()
    for name in ("template", "label_words", "loss", "corpus"):
        default = RunConfig.model_fields[name].get_default(call_default_factory=True)
        if name not in kind.settings and getattr(config, name) != default:
            reading = [one.name for one in OBJECTIVES.values() if name in one.settings]
            use = f"{'one of: ' if len(reading) > 1 else ''}{', '.join(reading)}"
            lines.append(f"{name}: the objective {kind.name} does not read it; leave it out, or use {use}")
    return lines


def _about_the_rate(config: RunConfig, objective: Objective) -> list[str]:
    """A warning where a run learns an objective that wants another rate at the default one."""
    if objective.rates == 1 or "lr" in config.model_fields_set:
        return []
    return [
        f"lr: {config.lr:g}, the default; for {objective.name} about {objective.rates * config.lr:g} is usual (--lr)"
    ]


def tokenizer_for(config: RunConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of the model.

    Raises:
        ModelError: there is none.
    """
    from stratatune.model.base import load_tokenizer

    return load_tokenizer(config.model, revision=config.revision, trust_remote_code=config.trust_remote_code)


def read_tables(config: RunConfig, given: Mapping[str, Any], kind: type[Objective]) -> Tables:
    """Read the data that the settings name, as an objective of this kind does.

    Args:
        config: the settings.
        given: data in memory that take a path's place, by ``train``, ``eval``, ``test`` and ``corpus``.
        kind: the objective's class.

    Raises:
        DataError: a source that cannot be read, or labels that are missing.
    """
    task = task_named(config.task) if config.task else None

    options = ReadOptions(text=config.text or None, label=config.label, task=task, written=config.written)

    def read(source: Any, split: str, keep_whole: bool = False) -> Table:
        own = {"split": _split_of(source, config, split), "keep_whole": keep_whole}
        return kind.read(source, replace(options, **own))

    if config.weight is not None and not kind.weighted:
        raise ConfigError([f"weight: the objective {kind.name} has no weights"], "leave it out")
    if config.corpus_column is not None and config.corpus is None:
        raise ConfigError(
            [f"corpus_column: {config.corpus_column!r}; there is no corpus"], "give --corpus FILE, or leave it out"
        )
    # Under `auto` a race tries plans with label words and without, so there it is a notice of the run.
    if (lines := _unread(config, kind)) and written(config.objective)[0] != AUTO:
        raise ConfigError(lines)
    wanted = _eval_parts(config, given, task)
    objective_options = written(config.objective)[1]
    source = given.get("train", config.train)
    train = read(source, "train") if config.weight is None else weighted(read, source, config.weight)
    parts = tuple(read(source, split) for source, split in wanted)
    # Held out before rows are drawn, so that `train_samples` counts rows to train on and the held-out part stays the
    # same.
    if not parts and isinstance(config.eval_split, float):
        own = {"classes": _classes(kind, train, task), "labels": kind.labels_by_row(train, objective_options)}
        whole = train
        train, held_out = hold_out(whole, config.eval_split, config.seed, **own, groups=kind.groups_by_row(whole))
        said = f"{len(held_out):,} of {len(whole):,} rows are held out to score the epochs; {len(train):,} train"
        train = replace(train, notices=(*train.notices, said))
        # Weights are of training rows: the same rows in a file of their own would be scored without.
        parts = (_unweighted(held_out),)
    own_splits = [] if parts else splits_of(source)
    if found := next((one for one in called("dev") if one in own_splits), ""):
        parts = (_own_split(read, source, found),)
        said = f"its split {found!r} scores every epoch; eval or eval_split names other data"
        train = replace(train, notices=(*train.notices, said))
    train = _sample(train, config, kind, objective_options)
    test = given.get("test", config.test)
    tables = Tables(train, parts, None if test is None else read(test, "test"))
    corpus = given.get("corpus", config.corpus)
    if corpus is None or "corpus" not in kind.settings:
        return tables
    documents = read_corpus(corpus, config.corpus_column, config.written)
    return tables.searching(documents, training=kind.learns_from_corpus(objective_options))


def _own_split(read: Callable[..., Table], source: Any, split: str) -> Table:
    """The split of the training data's own source that scores the epochs, where no other data are named.

    Raises:
        DataError: it cannot be read as the training data are, such as one whose labels are hidden.
    """
    try:
        return read(source, split)
    except DataError as error:
        raise DataError(
            f"{error.message} (the split {split!r} was taken to score the epochs)",
            f"{error.hint}; or name other data with --eval, or hold out a part with --eval-split 0.1",
        ) from error


def weighted(read: Callable[..., Table], source: Any, column: str) -> Table:
    """The training data with a weight for each row, scaled so that their mean is 1.

    Raises:
        DataError: no such column, or its values are not weights.
    """
    table = read(source, "train", keep_whole=True)
    whole = table.whole
    assert whole is not None
    if column not in whole.names:
        raise DataError(f"{table.source} has no column {column!r}", did_you_mean(column, whole.names))
    place = {row: at for at, row in enumerate(whole.rows)}
    values = whole.get(column)
    written = [values[place[row]] for row in table.rows]
    found = np.array([_as_weight(value) for value in written])
    if (odd := np.flatnonzero(~(np.isfinite(found) & (found >= 0)))).size:
        row, value = table.rows[int(odd[0])], written[int(odd[0])]
        raise DataError(f"{table.source}, row {row}: the weight {shown(value)}", "give numbers of 0 or more")
    if not found.any():
        raise DataError(f"{table.source}: every weight is 0", "give some rows a weight above 0")
    return replace(table, whole=None, further={**table.further, WEIGHT: (found / found.mean()).tolist()})


def _unweighted(table: Table) -> Table:
    return replace(table, further={name: values for name, values in table.further.items() if name != WEIGHT})


def _as_weight(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _eval_parts(config: RunConfig, given: Mapping[str, Any], task: Task | None) -> Sequence[tuple[Any, str]]:
    """The evaluation data, as source and split.

    What is named, else the task's own dev splits where ``train`` is a folder or a hub id.
    """
    source = given.get("eval", config.eval)
    if source is None and isinstance(config.eval_split, float):
        return ()
    is_one = task is None or "train" in given or _is_file(config.train)
    if source is None and not isinstance(config.eval_split, str) and is_one:
        return ()
    source = given.get("train", config.train) if source is None else source
    if isinstance(config.eval_split, str):
        if _is_file(source):
            _check_cut(source, config.eval_split, task)
        return ((source, config.eval_split),)
    one_file = not isinstance(source, str) or _is_file(source)
    splits = ("dev",) if one_file or task is None else task.dev_splits
    return tuple((source, split) for split in splits)


def _split_of(source: Any, config: RunConfig, split: str) -> str | None:
    """``split``, or None for a file that is named: it is used whole, unless ``eval_split`` names a split of it."""
    if not _is_file(source):
        return split
    # A file that holds all splits (a task's .all) is cut by their names; any other file is one split by itself.
    return split if isinstance(config.eval_split, str) and source == (config.eval or config.train) else None


def _is_file(source: Any) -> bool:
    return isinstance(source, str) and is_file(source)


def _check_cut(file: str, split: str, task: Task | None) -> None:
    """Refuse a split, by its name, of a file that has none: a task's one `.all` file alone has splits."""
    legal = task.cuts if task and uncompressed(Path(file)).suffix.lower() == ".all" else ()
    if split not in legal:
        raise ConfigError(
            [f"eval_split: {split!r}; {file} is one file"],
            f"its splits: {', '.join(legal)}"
            if legal
            else "name a file with --eval, or hold out a fraction such as 0.1",
        )


def _classes(kind: type[Objective], table: Table, task: Task | None) -> Sequence[Any] | None:
    """The class of each row, by whose shares rows are held out; None where the labels are texts or numbers."""
    return None if task and task.numeric else kind.held_out_by(table)


def _sample(table: Table, config: RunConfig, kind: type[Objective], options: Mapping[str, Any]) -> Table:
    """As many rows as are asked for.

    Raises:
        DataError: fewer than there are classes, where the data alone say which classes there are.
    """
    count = config.train_samples
    if count is None or count == len(table):
        return table
    if count > len(table):
        return replace(table, notices=(*table.notices, f"all {len(table)} rows train; train_samples asks for {count}"))
    if count < (classes := fewest_rows(table, config, kind)):
        raise DataError(
            f"train_samples: {count}; {table.source} has {classes} classes, and no class is learned without a row",
            f"draw {classes} rows or more",
        )
    return table.select(drawn(table, count, config.seed, kind, options))


def fewest_rows(table: Table, config: RunConfig, kind: type[Objective]) -> int:
    """The fewest rows that may be drawn: one of each class, where the data alone say which classes there are."""
    return 0 if config.task or not kind.stratified else len(set(kind.held_out_by(table) or ()))


def drawn(table: Table, count: int, seed: int, kind: type[Objective], options: Mapping[str, Any]) -> np.ndarray:
    """``count`` of the rows, drawn once: sorted positions int64.

    Each class is drawn by its share, rows that are compared are drawn together, and each label stays in one row at
    least where ``count`` allows it. ``options`` are the objective's.
    """
    groups = kind.groups_by_row(table)
    if groups is not None and groups.compared:
        found = sample_groups(groups, count, seed)
    else:
        found = sample(kind.classes_of(table) or [0] * len(table), count, seed)
    labels = kind.labels_by_row(table, options)
    whole = found if labels is None else with_every_label(labels, found, seed)
    return whole if len(whole) == len(found) else found
