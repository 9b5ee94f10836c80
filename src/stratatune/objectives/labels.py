"""Labels: one of several classes, or a number. Shared by the objectives that read one label a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

from stratatune.data.encoded import Encoded
from stratatune.data.labels import LabelSet, numbers
from stratatune.data.readers import Table
from stratatune.errors import DataError, shown
from stratatune.objectives.answers import Answers
from stratatune.objectives.asked import Asked
from stratatune.objectives.metrics import (
    CLASS_METRICS,
    CORRELATIONS,
    VALUE_METRICS,
    check_metric,
    class_scores,
    no_correlation,
    value_scores,
)
from stratatune.objectives.saved import Names, checked
from stratatune.objectives.tensors import at_least_fp32, mean
from stratatune.objectives.weights import with_weights
from stratatune.outside import Written

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Self


def scores_of(names: Sequence[str], output: np.ndarray) -> dict[str, list[float]]:
    """Columns for a table of predictions: a score for each class, from ``output`` [N, C]."""
    return {f"p_{name}": output[:, number].tolist() for number, name in enumerate(names)}


@dataclass(frozen=True)
class ClassLabels:
    """Classes, in the order of the logits."""

    metrics: ClassVar[tuple[str, ...]] = tuple(CLASS_METRICS)
    metric: ClassVar[str] = "accuracy"
    value_range: ClassVar[None] = None

    names: tuple[str, ...]

    @property
    def worded(self) -> tuple[str, ...]:
        """The names that have a label word: one for each class."""
        return self.names

    def targets(self, table: Table) -> np.ndarray:
        """Class numbers int64 [N]."""
        return LabelSet(self.names).encode(table.labels or [], table.source, table.rows)

    def loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Mean cross-entropy: ``logits`` [B, C], ``targets`` [B], ``weights`` [B]."""
        from torch.nn.functional import cross_entropy

        if weights is None:
            return cross_entropy(at_least_fp32(logits), targets)
        return mean(cross_entropy(at_least_fp32(logits), targets, reduction="none"), weights)

    def predict(self, logits: Tensor) -> np.ndarray:
        """``logits`` [B, C] -> probabilities [B, C]."""
        return logits.float().softmax(dim=1).cpu().numpy()

    def score(self, output: np.ndarray, data: Encoded, unit: float) -> tuple[dict[str, float], list[str]]:
        """Score ``output`` [N, C] against the data's classes."""
        assert data.labels is not None
        return class_scores(data.labels, output.argmax(axis=1), len(self.names)), []

    def answers(self, output: np.ndarray) -> Answers:
        """``output`` [N, C] as a label and a probability for each class."""
        labels = LabelSet(self.names).decode(output.argmax(axis=1))
        scores = scores_of(self.names, output)
        chances = dict(zip(scores, self.names, strict=True))
        return Answers({"label": labels, **scores}, labels=labels, probabilities=output, chances=chances)


@dataclass(frozen=True)
class NumberLabels:
    """Numbers in a range whose ends may have a word each: the words' probabilities give the position in between.

    LM-BFF (Gao et al. 2021, section 3.2): P(high) = (y - low) / (high - low), learnt as a soft target.
    """

    metrics: ClassVar[tuple[str, ...]] = tuple(VALUE_METRICS)
    metric: ClassVar[str] = "pearson"
    names: ClassVar[tuple[str, ...]] = ()
    worded: ClassVar[tuple[str, ...]] = ("low", "high")

    low: float
    high: float

    @property
    def value_range(self) -> tuple[float, float]:
        """The two ends of the range."""
        return self.low, self.high

    def targets(self, table: Table) -> np.ndarray:
        """Values float32 [N]."""
        return np.asarray(numbers(table.labels or [], table.source, table.rows), np.float32)

    def loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Mean cross-entropy of the words of both ends: ``logits`` [B, 2], ``targets`` [B], ``weights`` [B]."""
        import torch
        from torch.nn.functional import cross_entropy

        logits = at_least_fp32(logits)
        share = (targets.to(logits.dtype) - self.low) / (self.high - self.low)
        both = torch.stack([1 - share, share], dim=1)
        if weights is None:
            return cross_entropy(logits, both)
        return mean(cross_entropy(logits, both, reduction="none"), weights)

    def predict(self, logits: Tensor) -> np.ndarray:
        """``logits`` [B, 2] of the words of both ends -> values [B]."""
        return (self.low + (self.high - self.low) * logits.float().softmax(dim=1)[:, 1]).cpu().numpy()

    def score(self, output: np.ndarray, data: Encoded, unit: float) -> tuple[dict[str, float], list[str]]:
        """Score ``output`` [N], from the words of both ends, against the data's values."""
        return self.scored(output, data, unit * (self.high - self.low))

    def scored(self, output: np.ndarray, data: Encoded, rounding: float) -> tuple[dict[str, float], list[str]]:
        """Score predictions that are rounded to multiples of ``rounding``."""
        assert data.labels is not None
        why = no_correlation(data.labels, output, rounding)
        notices = [f"{' and '.join(CORRELATIONS)} are 0: {why}"] if why else []
        return value_scores(data.labels, output, rounding), notices

    def answers(self, output: np.ndarray) -> Answers:
        """``output`` [N] as a column of values."""
        return Answers({"value": output.tolist()}, values=output)


