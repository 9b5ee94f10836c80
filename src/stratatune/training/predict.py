"""Using a trained adapter: predictions and scores, the same numbers as the evaluation that ended its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stratatune._compat import accelerator_for
from stratatune.cache.codec import Codec
from stratatune.data.batching import pad_id
from stratatune.data.encode import Encoded, concatenate
from stratatune.data.every_row import EveryRow
from stratatune.data.readers import Table
from stratatune.data.tasks import TASKS
from stratatune.data.written import AS_USUAL, Written
from stratatune.errors import DataError
from stratatune.model.artefact import load_artefact, load_base_of
from stratatune.model.tokenizers import check_ids, unknown_words
from stratatune.objectives.registry import objective_from
from stratatune.training.evaluate import Scores, evaluate
from stratatune.training.forward import Forward
from stratatune.training.generate import generate_texts
from stratatune.training.untuned import Untuned


@dataclass(frozen=True)
class Prediction:
    """What a model says of N texts: one prediction for each row of the source, in its order.

    Rows that were left out (``bad_rows: skip``) have none: their label is None, their numbers are NaN.

    Attributes:
        table: the texts, and in ``table.whole`` the other columns of the source.
        columns: the answers as columns of N values each, by their names.
        labels: N class names, or what was generated for each text; None where the answer is neither.
        probabilities: [N, C] in the order of the model's classes, or None.
        values: [N] numbers, or None.
    """

    table: Table
    columns: Mapping[str, Sequence[Any]]
    labels: Sequence[str | None] | None
    probabilities: np.ndarray | None
    values: np.ndarray | None


class Predictor:
    """A trained adapter on its base model, ready to be asked.

    Args:
        folder: a run's folder, or its ``adapter`` folder.
        base: where the base model is now, when it has moved.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``fp32`` or ``bf16``; None: what it was trained in.

    Attributes:
        notices: what the user should know of the adapter, one line each.

    Raises:
        ModelError: nothing trained is there, or the base model is not the one it was trained on.
    """

    def __init__(
        self, folder: str | Path, *, base: str | None = None, device: str = "auto", precision: str | None = None
    ) -> None:
        artefact = load_artefact(folder, base)
        self.notices = artefact.notices
        self._unknown: list[str] = []
        record, place = artefact.record, Path(folder)
        place = place / "adapter" if (place / "adapter").is_dir() else place
        saved = record["reading"]
        self.objective = objective_from(saved, artefact.tokenizer)
        self.device = accelerator_for(device, (), Path(folder)).device
        self.model = artefact.model.to(self.device)  # pyright: ignore[reportArgumentType]
        self.tokenizer = artefact.tokenizer
        autocast = torch.bfloat16 if (precision or saved.get("precision")) == "bf16" else None
        pad = pad_id(self.tokenizer)
        self._forward = Forward.of(self.model.attached, self.objective, pad, self.device, autocast)
        self._codec = Codec.from_data(saved)
        self._untuned = Untuned(self._forward, lambda: load_base_of(record, place, base, record["output"]).model)
        self.generation: dict[str, Any] = {}
        """Options of transformers' ``generate`` that :meth:`predict` and :meth:`score` write texts with."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names, empty where the label is no class."""
        return self.objective.labels

    @property
    def text_columns(self) -> int:
        """How many texts are one question of this model."""
        return self.objective.asked_at_once

    def predict(self, source: Any, *, split: str | None = None, written: Written = AS_USUAL) -> Prediction:
        """Read texts from ``source`` (a path, a table, a list of texts or of pairs) and predict each.

        Args:
            source: what :func:`stratatune.data.readers.read` takes.
            split: of a folder, a hub id or a DatasetDict.
            written: how a text file is written, and what becomes of blank texts.

        Raises:
            DataError: the source cannot be read, or lacks the text columns.
        """
        table = self._read(source, split, written, need_labels=False)
        self._unknown.clear()
        said = self.objective.answer(table, self)
        table = replace(table, notices=(*table.notices, *self._unknown))
        return _for_every_row(Prediction(table, said.columns, said.labels, said.probabilities, said.values))

    def output(self, table: Table) -> np.ndarray:
        """What the objective predicts for every row of ``table``, as :attr:`Scores.output`; labels are ignored."""
        return self._scores((replace(table, labels=None, label_column=None),))[1].output

    def untuned(self, table: Table) -> np.ndarray:
        """The same of the base model, as it was before it was tuned."""
        plain = self.objective.encode(replace(table, labels=None, label_column=None), self.tokenizer)
        found = self._untuned.represent(plain)
        return found if plain.groups is None else found[plain.groups.values]

    def generate(self, texts: list[str], *, max_new_tokens: int = 64, **options: Any) -> list[str]:
        """What the model says to each text, by transformers' own ``generate``; greedy unless ``options`` say otherwise.

        ``options`` are those of ``generate``: ``num_beams``, ``do_sample``, ``temperature``, ...
        """
        settings = {"max_new_tokens": max_new_tokens, "do_sample": False, **self.generation, **options}
        with torch.no_grad(), self._forward.mixed():
            return generate_texts(self.model, self.tokenizer, texts, self.objective.max_length, settings)

    def score(self, source: Any, *, split: str | None = None, written: Written = AS_USUAL) -> dict[str, Any]:
        """Metrics on labelled data: ``{"metrics": {...}, "n": N, "notices": [...], "by_class": {...}}``.

        ``by_class`` is that of :meth:`stratatune.objectives.objective.Objective.by_class`, over all rows; missing
        without classes.

        Raises:
            DataError: the source cannot be read, or has no labels, or one unseen in training.
        """
        task = TASKS.get(self.objective.task or "")
        splits = (split,) if split or task is None or _is_one_file(source) else task.dev_splits
        parts = tuple(self._read(source, part, written, need_labels=True) for part in splits)
        self._unknown.clear()
        data, scores = self._scores(parts)
        metrics = {**scores.metrics, "loss": scores.loss, **self.objective.further_scores(parts, self)}
        said = [
            *(f"{part.source}: {notice}" for part in parts for notice in part.notices),
            *scores.notices,
            *self._unknown,
        ]
        found = self.objective.by_class(scores.output, data)
        return {
            "metrics": metrics,
            "n": sum(map(len, parts)),
            "notices": said,
            **({"by_class": found} if found else {}),
        }

    def _read(self, source: Any, split: str | None, written: Written, *, need_labels: bool) -> Table:
        objective = self.objective
        table = objective.read(
            source,
            text=objective.text,
            label=objective.label if need_labels else None,
            task=objective.task,
            split=split,
            need_labels=need_labels,
            written=written,
            keep_whole=not need_labels,
        )
        if not objective.answers_for(len(table.texts)):
            raise DataError(f"{table.source}: {len(table.texts)} text columns", f"this model reads {self.text_columns}")
        return table

    def _scores(self, parts: tuple[Table, ...]) -> tuple[Encoded, Scores]:
        encoded = [self.objective.encode(part, self.tokenizer) for part in parts]
        rows = self.model.attached.resolved.shape.vocab
        for part, one in zip(parts, encoded, strict=True):
            check_ids(one.ids, self.tokenizer, rows, part.source)
            self._unknown += unknown_words(one.ids, self.tokenizer, part.source)
        data, feed = concatenate(encoded), self._forward.feed(codec=self._codec)
        if data.targets and self.objective.looks(training=False):
            data, said = self.objective.looked(data, self._untuned.represent(data), training=False)
            self._unknown += said
        return data, evaluate(self._forward, data, feed, [one.examples for one in encoded])


def _for_every_row(found: Prediction) -> Prediction:
    """``found`` with a row for each of the source, those that were left out included."""
    every = EveryRow.of(found.table)
    if every is None:
        return found
    return Prediction(
        every.source(),
        {name: every.values(values) for name, values in found.columns.items()},
        None if found.labels is None else every.values(found.labels),
        None if found.probabilities is None else every.array(found.probabilities),
        None if found.values is None else every.array(found.values),
    )


def _is_one_file(source: Any) -> bool:
    return not isinstance(source, str | Path) or Path(source).is_file()
