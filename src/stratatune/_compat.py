"""Every line that depends on a library's version, and our own version."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from stratatune.errors import ConfigError

if TYPE_CHECKING:
    from accelerate import Accelerator


def installed(package: str) -> str:
    """The installed version of ``package``, or an empty string."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


VERSION = installed("stratatune") or "0.0.0"

#: Libraries whose version may change what a trunk computes; they are part of a trunk cache's key.
NUMERIC_LIBRARIES = ("torch", "transformers")


def numeric_versions() -> tuple[tuple[str, str], ...]:
    """``(library, version)`` of what decides the numbers."""
    return tuple((name, installed(name)) for name in NUMERIC_LIBRARIES)


def accelerator_for(device: str, loggers: Sequence[str], folder: Path) -> Accelerator:
    """An Accelerator on ``device`` (``auto``: the best there is), whose trackers write into ``folder``.

    Accelerate keeps one state a process and refuses a second run on another device; within one process that state is ours.
    Precision is the loop's own, by ``torch.autocast``, so that it may change from run to run.

    Raises:
        ConfigError: the machine has no such device.
    """
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import ProjectConfiguration

    there = {"auto": True, "cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[device]:
        raise ConfigError([f"device: {device!r} is not on this machine"], "there are: " + ", ".join(d for d, yes in there.items() if yes))
    if PartialState._shared_state and PartialState().num_processes == 1:
        AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        cpu=device == "cpu", log_with=list(loggers) or None, project_config=ProjectConfiguration(logging_dir=str(folder))
    )
    if loggers:
        accelerator.init_trackers("stratatune")
    return accelerator
