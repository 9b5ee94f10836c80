"""``classification``: a class, by a new output layer on the output of the model's own pooling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from stratatune.data.encoded import Encoded
from stratatune.data.labels import LabelSet, fraction_in, listed
from stratatune.data.readers import Table
from stratatune.data.splitting import RowLabels
from stratatune.errors import ConfigError
from stratatune.objectives.answers import Answers, Using
from stratatune.objectives.asked import Asked, common_of, pretended_common
from stratatune.objectives.by_class import by_class
from stratatune.objectives.calibration import LEAST, best_temperature, best_threshold, tempered
from stratatune.objectives.class_loss import MOST_FOCAL, ClassLoss, ordinal_chances, weights_of
from stratatune.objectives.labels import (
    TWO_CLASSES,
    ClassLabels,
    chosen_metric,
    class_labels,
    class_labels_from,
    labels_data,
)
from stratatune.objectives.metrics import CLASS_METRICS, class_metrics, class_scores
from stratatune.objectives.pooled import Pooled
from stratatune.objectives.saved import common_from
from stratatune.objectives.tensors import at_least_fp32
from stratatune.objectives.weights import WEIGHT

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase
    from typing_extensions import Self

    from stratatune.data.batching import Batch


_ON_DEV = "dev"


@dataclass(frozen=True, kw_only=True)
class Classes(Pooled):
    """One class a text.

    Attributes:
        label_kind: the classes.
        learnt_by: weights, focal loss, smoothing, order.
        chosen: names of values chosen on the evaluation data after the last epoch: ``temperature``, ``threshold``.
        temperature: the divisor of the logits.
        threshold: the least probability at which class 1 of two is predicted; None: the likelier class is.
    """

    name: ClassVar[str] = "classification"
    summary: ClassVar[str] = "one class per text, with a new output layer"
    stratified: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = tuple(CLASS_METRICS)
    bounded: ClassVar[frozenset[str]] = frozenset(metrics)
    options: ClassVar[Mapping[str, type]] = {
        "weights": str,
        "focal": float,
        "smoothing": float,
        "ordinal": bool,
        "temperature": str,
        "threshold": str,
    }

    label_kind: ClassLabels
    learnt_by: ClassLoss = ClassLoss()
    chosen: tuple[str, ...] = ()
    temperature: float = 1.0
    threshold: float | None = None

    @classmethod
    def suits(cls, asked: Asked) -> bool:
        """Whether the plan has no prompt; on an encoder-decoder, whether a task says that its labels are classes."""
        if asked.family == "encoder-decoder":
            return asked.task is not None and not asked.numeric
        return not asked.prompted and not asked.numeric

    @classmethod
    def settle(cls, asked: Asked) -> tuple[Self, list[str]]:
        if asked.task and asked.numeric:
            raise ConfigError(
                [f"objective: the labels of {asked.task.name} are numbers, not classes"], "legal: regression, mlm"
            )
        labels = class_labels(asked)
        notices = [f"the classes from low to high: {listed(labels.names)}"] if asked.options.get("ordinal") else []
        if fraction := fraction_in(labels.names):
            notices.append(
                f"labels such as {fraction} are numbers, read as {len(labels.names)} classes; --objective regression "
                "learns them as numbers"
            )
        return cls(
            **common_of(asked, chosen_metric(asked, labels)),
            label_kind=labels,
            learnt_by=_loss_of(asked, labels),
            chosen=_chosen(asked, labels),
        ), notices

    @classmethod
    def from_data(cls, data: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Self:
        learnt = ClassLoss(ordinal=bool(data.get("ordinal")))  # the part that predictions need
        threshold = data.get("threshold")
        return cls(
            **common_from(data),
            label_kind=class_labels_from(data),
            learnt_by=learnt,
            temperature=float(data.get("temperature") or 1.0),
            threshold=None if threshold is None else float(threshold),
        )

    def to_data(self) -> dict[str, Any]:
        own: dict[str, Any] = {"ordinal": True} if self.learnt_by.ordinal else {}
        own |= {"temperature": self.temperature} if self.temperature != 1.0 else {}
        own |= {"threshold": self.threshold} if self.threshold is not None else {}
        return {**self.common(), **labels_data(self.label_kind), **own}

    @classmethod
    def labels_by_row(cls, table: Table, options: Mapping[str, Any]) -> RowLabels | None:
        """The class of each row, which several label columns need; where there is one, draws keep each class."""
        return None if table.labels is None else [(label,) for label in table.labels]

    @property
    def labels(self) -> tuple[str, ...]:
        return self.label_kind.names

    @property
    def outputs(self) -> int:
        return len(self.labels) - self.learnt_by.ordinal

    @classmethod
    def pretended(cls, texts: Encoded, family: str, random: np.random.Generator) -> tuple[Self, Encoded]:
        made = cls(**pretended_common(texts, family, "accuracy"), label_kind=TWO_CLASSES)
        return made, texts.with_labels(random.integers(0, 2, len(texts)))

    def targets(self, table: Table) -> np.ndarray:
        return self.label_kind.targets(table)

    def loss(self, logits: Tensor, batch: Batch, *, training: bool = True) -> Tensor:
        """The loss of ``logits`` [B, C], or [B, C - 1] of ordered classes.

        That of an evaluation is the cross-entropy of the predicted probabilities, so that runs can be compared.
        """
        assert batch.labels is not None
        weights = batch.targets.get(WEIGHT)
        if training:
            return self.learnt_by(logits, batch.labels, weights)
        plain = ordinal_chances(logits).clamp(min=LEAST).log() if self.learnt_by.ordinal else at_least_fp32(logits)
        return ClassLoss()(plain / self.temperature, batch.labels, weights)

    def predict(self, logits: Tensor, batch: Batch) -> np.ndarray:
        """``logits`` [B, C] -> probabilities [B, C]."""
        if self.learnt_by.ordinal:
            found = ordinal_chances(logits).cpu().numpy()
            return found if self.temperature == 1.0 else tempered(found, self.temperature)
        return self.label_kind.predict(logits / self.temperature)

    def score(self, output: np.ndarray, data: Encoded, unit: float) -> tuple[dict[str, float], list[str]]:
        assert data.labels is not None
        return class_scores(data.labels, self.decided(output), len(self.labels)), []

    def decided(self, output: np.ndarray) -> np.ndarray:
        """The class numbers [N] predicted by probabilities [N, C]."""
        if self.threshold is None:
            return output.argmax(axis=1)
        return (output[:, 1] >= self.threshold).astype(np.int64)

    def by_class(self, output: np.ndarray, data: Encoded) -> dict[str, Any]:
        return by_class(self.labels, data.labels, output, self.decided(output))

    def decided_from(self, threshold: float) -> Self:
        if len(self.labels) != 2:
            said = f"threshold: {threshold:g}; it is for two classes, and this model learnt {len(self.labels)}"
            raise ConfigError([said], "leave it out")
        return replace(self, threshold=threshold)

    @property
    def needs_evaluation(self) -> bool:
        return bool(self.chosen)

    def tuned(self, output: np.ndarray, data: Encoded) -> tuple[Self, np.ndarray]:
        if not self.chosen or data.labels is None:
            return self, output
        temperature = best_temperature(output, data.labels) if "temperature" in self.chosen else 1.0
        output = tempered(output, temperature) if temperature != 1.0 else output
        threshold, truth = None, data.labels
        if "threshold" in self.chosen:
            metric = class_metrics(len(self.labels))[self.metric]
            threshold = best_threshold(output[:, 1], lambda guess: metric(truth, guess))
        return replace(self, temperature=temperature, threshold=threshold), output

    def answer(self, table: Table, using: Using) -> Answers:
        output = using.output(table)
        answers = self.label_kind.answers(output)
        labels = LabelSet(self.labels).decode(self.decided(output))
        return replace(answers, columns={**answers.columns, "label": labels}, labels=labels)


def _loss_of(asked: Asked, labels: ClassLabels) -> ClassLoss:
    """The loss that the options name."""
    options = asked.options
    focal, smoothing = options.get("focal", 0.0), options.get("smoothing", 0.0)
    ordinal = bool(options.get("ordinal"))
    wrong = []
    if not 0 <= focal <= MOST_FOCAL:
        wrong.append(f"objective: focal={focal:g}; a number between 0 and {MOST_FOCAL}")
    if not 0 <= smoothing < 1:
        wrong.append(f"objective: smoothing={smoothing:g}; a number from 0 to below 1")
    if ordinal and (focal or smoothing):
        wrong.append("objective: ordinal goes with weights, not with focal or smoothing")
    if wrong:
        raise ConfigError(wrong, "`docs/objectives.md` has an example of each")
    counts = np.bincount(labels.targets(asked.data), minlength=len(labels.names)).tolist()
    weights = weights_of(options.get("weights", ""), counts, labels.names)
    return ClassLoss(weights, focal, smoothing, ordinal)


def _chosen(asked: Asked, labels: ClassLabels) -> tuple[str, ...]:
    """The names of the values to choose on the evaluation data."""
    found = tuple(name for name in ("temperature", "threshold") if name in asked.options)
    if odd := [f"{name}={asked.options[name]}" for name in found if asked.options[name] != _ON_DEV]:
        hint = f"it is chosen on the evaluation data: write ={_ON_DEV}"
        raise ConfigError([f"objective: {one}" for one in odd], hint)
    if "threshold" in found and len(labels.names) != 2:
        raise ConfigError(
            [f"objective: threshold={_ON_DEV} is for two classes, and there are {len(labels.names)}"], "leave it out"
        )
    return found
