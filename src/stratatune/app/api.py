"""``st.train`` and ``st.train_many``: runs from Python, their settings as keywords."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from stratatune.errors import ConfigError, with_article
from stratatune.training.config import AUTO, CHOSEN_BY_AUTO, IN_MEMORY, RunConfig

if TYPE_CHECKING:
    from stratatune.plan import Plan
    from stratatune.progress import Reporter
    from stratatune.training.run import Result

_FunctionT = TypeVar("_FunctionT", bound=Callable[..., Any])


def _with_settings(function: _FunctionT) -> _FunctionT:
    """Show every setting of a run among a function's parameters and in its help, with its default and meaning."""
    own = [one for one in inspect.signature(function).parameters.values() if one.kind is not one.VAR_KEYWORD]
    fields = {name: field for name, field in RunConfig.model_fields.items() if name not in {one.name for one in own}}
    further = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.get_default(call_default_factory=True),
            annotation=field.annotation,
        )
        for name, field in fields.items()
    ]
    function.__signature__ = inspect.Signature([*own, *further])  # pyright: ignore[reportFunctionMemberAccess]
    lines = [f"    {name}: {field.description}" for name, field in fields.items()]
    function.__doc__ = "\n".join((inspect.cleandoc(function.__doc__ or ""), "", "Settings:", *lines))
    return function


@_with_settings
def train(
    *,
    model: str | os.PathLike[str] | None = None,
    train: Any = None,
    plan: Plan | str | Mapping[str, Any] = AUTO,
    eval: Any = None,
    test: Any = None,
    corpus: Any = None,
    reporter: Reporter | None = None,
    **settings: Any,
) -> Result:
    """Train a plan on labelled text.

    Args:
        model: the base model: a hub id or a folder; None: that of the run ``start_from``.
        train: required. A file or a list of them, a folder, a hub id, a DataFrame, a ``datasets.Dataset``, a dict of
            columns, or a list of texts with their labels.
        plan: a plan, a preset's name, or a plan's text or data; ``auto``: that of the run ``start_from``, or
            chosen from the training data.
        eval: evaluation data, likewise.
        test: test data, likewise, scored once at the end.
        corpus: documents that a search goes through (``vectors``), likewise without labels, such as a list of texts.
        reporter: prints progress; on standard error by default.
        settings: any other setting of :class:`stratatune.RunConfig`; they are listed below.

    Returns:
        The result: scores, times, and where the adapter is; its folder holds ``report.html`` too.

    Raises:
        ConfigError: names every mistake in the settings.
    """
    from stratatune.app.run_report import leave_report
    from stratatune.progress import Reporter

    reporter = reporter or Reporter()
    result = trained(
        model=model, train=train, plan=plan, eval=eval, test=test, corpus=corpus, reporter=reporter, **settings
    )
    leave_report(result.out, reporter)
    return result


def trained(
    *,
    model: str | os.PathLike[str] | None,
    train: Any,
    plan: Plan | str | Mapping[str, Any] = AUTO,
    eval: Any = None,
    test: Any = None,
    corpus: Any = None,
    reporter: Reporter,
    pooled: bool = False,
    **settings: Any,
) -> Result:
    """:func:`train` without the report, for callers that keep no run folder.

    ``pooled``: the trunk runs once for each text, for all runs on this machine (``training/pooled.py``).
    """
    from stratatune.studies.suggest.auto import train as run
    from stratatune.training.config import validate
    from stratatune.training.pooled import train_pooled

    base, tables = given_settings(model, settings, {"train": train, "eval": eval, "test": test, "corpus": corpus})
    # `auto` is the default, so the user may not have asked for it; the run of `start_from` has a plan.
    config = validate(base if isinstance(plan, str) and plan == AUTO else {**base, "plan": plan})
    return train_pooled(config, tables, reporter) if pooled else run(config, tables=tables, reporter=reporter)


