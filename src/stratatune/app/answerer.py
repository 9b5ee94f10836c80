"""``Answerer``: answers to questions in their contexts, by a run with scikit-learn's interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stratatune.app.checks import rows_of
from stratatune.app.text_estimator import TextEstimator, free_name
from stratatune.app.texts import Texts, as_known, columns_of, names_of
from stratatune.data.frames import dataset_of
from stratatune.data.labels import is_missing
from stratatune.errors import DataError, counted

if TYPE_CHECKING:
    from datasets import Dataset
    from typing_extensions import Self

_TEXTS, _ANSWERS, _START = ("question", "context"), "answers", "answer_start"


class Answerer(TextEstimator):
    """Answers in contexts: ``Answerer(plan="1/2: full").fit(pairs, answers).predict(pairs)``.

    X are N pairs of a question and its context, or a DataFrame of two such columns, in this order. y are N answers: a
    text that occurs once in the context, or ``{"text": "1843", "answer_start": 32}``, where both may also be lists of
    several reference answers; ``""`` or None for a question that the context does not answer. Options of the objective
    are a setting: ``Answerer(objective="span(threshold=tuned)")``.
    """

    _learns = ("span",)

    def fit(self, X: Texts, y: Sequence[Any]) -> Self:
        """Train on questions with their contexts, and on the answers.

        Raises:
            DataError: no pairs, another number of answers than of pairs, or an answer that its context does not have.
        """
        self._check_objective()
        columns, names = _columns(X), names_of(X)
        text = names or _TEXTS
        self._train(_data_set(columns, y, text), text, free_name(_ANSWERS, text), names=names, objective="span")
        return self

    def predict(self, X: Texts) -> list[str]:
        """The answer to each question, as its context has it [N]; empty where there is none."""
        return [row[0]["text"] for row in self.predict_candidates(X)]

    def predict_candidates(self, X: Texts) -> list[list[dict[str, Any]]]:
        """The best answers to each question, the best one first.

        Each has its ``text``, the characters ``start`` to ``end`` of the context, and its ``score``, a probability. "No
        answer" has an empty text, and None for the characters.
        """
        found = self._ask(X)
        return [] if found is None else [list(row) for row in found.columns["candidates"]]

    def score(self, X: Texts, y: Sequence[Any]) -> float:
        """The metric that selects an epoch, the F1 of the answers' words by default."""
        self._fitted()
        names = tuple(getattr(self, "feature_names_in_", _TEXTS))
        table = _data_set(_columns(X, names if names_of(X) else ()), y, names)
        predictor = self.predictor_
        return float(predictor.score(table, written=self._bad_rows)["metrics"][predictor.objective.metric])


def _columns(texts: Texts, names: Sequence[str] = ()) -> list[list[Any]]:
    columns = columns_of(texts, names)
    if len(columns) != 2 and columns != [[]]:
        raise DataError(f"{counted(len(columns), 'text column')} given", "give pairs of a question and its context")
    return columns if len(columns) == 2 else [[], []]


def _data_set(columns: list[list[Any]], answers: Any, names: Sequence[str]) -> Dataset:
    rows = rows_of(as_known(answers), "answers")
    if len(rows) != len(columns[0]):
        said = f"{counted(len(columns[0]), 'question')} but {counted(len(rows), 'answer')}"
        raise DataError(said, "give an answer for each question")
    given = [_answer(row, number) for number, row in enumerate(rows, start=1)]
    return dataset_of({**dict(zip(names, columns, strict=True)), free_name(_ANSWERS, names): given})


def _answer(given: Any, number: int) -> dict[str, list[Any]]:
    """An answer as SQuAD has it: lists of texts and of their first characters, None where that is to be found."""
    if isinstance(given, Mapping):
        texts, starts = given.get("text"), given.get(_START)
    else:
        texts, starts = given, None
    texts = _listed(texts)
    starts = [None] * len(texts) if starts is None else _listed(starts)
    if len(texts) != len(starts) or not all(isinstance(text, str) or is_missing(text) for text in texts):
        fix = 'give a text, {"text": "1843", "answer_start": 32}, or None for a question without an answer'
        raise DataError(f"answer {number} is {given!r:.60}", fix)
    pairs = [(text, at) for text, at in zip(texts, starts, strict=True) if not is_missing(text) and text != ""]
    return {"text": [text for text, _ in pairs], _START: [at for _, at in pairs]}


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple | np.ndarray) else [value]
