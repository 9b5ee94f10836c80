"""``TextEstimator``: a run with scikit-learn's interface, the common part of the estimators."""

from __future__ import annotations

import inspect
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from stratatune.app.api import base_named, trained
from stratatune.app.run_folders import (
    MEMORY,
    as_bytes,
    beside,
    check_learnt,
    claimed,
    class_weight_in,
    from_bytes,
    hash_of,
    released,
    remember,
    remembered,
    result_in,
)
from stratatune.app.texts import (
    Texts,
    columns_of,
    names_of,
    same_number,
)
from stratatune.cache.keys import default_root
from stratatune.data.frames import dataset_of
from stratatune.data.written import Written
from stratatune.elsewhere import OF_OTHERS, advice
from stratatune.errors import ConfigError, DataError, ModelError, ResourceError, UserError, counted, did_you_mean
from stratatune.objectives.objective import Objective
from stratatune.objectives.registry import OBJECTIVES
from stratatune.plan import Plan, shape_of
from stratatune.progress import Reporter
from stratatune.spelling import spelled
from stratatune.training.config import AUTO, CHOSEN_BY_AUTO, RunConfig, parse_bytes, validate
from stratatune.training.predict import Predictor
from stratatune.training.settings import load_config
from stratatune.training.start import settings_of

if TYPE_CHECKING:
    from datasets import Dataset
    from pandas import DataFrame
    from typing_extensions import Self

    from stratatune.training.run import Result

_FILLED = ("train", "text", "label", "task", "weight")
"""Settings that ``fit`` fills in itself."""
_OWN = ("plan", "model", "verbose", "class_weight")
_OF_ITS_PLACE = ("out", "resume", "cache", "cache_limit", "memory_limit", "device", "trust_remote_code")
"""Settings of a run that another machine, or a fit in another folder, does not take over."""
_ASKED = ("_metadata_request", "_sklearn_output_config")
"""The attributes in which scikit-learn's ``set_fit_request``, ``set_output`` and their like keep what was asked."""
_MODEL = "roberta-base"
_TURNS = threading.RLock()
"""Fits in several threads take turns, and so do loads: torch's random state is that of the process."""
_UNNAMED = (("text",), ("text1", "text2"))
"""Names for columns without one."""


