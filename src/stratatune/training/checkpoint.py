"""Stop and resume a run: everything the loop needs is in one safetensors file, written whole or not at all.

A resumed run gives the same numbers as an uninterrupted one: the trained tensors, the optimiser's moments, the random
state and the place in the epoch are all in it; the order of the batches follows from the seed and the epoch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from stratatune.errors import ConfigError, ModelError
from stratatune.model.fingerprint import hash_of
from stratatune.model.saving import write_tensors
from stratatune.outside import parse_json, regular_file
from stratatune.progress import is_main
from stratatune.training import distributed
from stratatune.training.config import NOT_TRAINED_BY
from stratatune.training.facts import same_facts

if TYPE_CHECKING:
    from stratatune.training.session import Session

FILE = "checkpoint.safetensors"
_STEP = ("batch_size", "accumulate")
"""The settings that say how many rows an optimiser step has."""
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass
class Progress:
    """The place that a run has reached, and its results so far.

    Attributes:
        epoch: epochs finished.
        batch: batches finished of the epoch under way.
        step: optimiser steps made.
        best: the best score so far, None before the first evaluation.
        best_epoch: the epochs trained when it was reached, a fraction for an evaluation within one; of equal scores
            that of the lowest evaluation loss.
        stale: evaluations since it was first reached.
        loss_sum, loss_count: the training loss of the epoch under way: a sum, and how many terms it is over.
        tokens: real tokens trained on so far.
        seconds: time spent by kind: ``cache``, ``train``, ``eval``.
        history: one record an evaluation.
        elapsed: seconds of ``cache`` and ``train`` until each of them.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float | None = None
    best_epoch: int | float = 0
    stale: int = 0
    loss_sum: float = 0.0
    loss_count: float = 0.0
    tokens: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"cache": 0.0, "train": 0.0, "eval": 0.0})
    history: list[dict[str, Any]] = field(default_factory=list)
    elapsed: list[float] = field(default_factory=list)

    @property
    def trained(self) -> int | float:
        """Epochs trained when the run has ended: a fraction where an evaluation within one ended it."""
        return self.history[-1]["epoch"] if self.batch else self.epoch

    @property
    def train_loss(self) -> float:
        """The mean training loss since the epoch under way began."""
        return self.loss_sum / distributed.divisor(self.loss_count)


def save_checkpoint(
    session: Session,
    progress: Progress,
    trained: Mapping[str, nn.Parameter],
    best: Mapping[str, Tensor],
    optimiser: torch.optim.Optimizer,
) -> None:
    """Write the checkpoint of a run into its folder, with a checksum over its tensors and its metadata.

    Raises:
        ResourceError: the disk is full or the folder cannot be written; the checkpoint before it stays as it was.
    """
    tensors = {f"model/{name}": parameter.detach() for name, parameter in trained.items()}
    tensors |= {f"best/{name}": tensor for name, tensor in best.items()}
    for name, parameter in trained.items():
        moments = optimiser.state.get(parameter, {})
        tensors |= {f"{moment}/{name}": moments[moment] for moment in _MOMENTS if moment in moments}
    tensors |= {f"random/{device}": state for device, state in distributed.gathered(random_state()).items()}
    # After `gathered`, in which every process takes part.
    if not is_main():
        return
    said = {"progress": dataclasses.asdict(progress), "settings": session.settings, "facts": session.facts}
    # JSON has no NaN: another reader would fail on it, so it must not be written.
    record = json.dumps(said, allow_nan=False)
    write_tensors(session.out / FILE, tensors, {"record": record, "checksum": _checksum(tensors, record)})


def _checksum(tensors: Mapping[str, Tensor], record: str) -> str:
    return hash_of(sorted(tensors.items()), record)


