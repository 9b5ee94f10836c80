"""The scales of an int8 cache: the largest value of each channel over a sample of the training data."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stratatune.cache.codec import scales_for
from stratatune.cache.feed import Asking, real_rows, run_trunk
from stratatune.data.batching import collate, plan_batches
from stratatune.data.encoded import Encoded
from stratatune.model.finite import check_hidden
from stratatune.model.split import Trunk

SAMPLE = 256  # examples; of short texts about 3,000 rows
_SEED = 0  # not the run's: runs of other seeds share a cache


def find_scales(
    trunk: Trunk,
    data: Encoded,
    question: Asking | None = None,
    *,
    one_position: bool,
    autocast: torch.dtype | None,
    pad_id: int,
    device: torch.device,
) -> Tensor:
    """Scales [D] for the hidden states of ``data``; the same for the same data and model.

    Raises:
        NotFiniteError: a hidden state is NaN or infinite; it names the weight at fault.
    """
    # A separate sample, before anything is written: one scale must serve every row, and rows already packed stay so.
    first = data.distinct.first
    drawn = first[np.random.default_rng(_SEED).choice(len(first), min(SAMPLE, len(first)), replace=False)]
    largest: list[Tensor] = []
    for part in plan_batches(data.lengths[drawn], batch_size=32, seed=_SEED, epoch=0, shuffle=False):
        batch = collate(data, drawn[part], pad_id).to(device)
        # Padding is left out: its hidden states are never kept, and may be larger than any token's.
        rows = real_rows(run_trunk(trunk, batch, question, one_position=one_position, autocast=autocast), batch)
        check_hidden(rows, trunk.attached.backbone.model, "the training data")
        largest.append(rows.float().abs().amax(dim=0))
    return scales_for(torch.stack(largest).amax(dim=0))
