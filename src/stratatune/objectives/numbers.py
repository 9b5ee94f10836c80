"""``regression``: a number by a new output layer, learnt by the mean squared error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from stratatune.data.encoded import Encoded
from stratatune.data.labels import numbers
from stratatune.data.readers import Table
from stratatune.data.splitting import RowLabels, halves
from stratatune.objectives.answers import Answers, Using
from stratatune.objectives.asked import Asked, common_of, pretended_common
from stratatune.objectives.labels import NumberLabels, chosen_metric, labels_data, number_labels, number_labels_from
from stratatune.objectives.metrics import CORRELATIONS, VALUE_METRICS
from stratatune.objectives.pooled import Pooled
from stratatune.objectives.saved import checked, common_from
from stratatune.objectives.tensors import at_least_fp32, mean
from stratatune.objectives.weights import WEIGHT
from stratatune.outside import Written

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase
    from typing_extensions import Self

    from stratatune.data.batching import Batch

_FAR = 10.0
"""Labels of this size are out of reach of an output layer that begins near 0 and moves by the learning rate."""
_Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Saved(Written):
    """Version 0.1.0 wrote neither."""

    mean: _Finite = 0.0
    deviation: Annotated[_Finite, Field(gt=0)] = 1.0


@dataclass(frozen=True, kw_only=True)
class Numbers(Pooled):
    """One number a text.

    Attributes:
        label_kind: the range of the numbers, which binds no prediction.
        mean, deviation: the output is how many deviations a number lies above the mean; the numbers themselves, unless
            they are large: those are out of reach of an output that begins near 0.
    """

    name: ClassVar[str] = "regression"
    summary: ClassVar[str] = "one number per text, with a new output layer"
    metrics: ClassVar[tuple[str, ...]] = tuple(VALUE_METRICS)
    smaller_is_better: ClassVar[frozenset[str]] = frozenset({"mse"})
    bounded: ClassVar[frozenset[str]] = frozenset(CORRELATIONS)

    label_kind: NumberLabels
    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def suits(cls, asked: Asked) -> bool:
        """Whether a task's labels are numbers, and the plan or the model reads no label word."""
        return asked.numeric and (not asked.prompted or asked.family == "encoder-decoder")

    @classmethod
    def settle(cls, asked: Asked) -> tuple[Self, list[str]]:
        labels = number_labels(asked)
        made = cls(**common_of(asked, chosen_metric(asked, labels)), label_kind=labels)
        values = made.targets(asked.data).astype(float)
        given = asked.data.further.get(WEIGHT)
        weights = np.ones(len(values)) if given is None else np.asarray(given, float)
        # A row that weighs nothing is left out.
        if np.abs(values[weights > 0]).max(initial=0.0) < _FAR:
            return made, []
        mean = float(np.average(values, weights=weights))
        deviation = float(np.average((values - mean) ** 2, weights=weights)) ** 0.5
        made = replace(made, mean=mean, deviation=deviation or 1.0)  # 0: one label alone weighs anything
        return made, [
            f"labels lie between {labels.low:g} and {labels.high:g}: the output layer learns their deviations from the "
            f"mean, {made.mean:g}, in units of {made.deviation:g}; predictions are in the unit of the labels"
        ]

    @classmethod
    def from_data(cls, data: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Self:
        return cls(**common_from(data), label_kind=number_labels_from(data), **dict(checked(_Saved, data)))

    def to_data(self) -> dict[str, Any]:
        own: dict[str, Any] = {}
        if (self.mean, self.deviation) != (0.0, 1.0):
            scale = {"mean": self.mean, "deviation": self.deviation}
            own = {**scale, "units": [{"name": self.label or "value", "head": None, "output": 0, **scale}]}
        return {**self.common(), **labels_data(self.label_kind), **own}

    @classmethod
    def labels_by_row(cls, table: Table, options: Mapping[str, Any]) -> RowLabels | None:
        """Which half of the numbers each is in: what is trained on has both."""
        return None if table.labels is None else halves(numbers(table.labels, table.source, table.rows))

    def targets(self, table: Table) -> np.ndarray:
        return self.label_kind.targets(table)

    @classmethod
    def pretended(cls, texts: Encoded, family: str, random: np.random.Generator) -> tuple[Self, Encoded]:
        made = cls(**pretended_common(texts, family, NumberLabels.metric), label_kind=NumberLabels(0.0, 1.0))
        return made, texts.with_labels(random.random(len(texts)))

    def loss(self, logits: Tensor, batch: Batch, *, training: bool = True) -> Tensor:
        """Mean squared error, in deviations: ``logits`` [B, 1]."""
        from torch.nn.functional import mse_loss

        assert batch.labels is not None
        values = at_least_fp32(logits[:, 0])
        wanted = (batch.labels.to(values.dtype) - self.mean) / self.deviation
        losses = mse_loss(values, wanted, reduction="none")
        return mean(losses, batch.targets.get(WEIGHT))

    def predict(self, logits: Tensor, batch: Batch) -> np.ndarray:
        """``logits`` [B, 1] -> values [B]."""
        return (self.mean + self.deviation * logits[:, 0].float()).cpu().numpy()

    def score(self, output: np.ndarray, data: Encoded, unit: float) -> tuple[dict[str, float], list[str]]:
        # No word bounds these values, so the effect of rounding depends on their own size. What they share, such as the
        # bias of a year, the output layer adds in fp32: it rounds nothing.
        assert data.labels is not None
        size = min(float(np.abs(output).max(initial=0.0)), float(np.ptp(data.labels)) if len(data.labels) else 0.0)
        return self.label_kind.scored(output, data, unit * size)

    def answer(self, table: Table, using: Using) -> Answers:
        return self.label_kind.answers(using.output(table))