@_with_settings
def train_many(
    *,
    model: str | os.PathLike[str] | None = None,
    train: Any = None,
    plans: Sequence[Plan | str] | Plan | str | None = None,
    seeds: Sequence[int] | None = None,
    rates: Sequence[float] | None = None,
    eval: Any = None,
    test: Any = None,
    corpus: Any = None,
    together: str = "auto",
    reporter: Reporter | None = None,
    **settings: Any,
) -> list[Result]:
    """Train several trials over one trunk cache: all combinations of the given plans, seeds and rates.

    The base model is loaded and the text encoded once, and the trunk runs once for each frozen depth. Trials whose
    batches are the same (one seed) advance side by side over one reading of the data. Each gives the numbers that
    :func:`train` would give: to the bit under one seed; under several seeds the cache is filled before the first step,
    in other batches than a single run's, so its hidden states differ by the rounding of the computation.

    On a GPU, trials of one seed whose plans differ only in their rates make their steps together, in one pass for all.
    Then a trial's numbers are those of a single run up to rounding. With dropout on a GPU they are only as good as
    those, because each trial draws other masks than it would alone. ``together="never"`` lets them take turns.

    Args:
        model, train, eval, test, corpus, reporter, settings: as for :func:`train`; ``out`` is the folder of the run
            folders.
        plans: the plans, or a single one, in place of ``plan``; without either, all trials have the plan of the run
            ``start_from``, or the one that ``auto`` takes untried.
        seeds: the seeds, instead of ``seed``.
        rates: the learning rates, instead of ``lr``.
        together: ``auto``: trials of one kind make their steps together on a GPU; ``never``; ``always``.

    Returns:
        The results, the last list's values running fastest.

    Raises:
        ConfigError: names every mistake in the settings.
    """
    from stratatune.training.trials.many import settings_of
    from stratatune.training.trials.many import train_many as run

    axes = _axes(plans, seeds, rates, settings)
    base, tables = given_settings(model, settings, {"train": train, "eval": eval, "test": test, "corpus": corpus})
    if plans is None and base.get("plan", AUTO) == AUTO:
        base |= _chosen(base, tables, reporter)
    trials = settings_of(base, axes)
    return run(trials, tables=tables, reporter=reporter, together=together)


def _axes(plans: Any, seeds: Any, rates: Any, settings: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The lists of what trials differ in, by the setting; a single plan is a list of one.

    Raises:
        ConfigError: something else is not a list, or a list is given under the name of the setting for one run.
    """
    from stratatune.errors import shown
    from stratatune.plan import Plan

    plans = [plans] if isinstance(plans, str | Mapping | Plan) else plans
    given = {
        "plan": ("plans", plans, "['lora', '-1: full']"),
        "seed": ("seeds", seeds, "[0, 1, 2]"),
        "lr": ("rates", rates, "[0.001, 0.003]"),
    }
    several = [
        (name, *given[name]) for name, value in settings.items() if name in given and isinstance(value, list | tuple)
    ]
    if several:
        raise ConfigError([f"{one}: a list; give several as {name}={example}" for one, name, _, example in several])
    given = {setting: one for setting, one in given.items() if one[1] is not None}
    if errors := [
        f"{name}: {shown(values)}; give a list, such as {example}"
        for name, values, example in given.values()
        if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable)
    ]:
        raise ConfigError(errors)
    return {setting: list(values) for setting, (_, values, _) in given.items()}


def _chosen(base: Mapping[str, Any], tables: Mapping[str, Any], reporter: Reporter | None) -> dict[str, Any]:
    """Choose one plan for several runs, with the settings that belong to it."""
    from stratatune.studies.suggest.auto import choose
    from stratatune.training.config import validate

    config = validate({name: value for name, value in base.items() if (name, value) != ("plan", AUTO)})
    if config.plan == AUTO:
        config = choose(config, tables=tables, reporter=reporter).config
    return {name: getattr(config, name) for name in ("plan", *CHOSEN_BY_AUTO)}


def given_settings(
    model: str | os.PathLike[str] | None, settings: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A run's settings, and the data among ``given`` that are in memory.

    Raises:
        ConfigError: the model is not named.
    """
    if model is not None and not isinstance(model, str | os.PathLike):
        fix = "save it and name its folder; st.apply puts a plan onto a model that your own Trainer or loop trains"
        raise ConfigError([f"model: {with_article(type(model).__name__)} was given; a hub id or a folder"], fix)
    tables = {name: source for name, source in given.items() if source is not None and not is_path(source)}
    paths = {
        name: IN_MEMORY if name in tables else path_of(source) for name, source in given.items() if source is not None
    }
    return {**settings, **paths, **({} if model is None else {"model": base_named(model)})}, tables


def base_named(model: Any) -> str:
    """The setting that names the base model.

    Raises:
        ConfigError: a model itself is given, or something else that names none.
    """
    if isinstance(model, str | os.PathLike):
        return os.fspath(model)
    from stratatune.errors import shown

    given = with_article(type(model).__name__) if hasattr(model, "config") else shown(model)
    raise ConfigError(
        [f"model: {given}; a hub id or a folder is needed"],
        "save the loaded model and name its folder, or tune it directly: st.apply(model, plan)",
    )


def is_path(source: Any) -> bool:
    """Whether data are named, by a path or a list of paths, rather than given."""
    from stratatune.data.several import are_files

    return isinstance(source, str | os.PathLike) or are_files(source)


def path_of(source: Any) -> Any:
    """The setting that names data: a path, or a list of paths."""
    return [os.fspath(one) for one in source] if isinstance(source, list | tuple) else os.fspath(source)
