"""``classification``: a class by a new output layer on what the model's own classification head pools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from stratatune.data.encode import Encoded
from stratatune.data.readers import Table
from stratatune.errors import ConfigError
from stratatune.objectives.labels import (
    ClassLabels,
    chosen_metric,
    class_labels,
    labels_data,
)
from stratatune.objectives.metrics import CLASS_METRICS
from stratatune.objectives.objective import Answers, Asked, Using, common_from, common_of
from stratatune.objectives.pooled import Pooled

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase
    from typing_extensions import Self

    from stratatune.data.batching import Batch


@dataclass(frozen=True, kw_only=True)
class Classes(Pooled):
    """One class a text.

    Attributes:
        label_kind: the classes.
    """

    name: ClassVar[str] = "classification"
    summary: ClassVar[str] = "one class a text, by a new output layer"
    metrics: ClassVar[tuple[str, ...]] = tuple(CLASS_METRICS)

    label_kind: ClassLabels

    @classmethod
    def suits(cls, asked: Asked) -> bool:
        """Under a plan without a prompt; on an encoder-decoder where a task says that its labels are classes."""
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
        return cls(**common_of(asked, chosen_metric(asked, labels)), label_kind=labels), []

    @classmethod
    def from_data(cls, data: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Self:
        return cls(**common_from(data), label_kind=ClassLabels(tuple(data["labels"])))

    def to_data(self) -> dict[str, Any]:
        return {**self.common(), **labels_data(self.label_kind)}

    @property
    def labels(self) -> tuple[str, ...]:
        return self.label_kind.names

    def targets(self, table: Table) -> np.ndarray:
        return self.label_kind.targets(table)

    def loss(self, logits: Tensor, batch: Batch, *, training: bool = True) -> Tensor:
        """``logits`` [B, C]."""
        assert batch.labels is not None
        return self.label_kind.loss(logits, batch.labels)

    def predict(self, logits: Tensor, batch: Batch) -> np.ndarray:
        """``logits`` [B, C] -> probabilities [B, C]."""
        return self.label_kind.predict(logits)

    def score(self, output: np.ndarray, data: Encoded, unit: float) -> tuple[dict[str, float], list[str]]:
        return self.label_kind.score(output, data, unit)

    def answer(self, table: Table, using: Using) -> Answers:
        return self.label_kind.answers(using.output(table))
