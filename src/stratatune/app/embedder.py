"""``Embedder``: a vector for each text, a run with scikit-learn's interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stratatune.app.estimator import TextEstimator
from stratatune.data.written import Written
from stratatune.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset
    from typing_extensions import Self

_RANKED, _SCORED, _SCORE = ("anchor", "positive", "negative"), ("sentence1", "sentence2"), "score"
_QUERY, _DOCUMENT = _RANKED[:2]


class Embedder(TextEstimator):
    """Vectors of texts: ``Embedder(plan="3/4: full").fit(pairs).transform(texts)``.

    It is fitted to pairs of texts that belong together, to triplets whose third text does not, or to pairs with a score
    of how much they do; then it turns single texts into vectors. A fitted one becomes a step of a ``Pipeline`` inside
    scikit-learn's ``FrozenEstimator``. Options of the objective are a setting:
    ``Embedder(objective="vectors(pooling=first)")``.
    """

    def fit(self, X: Any, y: Sequence[float] | None = None) -> Self:
        """Train on N pairs or triplets of texts, or on N pairs and their scores.

        Args:
            X: tuples of strings: anchor, positive and any number of negatives, or two sentences where there are scores;
                or a DataFrame whose columns have these names (docs/vectors.md).
            y: the score of each pair [N]; None where there are none, or where the DataFrame holds them.

        Raises:
            DataError: X is neither of these, or there is not one score for each pair.
        """
        self._train(_data_set(X, y), (), None, objective="vectors")
        return self

    def transform(self, X: Sequence[str]) -> np.ndarray:
        """A vector for each text, float [N, D]; with the prompt of queries, if the objective has one."""
        return self._vectors(X, _QUERY)

    def transform_documents(self, X: Sequence[str]) -> np.ndarray:
        """The same with the prompt of documents; by the untuned model where ``query_only`` leaves them as is."""
        return self._vectors(X, _DOCUMENT)

    def similarity(self, X: Any) -> np.ndarray:
        """The cosine of each of N pairs of texts [N]."""
        rows = _rows(X)
        self._fitted()
        if not rows:
            return np.empty(0)
        if odd := [row for row in rows if isinstance(row, str) or len(row) != 2]:
            raise DataError(f"this is no pair of texts: {odd[0]!r:.60}", "give two texts for each")
        return np.asarray(self.predictor_.predict(_as_dataset(rows, _RANKED)).columns["similarity"])

    def score(self, X: Any, y: Sequence[float] | None = None) -> float:
        """The metric that selects an epoch: nDCG at 10 of pairs, Spearman's correlation of pairs with scores."""
        found = self.predictor_.score(_data_set(X, y))
        return float(found["metrics"][self.predictor_.objective.metric])

    def _vectors(self, texts: Sequence[str], role: str) -> np.ndarray:
        rows = _rows(texts)
        if odd := [row for row in rows if not isinstance(row, str)]:
            raise DataError(f"this is no text: {odd[0]!r:.60}", "give a list of strings")
        self._fitted()
        if not rows:
            return np.empty((0, self.predictor_.model.config.hidden_size))
        found = self.predictor_.predict(
            _as_dataset([(row,) for row in rows], (role,)), written=Written(bad_rows="empty")
        )
        return np.asarray(found.columns["vector"])

    def _recall(self, classes: np.ndarray | None, columns: tuple[str, ...], sets: str) -> None:
        """The folder remembers all that is asked for."""


def _data_set(texts: Any, scores: Sequence[float] | None) -> Dataset:
    """Pairs, triplets or scored pairs as a table whose columns are named by their roles."""
    from datasets import Dataset

    if hasattr(texts, "columns"):
        table = Dataset.from_pandas(texts, preserve_index=False)
    else:
        rows = _rows(texts)
        if odd := [row for row in rows if isinstance(row, str) or len(row) < 2]:
            raise DataError(f"this is no pair of texts: {odd[0]!r:.60}", "give two texts or more for each example")
        table = _as_dataset(rows, _RANKED if scores is None else _SCORED)
    if scores is None:
        return table
    values = scores.tolist() if hasattr(scores, "tolist") else list(scores)  # pyright: ignore[reportAttributeAccessIssue]
    if len(values) != len(table):
        raise DataError(f"{len(table)} pairs but {len(values)} scores", "give a score for each pair")
    return table.add_column(_SCORE, values)


def _as_dataset(rows: Sequence[Sequence[str]], names: Sequence[str]) -> Dataset:
    """Rows of equally many texts; further negatives are numbered."""
    from datasets import Dataset

    counts = {len(row) for row in rows}
    if len(counts) > 1:
        raise DataError(f"examples of {min(counts)} and of {max(counts)} texts", "give each example as many texts")
    count = counts.pop() if counts else len(names)
    if names == _SCORED and count != 2:
        raise DataError(f"examples of {count} texts with scores", "give two texts for each score")
    known = [*names[:count], *(f"{names[-1]}_{number}" for number in range(2, 2 + count - len(names)))]
    return Dataset.from_dict({name: [row[at] for row in rows] for at, name in enumerate(known)})


def _rows(rows: Any) -> list[Any]:
    """Arrays and Series as lists; a bare text is no list of texts."""
    if isinstance(rows, str):
        raise DataError(f"one text was given, not a list of texts: {rows[:40]!r}", "put it into a list: [text]")
    if hasattr(rows, "columns"):
        rows = rows.to_numpy()
    return rows.tolist() if hasattr(rows, "tolist") else list(rows)
