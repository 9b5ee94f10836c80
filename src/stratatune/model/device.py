"""The kind of device that a run computes on."""

from __future__ import annotations

from typing import Literal

import torch


def device_kind(device: str) -> Literal["cuda", "mps", "cpu"]:
    """The kind of device for ``device`` as in a run's settings; for ``auto`` the best there is.

    One that is not on this machine counts as ``cpu``: whoever opens it refuses it.
    """
    if device in ("auto", "cuda") and torch.cuda.is_available():
        return "cuda"
    return "mps" if device in ("auto", "mps") and torch.backends.mps.is_available() else "cpu"
