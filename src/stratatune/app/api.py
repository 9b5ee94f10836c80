"""``st.train``: a run from Python, its settings as keywords."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stratatune.plan import Plan
    from stratatune.train.progress import Reporter
    from stratatune.train.run import Result

IN_MEMORY = "in-memory"
"""What stands in the configuration for data that has no path."""


def train(
    *,
    model: str | os.PathLike[str],
    train: Any,
    plan: Plan | str | Mapping[str, Any] = "bft-adapter",
    eval: Any = None,
    test: Any = None,
    reporter: Reporter | None = None,
    **settings: Any,
) -> Result:
    """Train a plan on labelled text.

    Args:
        model: the base model: a hub id or a folder.
        train: a file, a folder, a hub id, a DataFrame, a ``datasets.Dataset``, or texts with labels in one of these.
        plan: a plan, a preset's name, or a plan's text or data.
        eval: evaluation data, likewise.
        test: test data, likewise, scored once at the end.
        reporter: says what happens; on standard error by default.
        settings: any other setting of :class:`stratatune.RunConfig`, such as ``task``, ``text``, ``epochs``, ``out``.

    Returns:
        The result: scores, times, and where the adapter is; its folder holds ``report.html`` too.

    Raises:
        ConfigError: with every mistake in the settings.
    """
    from stratatune.app.reporting import leave_report
    from stratatune.train.progress import Reporter

    reporter = reporter or Reporter()
    result = trained(model=model, train=train, plan=plan, eval=eval, test=test, reporter=reporter, **settings)
    leave_report(result.out, reporter)
    return result


def trained(
    *,
    model: str | os.PathLike[str],
    train: Any,
    plan: Plan | str | Mapping[str, Any] = "bft-adapter",
    eval: Any = None,
    test: Any = None,
    reporter: Reporter,
    **settings: Any,
) -> Result:
    """:func:`train` without the report: for those who keep no run folder."""
    from stratatune.train.config import validate
    from stratatune.train.run import train as run

    given = {"train": train, "eval": eval, "test": test}
    tables = {name: source for name, source in given.items() if source is not None and not _is_path(source)}
    paths = {
        name: IN_MEMORY if name in tables else os.fspath(source) for name, source in given.items() if source is not None
    }
    config = validate({**settings, **paths, "model": os.fspath(model), "plan": plan})
    return run(config, tables=tables, reporter=reporter)


def _is_path(source: Any) -> bool:
    return isinstance(source, str | os.PathLike)
