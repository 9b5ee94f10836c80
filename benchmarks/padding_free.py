"""Arm V: stock peft LoRA on all layers without any padding, by FlashAttention over texts laid end to end.

The strongest baseline where there is a GPU for it: random batches, yet no padded token. torch's variable-length
attention has no CPU kernel: there each text is attended to separately, with the same result but no meaningful speed.
It has no dropout of attention weights, which spares V some work that the other arms do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from stratatune.data.batching import Batch
from stratatune.studies.bench.arms import BenchSetting, Stock

NAME = "variable-length"


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend within each text: ``query``, ``key``, ``value`` [1, H, N, d], ``cu_seq_lens_q`` int32 [texts + 1].

    Returns [1, N, H, d], as transformers' own functions do.
    """
    if query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = (part[0].transpose(0, 1).contiguous() for part in (query, key, value))  # [N, H, d]
        ends, longest = cu_seq_lens_q, max_length_q
        found = varlen_attn(q, k, v, ends, ends, longest, longest, scale=scaling)
        assert isinstance(found, Tensor)
        return found[None], None
    sizes = cu_seq_lens_q.diff().tolist()
    texts = zip(*(part.split(sizes, dim=2) for part in (query, key, value)), strict=True)
    found = [nn.functional.scaled_dot_product_attention(*text, scale=scaling) for text in texts]
    return torch.cat(found, dim=2).transpose(1, 2), None


class PaddingFree(Stock):
    """Arm A of a RoBERTa, its batches laid end to end."""

    def __init__(self, setting: BenchSetting) -> None:
        AttentionInterface.register(NAME, attend)
        super().__init__(setting, lora=True, bucketed=False, attention=NAME)

    def loss(self, batch: Batch) -> Tensor:
        """The forward pass over the real tokens alone."""
        mask = batch.mask
        place = mask.cumsum(1)[mask]  # counted from 1
        counts = mask.sum(1, dtype=torch.int32)
        ends = nn.functional.pad(counts.cumsum(0, dtype=torch.int32), (1, 0))
        tuned: Any = self.model
        base = tuned.base_model.model  # under peft: transformers' classifier
        positions = place + self.setting.config["pad_token_id"]  # as RoBERTa numbers them
        given = {"position_ids": positions[None], "cu_seq_lens_q": ends, "max_length_q": mask.shape[1]}
        with self.setting.mixed(self.bf16):
            body = base.base_model(input_ids=batch.input_ids[mask][None], **given)
            first = body.last_hidden_state[0, ends[:-1].long()][:, None]  # [B, 1, D], what the classifier reads
            logits = base.classifier(first)
        return self.objective.loss_of_today(logits, batch)
