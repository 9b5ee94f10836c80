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
    model: str | os.PathLike[str],
    train: Any,
    family: str = "full",
    samples: int = 500,
    budget_seconds: float | None = None,
    budget_memory: int | str | None = None,
    refine: bool = False,
    trials: int = 16,
    reporter: Reporter | None = None,
    **settings: Any,
) -> Suggestion:
    """Propose a plan for a model and labelled text.

    Args:
        model: the base model: a hub id or a folder.
        train: labelled text, as ``st.train`` takes it.
        family: ``full``, ``lora``, ``bft``, ``spafit``, or ``any`` (the better of the last two).
        samples: examples to read at most.
        budget_seconds: the time that training may take on this machine.
        budget_memory: the memory that the run may use: bytes, or a text such as ``8GB``.
        refine: search by short real trials afterwards (extra ``search``); with ``out`` a stopped search goes on.
        trials: how many.
        reporter: prints progress; on standard error by default.
        settings: settings of the run that the plan is for, as ``st.train`` takes them (``task``, ``text``, ``epochs``,
            ...); with ``out`` the suggestion is written into that folder.

    Returns:
        The suggestion: ``plan``, ``why``, and all that was measured.

    Raises:
        UserError: settings or data that make no sense, or budgets that no plan keeps.
    """
    from stratatune.app.api import IN_MEMORY, is_path, path_of
    from stratatune.studies.suggest.suggest import suggest as find
    from stratatune.training.config import validate

    in_memory = not is_path(train)
    source = IN_MEMORY if in_memory else path_of(train)
    config = validate({**settings, "model": os.fspath(model), "train": source})
    asked = asked_for(config, family, samples, budget_seconds, budget_memory, refine, trials)
    folder = out_of(config)
    found = find(config, asked, tables={"train": train} if in_memory else {}, folder=folder, reporter=reporter)
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
    trials: int,
) -> Asked:
    """The options that are not settings of a run.

    Raises:
        ConfigError: names every mistake in them.
    """
    from stratatune.studies.suggest.suggestion import Asked
    from stratatune.training.config import parse_bytes

    if "plan" in config.model_fields_set:
        raise ConfigError([f"plan: {config.plan!r}; suggest chooses the plan itself"], "leave out --plan")
    try:
        memory = parse_bytes(str(budget_memory)) if budget_memory is not None else None
    except ValueError as error:
        raise ConfigError([f"budget_memory: {budget_memory!r}; {error}"], "as in --budget-memory 8GB") from error
    asked = Asked(family, samples, budget_seconds, memory, refine, trials)  # pyright: ignore[reportArgumentType]
    asked.check()
    return asked


def out_of(config: RunConfig) -> Path | None:
    """The folder to write to; None where none was named."""
    return Path(config.out) if "out" in config.model_fields_set else None
