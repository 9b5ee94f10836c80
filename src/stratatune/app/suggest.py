"""``st.suggest``, and the code that it shares with the verb."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratatune.errors import ConfigError

if TYPE_CHECKING:
    from stratatune.progress import Reporter
    from stratatune.studies.suggest.suggestion import Asked, Suggestion
    from stratatune.training.config import RunConfig


def suggest(
    *,
    model: str | os.PathLike[str] | None = None,
    train: Any = None,
    family: str = "full",
    samples: int = 500,
    budget_seconds: float | None = None,
    budget_memory: int | str | None = None,
    refine: bool = False,
    trials: int | None = None,
    reporter: Reporter | None = None,
    **settings: Any,
) -> Suggestion:
    """Propose a plan for a model and labelled text.

    Args:
        model: required. The base model: a hub id or a folder.
        train: required. Labelled text, as ``st.train`` takes it.
        family: ``full``, ``lora``, ``bft``, ``spafit``, or ``any`` (the better of the last two).
        samples: the maximum number of examples to read.
        budget_seconds: the time that training may take on this machine.
        budget_memory: the memory that the run may use: bytes, or a text such as ``8GB``.
        refine: search with short real trials afterwards (extra ``search``); with ``out``, a stopped search continues.
        trials: how many of these; 16 by default.
        reporter: prints progress; on standard error by default.
        settings: settings of the run that the plan is for, as ``st.train`` takes them (``task``, ``text``, ``epochs``,
            ...); with ``out`` the suggestion is written into that folder.

    Returns:
        The suggestion: ``plan``, ``why``, and all that was measured.

    Raises:
        UserError: settings or data that make no sense, or budgets that no plan keeps.
    """
    from stratatune.app.api import given_settings
    from stratatune.studies.suggest.suggest import suggest as find
    from stratatune.training.config import validate

    data = {name: settings.pop(name, None) for name in ("eval", "test", "corpus")}
    given, tables = given_settings(model, settings, {"train": train, **data})
    config = validate(given)
    asked = asked_for(config, family, samples, budget_seconds, budget_memory, refine, trials)
    folder = out_of(config)
    found = find(config, asked, tables=tables, folder=folder, reporter=reporter)
    if folder:
        found.save(folder)
    return found


def asked_for(
    config: RunConfig,
    family: str,
    samples: int,
    budget_seconds: float | None,
    budget_memory: int | str | None,
    refine: bool,
    trials: int | None,
) -> Asked:
    """The options that are not settings of a run.

    Raises:
        ConfigError: names every mistake in them.
    """
    from stratatune.studies.suggest.suggestion import Asked
    from stratatune.training.config import AUTO, parse_bytes

    if config.start_from is not None:
        said = f"start_from: {config.start_from!r}; suggest reads the base model itself, not a tuned run"
        raise ConfigError([said], "leave out --start-from")
    if config.plan != AUTO:  # which a file of `stratatune init` names
        raise ConfigError([f"plan: {config.plan!r}; suggest chooses the plan itself"], "leave out --plan")
    try:
        memory = parse_bytes(str(budget_memory)) if budget_memory is not None else None
    except ValueError as error:
        raise ConfigError([f"budget_memory: {budget_memory!r}; {error}"], "as in --budget-memory 8GB") from error
    if trials is not None and not refine:
        raise ConfigError([f"trials: {trials} is only used with --refine"], "add --refine, or leave it out")
    count = {} if trials is None else {"trials": trials}
    asked = Asked(family, samples, budget_seconds, memory, refine, **count)  # pyright: ignore[reportArgumentType]
    asked.check()
    return asked


def out_of(config: RunConfig) -> Path | None:
    """The folder to write to; None where none was named."""
    return Path(config.out) if "out" in config.model_fields_set else None
