"""A run whose groups of label columns have separate tops: a trial for each, over one cache and one data pass.

The trials take turns, as in ``many.py``: each makes a step on a batch, then the next one on the same hidden states. So
each gives the numbers of a run of its columns alone. Their run folders are in the ``adapter`` folder of the whole,
which is the artefact (``model/tops.py``); they are resumed one by one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stratatune.data.label_sets import columns_in, joined
from stratatune.data.readers import Table
from stratatune.errors import ConfigError
from stratatune.files import write_text
from stratatune.model.tops import write_tops
from stratatune.objectives.multitask import MEAN, Multitask
from stratatune.objectives.registry import written
from stratatune.objectives.tops import TOPS, groups_in
from stratatune.progress import Reporter, launched
from stratatune.training.checkpoint import random_state, set_random_state
from stratatune.training.config import RunConfig
from stratatune.training.finite import several_stopped
from stratatune.training.prepare import Tables
from stratatune.training.result import Result
from stratatune.training.session import Ask, Learnt
from stratatune.training.trials.sharing import Shared
from stratatune.training.trials.turns import Turns

Running = Generator[Ask, Learnt | None, Result]
Start = Callable[[RunConfig, Mapping[str, Any], Reporter, Shared], Running]
_HISTORY = "metrics.jsonl"


def parts_of(config: RunConfig) -> list[RunConfig]:
    """The run of each top; empty if the settings ask for one top.

    Raises:
        ConfigError: groups that do not hold each label column once.
    """
    name, options = written(config.objective)
    if name != Multitask.name or TOPS not in options or not config.label:
        return []
    groups = groups_in(options.pop(TOPS), columns_in(config.label))
    if len(groups) < 2:
        return []
    return [_part(config, number, group, options) for number, group in enumerate(groups, start=1)]


def _part(config: RunConfig, number: int, group: Sequence[str], options: Mapping[str, Any]) -> RunConfig:
    own = ", ".join(f"{column}={options[column]}" for column in group if column in options)
    column, _, _ = (config.metric or "").rpartition(".")
    others = columns_in(config.label or "")
    # Numbered, as two groups may have one name after illegal characters for a file system are removed.
    folder = f"{number}-{re.sub(r'[^A-Za-z0-9.@+-]+', '-', '+'.join(group)).strip('-')}"
    return config.model_copy(
        update={
            "label": joined(group),
            "objective": f"{Multitask.name}({own})" if own else Multitask.name,
            "metric": None if column in others and column not in group else config.metric,
            "out": str(Path(config.out).expanduser() / "adapter" / folder),
        }
    )


def train_tops(
    config: RunConfig,
    parts: Sequence[RunConfig],
    tables: Mapping[str, Any],
    reporter: Reporter,
    shared: Shared | None,
    start: Start,
) -> Running:
    """Train every top in turn, and write the artefact and the history of the whole.

    Args:
        config: the settings of the whole.
        parts: those of each top, from :func:`parts_of`.
        tables: data in memory that take a path's place.
        reporter: prints progress.
        shared: the parts that the trials of one call share; None: only the tops share parts.
        start: begins a trial, see :func:`stratatune.training.run.trial`.

    Raises:
        ConfigError: several processes, or a streamed trunk.
        NotFiniteError: a top diverged; the others are finished first.
    """
    if launched() > 1:
        raise ConfigError(
            ["objective: multitask(tops=...) trains in one process"],
            "leave out torchrun, or train each group by itself",
        )
    if config.trunk == "streamed":
        raise ConfigError(
            ["trunk: 'streamed'; the tops of multitask(tops=...) share one model, which is in memory"],
            "use --trunk resident, or auto; or train each group by itself",
        )
    own = shared or Shared()
    _give_tables(config, parts, tables, own)
    turns = [Turns(start(part, tables, Reporter(reporter.quiet, Path(part.out).name), own)) for part in parts]
    try:
        for one in turns:
            one.take()
        if shared is None:
            own.let_go()  # at its first batch each top has its model
        while waiting := [(one, one.ask) for one in turns if one.ask is not None]:
            for one, ask in waiting:
                # The caller may learn from this batch, with this top's random numbers, and moves them on.
                set_random_state(one.random)
                learnt = yield ask
                if learnt is not None:
                    one.random = random_state()
                one.take(learnt)
    finally:
        # Closing a generator runs its `finally`, which releases locks and files also after an error.
        for one in turns:
            one.running.close()
        if shared is None:
            own.close()
    if errors := [(part.out, one.error) for part, one in zip(parts, turns, strict=True) if one.error]:
        raise several_stopped(errors, len(turns), "tops", "the others are finished")
    results: list[Result] = [one.result for one in turns]
    sizes = [len(columns_in(part.label or "")) for part in parts]
    out = Path(config.out).expanduser()
    _write_history(out, parts, sizes)
    write_tops(out / "adapter", [Path(part.out).name for part in parts])
    return _joined(config, results, sizes)


def _give_tables(config: RunConfig, parts: Sequence[RunConfig], given: Mapping[str, Any], shared: Shared) -> None:
    """Read the data once, and give each top its label columns."""
    whole = shared.read_tables(config, given, Multitask)
    every = columns_in(config.label or "")

    def only(table: Table, columns: Sequence[str], first: bool) -> Table:
        further = {name: values for name, values in table.further.items() if name in columns or name not in every}
        notices = table.notices if first else ()
        label = joined(columns) if table.label_column else None
        return replace(table, label_column=label, further=further, notices=notices)

    for number, part in enumerate(parts):
        columns, first = columns_in(part.label or ""), number == 0
        test = None if whole.test is None else only(whole.test, columns, first)
        found = Tables(only(whole.train, columns, first), tuple(only(one, columns, first) for one in whole.eval), test)
        shared.once(shared.of_tables(part, Multitask), lambda found=found: found)


# --- the results of the tops, joined ----------------------------------------------------------------------------------


def _joined(config: RunConfig, results: Sequence[Result], sizes: Sequence[int]) -> Result:
    """Join the results: metrics side by side, times and parameters added up, the maximum of the rest."""
    first, plain = results[0], range(len(results))
    kinds = list(dict.fromkeys(kind for one in results for kind in one.seconds))
    busy = [one.seconds["cache"] + one.seconds["train"] for one in results]
    tokens = sum(one.tokens_per_second * seconds for one, seconds in zip(results, busy, strict=True))
    lines = max(len(one.elapsed) for one in results)
    every = {part for one in results for part in one.by_class}
    return replace(
        first,
        out=str(Path(config.out).expanduser()),
        trainable=sum(one.trainable for one in results),
        total=first.total + sum(one.trainable for one in results[1:]),
        best=_metrics([one.best for one in results], sizes),
        metric=config.metric or first.metric,
        best_epoch=max(one.best_epoch for one in results),
        test=_metrics([one.test for one in results], sizes),
        epochs=max(one.epochs for one in results),
        seconds={kind: round(sum(one.seconds.get(kind, 0.0) for one in results), 3) for kind in kinds},
        tokens_per_second=round(tokens / max(sum(busy), 1e-9), 1),
        peak_memory_bytes=max(one.peak_memory_bytes for one in results),
        elapsed=[round(sum(_at(one.elapsed, line) for one in results), 3) for line in range(lines)],
        labels=[label for one in results for label in one.labels],
        by_class={part: _classes([one.by_class.get(part, {}) for one in results]) for part in sorted(every)},
        notices=[f"{Path(results[at].out).name}: {line}" for at in plain for line in results[at].notices],
    )


def _at(elapsed: Sequence[float], line: int) -> float:
    """The elapsed seconds at a line; a top that stopped early takes no more time."""
    return elapsed[min(line, len(elapsed) - 1)] if elapsed else 0.0


def _metrics(found: Sequence[Mapping[str, float]], sizes: Sequence[int], prefix: str = "") -> dict[str, float]:
    """The metrics of all tops, preceded by the means over all heads of the metrics that each top has a mean of."""
    there = [(one, size) for one, size in zip(found, sizes, strict=True) if one]
    if not there:
        return {}
    total = sum(size for _, size in there)
    common = [
        name for name in (f"{prefix}{MEAN}", f"{prefix}loss", "train_loss") if all(name in one for one, _ in there)
    ]
    means = {name: sum(one[name] * size for one, size in there) / total for name in common}
    own = {name: value for one, _ in there for name, value in one.items() if name not in common}
    return {**means, **own}


def _classes(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    there = [one for one in found if one]
    return {**there[0], "classes": [row for one in there for row in one["classes"]]} if there else {}


def _write_history(out: Path, parts: Sequence[RunConfig], sizes: Sequence[int]) -> None:
    """Write a line for each evaluation, with the tops that trained until it."""
    lines: dict[float, list[tuple[dict[str, Any], int]]] = {}
    for part, size in zip(parts, sizes, strict=True):
        for line in (Path(part.out) / _HISTORY).read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            lines.setdefault(record["epoch"], []).append((record, size))
    written_lines = []
    for epoch in sorted(lines):
        records, own = zip(*lines[epoch], strict=True)
        numbers = [{name: value for name, value in one.items() if name not in ("epoch", "step")} for one in records]
        step = max(one["step"] for one in records)
        written_lines.append({"epoch": epoch, "step": step, **_metrics(numbers, own, "eval_")})
    write_text(out / _HISTORY, "".join(json.dumps(line, allow_nan=False) + "\n" for line in written_lines))
