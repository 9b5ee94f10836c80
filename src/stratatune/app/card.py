"""A model card written from a run: model and data, the plan as a picture, scores, cost, and code to load it."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratatune._compat import VERSION
from stratatune.markup import block, code, text
from stratatune.objectives.registry import OBJECTIVES
from stratatune.outside import Unreadable, path_exists, read_json

if TYPE_CHECKING:
    from stratatune.exits.exit import Exit
    from stratatune.model.attached import Attached

_PATHS = ("model", "start_from", "train", "eval", "test", "corpus", "out", "cache")


def card(run: Path | None, attached: Attached, base: str, form: Exit, name: str) -> str:
    """The text of ``README.md`` in an export's folder.

    Args:
        run: the run's folder, or its adapter folder; without one, or with no run around it, the card describes only the
            plan.
        attached: the state attached to the model, as it is before the export.
        base: the name of the base model; empty for one that was made from a config.
        form: the form of the export.
        name: its id on the hub, or the folder's name.
    """
    found = _Run.of(run)
    parts = [
        *_front(found, attached, base, form),
        f"# {text(name)}",
        "",
        f"{text(form.summary[:1].upper() + form.summary[1:])}, trained with stratatune {VERSION}.",
        "",
        *block("\n".join(form.code(attached, base, name)), "python"),
        "",
        *_facts(found, attached, base),
        "## Plan",
        "",
        *_picture(attached),
        "",
        *_scores(found),
        *_command(found),
        *_exits(attached),
        *_versions(found),
    ]
    return "\n".join(parts).rstrip() + "\n"


class _Run:
    """The content of a run's folder; each part is empty where it is missing."""

    def __init__(self, result: Mapping[str, Any], config: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        self.result, self.config, self.environment = result, config, environment

    @classmethod
    def of(cls, run: Path | None) -> _Run:
        """Read a run's folder."""
        if run is None:
            return cls({}, {}, {})
        place = next((one for one in (run, run.parent) if path_exists(one / "result.json")), run)
        return cls(_json(place / "result.json"), _config(place / "config.yaml"), _json(place / "env.json"))


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = read_json(path) if path_exists(path) else {}
    except Unreadable:
        return {}
    return found if isinstance(found, dict) else {}


def _config(path: Path) -> Mapping[str, Any]:
    from stratatune.errors import UserError
    from stratatune.training.config import load_config

    try:
        return load_config(path) if path_exists(path) else {}
    except UserError:
        return {}


def _front(run: _Run, attached: Attached, base: str, form: Exit) -> list[str]:
    """The YAML header by which the hub finds the model."""
    scores = run.result.get("test") or run.result.get("best") or {}
    values: dict[str, Any] = {
        "library_name": form.library,
        **({"base_model": base} if base else {}),
        "tags": ["stratatune", *filter(None, [run.result.get("objective")])],
    }
    learnt = OBJECTIVES.get(str(attached.spec.get("objective")))
    if pipeline := (learnt and learnt.pipeline) or attached.backbone.head.pipeline:
        values["pipeline_tag"] = pipeline
    if scores:
        values["metrics"] = sorted(scores)
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
    return ["---", *lines, "---", ""]


def _facts(run: _Run, attached: Attached, base: str) -> list[str]:
    resolved, spec, result = attached.resolved, attached.spec, run.result
    seconds = result.get("seconds") or {}
    started = attached.started_from
    rows = {
        "Base model": code(base) if base else "",
        "Plan": code(str(resolved.plan)),
        "Started from": code(_shown(started["run"])) + f" (tensors {started['tensors'][:12]})" if started else "",
        "Trained from block": f"{resolved.frozen_depth} of {resolved.shape.blocks}",
        "Trained parameters": f"{sum(one.numel() for one in attached.trained().values()):,}",
        "Objective": text(str(spec.get("objective") or "")),
        "Labels": text(", ".join(map(str, (spec.get("labels") or ())[:30]))),
        "Template": code(str(spec.get("template") or "")),
        "Training data": code(_shown(run.config.get("train"))),
        "Evaluation data": code(_shown(run.config.get("eval"))),
        "Epochs": f"{result['epochs']}, the best was {result['best_epoch']}" if "best_epoch" in result else "",
        "Time": ", ".join(f"{kind} {value:,.0f} s" for kind, value in seconds.items() if value) if seconds else "",
        "Peak memory": f"{result['peak_memory_bytes'] / 2**30:.2f} GiB" if result.get("peak_memory_bytes") else "",
    }
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items() if value), ""]


