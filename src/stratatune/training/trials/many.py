"""Several trials over one base model, one encoding, one trunk cache and, where their batches are the same, one pass.

The trials take turns: each makes a step on a batch, then the next one on the same hidden states. Each has its own
trained tensors, optimiser, random state, metrics and run folder, so it gives the numbers that it would give alone. On a
GPU those that are alike make their steps together (``training/trials/together.py``).
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stratatune.errors import ConfigError, UserError, did_you_mean
from stratatune.hashing import digest
from stratatune.plan import Plan
from stratatune.progress import Reporter
from stratatune.training.checkpoint import random_state, set_random_state
from stratatune.training.config import RunConfig, validate
from stratatune.training.finite import several_stopped
from stratatune.training.result import Result
from stratatune.training.run import trial
from stratatune.training.session import Ask, Learnt
from stratatune.training.trials.sharing import Shared
from stratatune.training.trials.together import CHOICES, Together
from stratatune.training.trials.turns import Turns

_LONGEST, _KEPT = 100, 80
"""The most characters of a value in a folder's name, and how many are kept of a longer one, with a hash of all."""


def settings_of(base: Mapping[str, Any], axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """The settings of every trial: all combinations along ``axes``, each with its own folder below ``out``.

    Raises:
        ConfigError: an axis without values, or one value given twice.
    """
    errors = [f"{name}: no values" for name, values in axes.items() if not len(values)]
    errors += [
        f"{name}: {list(values)}; list each value once" for name, values in axes.items() if _repeats(name, values)
    ]
    if errors or not axes:
        twice = all(map(len, axes.values())) and errors
        raise ConfigError(
            errors or ["no plans, seeds or rates are given"],
            "leave out those that say the same" if twice else "give at least one list of what the trials differ in",
        )
    root = Path(str(base.get("out", RunConfig.model_fields["out"].default)))
    found = []
    folders = {name: _folders(name, values) for name, values in axes.items()}
    for values in itertools.product(*axes.values()):
        varied = dict(zip(axes, values, strict=True))
        # The folder's name says what sets the trial apart.
        named = [folders[name][_parsed(name, value)] for name, value in varied.items()]
        found.append({**base, **varied, "out": str(root / "_".join(named))})
    return found


def _repeats(axis: str, values: Sequence[Any]) -> bool:
    return len({_parsed(axis, value) for value in values}) < len(values)


def _parsed(axis: str, value: Any) -> Any:
    """What a value says, however it is written; a wrong one stays as it is, and is refused later."""
    if axis != "plan":
        try:
            number = float(value)
            return number if number == number else str(value)  # NaN is not equal to itself
        except (TypeError, ValueError, OverflowError):
            return str(value)
    with contextlib.suppress(UserError):
        return str(value if isinstance(value, Plan) else Plan.from_data(value))
    return str(value)


def _folders(axis: str, values: Sequence[Any]) -> dict[Any, str]:
    """The part of a folder's name for each value of an axis; a hash sets those apart that would have one name."""
    names = [_folder(axis, value) for value in values]
    apart = [
        name if names.count(name) == 1 else f"{name[:_KEPT]}-{digest(str(value), size=4)}"
        for name, value in zip(names, values, strict=True)
    ]
    return {_parsed(axis, value): name for value, name in zip(values, apart, strict=True)}


def _folder(axis: str, value: Any) -> str:
    """The part of a folder's name that says a trial's place on an axis."""
    text = str(value) if axis == "plan" else f"{axis}-{value}"
    name = re.sub(r"[^A-Za-z0-9.@+-]+", "-", text).strip("-")
    # Files may have names of 255 bytes, and there are three axes.
    return name if len(name) <= _LONGEST else f"{name[:_KEPT]}-{digest(name, size=4)}"


def train_many(
    trials: Sequence[Mapping[str, Any]],
    *,
    tables: Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
    together: str = "auto",
) -> list[Result]:
    """Run every trial; the results are in their order.

    Args:
        trials: the settings of each; they may differ in ``plan``, ``seed``, ``lr`` and ``out``.
        tables: data in memory that takes the place of a path, by ``train``, ``eval`` and ``test``.
        reporter: prints progress; on standard error by default.
        together: whether trials of one seed, with plans that differ in their rates alone, make their steps together:
            ``auto`` (on a GPU), ``never`` or ``always``.

    Raises:
        UserError: a mistake in the settings or the data, before anything is trained.
        ResourceError: no room or no permission.
        NotFiniteError: trials diverged; the others are finished first, and have their results in their folders.
    """
    reporter = reporter or Reporter()
    if together not in CHOICES:
        raise ConfigError([f"together: {together!r}"], did_you_mean(str(together), CHOICES))
    # All before the first one starts: a mistake in the last should not cost the work of the others.
    configs = [validate(settings) for settings in trials]
    shared = Shared(fill=len({config.seed for config in configs}) > 1)
    turns = [
        Turns(trial(config, tables or {}, Reporter(reporter.quiet, Path(config.out).name), shared))
        for config in configs
    ]
    try:
        for one in turns:
            one.take()
        # At its first batch each trial has loaded its model.
        shared.let_go()
        company = Together(together, reporter)
        while take_turns(turns, company):
            pass
    finally:
        for one in turns:
            # Closing a generator runs its `finally`, which releases locks and files also after an error.
            one.running.close()
        shared.close()
    if errors := [(config.out, one.error) for config, one in zip(configs, turns, strict=True) if one.error]:
        raise several_stopped(errors, len(turns), "trials", "the results of the others are in their folders")
    return [one.result for one in turns]


def take_turns(turns: Sequence[Turns], together: Together) -> bool:
    """Let each trial learn from its next batch, alike ones waiting for the furthest back; False: all have ended.

    Each must have reached its first batch.
    """
    waiting = [(one, one.ask) for one in turns if one.ask is not None]
    for company in together.companies([ask for _, ask in waiting]):
        members = [waiting[number] for number in company]
        learnt = _learnt_together(members, together) if len(members) > 1 else None
        for number, (one, _) in enumerate(members):
            one.take(learnt[number] if learnt else None)
    return bool(waiting)


def _learnt_together(members: Sequence[tuple[Turns, Ask]], together: Together) -> list[Learnt] | None:
    """Learn with the first one's random numbers, which alike trials share; None: each is to learn by itself."""
    set_random_state(members[0][0].random)
    learnt = together.learn([ask for _, ask in members])
    state = random_state()
    for one, _ in members if learnt is not None else ():
        one.random = state
    return learnt
