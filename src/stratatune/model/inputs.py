"""The input side of a live model: vectors in place of words, positions moved on, and what the model says of a text."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from stratatune.errors import PlanError
from stratatune.model.backbones import Backbone


class Inputs:
    """What an insertion at the input asks of the model.

    The embeddings' ``forward`` is called, not the module: hooks on it serve callers of the whole model.

    Args:
        backbone: the model seen through its row.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def embed(self, vectors: Tensor) -> Tensor:
        """The hidden state at depth 0 of vectors in place of the first words: [P, D] -> [1, P, D]."""
        return self.backbone.embeddings.forward(
            inputs_embeds=vectors[None], position_ids=self.positions(0, len(vectors))
        )

    def positions(self, start: int, count: int) -> Tensor:
        """Numbers [1, T] of the position table for ``count`` positions from ``start``."""
        first = self.backbone.row.position_offset + start
        return torch.arange(first, first + count, device=next(self.backbone.embeddings.parameters()).device)[None]

    def read(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """The last hidden state of the first token, as the model has it in eval mode: [B, T, D], [B, T] -> [B, D]."""
        backbone = self.backbone
        training = {module: module.training for block in backbone.blocks for module in block.modules()}
        try:
            backbone.blocks.eval()
            with torch.no_grad():
                attention_mask = backbone.attention_mask(hidden, mask)
                for number in range(len(backbone.blocks)):
                    hidden = backbone.run_block(number, hidden, attention_mask)
                return hidden[:, 0]
        finally:
            for module, was in training.items():
                module.training = was

    def check(self) -> None:
        """Refuse a prompt in front of embeddings that take no vectors or no positions (PlanError)."""
        takes = inspect.signature(self.backbone.embeddings.forward).parameters
        if not {"inputs_embeds", "position_ids"} <= set(takes):
            raise PlanError(
                f"no prompt at the input of {self.backbone.row.name}: its embeddings take no vectors with positions",
                "use a late prompt: late_prompt(depth=0)",
            )

    def shift(self, count: int) -> torch.utils.hooks.RemovableHandle:
        """Let every text stand ``count`` positions further on."""
        return self.backbone.embeddings.register_forward_pre_hook(_Shift(self, count), with_kwargs=True)


class _Shift:
    """Adds P to the positions that the embeddings are given, or would count themselves."""

    def __init__(self, inputs: Inputs, count: int) -> None:
        self.inputs, self.count = inputs, count

    def __call__(
        self, module: object, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = kwargs.get("position_ids")
        if given is not None:
            return args, {**kwargs, "position_ids": given + self.count}
        texts = kwargs.get("input_ids")
        texts = args[0] if args else kwargs["inputs_embeds"] if texts is None else texts
        return args, {**kwargs, "position_ids": self.inputs.positions(self.count, texts.shape[1])}
