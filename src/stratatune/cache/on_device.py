"""A whole trunk cache in the memory of the device that computes.

Shapes: `N` examples in all, `B` examples of one call, `T` rows of the longest of them, `D` values in a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class Resident:
    """All rows of a complete cache, as stored, in one tensor on ``device``.

    Args:
        slots: tensors of rows [n, D].
        slot, first, counts: int [N] each: in which slot an example's rows are, from which row on, how many.
        device: where they go.
    """

    def __init__(
        self, slots: Sequence[Tensor], slot: np.ndarray, first: np.ndarray, counts: np.ndarray, device: torch.device
    ) -> None:
        before = np.cumsum([0, *(len(rows) for rows in slots)])
        self.counts = counts
        self.first = before[slot] + first
        self.rows = torch.empty(int(before[-1]), slots[0].shape[1], dtype=slots[0].dtype, device=device)
        for rows, begin in zip(slots, before, strict=False):
            self.rows[begin : begin + len(rows)].copy_(rows)

    def get_padded(self, index: np.ndarray) -> Tensor:
        """The rows of ``index`` [B] as [B, T, D] on the device, zeros after an example's last row."""
        column, counts = np.arange(self.counts[index].max(initial=0)), self.counts[index][:, None]
        # Row 0 is read in place of padding, so that the whole batch is one gather; it is zeroed afterwards.
        at = np.where(column < counts, self.first[index][:, None] + column, 0)  # [B, T]
        device = self.rows.device
        rows = self.rows[torch.from_numpy(at).to(device, non_blocking=True)]
        real = torch.from_numpy(column < counts).to(device, non_blocking=True)
        return rows.masked_fill_(~real[..., None], 0)


def room_on(device: torch.device) -> int:
    """The bytes of a device's own memory that a trunk cache may take: half of what is free; 0 where it has none."""
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else 0
