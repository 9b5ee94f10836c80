"""``Classifier`` and ``Regressor``: runs with scikit-learn's interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import r2_score

from stratatune.app.checks import check_known_type, read_once, sample_weights
from stratatune.app.sets import LabelSets, sets_of, truth_of
from stratatune.app.text_estimator import TextEstimator
from stratatune.app.texts import (
    Texts,
    as_known,
    classes_of,
    labels_of,
    name_of,
    same_number,
    weights_of,
)
from stratatune.data.labels import numbers
from stratatune.errors import DataError
from stratatune.objectives.objective import Objective
from stratatune.plan import shape_of
from stratatune.training.config import AUTO

if TYPE_CHECKING:
    from typing_extensions import Self


class Classifier(ClassifierMixin, TextEstimator):
    """Classes of texts: ``Classifier().fit(texts, labels).predict(texts)``.

    With an indicator matrix [N, C], or a list of labels for each text, it learns any number of labels per text.
    """

    classes_: np.ndarray
    _learns = ("classification", "multilabel", "mlm", "causal")
    _sets: str = ""

    def __init__(
        self,
        plan: Any = AUTO,
        *,
        model: str = "roberta-base",
        verbose: bool = False,
        class_weight: Mapping[Any, float] | str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(plan, model=model, verbose=verbose, **settings)
        self.class_weight = class_weight

    @classmethod
    def _answers(cls, objective: Objective) -> bool:
        return bool(objective.labels)  # mlm and causal may learn numbers

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def fit(self, X: Texts, y: Any, sample_weight: Sequence[float] | None = None) -> Self:
        """Train on texts and their labels of any one kind.

        Args:
            X: N texts, or N pairs of them.
            y: N labels, N lists of labels, or an indicator matrix [N, C].
            sample_weight: how much each text counts in the loss [N], 0 or more.
        """
        self._check_objective()
        y = read_once(y)
        asked = str(self._settings.get("objective")).startswith("multilabel")
        if (found := sets_of(y, asked=asked)) is not None:
            return self._fit_sets(X, found, sample_weight)
        if asked:
            raise DataError("one label was given for each text", "multilabel learns lists of labels, or a 0/1 matrix")
        labels = labels_of(y)
        classes = classes_of(labels)
        weights = weights_of(labels, self.class_weight, sample_weight)
        # An encoder-decoder would write labels as text, and here they are classes.
        given = {"objective": "classification"} if len(shape_of(self._base_or_start()).stacks) > 1 else {}
        self._fit(X, [name_of(label) for label in labels], classes, weights, **given)
        self.classes_ = classes
        return self

    def _fit_sets(self, X: Texts, y: LabelSets, sample_weight: Sequence[float] | None) -> Self:
        if self.class_weight is not None:
            hint = 'objective="multilabel(weights=balanced)" does the same for labels; a sample_weight is for texts'
            raise DataError("class_weight needs one class per text", hint)
        rows = [[name_of(label) for label in row] for row in y.rows]
        weights = weights_of(np.zeros(len(rows)), None, sample_weight)
        self._fit(X, rows, y.classes, weights, "matrix" if y.matrix else "lists", objective="multilabel")
        self.classes_ = y.classes
        return self

    def predict(self, X: Texts) -> Any:
        """The class of each text [N]; for label sets an indicator matrix [N, C] or lists, as in `fit`.

        Label sets are chosen with the thresholds of the run (``objective="multilabel(threshold=...)"``).
        """
        found = self._ask(X)
        if self._sets:
            rows = _sets_in(found)
            chosen = np.array([[name_of(one) in row for one in self.classes_] for row in rows], int)
            chosen = chosen.reshape(len(rows), len(self.classes_))
            return chosen if self._sets == "matrix" else [self.classes_[row > 0].tolist() for row in chosen]
        if found is None:
            return self.classes_[:0]
        places = {name_of(one): place for place, one in enumerate(self.classes_)}
        return self.classes_[[places[label] for label in found.labels]]

    def predict_proba(self, X: Texts) -> np.ndarray:
        """Probabilities [N, C], columns in the order of ``classes_``; 0 for a label that no text had in training."""
        found = self._ask(X)
        if found is None:
            return np.empty((0, len(self.classes_)), np.float32)
        column = {label: number for number, label in enumerate(self.predictor_.labels)}
        chances = np.pad(found.probabilities, ((0, 0), (0, 1)))
        return chances[:, [column.get(name_of(one), -1) for one in self.classes_]]

    def score(self, X: Texts, y: Any, sample_weight: Any = None) -> float:
        """The share of texts whose label, or whole set of labels, is right.

        Args:
            X: N texts, or N pairs of them.
            y: N labels; for label sets N lists, an indicator matrix [N, C] in the order of ``classes_``, or a DataFrame
                of one, whose columns go by their names.
            sample_weight: how much each text counts [N], 0 or more.

        Raises:
            DataError: other labels than one, or one set, for each text, columns that are not those of ``classes_``, or
                a label or weight that is none; it names the row.
        """
        self._fitted()
        truth: Any
        if self._sets:
            truth = truth_of(y, self.classes_, lists=self._sets == "lists")
        else:
            check_known_type(truth := labels_of(y), self.classes_)
        weights = sample_weights(as_known(sample_weight), len(truth))
        found: Any = _sets_in(self._ask(X)) if self._sets else self.predict(X)
        same_number(len(found), len(truth))
        right = [set(one) == other if self._sets else one == other for one, other in zip(found, truth, strict=True)]
        if not right:
            raise DataError("there are no texts to score", "give at least one text and its label")
        return float(np.average(right, weights=weights))

    def _recall(self, classes: np.ndarray | None, columns: tuple[str, ...], sets: str) -> None:
        super()._recall(classes, columns, sets)
        # A run that no estimator made knows its labels as text.
        self.classes_ = np.array(self.predictor_.labels) if classes is None else classes
        own = classes is None and self.predictor_.objective.name == "multilabel"
        self._sets = "lists" if own and not sets else sets


class Regressor(RegressorMixin, TextEstimator):
    """Numbers of texts: ``Regressor().fit(texts, values).predict(texts)``."""

    _learns = ("regression", "mlm", "causal")

    @classmethod
    def _answers(cls, objective: Objective) -> bool:
        return not objective.labels

    def fit(self, X: Texts, y: Sequence[float], sample_weight: Sequence[float] | None = None) -> Self:
        """Train on texts and numbers; ``sample_weight`` [N] is the weight of each text in the loss."""
        self._check_objective()
        values = labels_of(y)
        weights = weights_of(values, None, sample_weight)
        self._fit(X, numbers(values.tolist(), "y"), weights=weights, objective="regression")
        return self

    def predict(self, X: Texts) -> np.ndarray:
        """A number for each text [N]."""
        found = self._ask(X)
        return np.empty(0, np.float32) if found is None else found.values

    def score(self, X: Texts, y: Any, sample_weight: Any = None) -> float:
        """The coefficient of determination, R squared, of the predicted numbers.

        Raises:
            DataError: other than one number for each text, or a weight that is none; it names the row.
        """
        self._fitted()
        values = np.array(numbers(labels_of(y).tolist(), "y"))
        weights = sample_weights(as_known(sample_weight), len(values))
        found = self.predict(X)
        same_number(len(found), len(values))
        if not len(found):
            raise DataError("there are no texts to score", "give at least one text and its label")
        return float(r2_score(values, found, sample_weight=weights))


def _sets_in(found: Any) -> list[list[str]]:
    """The labels of each text in the predictions for them; nothing where there are none."""
    return [] if found is None else found.columns["labels"]
