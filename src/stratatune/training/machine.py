"""Facts about the machine on which numbers may depend, and how much of its memory was in use."""

from __future__ import annotations

import platform
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

from stratatune._compat import installed
from stratatune.model.device import device_kind


def count_peak_anew(device: torch.device) -> None:
    """Let :func:`peak_memory` count from here on: on a GPU a run's figure is not that of the one before it."""
    if device.type == "cuda":
        torch.cuda.init()  # which nothing has done yet in a new process, and without it there are no statistics
        torch.cuda.reset_peak_memory_stats(device)


def gpu_memory(device: str) -> int | None:
    """The bytes of free memory of the GPU that a run computes on; None: it computes on none that has its own.

    ``device`` as in a run's settings. Of several GPUs it is the one that this process has chosen.
    """
    if device_kind(device) != "cuda":
        return None
    # torch keeps what earlier runs of this process have freed, and the driver counts that as taken.
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0]


def peak_memory(device: torch.device) -> int:
    """The most bytes in use: of the process, or on a GPU of its own memory since :func:`count_peak_anew`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # ru_maxrss is in bytes on macOS and in KiB on Linux.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def now(device: torch.device) -> float:
    """The seconds on a clock, once the GPU has finished all that was queued."""
    if device.type == "cuda":
        # CUDA calls return before the work is done.
        torch.cuda.synchronize(device)
    return time.perf_counter()


def in_bf16(precision: str, device: torch.device) -> bool:
    """``auto``: bf16 where the device computes in it, with a dedicated matrix unit."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Without such a unit bf16 is emulated, and slower than fp32.
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def environment() -> dict[str, Any]:
    """The versions and hardware on which numbers may depend besides the settings."""
    libraries = ("stratatune", "torch", "transformers", "accelerate", "datasets", "tokenizers", "numpy")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "directory": str(Path.cwd()),
        "libraries": {name: installed(name) for name in libraries},
    }
