"""``Classifier`` and ``Regressor``: a run with scikit-learn's interface."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.exceptions import NotFittedError

from stratatune.app.api import trained
from stratatune.errors import DataError, ResourceError, did_you_mean
from stratatune.plan import shape_of
from stratatune.progress import Reporter
from stratatune.training.config import RunConfig
from stratatune.training.predict import Predictor

if TYPE_CHECKING:
    from typing_extensions import Self

    from stratatune.training.run import Result

Texts = Any
"""N texts, N pairs of texts, or an array or DataFrame of N rows with one or two columns."""

_FILLED = ("train", "text", "label", "task")
"""Settings that ``fit`` fills in itself."""


class _TextEstimator(BaseEstimator):
    """What both estimators share. Abstract.

    Args:
        plan: a plan, a preset's name or a plan's text.
        model: the base model: a hub id or a folder.
        settings: any setting of :class:`stratatune.RunConfig`, such as ``epochs`` or ``lr``.
    """

    result_: Result
    predictor_: Predictor
    n_columns_: int

    def __init__(
        self, plan: Any = "bft-adapter", *, model: str = "roberta-base", verbose: bool = False, **settings: Any
    ) -> None:
        self.plan = plan
        self.model = model
        self.verbose = verbose
        self._settings = _checked(settings)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor by name."""
        return {"plan": self.plan, "model": self.model, "verbose": self.verbose, **self._settings}

    def set_params(self, **params: Any) -> Self:
        """Change arguments of the constructor."""
        for name in ("plan", "model", "verbose"):
            if name in params:
                setattr(self, name, params.pop(name))
        self._settings = _checked({**self._settings, **params})
        return self

    def save(self, folder: str | Path) -> None:
        """Copy the run folder; ``load`` and ``stratatune predict`` read it back.

        Raises:
            ResourceError: the folder cannot be written.
        """
        self._fitted()
        try:
            shutil.copytree(self.result_.out, folder, dirs_exist_ok=True)
        except (OSError, shutil.Error) as error:
            raise ResourceError(f"cannot save into {folder}: {error}", "give a folder that you may write") from error

    @classmethod
    def load(cls, folder: str | Path, *, base: str | None = None) -> Self:
        """The fitted estimator whose run is in ``folder``."""
        predictor = Predictor(folder, base=base)
        record = predictor.model.attached
        made = cls(plan=str(record.resolved.plan), model=base or predictor.model.config._name_or_path)
        made._use(predictor)
        return made

    def _fit(self, texts: Texts, labels: Sequence[Any], **settings: Any) -> None:
        """Train in the folder ``out``, or in one that lives as long as this object."""
        columns = columns_of(texts)
        out = self._settings.get("out") or self._own_folder()
        reporter = Reporter() if self.verbose else Reporter(quiet=True)
        table = _data_set(columns, labels)
        given = {**settings, **self._settings, "out": out, "text": list(_names(columns)), "label": "label"}
        self.result_ = trained(model=self.model, plan=self.plan, train=table, reporter=reporter, **given)
        self._use(Predictor(self.result_.out, device=given.get("device", "auto")))

    def _own_folder(self) -> str:
        folder = tempfile.mkdtemp(prefix="stratatune-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder

    def _use(self, predictor: Predictor) -> None:
        self.predictor_ = predictor
        self.n_columns_ = predictor.text_columns

    def _fitted(self) -> Predictor:
        if not hasattr(self, "predictor_"):
            raise NotFittedError(f"this {type(self).__name__} is not fitted yet; call fit, or load a saved run")
        return self.predictor_

    def _ask(self, texts: Texts) -> Any:
        predictor = self._fitted()
        columns = columns_of(texts)
        if len(columns) != self.n_columns_:
            raise DataError(f"{len(columns)} text columns were given", f"this model reads {self.n_columns_}")
        return predictor.predict(columns[0] if len(columns) == 1 else list(zip(*columns, strict=True)))


class Classifier(ClassifierMixin, _TextEstimator):
    """Classes of texts: ``Classifier(plan="bft-adapter").fit(texts, labels).predict(texts)``."""

    classes_: np.ndarray

    def fit(self, X: Texts, y: Sequence[Any]) -> Self:
        """Train on texts and their labels of any kind."""
        self.classes_ = np.unique(np.asarray(y))
        # An encoder-decoder would tell labels as text, and here they are classes.
        told = {"objective": "classification"} if shape_of(self.model).decoder is not None else {}
        self._fit(X, [_name(label) for label in np.asarray(y)], **told)
        return self

    def predict(self, X: Texts) -> np.ndarray:
        """The likeliest class of each text [N]."""
        chances = self.predict_proba(X)
        return self.classes_[chances.argmax(axis=1)]

    def predict_proba(self, X: Texts) -> np.ndarray:
        """Probabilities [N, C], columns in the order of ``classes_``."""
        labels = self._fitted().labels
        order = [labels.index(_name(one)) for one in self.classes_]
        return self._ask(X).probabilities[:, order]

    def _use(self, predictor: Predictor) -> None:
        super()._use(predictor)
        if not hasattr(self, "classes_"):  # loaded from a folder, where every label is text
            self.classes_ = np.array(predictor.labels)


class Regressor(RegressorMixin, _TextEstimator):
    """Numbers of texts: ``Regressor(plan="lora").fit(texts, values).predict(texts)``."""

    def fit(self, X: Texts, y: Sequence[float]) -> Self:
        """Train on texts and numbers."""
        self._fit(X, [float(value) for value in y], objective="regression")
        return self

    def predict(self, X: Texts) -> np.ndarray:
        """A number for each text [N]."""
        return self._ask(X).values


def columns_of(texts: Texts) -> list[list[str]]:
    """One or two columns of N texts.

    Raises:
        DataError: neither texts nor pairs of texts.
    """
    if hasattr(texts, "columns"):  # a DataFrame
        return [texts[name].tolist() for name in texts.columns]
    rows = texts.tolist() if hasattr(texts, "tolist") else list(texts)
    if all(isinstance(row, str) for row in rows):
        return [rows]
    if (
        all(isinstance(row, list | tuple) and 1 <= len(row) <= 2 for row in rows)
        and len({len(row) for row in rows}) == 1
    ):
        return [list(column) for column in zip(*rows, strict=True)]
    raise DataError(
        "these are neither texts nor pairs of texts", "give a list of strings, of pairs of strings, or a DataFrame"
    )


def _checked(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings by name; TypeError for one that does not exist, as scikit-learn has it."""
    for name in settings:
        if name not in RunConfig.model_fields or name in _FILLED:
            legal = [field for field in RunConfig.model_fields if field not in _FILLED]
            raise TypeError(f"there is no setting {name!r}: {did_you_mean(name, legal)}")
    return settings


def _names(columns: Sequence[Any]) -> tuple[str, ...]:
    return ("text",) if len(columns) == 1 else ("text1", "text2")


def _data_set(columns: list[list[str]], labels: Sequence[Any]) -> Any:
    from datasets import Dataset

    if len(columns) > 2:
        raise DataError(f"{len(columns)} text columns were given", "one or two are read")
    if len(labels) != len(columns[0]):
        raise DataError(f"{len(columns[0])} texts but {len(labels)} labels", "give a label for each text")
    return Dataset.from_dict({**dict(zip(_names(columns), columns, strict=True)), "label": list(labels)})


def _name(label: Any) -> str:
    """A label as the readers write it."""
    from stratatune.data.labels import label_text

    plain = label.item() if hasattr(label, "item") else label
    return label_text(plain if isinstance(plain, float) else str(plain))
