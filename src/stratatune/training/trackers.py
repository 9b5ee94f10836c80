"""Report a run to trackers, through Accelerate: its settings, the plan as a picture, every evaluation, the end.

``metrics.jsonl`` is written in any case. Nothing is sent anywhere that the user did not name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from stratatune.plan.picture import terminal

if TYPE_CHECKING:
    from accelerate import Accelerator

    from stratatune.plan import Resolved
    from stratatune.training.config import RunConfig

PROJECT = "stratatune"
_PICTURE = "plan"


def begin(
    accelerator: Accelerator,
    config: RunConfig,
    resolved: Resolved,
    head: str,
    further: Mapping[str, str | int | float] = MappingProxyType({}),
) -> None:
    """Start the trackers that the settings name, and give them the settings, the plan and ``further`` parameters."""
    if not config.loggers:
        return
    given = {**parameters(config, resolved, head), **further}
    accelerator.init_trackers(PROJECT, config=given, init_kwargs=_options(config))
    picture = terminal(resolved, False, head)
    for name in config.loggers:
        # Trackers exist on the main process alone; elsewhere get_tracker gives a blank one.
        if name in _DRAW and accelerator.is_main_process:
            _DRAW[name](accelerator.get_tracker(name, unwrap=True), picture)


def parameters(config: RunConfig, resolved: Resolved, head: str) -> dict[str, Any]:
    """The settings in the form of trackers, with facts that follow from the plan."""
    settings = {name: _plain(value) for name, value in config.model_dump(mode="json").items()}
    found = {"frozen_depth": resolved.frozen_depth, "blocks": resolved.shape.blocks}
    return {**settings, **found, "plan_parameters": resolved.trainable(head)}


def _plain(value: Any) -> Any:
    """A number, a truth value or a text; TensorBoard accepts no others, and no None."""
    if isinstance(value, bool | int | float | str):
        return value
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={one}" for key, one in value.items())
    return ", ".join(map(str, value))


def log_records(accelerator: Accelerator, records: Iterable[Mapping[str, float]]) -> None:
    """Log evaluations, each a line of ``metrics.jsonl``: its numbers at its optimiser step."""
    for record in records:
        accelerator.log({name: value for name, value in record.items() if name != "epoch"}, step=int(record["step"]))


def end(accelerator: Accelerator) -> None:
    """Close the trackers. ``Accelerator.end_training`` would disconnect the processes too."""
    for tracker in accelerator.trackers:
        tracker.finish()


def conclude(accelerator: Accelerator, scores: Mapping[str, Mapping[str, float]], seconds: Mapping[str, float]) -> None:
    """Log the scores of the selected epoch and of the test data, and the time of each part.

    Args:
        accelerator: has the trackers.
        scores: metrics by the data that they are of, such as ``best`` and ``test``.
        seconds: the time of each part.
    """
    values = {f"{name}_{metric}": value for name, found in scores.items() for metric, value in found.items()}
    values |= {f"seconds_{kind}": value for kind, value in seconds.items()}
    accelerator.log(values)


def _options(config: RunConfig) -> dict[str, dict[str, Any]]:
    """The options with which each tracker starts: named after the run's folder, and kept in it where it keeps files."""
    name = os.path.basename(os.path.normpath(config.out))
    options = {"wandb": {"name": name, "dir": config.out}, "mlflow": {"run_name": name}, "trackio": {"name": name}}
    # Accelerate passes these to the tracker's own start, which refuses options of another.
    return {tracker: found for tracker, found in options.items() if tracker in config.loggers}


def _draw_tensorboard(writer: Any, picture: str) -> None:
    writer.add_text(_PICTURE, "\n".join(f"    {line}" for line in picture.splitlines()))
    writer.flush()


def _draw_wandb(run: Any, picture: str) -> None:
    import wandb  # pyright: ignore[reportMissingImports]

    run.log({_PICTURE: wandb.Html(f"<pre>{picture}</pre>")}, step=0)


def _draw_mlflow(run: Any, picture: str) -> None:
    import mlflow  # pyright: ignore[reportMissingImports]

    mlflow.log_text(picture, f"{_PICTURE}.txt")


def _draw_trackio(run: Any, picture: str) -> None:
    import trackio  # pyright: ignore[reportMissingImports]

    run.log({_PICTURE: trackio.Markdown(f"```\n{picture}\n```")})


_DRAW: dict[str, Callable[[Any, str], None]] = {
    "tensorboard": _draw_tensorboard,
    "wandb": _draw_wandb,
    "mlflow": _draw_mlflow,
    "trackio": _draw_trackio,
}
