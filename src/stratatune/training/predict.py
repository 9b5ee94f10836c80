"""Using a trained adapter: predictions and scores, the same numbers as the evaluation that ended its training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stratatune._compat import accelerator_for
from stratatune.cache.codec import Codec
from stratatune.cache.feed import Feed
from stratatune.data.encode import concatenate
from stratatune.data.labels import LabelSet
from stratatune.data.readers import Table, read
from stratatune.data.tasks import TASKS
from stratatune.errors import DataError
from stratatune.model.artefact import load_artefact
from stratatune.model.split import Top, Trunk
from stratatune.objectives.objective import Objective
from stratatune.objectives.spec import Reading, encode, pad_id
from stratatune.training.evaluate import Scores, evaluate
from stratatune.training.generate import generate_texts, rouge


@dataclass(frozen=True)
class Prediction:
    """What a model says of N texts, rows in the order given.

    Attributes:
        table: the texts.
        labels: N class names, or what was generated for each text; None where the label is a number.
        probabilities: [N, C] in the order of the model's classes, or None.
        values: [N] numbers, or None where the label is a class.
    """

    table: Table
    labels: list[str] | None
    probabilities: np.ndarray | None
    values: np.ndarray | None


class Predictor:
    """A trained adapter on its base model, ready to be asked.

    Args:
        folder: a run's folder, or its ``adapter`` folder.
        base: where the base model is now, when it has moved.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``fp32`` or ``bf16``; None: what it was trained in.

    Raises:
        ModelError: nothing trained is there, or the base model is not the one it was trained on.
    """

    def __init__(
        self, folder: str | Path, *, base: str | None = None, device: str = "auto", precision: str | None = None
    ) -> None:
        artefact = load_artefact(folder, base)
        self.reading = Reading.from_data(artefact.record["reading"])
        self.device = accelerator_for(device, (), Path(folder)).device
        self.model = artefact.model.to(self.device)  # pyright: ignore[reportArgumentType]
        self.tokenizer = artefact.tokenizer
        self.objective = Objective(self.reading, self.tokenizer).to(self.device)
        self.kept = Codec.from_data(artefact.record["reading"])
        self.autocast = torch.bfloat16 if (precision or artefact.record["reading"].get("precision")) == "bf16" else None

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names, empty where the label is a number."""
        return self.reading.labels

    def predict(self, source: Any, *, split: str | None = None) -> Prediction:
        """Read texts from ``source`` (a path, a table, a list of texts or of pairs) and predict each.

        Raises:
            DataError: the source cannot be read, or lacks the text columns.
        """
        table = self._read(source, split, need_labels=False)
        if self.reading.generates:
            return Prediction(table, self.generate(table.texts[0]), None, None)
        output = self._scores((table,), with_labels=False).output
        if self.reading.value_range is not None:
            return Prediction(table, None, None, output)
        return Prediction(table, LabelSet(self.labels).decode(output.argmax(axis=1)), output, None)

    def generate(self, texts: list[str], *, max_new_tokens: int = 64, **options: Any) -> list[str]:
        """What the model says to each text, by transformers' own ``generate``; greedy unless ``options`` say otherwise.

        ``options`` are those of ``generate``: ``num_beams``, ``do_sample``, ``temperature``, ...
        """
        settings = {"max_new_tokens": max_new_tokens, "do_sample": False, **options}
        with torch.no_grad(), torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            return generate_texts(self.model, self.tokenizer, texts, self.reading.max_length, settings)

    def score(self, source: Any, *, split: str | None = None) -> dict[str, Any]:
        """Metrics on labelled data: ``{"metrics": {...}, "n": N, "notices": [...]}``.

        Raises:
            DataError: the source cannot be read, or has no labels, or one unseen in training.
        """
        task = TASKS.get(self.reading.task or "")
        need = not self.reading.generates or self.reading.label is not None
        splits = (split,) if split or task is None or _is_one_file(source) else task.dev_splits
        parts = tuple(self._read(source, part, need_labels=need) for part in splits)
        scores = self._scores(parts, with_labels=True)
        metrics = {**scores.metrics, "loss": scores.loss}
        if self.reading.objective == "seq2seq":
            said = self.generate([text for part in parts for text in part.texts[0]])
            metrics |= rouge(said, [str(label) for part in parts for label in part.labels or ()])
        return {"metrics": metrics, "n": sum(map(len, parts)), "notices": scores.notices}

    def _read(self, source: Any, split: str | None, *, need_labels: bool) -> Table:
        plain = isinstance(source, list)
        table = read(
            source,
            text=None if plain else self.reading.text,
            label=self.reading.label if need_labels else None,
            task=None if plain else self.reading.task,
            split=split,
            need_labels=need_labels,
        )
        if len(table.texts) != len(self.reading.text):
            raise DataError(
                f"{table.source}: {len(table.texts)} text columns", f"this model reads {len(self.reading.text)}"
            )
        return table

    def _scores(self, parts: tuple[Table, ...], *, with_labels: bool) -> Scores:
        data = concatenate(
            [encode(part if with_labels else _unlabelled(part), self.reading, self.tokenizer) for part in parts]
        )
        attached = self.model.attached
        feed = Feed(Trunk(attached), None, one_position=attached.one_position, autocast=self.autocast, kept=self.kept)
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            return evaluate(
                Top(attached),
                self.objective,
                data,
                feed,
                pad_id(self.tokenizer),
                self.device,
                [len(part) for part in parts],
            )


def _unlabelled(table: Table) -> Table:
    return Table(table.texts, None, table.columns, None, table.source, table.rows, table.notices)


def _is_one_file(source: Any) -> bool:
    return not isinstance(source, str | Path) or Path(source).is_file()
