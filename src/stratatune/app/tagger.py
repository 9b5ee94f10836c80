"""``Tagger``: tags of words, by a run with scikit-learn's interface."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stratatune.app.text_estimator import TextEstimator
from stratatune.app.texts import as_known
from stratatune.data.frames import dataset_of
from stratatune.data.labels import is_missing, label_text
from stratatune.data.written import Written
from stratatune.errors import DataError, counted, shown
from stratatune.objectives.tags import Tags

if TYPE_CHECKING:
    from datasets import Dataset
    from typing_extensions import Self

_WORDS, _TAGS = "tokens", "tags"
_SHORT = 40


class Tagger(TextEstimator):
    """Tags of words: ``Tagger(plan="3: full").fit(words, tags).predict(words)``.

    Words are N lists of strings; to predict they may also be N texts, which are cut into words. Options of the
    objective are a setting: ``Tagger(objective="tags(align=all)")``.
    """

    _learns = (_TAGS,)

    def fit(self, X: Sequence[Sequence[str]], y: Sequence[Sequence[str]]) -> Self:
        """Train on words and their tags.

        Raises:
            DataError: not a list of words and a list of tags for each text, or lists of different lengths.
        """
        self._check_objective()
        self._train(_data_set(X, y), (_WORDS,), _TAGS, objective=_TAGS)
        return self

    def predict(self, X: Sequence[Sequence[str]] | Sequence[str]) -> list[list[str]]:
        """A tag for each word of each text, in IOB2."""
        return [list(tags) for tags in self._columns(X).get(_TAGS, ())]

    def predict_spans(self, X: Sequence[Sequence[str]] | Sequence[str]) -> list[list[dict[str, Any]]]:
        """The entities of each text: ``text``, ``label``, ``start`` and ``end`` in its characters, ``score``.

        Words are joined by blanks.
        """
        return [list(spans) for spans in self._columns(X).get("spans", ())]

    def score(self, X: Sequence[Sequence[str]], y: Sequence[Sequence[str]]) -> float:
        """The metric that selects an epoch, the F1 of entities by default.

        An entity of a type that training did not see, as one fold may lack what another one has, is missed.
        """
        predictor, objective = self.predictor_, self.predictor_.objective
        assert isinstance(objective, Tags)
        table = predictor.read(_data_set(X, y), written=self._bad_rows, need_labels=True)
        return float(objective.scores_with_unseen(table, predictor.output(table))[objective.metric])

    def _columns(self, texts: Sequence[Sequence[str]] | Sequence[str]) -> dict[str, Any]:
        """The predictions for each text; nothing where there are none."""
        rows = _plain(texts, "words")
        if odd := [row for row in rows if isinstance(row, str) != isinstance(rows[0], str)]:
            raise DataError(
                f"text 1 is {shown(rows[0], _SHORT)} and text {rows.index(odd[0]) + 1} is {shown(odd[0], _SHORT)}",
                "give all of them as texts, or all as lists of words",
            )
        self._fitted()
        return dict(self.predictor_.predict(rows, written=Written(bad_rows="empty")).columns) if rows else {}

    @property
    def classes_(self) -> np.ndarray:
        """The tags [C], in the model's order."""
        return np.array(self.predictor_.labels)

    def _recall(self, classes: np.ndarray | None, columns: tuple[str, ...], sets: str) -> None:
        """Remember everything that is requested in the folder."""


def _data_set(words: Any, tags: Any) -> Dataset:
    words, tags = _plain(words, "words"), _plain(tags, "tags")
    for what, rows in (("words", words), ("tags", tags)):
        if odd := [row for row in rows if not isinstance(row, list)]:
            raise DataError(
                f"a text's {what} are not a list: {shown(odd[0], _SHORT)} (text {rows.index(odd[0]) + 1})",
                f"give a list of {what} for each text",
            )
    if len(words) != len(tags):
        said = f"{counted(len(words), 'text')} but {counted(len(tags), 'list')} of tags"
        raise DataError(said, "give a list of tags for each text")
    _check(words, "word", (str,), "write every word as a text")
    _check(tags, "tag", (str, int), "write O for a word without a tag, and every tag as a text")
    return dataset_of({_WORDS: words, _TAGS: _of_one_type(tags)})


def _check(rows: list[list[Any]], what: str, legal: tuple[type, ...], fix: str) -> None:
    """Refuse what is no word or no tag; DataError names the text and the place in it."""
    for number, row in enumerate(rows, start=1):
        for at, one in enumerate(row, start=1):
            if is_missing(one) or not isinstance(one, legal):
                raise DataError(f"text {number}: {what} {at} is {shown(one, _SHORT)}", fix)


def _of_one_type(tags: list[list[Any]]) -> list[list[Any]]:
    """Tags as they are, or all as text where some are numbers and some are not: a table takes one type."""
    kinds = {isinstance(tag, str) for row in tags for tag in row}
    return tags if len(kinds) < 2 else [[label_text(tag) for tag in row] for row in tags]


def _plain(rows: Any, what: str) -> list[Any]:
    """Turn arrays and tuples into lists; a bare text is not a list of texts."""
    if isinstance(rows, str):
        raise DataError(f"one text was given, not a list of texts: {shown(rows, _SHORT)}", "put it into a list: [text]")
    known: Any = as_known(rows)
    if hasattr(known, "columns"):  # going through a DataFrame would give its columns' names
        if len(known.columns) != 1:
            raise DataError(f"{len(known.columns)} columns were given", "give one: that of the words, or of the tags")
        known = known.iloc[:, 0]
    if isinstance(known, Mapping) or not isinstance(known, Iterable):
        raise DataError(f"{what}: {shown(known, _SHORT)} is not a list", f"give a list of {what} for each text")
    known = list(known)
    for number, row in enumerate(known, start=1):
        if not isinstance(row, str | list | tuple | np.ndarray):
            whose = f"text {number} is" if what == "words" else f"the tags of text {number} are"
            raise DataError(f"{whose} {shown(row, _SHORT)}, not a list of {what}", f"leave it out, or give its {what}")
    return [row if isinstance(row, str) else [_own(one) for one in row] for row in known]


def _own(value: Any) -> Any:
    """A text or a number of numpy's as Python's."""
    return value.item() if isinstance(value, np.generic) and not is_missing(value) else value
