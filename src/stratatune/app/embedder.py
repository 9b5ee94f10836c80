"""``Embedder``: vectors of texts, a run with scikit-learn's interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin

from stratatune.app.estimator import TextEstimator
from stratatune.app.texts import Texts, columns_of, labels_of, name_of, names_of
from stratatune.data.labels import is_missing
from stratatune.data.roles import SCORES
from stratatune.errors import ConfigError, DataError, ModelError
from stratatune.objectives.retrieval import unit
from stratatune.objectives.vectors import RANKED, SCORED, Vectors

if TYPE_CHECKING:
    from datasets import Dataset
    from pandas import DataFrame
    from typing_extensions import Self

_SCORE = SCORES[0]
_FROZEN = "in a Pipeline, fit the Embedder on pairs first and wrap it: FrozenEstimator(embedder)"
_LEGAL = "give pairs (anchor, positive), also with negatives behind, or pairs of texts with their scores as y"


class Embedder(ClassNamePrefixFeaturesOutMixin, TextEstimator):
    """Vectors of texts: ``Embedder(plan="6: full").fit(pairs).transform(texts)``.

    It is fitted on texts that belong together, and asked for single texts. In a ``Pipeline`` a fitted one stands in
    ``sklearn.frozen.FrozenEstimator``, since the pipeline's own data are no pairs; hence no ``fit_transform``. Options
    of the objective are a setting: ``Embedder(objective="vectors(scale=30)")``.
    """

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import TransformerTags

        tags = super().__sklearn_tags__()
        tags.transformer_tags = TransformerTags(preserves_dtype=[])
        return tags

    def fit(self, X: Any, y: Sequence[float] | None = None) -> Self:
        """Train on texts that belong together.

        Args:
            X: N pairs (anchor, positive); N tuples with one or several negatives behind; or a DataFrame with columns
                ``anchor``, ``positive`` and any number of ``negative``, or ``sentence1``, ``sentence2`` and ``score``
                (docs/vectors.md has further names). Pairs whose scores are given as ``y`` are ``sentence1`` and
                ``sentence2``.
            y: how near the texts of each pair are [N], any range; None: no scores, or a column of ``X``.

        Raises:
            DataError: other rows than these, or scores that are not N numbers.
            ConfigError: the setting ``objective`` names another one than ``vectors``.
        """
        objective = self._settings.get("objective", Vectors.name)
        if str(objective).partition("(")[0].strip() != Vectors.name:
            raise ConfigError(
                [f"objective: {objective!r}"], "legal here: 'vectors', or with options 'vectors(scale=30)'"
            )
        self._train(_pairs(X, y), (), None, objective=Vectors.name)
        return self

    def transform(self, X: Texts) -> np.ndarray:
        """A vector for each text, float32 [N, D].

        Args:
            X: N texts, or a DataFrame with one column. Texts are documents; a column called ``query``, ``question`` or
                ``anchor`` holds queries, which differ where there are prompts or ``query_only``.

        Raises:
            NotFittedError: nothing was fitted.
            DataError: no texts, or more than one column of them.
        """
        return self._vectors(X, *names_of(X))

    def similarity(self, X: Texts, Y: Texts) -> np.ndarray:
        """The cosines of N texts with M others, float32 [N, M].

        ``X`` are queries and ``Y`` documents, or after scored pairs both the same kind of text.
        """
        layout = RANKED if self._objective.label is None else SCORED
        one, other = layout.roles
        return unit(self._vectors(X, one)) @ unit(self._vectors(Y, other, first=1)).T

    def score(self, X: Any, y: Sequence[float] | None = None) -> float:
        """The run's metric on pairs as :meth:`fit` takes them: nDCG@10 of a search, or Spearman's correlation.

        Pairs that are laid out in the other way than those of training have that way's metric.
        """
        metric = self._objective.metric
        pairs = _pairs(X, y)
        found = self._predictor_for(len(pairs)).score(pairs, written=self._blanks)["metrics"]
        return float(found[metric] if metric in found else found["spearman" if "spearman" in found else "ndcg@10"])

    @property
    def _n_features_out(self) -> int:
        """The width D of a vector, which ``get_feature_names_out`` counts."""
        self._fitted()
        return self.predictor_.model.attached.resolved.shape.hidden

    @property
    def _objective(self) -> Vectors:
        """How the vectors are made, as training settled it."""
        self._fitted()
        objective = self.predictor_.objective
        assert isinstance(objective, Vectors)
        return objective

    def _vectors(self, texts: Texts, name: str = "", *more: str, first: int = 0) -> np.ndarray:
        """The vectors [N, D] of one column of texts, whose name says which side they are."""
        objective, columns = self._objective, columns_of(texts)
        if len(columns) != 1 or more:
            raise DataError(f"{len(columns)} text columns were given", "a vector is of one text; similarity takes two")
        rows: Any = columns[0]
        if not rows:
            return np.empty((0, self._n_features_out), np.float32)
        predictor = self._predictor_for(len(rows) // 2)  # a row of training has two texts at least
        table = predictor.read(_table({name: rows}) if name else rows, written=self._blanks)
        return objective.vectors(table, predictor, first=first)[0].astype(np.float32, copy=False)

    def _recall(self, classes: np.ndarray | None, columns: tuple[str, ...], sets: str) -> None:
        """The folder remembers all that is asked for; one of another objective has no vectors."""
        if self._predictor is not None and not isinstance(self._predictor.objective, Vectors):
            name = self._predictor.objective.name
            raise ModelError(f"this run learnt {name}, and no vectors", "st.Predictor reads a run of any objective")


def _table(columns: dict[str, list[Any]]) -> Dataset:
    from datasets import Dataset

    return Dataset.from_dict(columns)


def _pairs(rows: Any, scores: Any) -> Dataset | DataFrame:
    """Texts that belong together, in columns whose names say what each is for."""
    if names := names_of(rows):
        if scores is None:
            return rows
        if twice := next((name for name in names if name in SCORES), None):
            raise DataError(f"the scores are given twice, as the column {twice!r} and as y", "leave out one of them")
        columns = dict(zip(names, columns_of(rows), strict=True))
    else:
        columns = _named(_tuples(rows), scored=scores is not None)
    if scores is None:
        return _table(columns)
    values = [score.item() if hasattr(score, "item") else score for score in labels_of(scores)]
    count = len(next(iter(columns.values())))
    if len(values) != count:
        raise DataError(f"{count} pairs but {len(values)} scores", "give a score for each pair")
    return _table({**columns, _SCORE: [value if isinstance(value, float) else name_of(value) for value in values]})


def _tuples(rows: Any) -> list[list[Any]]:
    """N rows of as many texts each, two at least; a missing text is None."""
    values = rows.to_numpy() if hasattr(rows, "columns") else rows
    values = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        raise DataError(f"these are no pairs of texts, but a {type(rows).__name__}", _LEGAL)
    if not values:
        raise DataError("there are no pairs to learn from", _LEGAL)
    found = []
    for number, row in enumerate(values, start=1):
        if isinstance(row, str):
            raise DataError(f"row {number} is one text and no pair: {row[:40]!r}", f"{_LEGAL}; {_FROZEN}")
        if not isinstance(row, list | tuple | np.ndarray) or len(row) < 2:
            raise DataError(f"row {number} is no pair of texts: {str(row)[:40]!r}", _LEGAL)
        if len(row) != len(values[0]):
            raise DataError(f"row {number} has {len(row)} texts, and row 1 has {len(values[0])}", _LEGAL)
        cells = [None if is_missing(cell) else cell for cell in row]
        if odd := [cell for cell in cells if not (cell is None or isinstance(cell, str))]:
            raise DataError(f"row {number} holds {odd[0]!r}, which is no text", "give strings; scores are given as y")
        found.append(cells)
    return found


def _named(rows: list[list[Any]], *, scored: bool) -> dict[str, list[Any]]:
    """Columns by the names of their roles."""
    width = len(rows[0])
    if scored and width != 2:
        raise DataError(f"{width} texts in a row, and a score for each row", "scores are of pairs; leave y out")
    (negative,) = RANKED.repeated
    names = list(SCORED.roles if scored else RANKED.roles)
    names += [f"{negative}_{number}" for number in range(1, width - 1)]
    return {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