Labels = ClassLabels | NumberLabels
TWO_CLASSES = ClassLabels(("no", "yes"))
"""The classes of made-up data."""


def class_labels(asked: Asked) -> ClassLabels:
    """The classes of a run: the task's where there is one, else those of the training data.

    Raises:
        DataError: no labels, or labels that are not classes to learn from.
    """
    found = LabelSet.infer(_written(asked), asked.data.source)
    return ClassLabels(asked.task.labels if asked.task and asked.task.labels else found.names)


def number_labels(asked: Asked) -> NumberLabels:
    """The numbers of a run: the task's range, else that of the training data.

    Raises:
        DataError: no labels, labels that are not numbers, or all the same.
    """
    written, table = _written(asked), asked.data
    if asked.task and asked.task.range:
        return NumberLabels(*asked.task.range)
    values = np.asarray(numbers(written, table.source, table.rows))
    if np.ptp(values) == 0:
        raise DataError(f"{table.source}: every label is {values[0]:g}", "regression needs labels that differ")
    if np.ptp(values.astype(np.float32)) == 0:
        # Targets are in single precision: the differences would be lost, and a run would learn one number.
        fix = f"subtract {values.min():.15g} from all of them"
        raise DataError(f"{table.source}: labels near {values[0]:g} differ by less than a run can compute with", fix)
    return NumberLabels(float(values.min()), float(values.max()))


def labels_of(asked: Asked) -> Labels:
    """Numbers where the task's labels are numbers, else classes."""
    return number_labels(asked) if asked.numeric else class_labels(asked)


def _written(asked: Asked) -> Any:
    if asked.data.labels is None:
        raise DataError(f"{asked.data.source} has no labels", "name the label column with --label")
    return asked.data.labels


_Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Saved(Written):
    """Labels as they are saved; version 0.1.0 wrote both keys, one of them empty."""

    labels: Names | None = None
    value_range: tuple[_Finite, _Finite] | None = None

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.value_range is not None and self.value_range[0] >= self.value_range[1]:
            raise ValueError(f"value_range: {shown(self.value_range)} is not a range")
        return self


def labels_from(data: Mapping[str, Any]) -> Labels:
    """Labels from saved data.

    Raises:
        ValidationError: pydantic's: they are not labels.
    """
    return number_labels_from(data) if data.get("value_range") else class_labels_from(data)


def class_labels_from(data: Mapping[str, Any]) -> ClassLabels:
    """Classes from saved data; errors as :func:`labels_from`."""
    return ClassLabels(checked(_Saved, data).labels or ())


def number_labels_from(data: Mapping[str, Any]) -> NumberLabels:
    """Numbers from saved data; errors as :func:`labels_from`."""
    found = checked(_Saved, data).value_range
    if found is None:
        raise ValueError("value_range is missing")
    return NumberLabels(*found)


def labels_data(labels: Labels) -> dict[str, Any]:
    """Labels as plain data for JSON."""
    return {"labels": list(labels.names), "value_range": labels.value_range and list(labels.value_range)}


def chosen_metric(asked: Asked, labels: Labels) -> str:
    """The metric that the settings name, else the task's, else accuracy or Pearson's correlation.

    Raises:
        ConfigError: there is no such metric for these labels.
    """
    own = asked.task.metric if asked.task else labels.metric
    return check_metric(asked.metric or own, labels.metrics, "numbers" if labels.value_range else "classes")


def with_targets(encoded: Encoded, labels: Labels, table: Table) -> Encoded:
    """``encoded`` with a label for each text, where the table has labels, and a weight where it has weights."""
    return encoded if table.labels is None else with_weights(encoded.with_labels(labels.targets(table)), table)
