"""Sizes: of numbers by their type, and of bytes for people. No torch."""

from __future__ import annotations

from typing import Literal

Dtype = Literal["fp32", "bf16", "fp16", "int8"]
DTYPE_BYTES: dict[str, int] = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}
"""Bytes of one number."""


def readable_seconds(count: float) -> str:
    """A number of seconds for people: "1,234 s", "0.012 s" (two significant digits below 10)."""
    return f"{count:.2g} s" if count < 10 else f"{count:,.0f} s"


def readable_size(count: float) -> str:
    """A number of bytes for people: "512 B", "1.5 GB" (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < (999.5 if unit == "B" else 999.95):  # what rounds to 1000 is one of the next
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
