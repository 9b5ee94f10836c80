"""``Embedder``: a vector for each text, by a run with scikit-learn's interface."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import TransformerTags

from stratatune.app.checks import read_once
from stratatune.app.text_estimator import TextEstimator
from stratatune.app.texts import as_known, labels_of, name_of, names_of
from stratatune.data.frames import dataset_of
from stratatune.data.labels import is_missing
from stratatune.data.roles import SCORES
from stratatune.errors import DataError, counted, shown, with_article
from stratatune.objectives.registry import written
from stratatune.objectives.vectors import RANKED, SCORED, Vectors

if TYPE_CHECKING:
    from datasets import Dataset
    from pandas import DataFrame
    from typing_extensions import Self

_SCORE = SCORES[0]
_QUERY, _DOCUMENT = RANKED.roles
_FROZEN = "in a Pipeline a fitted one is wrapped: FrozenEstimator(embedder)"
_CORPUS = ("corpus", "corpus_column")
_OTHERWISE = ("ndcg@10", "spearman")
"""The metrics of pairs without scores and of pairs with scores, if the run selected by the other one."""


class _NeverBoth:
    """No ``fit_transform``: what is fitted are pairs, and what is transformed are single texts."""

    @property
    def fit_transform(self) -> Any:
        raise AttributeError(f"{type(self).__name__} has no fit_transform: it is fitted to pairs, and transforms texts")


class Embedder(_NeverBoth, ClassNamePrefixFeaturesOutMixin, TransformerMixin, TextEstimator):
    """Vectors of texts: ``Embedder(plan="3/4: full").fit(pairs).transform(texts)``.

    It is fitted to pairs of texts that belong together, to triplets whose third text does not, or to pairs with a score
    of how much they do; then it turns single texts into vectors. A fitted one becomes a step of a ``Pipeline`` inside
    scikit-learn's ``FrozenEstimator``, since a pipeline's own texts and labels are not pairs; so there is no
    ``fit_transform``. Options of the objective are a setting: ``Embedder(objective="vectors(pooling=first)")``. So is
    a corpus, ``Embedder(corpus=texts)``: documents that :meth:`score` searches besides those of its pairs, and ``fit``
    in its evaluations and for hard negatives, where it makes or mines any.
    """

    _learns = (Vectors.name,)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags = TransformerTags(preserves_dtype=[])
        return tags

    def fit(self, X: Any, y: Sequence[float] | None = None) -> Self:
        """Train on N pairs or triplets of texts, or on N pairs and their scores.

        Args:
            X: tuples of strings: anchor, positive and any number of negatives, or two sentences where there are scores;
                or a DataFrame whose columns have these names (docs/vectors.md).
            y: the score of each pair [N]; None where there are none, or where the DataFrame holds them.

        Raises:
            DataError: X is neither of these, or there is not one score for each pair.
            ConfigError: the setting ``objective`` names another one than ``vectors``.
        """
        self._check_objective()
        unread = () if self._reads_corpus else _CORPUS
        self._train(_data_set(X, y), (), None, unread=unread, objective=Vectors.name)
        return self

    @property
    def _reads_corpus(self) -> bool:
        """Whether a run of these settings reads a corpus: it is evaluated, or mines negatives from it."""
        given = self._settings
        evaluated = given.get("eval") is not None or given.get("eval_split") is not None
        _, options = written(str(given.get("objective", Vectors.name)))
        return evaluated or Vectors.learns_from_corpus(options)

    def transform(self, X: Any) -> np.ndarray:
        """A vector for each text, float32 [N, D]; with the prompt of queries, if the objective has one.

        Raises:
            NotFittedError: it is not fitted.
            DataError: X is not a list, array, Series or DataFrame of single texts, or one is empty
                (the setting ``bad_rows`` reads it as an empty text).
        """
        return self._vectors(X, _QUERY)

    def transform_documents(self, X: Any) -> np.ndarray:
        """A vector for each text, with the prompt of documents; ``query_only`` keeps the untuned model's."""
        return self._vectors(X, _DOCUMENT)

    def similarity(self, X: Any) -> np.ndarray:
        """The cosine [N] of each of N pairs of texts: a query and a document, or two sentences, as in training.

        The columns of a DataFrame go by their names, as those of training do, or by their order where these say
        nothing.
        """
        objective, rows = self._objective, _rows(X)
        layout = RANKED if objective.label is None else SCORED
        if not rows:
            return np.empty(0, np.float32)
        if by_role := layout.find(names_of(X), "the data frame"):
            rows = as_known(X)[[name for name, role in by_role.items() if role in layout.roles]].to_numpy().tolist()
        _check(rows, "a pair of texts", lambda row: isinstance(row, _ROW) and len(row) == 2, "give two texts for each")
        columns = _named(rows, tuple(layout.roles))
        found = self._predictor_for(len(rows)).predict(dataset_of(columns), written=self._blanks).values
        assert found is not None
        return found

    def score(self, X: Any, y: Sequence[float] | None = None) -> float:
        """The metric that selects an epoch: nDCG at 10 of pairs, Spearman's correlation of pairs with scores.

        Data with scores, after training without them, and the other way round, are scored by the metric of their kind.
        Pairs without scores search the setting ``corpus``, too.
        """
        metric, data = self._objective.metric, _data_set(X, y)
        predictor, searched = self._predictor_for(len(data)), dict[str, Any]()
        own = {name: vars(self)[name] for name in _CORPUS}
        written = self._bad_rows
        if own["corpus"] is not None and predictor.read(data, written=written, need_labels=True).labels is None:
            searched = own
        found = predictor.score(data, **searched, written=written)["metrics"]
        return float(next(found[name] for name in (metric, *_OTHERWISE) if name in found))

    @property
    def _objective(self) -> Vectors:
        """The objective that makes the vectors, as training settled it."""
        self._fitted()
        objective = self.predictor_.objective
        assert isinstance(objective, Vectors)
        return objective

    @property
    def _n_features_out(self) -> int:
        """The width D of a vector, which ``get_feature_names_out`` counts."""
        self._fitted()
        return self.predictor_.model.attached.resolved.shape.hidden

    def _vectors(self, texts: Any, role: str) -> np.ndarray:
        """The vectors [N, D] of texts on one side."""
        objective, rows = self._objective, _texts(texts)
        if not rows:
            return np.empty((0, self._n_features_out), np.float32)
        predictor = self._predictor_for(len(rows) // 2)  # a row of training has two texts at least
        table = predictor.read(dataset_of({role: rows}), written=self._blanks)
        return objective.vectors(table, predictor)[0].astype(np.float32, copy=False)

    def _recall(self, classes: np.ndarray | None, columns: tuple[str, ...], sets: str) -> None:
        """Remember everything that is requested in the folder."""


_ROW = (list, tuple, np.ndarray)


def _data_set(texts: Any, scores: Any) -> Dataset | DataFrame:
    """A table of pairs, triplets or scored pairs, whose columns are named by their roles."""
    texts = read_once(as_known(texts))
    if names := names_of(texts):
        if scores is None:
            return texts
        if twice := next((name for name in names if name in SCORES), None):
            raise DataError(f"scores are given twice, as the column {twice!r} and as y", "leave out one of them")
        columns = {name: texts[name].tolist() for name in names}
    else:
        rows = _rows(texts)
        fix = f"give tuples of two texts or more; {_FROZEN}"
        _check(rows, "a pair of texts", lambda row: isinstance(row, _ROW) and len(row) >= 2, fix)
        if not rows:
            raise DataError("there are no pairs to learn from", "give tuples of two texts or more")
        columns = _named(rows, tuple((RANKED if scores is None else SCORED).roles))
    return dataset_of(columns if scores is None else {**columns, _SCORE: _scores(scores, len(texts))})


def _scores(scores: Any, count: int) -> list[Any]:
    """The score of each of ``count`` pairs; the reader refuses what is not a number, and names the row."""
    values = labels_of(scores).tolist()
    if len(values) != count:
        raise DataError(f"{counted(count, 'pair')} but {counted(len(values), 'score')}", "give a score for each pair")
    return [float(value) if isinstance(value, bool | int | float) else name_of(value) for value in values]


def _named(rows: list[Any], names: tuple[str, ...]) -> dict[str, list[Any]]:
    """Columns of rows of equally many texts, by the names of their roles; negatives are numbered."""
    counts = {len(row) for row in rows}
    if len(counts) > 1:
        raise DataError(f"examples of {min(counts)} and of {max(counts)} texts", "give each example as many texts")
    (count,) = counts
    if count > len(names) and names == tuple(SCORED.roles):
        raise DataError(f"examples of {count} texts with scores", "give two texts for each score")
    for number, row in enumerate(rows, start=1):
        if odd := [cell for cell in row if not _is_text(cell)]:
            raise DataError(
                f"this is not a text: {shown(odd[0], 60)} (row {number})",
                "give tuples of strings; scores are given as y",
            )
    (negative,) = RANKED.repeated
    known = (*names, *(f"{negative}_{number}" for number in range(1, 1 + count - len(names))))
    return {name: [_none(row[at]) for row in rows] for at, name in enumerate(known)}


def _texts(texts: Any) -> list[Any]:
    """A list of single texts; missing ones are None."""
    rows = _rows(texts)
    if all(isinstance(row, _ROW) and len(row) == 1 for row in rows):  # a column, as other transformers give texts on
        rows = [row[0] for row in rows]
    _check(rows, "a text", _is_text, "give a list of strings; pairs are for similarity")
    return [_none(row) for row in rows]


def _check(rows: list[Any], what: str, legal: Callable[[Any], bool], fix: str) -> None:
    """Refuse a row that is not ``what``; DataError names the first."""
    if odd := [row for row, one in enumerate(rows) if not legal(one)]:
        raise DataError(f"this is not {what}: {shown(rows[odd[0]], 60)} (row {odd[0] + 1})", fix)


def _is_text(cell: Any) -> bool:
    return isinstance(cell, str) or is_missing(cell)


def _none(cell: Any) -> Any:
    return None if is_missing(cell) else cell


def _rows(rows: Any) -> list[Any]:
    """Turn arrays, Series, DataFrames and iterators into lists; a bare text is not a list of texts."""
    rows = read_once(as_known(rows))
    if isinstance(rows, str):
        raise DataError(f"one text was given, not a list of texts: {rows[:40]!r}", "put it into a list: [text]")
    if hasattr(rows, "columns"):
        rows = rows.to_numpy()
    if hasattr(rows, "tolist"):
        return rows.tolist()
    if not isinstance(rows, Sequence):
        given = with_article(type(rows).__name__)
        raise DataError(f"{given} was given, not a list of texts", "give a list, an array or a DataFrame")
    return list(rows)