class TextEstimator(BaseEstimator):
    """The common part of the estimators. Abstract.

    Args:
        plan: a plan, a preset's name, a plan's text, or ``auto``: chosen from the training data.
        model: the base model: a hub id or a folder; the default gives way to that of the run ``start_from``.
        settings: any setting of :class:`stratatune.RunConfig`, such as ``epochs`` or ``lr``.
    """

    _learns: ClassVar[tuple[str, ...]] = ()
    """The objectives that this estimator can use."""
    result_: Result
    feature_names_in_: np.ndarray
    n_columns_: int
    _run: Path | None = None
    _base: str | None = None
    _predictor: Predictor | None = None
    _remember: tuple[Path, int, int] | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):  # an inherited constructor shows the settings already
            _with_settings(cls)

    def __init__(
        self,
        plan: Any = AUTO,
        *,
        model: str | os.PathLike[str] = _MODEL,
        verbose: bool = False,
        **settings: Any,
    ) -> None:
        self.plan = plan
        self.model = model
        self.verbose = verbose
        _keep(self, settings)

    def set_params(self, **params: Any) -> Self:
        """Change arguments of the constructor: all of them, or none if one does not exist.

        Raises:
            TypeError: there is no such argument.
        """
        _check(params, self._get_param_names())
        return super().set_params(**params)

    @property
    def _settings(self) -> dict[str, Any]:
        """The settings of the run that differ from their defaults."""
        found = {name: getattr(self, name) for name in _SETTINGS}
        # By value, since a pickled estimator has other objects; and by type, since True is equal to 1.
        return {
            name: one for name, one in found.items() if (type(one), one) != (type(_SETTINGS[name]), _SETTINGS[name])
        }

    def __sklearn_tags__(self) -> Any:
        """The tags: texts, one-dimensional or in columns, of which blank ones may be refused."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array = True, False
        tags.non_deterministic = False
        return tags

    def save(self, folder: str | Path) -> None:
        """Copy the run folder; ``load`` and ``stratatune predict`` read it back.

        Raises:
            ResourceError: the folder cannot be written.
        """
        run = self._fitted()
        try:
            shutil.copytree(run, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.lock"))
            if memory := beside(run, MEMORY):  # above an adapter's folder
                shutil.copy(memory, folder)
        except (OSError, shutil.Error) as error:
            raise ResourceError(
                f"cannot save into {folder}: {error}", "choose a folder that you can write to"
            ) from error

    @classmethod
    def load(cls, folder: str | Path, *, base: str | None = None) -> Self:
        """The fitted estimator whose run is in ``folder``, with the settings of the run where its folder has them.

        Those that belong to the machine or the folder of that run (``out``, ``cache``, ``device`` and their like) have
        their defaults.

        Raises:
            ModelError: there is no run, one that learnt something else, or an ONNX export, which holds no plan.
        """
        predictor = Predictor(folder, base=base)
        record = getattr(predictor.model, "attached", None)
        if record is None:
            raise ModelError(f"{folder} is an ONNX export, which is not a fitted estimator", "st.Predictor reads it")
        objective = predictor.objective
        if _learns_other(objective.name, cls._learns) or not cls._answers(objective):
            raise ModelError(
                f"this run learnt {objective.name}, and {cls.__name__} loads {' or '.join(cls._learns)}",
                "st.Predictor reads a run of any objective",
            )
        settings = _of_the_run(Path(folder))
        if "class_weight" in cls._get_param_names():
            settings["class_weight"] = class_weight_in(Path(folder))
        made = cls(plan=str(record.resolved.plan), model=base or predictor.model.config._name_or_path, **settings)
        made._use(Path(folder), predictor)
        made._base = base
        return made

    @property
    def predictor_(self) -> Predictor:
        """The trained model in use; loaded when it is first needed."""
        run = self._fitted()
        if self._predictor is None:
            device, size = self._settings.get("device", "auto"), self._settings.get("eval_batch_size")
            with _TURNS:
                self._predictor = Predictor(run, base=self._base, device=device, eval_batch_size=size)
        return self._predictor

    def __getstate__(self) -> dict[str, Any]:
        """The settings, what was asked of scikit-learn (routing, output) and, if fitted, the files of the run.

        These are safetensors and JSON, no other libraries' objects.
        """
        files = {} if self._run is None else as_bytes(self._run)
        asked = {name: vars(self)[name] for name in _ASKED if name in vars(self)}
        return {"params": self.get_params(deep=False), "base": self._base, "files": files, "asked": asked}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore such a state; the base model is loaded when it is first needed.

        Raises:
            ModelError: the state is none of these.
        """
        self.__init__(**state["params"])  # a constructor that only keeps its arguments
        self._base = state["base"]
        vars(self).update(state.get("asked", {}))  # which version 0.1 did not write
        if state["files"]:
            folder = self._own_folder()
            from_bytes(folder, state["files"])
            self._use(folder)

    def __sklearn_is_fitted__(self) -> bool:
        return self._run is not None

    @classmethod
    def _answers(cls, objective: Objective) -> bool:
        """Whether the run's objective is one that this estimator predicts with."""
        return True

    def _check_objective(self) -> None:
        """Refuse an ``objective`` that predicts something else than this estimator.

        Raises:
            ConfigError: it does.
        """
        given = self._settings.get("objective", AUTO)
        name = str(given).partition("(")[0].strip()
        if _learns_other(name, self._learns):
            legal = ", ".join(map(repr, self._learns))
            raise ConfigError(
                [f"objective: {given!r} is not what {type(self).__name__} predicts"],
                f"legal here: {legal}, also with options in brackets",
            )

    def _fit(
        self,
        texts: Texts,
        labels: Sequence[Any],
        classes: np.ndarray | None = None,
        weights: np.ndarray | None = None,
        sets: str = "",
        **settings: Any,
    ) -> None:
        """Train on texts and labels of scikit-learn's kinds."""
        columns, names = columns_of(texts), names_of(texts)
        if len(set(names)) < len(names):
            names = ()  # that do not tell the columns apart
        table, text, label = _data_set(columns, labels, names)
        if weights is not None:
            name = free_name("weight", (*text, label))
            table, settings["weight"] = table.add_column(name, weights), name
        self._train(table, text, label, classes=classes, names=names, sets=sets, **settings)

    def _train(
        self,
        table: Dataset | DataFrame,
        text: Sequence[str],
        label: str | None,
        *,
        classes: np.ndarray | None = None,
        names: Sequence[str] = (),
        sets: str = "",
        unread: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        """Train in the folder ``out``, or in a temporary one that lives as long as this object.

        ``unread``: own settings that this run does not read.
        """
        wanted, resumed = self._settings.get("out"), bool(self._settings.get("resume"))
        learnt = hash_of(table) if wanted else ""  # a folder of its own is never resumed
        out = (Path(wanted).expanduser() if resumed else claimed(wanted)) if wanted else self._own_folder()
        if wanted and resumed:
            check_learnt(out, learnt)
        reporter = Reporter() if self.verbose else Reporter(quiet=True)
        root = self._pool()
        given = {**settings, **self._settings, "out": str(out), "text": list(text), "label": label}
        given |= {"cache": str(root)} if root else {}
        given = {name: value for name, value in given.items() if name not in unread}
        pooled = root is not None
        try:
            with _TURNS:
                self.result_ = trained(
                    model=self._base_model, plan=self.plan, train=table, reporter=reporter, pooled=pooled, **given
                )
        finally:
            released(out)
        remember(out, classes, names, sets, learnt, vars(self).get("class_weight"))
        self._base = None
        self._remember = (root, parse_bytes(vars(self)["cache_limit"]), len(table)) if root else None
        self._use(out)

    def _pool(self) -> Path | None:
        """The folder of trunk caches, if there is a trunk; fits and scores of one search share its output there."""
        cache = self._settings.get("cache", "auto")
        try:
            plan = self.plan if isinstance(self.plan, Plan) else Plan.from_data(self.plan)
            depth = 0 if self._base_model is None else plan.resolve(shape_of(base_named(self._base_model))).frozen_depth
        except UserError:  # the run reports it, with all that is wrong
            return None
        if cache in ("off", "ram") or depth == 0:
            return None
        return default_root() if cache == "auto" else Path(cache).expanduser()

    @property
    def _base_model(self) -> str | os.PathLike[str] | None:
        """The base model of the run; None: that of the run that it starts from."""
        return None if self.model == _MODEL and self._settings.get("start_from") else self.model

    def _base_or_start(self) -> str | os.PathLike[str]:
        """The base model of the run, that of the run which it starts from if no other is named.

        Raises:
            ConfigError: that run cannot be read, its base model is not found, or ``model`` names none.
        """
        if self._base_model is None and self._settings.get("start_from"):
            return settings_of(str(self._settings["start_from"]), {"plan": self.plan})["model"]
        return base_named(self._base_model)

    def _own_folder(self) -> Path:
        folder = tempfile.mkdtemp(prefix="stratatune-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    def _use(self, run: Path, predictor: Predictor | None = None) -> None:
        """Use the run in this folder from now on."""
        self._run, self._predictor = run, predictor
        vars(self).pop("result_", None)
        if (result := result_in(run)) is not None:
            self.result_ = result
        self._recall(*remembered(run))

    def _recall(self, classes: np.ndarray | None, columns: tuple[str, ...], sets: str) -> None:
        """Restore the facts about the data from the folder."""
        vars(self).pop("feature_names_in_", None)
        text = columns or self.predictor_.objective.text
        self.n_columns_ = len(text)
        if columns or tuple(text) not in _UNNAMED:
            self.feature_names_in_ = np.array(text, object)

    def _fitted(self) -> Path:
        if self._run is None:
            raise NotFittedError(f"this {type(self).__name__} is not fitted yet; call fit, or load a saved run")
        return self._run

    def _ask(self, texts: Texts) -> Any:
        """Predict every text; None if there are none to predict."""
        self._fitted()
        # The columns of a frame without names, such as one that was made of a list, go by their order.
        names = tuple(getattr(self, "feature_names_in_", ())) if names_of(texts) else ()
        columns = columns_of(texts, names)
        if not columns[0]:  # no pairs look like no texts
            return None
        if len(columns) != self.n_columns_:
            raise DataError(f"{counted(len(columns), 'text column')} given", f"this model reads {self.n_columns_}")
        rows = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
        return self._predictor_for(len(rows)).predict(rows, written=self._blanks)

    def _predictor_for(self, rows: int) -> Predictor:
        """The predictor; it remembers the trunk's output for at most as many texts as were fitted."""
        predictor = self.predictor_
        few = self._remember is not None and rows <= self._remember[2]  # a fold, not all that there is to predict
        predictor.remember = self._remember[:2] if self._remember is not None and few else None
        return predictor

    @property
    def _bad_rows(self) -> Written:
        """The treatment of incomplete rows in a score: that of ``fit``."""
        return Written(bad_rows=self._settings.get("bad_rows", "refuse"))

    @property
    def _blanks(self) -> Written:
        """Options that skip no text, since the returned array has an answer for each."""
        return Written(bad_rows="refuse" if self._settings.get("bad_rows", "refuse") == "refuse" else "empty")


def _of_the_run(folder: Path) -> dict[str, Any]:
    """The settings of the run in ``folder`` that differ from their defaults; none for an adapter without its run."""
    path = beside(folder, "config.yaml")
    try:
        given = validate(load_config(path), check_files=False).model_dump(exclude_defaults=True) if path else {}
    except ConfigError:  # another version's; the model answers without it
        return {}
    return {name: given[name] for name in _SETTINGS if name in given and name not in _OF_ITS_PLACE}


def _learns_other(name: str, own: Sequence[str]) -> bool:
    """Whether it is a built-in objective that is not among ``own``."""
    known = OBJECTIVES.get(name)
    return (
        known is not None and known.__module__.startswith(Objective.__module__.rpartition(".")[0]) and name not in own
    )


def _default(name: str, field: Any) -> Any:
    """A setting's default for a signature.

    None stands for a collection, which is created each time, and for what ``auto`` chooses unless it is given.
    """
    value = field.get_default(call_default_factory=True)
    return None if isinstance(value, dict | list) or name in CHOSEN_BY_AUTO else value


_SETTINGS = {name: _default(name, one) for name, one in RunConfig.model_fields.items() if name not in (*_FILLED, *_OWN)}
"""Every setting that an estimator takes, and its default; the constructors show them."""


def _check(given: Iterable[str], legal: Iterable[str]) -> None:
    legal = list(legal)
    for name in given:
        if name not in legal:
            in_fit = OF_OTHERS.get(name, name) in _FILLED
            said = "fit takes the data" if in_fit else _advice(name, legal)
            raise TypeError(spelled(f"unknown setting {name!r}: {said}"))


def _advice(name: str, legal: Sequence[str]) -> str:
    """What to write in the place of a setting that does not exist; other tools' names are known."""
    whole, nested, option = name.partition("__")
    if nested and whole in (*legal, "plan"):
        return f"{whole} is one value, with {option} in it where it has such an option: give several of {whole}"
    return advice(name, legal) or did_you_mean(name, legal)


def _keep(estimator: Any, settings: Mapping[str, Any]) -> None:
    """Keep every setting under its name, as scikit-learn has it."""
    _check(settings, _SETTINGS)
    for name, default in _SETTINGS.items():
        setattr(estimator, name, settings.get(name, default))


def _with_settings(cls: type) -> None:
    """Show each setting in the constructor's signature, which ``clone`` and searches read."""
    own = inspect.signature(cls.__init__)
    given = [one for one in own.parameters.values() if one.kind is not one.VAR_KEYWORD]
    shown = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_SETTINGS[name]) for name in _SETTINGS]
    init: Any = cls.__init__
    init.__signature__ = own.replace(parameters=[*given, *shown])


def free_name(name: str, taken: Sequence[str]) -> str:
    """A column's name that is not among those ``taken``."""
    while name in taken:
        name = f"{name} of the text"
    return name


def _data_set(
    columns: list[list[str]], labels: Sequence[Any], names: Sequence[str]
) -> tuple[Any, tuple[str, ...], str]:
    """Texts and labels as a Dataset, the names of its text columns, and that of its label column."""

    if not 1 <= len(columns) <= 2:
        raise DataError(f"{counted(len(columns), 'text column')} given", "one or two are read")
    same_number(len(columns[0]), len(labels))
    text = tuple(names) if len(set(names)) == len(columns) else _UNNAMED[len(columns) - 1]
    label = free_name("label", text)
    return dataset_of({**dict(zip(text, columns, strict=True)), label: list(labels)}), text, label


_with_settings(TextEstimator)
