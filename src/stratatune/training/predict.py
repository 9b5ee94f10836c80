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
from stratatune.data.encode import concatenate
from stratatune.data.readers import Table
from stratatune.data.tasks import TASKS
from stratatune.errors import DataError
from stratatune.model.artefact import load_artefact
from stratatune.model.tokenizers import check_ids, unknown_words
from stratatune.objectives.registry import objective_from
from stratatune.training.evaluate import Scores, evaluate
from stratatune.training.forward import Forward
from stratatune.training.generate import generate_texts


@dataclass(frozen=True)
class Prediction:
    """What a model says of N texts, rows in the order given.

    Attributes:
        table: the texts.
        columns: the answers as columns of N values each, by their names.
        labels: N class names, or what was generated for each text; None where the answer is neither.
        probabilities: [N, C] in the order of the model's classes, or None.
        values: [N] numbers, or None.
    """

    table: Table
    columns: Mapping[str, Sequence[Any]]
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
        saved = artefact.record["reading"]
        self.objective = objective_from(saved, artefact.tokenizer)
        self.device = accelerator_for(device, (), Path(folder)).device
        self.model = artefact.model.to(self.device)  # pyright: ignore[reportArgumentType]
        self.tokenizer = artefact.tokenizer
        autocast = torch.bfloat16 if (precision or saved.get("precision")) == "bf16" else None
        pad = pad_id(self.tokenizer)
        self._forward = Forward.of(self.model.attached, self.objective, pad, self.device, autocast)
        self._kept = Codec.from_data(saved)

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names, empty where the label is no class."""
        return self.objective.labels

    @property
    def text_columns(self) -> int:
        """How many text columns this model reads."""
        return len(self.objective.text)

    def predict(self, source: Any, *, split: str | None = None) -> Prediction:
        """Read texts from ``source`` (a path, a table, a list of texts or of pairs) and predict each.

        Raises:
            DataError: the source cannot be read, or lacks the text columns.
        """
        table = self._read(source, split, need_labels=False)
        self._unknown.clear()
        said = self.objective.answer(table, self)
        table = replace(table, notices=(*table.notices, *self._unknown))
        return Prediction(table, said.columns, said.labels, said.probabilities, said.values)

    def output(self, table: Table) -> np.ndarray:
        """What the objective predicts for every row of ``table``, as :attr:`Scores.output`; labels are ignored."""
        return self._scores((replace(table, labels=None, label_column=None),)).output

    def generate(self, texts: list[str], *, max_new_tokens: int = 64, **options: Any) -> list[str]:
        """What the model says to each text, by transformers' own ``generate``; greedy unless ``options`` say otherwise.

        ``options`` are those of ``generate``: ``num_beams``, ``do_sample``, ``temperature``, ...
        """
        settings = {"max_new_tokens": max_new_tokens, "do_sample": False, **options}
        with torch.no_grad(), self._forward.mixed():
            return generate_texts(self.model, self.tokenizer, texts, self.objective.max_length, settings)

    def score(self, source: Any, *, split: str | None = None) -> dict[str, Any]:
        """Metrics on labelled data: ``{"metrics": {...}, "n": N, "notices": [...]}``.

        Raises:
            DataError: the source cannot be read, or has no labels, or one unseen in training.
        """
        task = TASKS.get(self.objective.task or "")
        splits = (split,) if split or task is None or _is_one_file(source) else task.dev_splits
        parts = tuple(self._read(source, part, need_labels=True) for part in splits)
        self._unknown.clear()
        scores = self._scores(parts)
        metrics = {**scores.metrics, "loss": scores.loss, **self.objective.further_scores(parts, self)}
        return {"metrics": metrics, "n": sum(map(len, parts)), "notices": [*scores.notices, *self._unknown]}

    def _read(self, source: Any, split: str | None, *, need_labels: bool) -> Table:
        plain, objective = isinstance(source, list), self.objective
        table = objective.read(
            source,
            text=None if plain else objective.text,
            label=objective.label if need_labels else None,
            task=None if plain else objective.task,
            split=split,
            need_labels=need_labels,
        )
        if len(table.texts) != self.text_columns:
            raise DataError(f"{table.source}: {len(table.texts)} text columns", f"this model reads {self.text_columns}")
        return table

    def _scores(self, parts: tuple[Table, ...]) -> Scores:
        encoded = [self.objective.encode(part, self.tokenizer) for part in parts]
        for part, one in zip(parts, encoded, strict=True):
            check_ids(one.ids, self.tokenizer, self.model.get_input_embeddings().weight.shape[0], part.source)
            self._unknown += unknown_words(one.ids, self.tokenizer, part.source)
        feed = self._forward.feed(kept=self._kept)
        return evaluate(self._forward, concatenate(encoded), feed, [one.examples for one in encoded])


def _is_one_file(source: Any) -> bool:
    return not isinstance(source, str | Path) or Path(source).is_file()
