"""The precision in which hidden states are kept, and the rounding to it, which the top sees with or without a cache.

int8 has one scale s for each channel: x is kept as q = round(x / s), from -127 to 127, and read as q s. A scale for
each token would lose 12 % on models with a few channels far larger than the others; one for each channel loses about
1 %. The scales come from the largest values that a sample of the training data shows, with room above them; they are
found once, before anything is kept, and belong to the run: evaluation data, a resumed run and a saved adapter use the
same.

Shapes: `D` values in a row, `n` rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from stratatune.cache.keys import Identity
from stratatune.errors import CacheError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8}
HEADROOM = 1.25  # the most of a million normal values over the most of ten thousand is 1.22
_STEPS = 127  # -128 is not used: a scale serves both signs


@dataclass(frozen=True)
class Codec:
    """A precision by its name (a key of ``DTYPES``), and int8's ``scales`` [D], fp32."""

    name: str = "fp32"
    scales: Tensor | None = None

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Codec:
        """A codec from the data of :meth:`to_data`; fp32 by default."""
        scales = data.get("scales")
        return cls(data.get("kept", "fp32"), None if scales is None else torch.tensor(scales))

    @classmethod
    def of(cls, identity: Identity) -> Codec:
        """The codec of a cache."""
        return cls(identity.key.dtype, torch.tensor(identity.scales) if identity.scales else None)

    def own_scales(self) -> Tensor:
        """int8's ``scales`` [D]; CacheError for another precision."""
        if self.scales is None:
            raise CacheError(f"{self.name} has no scales")
        return self.scales

    def to_data(self) -> dict[str, Any]:
        """The codec as plain data: ``kept`` and, for int8, ``scales``."""
        return {"kept": self.name} | ({} if self.scales is None else {"scales": self.scales.tolist()})

    @property
    def stored(self) -> torch.dtype:
        """The dtype in which a value is stored."""
        return DTYPES[self.name]

    def pack(self, rows: Tensor, out: Tensor) -> int:
        """Write ``rows`` [n, D] into ``out`` [n, D] as they are stored; returns how many values were clipped.

        Raises CacheError for values that the precision cannot hold at all.
        """
        if self.scales is None:
            out.copy_(rows)
            if self.stored == torch.float16 and not out.isfinite().all():  # bf16 has the range of fp32
                raise CacheError("the trunk gave values that fp16 cannot hold (65504 at most)", "store bf16 or fp32")
            return 0
        # In fp32: the quotient of two bf16 numbers would be rounded before it is rounded to a step.
        codes = self._codes(rows)
        # Before clamping, which would turn inf into the largest step, and hide that the trunk has failed.
        if not codes.isfinite().all():
            raise CacheError("the trunk gave values that int8 cannot hold (inf or nan)", "store bf16 or fp32")
        beyond = int((codes.abs() > _STEPS).sum())
        out.copy_(codes.clamp_(-_STEPS, _STEPS))
        return beyond

    def unpack(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """Stored rows [..., D] as values in ``dtype``, on their own device."""
        return rows.to(dtype) if self.scales is None else (rows * self.scales.to(rows.device)).to(dtype)

    def rounded(self, hidden: Tensor, dtype: torch.dtype) -> Tensor:
        """Round ``hidden`` [..., D] as a cache would, in ``dtype``; values out of range become inf or nan."""
        if self.scales is None:
            return hidden.to(self.stored).to(dtype)
        return self.unpack(self._codes(hidden).clamp_(-_STEPS, _STEPS), dtype)

    def _codes(self, rows: Tensor) -> Tensor:
        assert self.scales is not None
        return (rows.float() / self.scales.to(rows.device)).round_()


def scales_for(largest: Tensor) -> Tensor:
    """Scales [D] for channels whose largest magnitudes in a sample are ``largest`` [D].

    Rounded up to five binary digits, so that a sample computed once more, in another order, gives the same ones. A
    channel that was zero throughout gets the widest scale: it clips nothing.
    """
    largest = largest.float().cpu()
    widest = largest.max() if bool((largest > 0).any()) else torch.tensor(1.0)
    # Up, not to the nearest: a scale below the largest value found would clip it.
    digits, exponent = torch.frexp(torch.where(largest > 0, largest, widest) * HEADROOM / _STEPS)
    return torch.ldexp((digits * 32).ceil() / 32, exponent).clamp_min_(torch.finfo(torch.float32).tiny)


def with_scales(identity: Identity, stored: Identity | None, find: Callable[[], Tensor] | None) -> Identity:
    """``identity`` with the scales of the cache on disk (``stored``), or new ones; int8 only.

    Raises ValueError when a new cache gets none, or not one for each channel.
    """
    if identity.key.dtype != "int8":
        return identity
    if stored is not None:
        scales = stored.scales
    elif find is not None:
        scales = tuple(find().tolist())
    else:
        raise ValueError("a new int8 cache needs scales")
    if len(scales) != identity.width:
        raise ValueError(f"{len(scales)} scales for {identity.width} channels")
    return replace(identity, scales=scales)