def load_checkpoint(
    session: Session, trained: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer
) -> tuple[Progress, dict[str, Tensor]] | None:
    """Restore a run from its checkpoint; None when there is none.

    Returns:
        The progress and the best epoch's tensors.

    Raises:
        ConfigError: the checkpoint belongs to other settings, other data or another base model.
        ModelError: the file is damaged.
    """
    path = session.out / FILE
    if not path.is_file():
        return None
    with _opened(path) as file:
        text = file.metadata()["record"]
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        if file.metadata()["checksum"] != _checksum(tensors, text):
            raise ValueError("it is damaged, its checksum differs")
        record = parse_json(text)
    # All checks come before the first tensor is copied: a refused resumption leaves the model as it was.
    same_settings(record["settings"], session.settings, session.out)
    same_facts(record["facts"], session.facts, session.out)
    if odd := [name for name, parameter in trained.items() if not _fits(parameter, tensors.get(f"model/{name}"))]:
        raise ModelError(f"{path} does not fit this model: {odd[0]}", "remove it to start this run afresh")
    for name, parameter in trained.items():
        # In place: the optimiser and the hooks hold this very parameter.
        parameter.data.copy_(tensors[f"model/{name}"])
        moments = {moment: tensors[f"{moment}/{name}"] for moment in _MOMENTS if f"{moment}/{name}" in tensors}
        if moments:
            # Not through load_state_dict, which numbers parameters by their place: a name is safe from another order of
            # groups.
            optimiser.state[parameter] = {moment: value.to(parameter.device) for moment, value in moments.items()}
    # Each rank draws its own dropout (own_chance), so each goes on from its own state.
    own = f"/{distributed.rank()}" if distributed.rank() else ""
    states = {name: tensors.get(f"random/{name}{own}") for name in ("cpu", "cuda")}
    set_random_state({name: state for name, state in states.items() if state is not None})
    best = {name.removeprefix("best/"): tensor for name, tensor in tensors.items() if name.startswith("best/")}
    return Progress(**record["progress"]), best


def _fits(parameter: Tensor, tensor: Tensor | None) -> bool:
    return tensor is not None and (tensor.shape, tensor.dtype) == (parameter.shape, parameter.dtype)


def saved_settings(folder: Path) -> dict[str, Any] | None:
    """The settings of the checkpoint in ``folder``; None where there is none. Reads no tensor."""
    if not (folder / FILE).is_file():
        return None
    with _opened(folder / FILE) as file:
        return parse_json(file.metadata()["record"])["settings"]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if wrong := regular_file(path):
        raise ModelError(f"{path} cannot be read: {wrong}", "remove it to start this run afresh")
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        # The caller's reading is covered, too: a damaged file may open and then lack a key or hold another type.
        said = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ModelError(f"{path} cannot be read: {said}", "remove it to start this run afresh") from error


def steps_as_begun(saved: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, int]:
    """The ``batch_size`` and ``accumulate`` of a stopped run where they make optimiser steps of as many rows as now.

    Then a run that is resumed may keep its steps, and compute each of its batches in parts. Empty otherwise.
    """
    rows = _rows_of_step(saved)
    return {name: saved[name] for name in _STEP} if rows is not None and rows == _rows_of_step(now) else {}


def _rows_of_step(settings: Mapping[str, Any]) -> int | None:
    """The rows of an optimiser step; None where a token budget says how many."""
    size, accumulate = (settings.get(name) for name in _STEP)
    return size * accumulate if isinstance(size, int) and isinstance(accumulate, int) else None


def _in_parts(saved: Mapping[str, Any]) -> str:
    """How to ask for the steps of a stopped run in smaller batches; empty where that cannot be."""
    if (rows := _rows_of_step(saved)) is None or saved["batch_size"] < 2:
        return ""
    smaller = saved["batch_size"] // 2
    size, accumulate = (smaller, rows // smaller) if rows % smaller == 0 else (1, rows)
    way = f"--batch-size {size} --accumulate {accumulate}"
    return f"its steps of {rows} rows may be computed in smaller batches ({way}); "


def same_settings(saved: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Refuse to resume with other settings.

    Raises:
        ConfigError: names every setting that differs.
    """
    # An earlier version compared more of them, and its checkpoints hold those, too.
    compared = (saved.keys() | now.keys()) - {*NOT_TRAINED_BY}
    odd = sorted(key for key in compared if saved.get(key) != now.get(key))
    if odd:
        lines = [f"{key}: was {saved.get(key)!r}, is now {now.get(key)!r}" for key in odd]
        smaller = _in_parts(saved) if {*odd} & {*_STEP} else ""
        raise ConfigError(
            lines, f"--resume continues with the settings of {folder}; {smaller}choose another --out for other settings"
        )


def random_state() -> dict[str, Tensor]:
    """The states of torch's random number generators, by device."""
    state = {"cpu": torch.get_rng_state()}
    # Asking for it would start a GPU that a run on the CPU does not use.
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Continue from a state that :func:`random_state` gave."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
