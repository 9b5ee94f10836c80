"""The report of one run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stratatune.errors import counted
from stratatune.studies.grid.records import RunRecord
from stratatune.studies.report import charts, costs
from stratatune.studies.report.measured import Measured, decimals, metric_of, scale, title_of
from stratatune.studies.report.parts import Cell, Code, Column, Fact, Folded, Part, Report, ReportTable, Section, Text
from stratatune.studies.report.plans import picture
from stratatune.studies.report.wording import listed, number, seconds, size
from stratatune.training.config import is_default
from stratatune.training.result import found_trunk


def single(run: RunRecord) -> Report:
    """The sections of a run that is done, failed or under way."""
    measured = Measured.of([run])
    sections = [
        Section("Learning curves", tuple(_curves(measured))),
        Section("Classes", tuple(_classes(run))),
        Section("Plan", tuple(filter(None, [picture(run)]))),
        Section("Cost", tuple(_cost(measured, run))),
        Section("Notices", tuple(Text(line) for line in (run.result or {}).get("notices", ()))),
        Section("Command", (Code(run.command),)),
        Section("Settings", tuple(_settings(run.config))),
        Section("Environment", tuple(environment([run]))),
    ]
    if run.error:
        sections.insert(0, Section("Error", (Code(run.error),)))
    model, task = str(run.config["model"]).rstrip("/").rsplit("/", 1)[-1], run.config.get("task")
    title = f"{run.config['plan']} on {task or _end(run.config.get('train'))}"
    about = f"{model}, seed {run.config.get('seed', 0)}, run folder {run.folder.name}."
    return Report(title, about, tuple(_facts(run)), tuple(section for section in sections if section.parts))


def _end(path: Any) -> str:
    return str(path).rstrip("/").rsplit("/", 1)[-1]


def _facts(run: RunRecord) -> list[Fact]:
    result = run.result
    if not result:
        return [Fact("status", run.status)]
    metric, spent = metric_of(run), result["seconds"]
    blocks = result["frozen_depth"] + result["backprop_blocks"]
    facts = [
        Fact(f"{title_of(metric)} ({where})", _printed(metric, scores[metric]), note)
        for where, scores, note in (
            ("evaluation", result["best"], f"epoch {result['best_epoch']} of {result['epochs']}"),
            ("test", result["test"], "of the same epoch"),
        )
        if metric in scores
    ]
    share = 100 * result["trainable"] / max(1, result["total"])
    return [
        *facts,
        Fact("trained parameters", f"{result['trainable']:,}", f"{share:.2f} % of {result['total']:,}"),
        Fact("backward through", f"{result['backprop_blocks']} of {blocks}", "blocks"),
        Fact("time", seconds(sum(spent.values())), f"trunk {seconds(spent['cache'])} of it"),
        Fact("peak memory", size(result["peak_memory_bytes"]), f"{result['tokens_per_second']:,.0f} tokens/s"),
    ]


def _printed(metric: str, score: float) -> str:
    value = scale(metric) * score
    return number(value, decimals([metric], [value]) + 1)


def _curves(measured: Measured) -> list[Part]:
    figure = charts.curves(measured)
    return [figure] if figure else []


_SAID = {"evaluation": "Evaluation data, best epoch", "test": "Test data"}
_MOST_COLUMNS = 12  # classes of a matrix that fits a page


def _classes(run: RunRecord) -> list[Part]:
    """Precision, recall and F1 of each class, and the confusion matrix."""
    parts: list[Part] = []
    for where, found in (run.result or {}).get("by_class", {}).items():
        more = ("threshold",) if "curve" in found else ()
        columns = (Column("class", False), *map(Column, ("precision", "recall", "F1", "rows", *more)))
        rows = tuple(
            (
                Cell(one["label"]),
                *(Cell(number(100 * one[name], 2)) for name in ("precision", "recall", "f1")),
                Cell(f"{one['n']:,}"),
                *(Cell(number(one[name], 2)) for name in more),
            )
            for one in found["classes"]
        )
        said = f"{_SAID.get(where, where)}. F1 as a metric: {found['f1']}."
        if "calibration_error" in found:
            apart = number(100 * found["calibration_error"], 1)
            said += f" Expected calibration error: {apart} % between confidence and accuracy, over 15 bins."
        parts.append(ReportTable(said, columns, rows))
        if "curve" in found:
            parts.append(charts.thresholds(where, found["curve"]))
        names = [one["label"] for one in found["classes"]]
        if 0 < len(found.get("confusion", ())) <= _MOST_COLUMNS:
            heads = (Column("class", False), *map(Column, names))
            cells = zip(names, found["confusion"], strict=True)
            matrix = tuple((Cell(name), *(Cell(f"{count:,}") for count in counts)) for name, counts in cells)
            parts.append(ReportTable("Confusion: rows by their class, columns by what was predicted.", heads, matrix))
    return parts


def _cost(measured: Measured, run: RunRecord) -> list[Part]:
    """The time by part, and the time that the trunk cache spared."""
    result = run.result
    if not result:
        return []
    spent = result["seconds"]
    total = max(sum(spent.values()), 1e-9)
    rows = tuple(
        (Cell(said), Cell(seconds(spent[kind])), Cell(f"{100 * spent[kind] / total:.0f} %"))
        for kind, said in (("cache", "running the frozen trunk"), ("train", "training the top"), ("eval", "evaluation"))
    )
    columns = (Column("part", False), Column("time"), Column("share"))
    return [ReportTable("Where the time went.", columns, rows), Text(_cache(measured, run))]


def _cache(measured: Measured, run: RunRecord) -> str:
    result = run.result or {}
    depth = result["frozen_depth"]
    if not depth:
        return "This plan trains the lowest block: there is no frozen trunk to cache."
    if not costs.remembers(run):
        return f"No trunk cache: the {depth} frozen blocks ran in every epoch."
    below = result.get("cached_depth") or depth
    again = depth - below
    beside = f" {counted(again, 'frozen block')} of the decoder ran in every step." if again else ""
    if found_trunk(result["cache_hit"], result["seconds"]):
        return f"The {below} blocks below never ran for training: their output was in the trunk cache.{beside}"
    saved = costs.spared(measured, run)
    more = f", which saved about {seconds(saved)} over {result['epochs']} epochs" if saved >= 0.01 else ""
    return f"The {below} frozen blocks ran once for each example{more}.{beside}"


def _settings(config: Mapping[str, Any]) -> list[Part]:
    """The settings that differ from their defaults, then all of them, folded up."""
    changed = {name: value for name, value in config.items() if not is_default(name, config)}
    columns = (Column("setting", False), Column("value", False))

    def table(settings: Mapping[str, Any], caption: str) -> ReportTable:
        rows = tuple((Cell(name), Cell(str(value), code=True)) for name, value in settings.items())
        return ReportTable(caption, columns, rows)

    every = table(config, "As in config.yaml.")
    return [table(changed, "Those that are not the default."), Folded("All settings", (every,))]


def environment(records: list[RunRecord]) -> list[Part]:
    """The environment that numbers may depend on besides the settings; where runs differ, every value."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        for name, value in _flat(record.environment):
            found.setdefault(name, {})[str(value)] = None
    if not found:
        return []
    said = [f"{name} {' or '.join(values)}" for name, values in found.items()]
    odd = [name for name, values in found.items() if len(values) > 1]
    warning = [Text(f"Not the same in all runs: {listed(odd)}.")] if odd else []
    return [Text("; ".join(said) + "."), *warning]


def _flat(environment: Mapping[str, Any]) -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in environment.items():
        flat += value.items() if isinstance(value, Mapping) else [(name, value)]
    # The working folder stands in the command, and no number depends on it.
    return [(name, value) for name, value in flat if value not in (None, "") and name != "directory"]
