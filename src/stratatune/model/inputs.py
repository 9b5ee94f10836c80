"""The input side of a live model: vectors in place of words, positions moved on, and what the model says of a text."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

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
        """The hidden state at depth 0 of vectors in place of the first words: [P, E] -> [1, P, D]."""
        hidden = self.backbone.embeddings.forward(
            input_ids=None, inputs_embeds=vectors[None], position_ids=self.positions(0, len(vectors))
        )
        projection = self.backbone.projection
        return hidden if projection is None else projection(hidden)

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
                for number, call in enumerate(backbone.calls(hidden, mask)):
                    hidden = backbone.run_block(number, hidden, call)
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
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        call = inspect.signature(module.forward).bind_partial(*args, **kwargs)
        given, texts = call.arguments.get("position_ids"), call.arguments.get("input_ids")
        if given is None:
            texts = call.arguments["inputs_embeds"] if texts is None else texts
            call.arguments["position_ids"] = self.inputs.positions(self.count, texts.shape[1])
        else:
            call.arguments["position_ids"] = given + self.count
        return call.args, call.kwargs