def _shown(source: Any) -> str:
    """The name of data, without their path on someone's machine."""
    parts = str(source or "").split(",")
    return ",".join(Path(part.strip()).name if _is_path(part.strip()) else part for part in parts)


def _is_path(source: str) -> bool:
    return source.startswith(("/", ".", "~")) or path_exists(Path(source))


def _picture(attached: Attached) -> list[str]:
    from stratatune.plan.picture import terminal

    return block(terminal(attached.resolved, False, attached.backbone.head.name), "text")


def _scores(run: _Run) -> list[str]:
    """A row for each metric; for shares of right rows with Wilson's 95 % interval."""
    rows: list[str] = []
    for part, key in (("evaluation", "best"), ("test", "test")):
        judged = _judged(run.result, part)
        count = (run.result.get("rows") or {}).get(part) or judged or ""  # results of 0.1 have no rows
        for metric, value in (run.result.get(key) or {}).items():
            between = _wilson(value, judged) if metric == "accuracy" and _is_share(value, judged) else None
            shown = f"{between[0]:.4f} to {between[1]:.4f}" if between else ""
            rows.append(f"| {part} | {text(metric)} | {value:.4f} | {shown} | {count} |")
    if not rows:
        return []
    head = ["| data | metric | value | 95 % interval | rows |", "|---|---|---|---|---|"]
    return ["## Scores", "", *head, *rows, ""]


def _judged(result: Mapping[str, Any], part: str) -> int:
    """The rows of all classes, where a row has exactly one; 0 for label sets, tags, and classes of several heads."""
    found = (result.get("by_class") or {}).get(part) or {}
    if "calibration_error" not in found and "confusion" not in found:  # which only such classes have
        return 0
    return sum(int(one.get("n") or 0) for one in found.get("classes") or [] if isinstance(one, dict))


def _is_share(value: float, count: int) -> bool:
    """Whether a score may be a number of rows out of ``count``: a mean of several data sets (MNLI's two) is not."""
    return count > 0 and abs(value * count - round(value * count)) < 1e-6 * count


def _wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's score interval of a share of ``count`` rows, at 95 %."""
    z = 1.959964
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def _command(run: _Run) -> list[str]:
    if not run.config:
        return []
    from stratatune.training.config import RunConfig, is_default

    words = ["stratatune", "train"]
    for name in RunConfig.model_fields:
        value = run.config.get(name)
        if value is None or is_default(name, run.config) or name in ("out", "resume"):
            continue
        words += _option(name, value)
    return ["## Command", "", *block(" ".join(map(shlex.quote, words)), "sh"), ""]


def _option(name: str, value: Any) -> list[str]:
    option = f"--{name.replace('_', '-')}"
    if value is True:
        return [option]
    if isinstance(value, list | tuple):
        return [option, ",".join(map(str, value))] if value else []
    if isinstance(value, dict):
        return [option, ",".join(f"{key}={word}" for key, word in value.items())] if value else []
    return [option, _shown(value) if name in _PATHS else str(value)]


def _exits(attached: Attached) -> list[str]:
    from stratatune.exits.registry import EXITS

    rows = []
    for one in EXITS.values():
        reasons = one.refusals(attached)
        rows.append(f"| {code(one.name)} | {'no: ' + text('; '.join(reasons)) if reasons else 'yes'} |")
    return ["## Exits", "", "| format | available |", "|---|---|", *rows, ""]


def _versions(run: _Run) -> list[str]:
    environment = run.environment
    if not environment:
        return []
    libraries = environment.get("libraries") or {}
    said = ", ".join(f"{name} {version}" for name, version in libraries.items() if version)
    machine = environment.get("gpu") or environment.get("processor") or ""
    return ["## Versions", "", f"Python {environment.get('python', '')}, {text(said)}; on {text(str(machine))}."]
