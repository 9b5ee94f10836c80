"""The input side of a live model: vectors in place of words, positions moved on, and what the model says of a text."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from stratatune.errors import PlanError
from stratatune.model import fitting
from stratatune.model.backbone import Backbone
from stratatune.model.families import decoder as decoders
from stratatune.model.families import encoder_decoder as seq2seq


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
        own = {"decoder": decoders.embed_vectors, "encoder-decoder": seq2seq.embed_vectors}.get(self.backbone.row.kind)
        if own is not None:
            return own(self.backbone, vectors)
        places = {"position_ids": self.positions(0, len(vectors))} if self._takes("position_ids") else {}
        hidden = self.backbone.embeddings.forward(input_ids=None, inputs_embeds=vectors[None], **places)
        projection = self.backbone.projection
        return hidden if projection is None else projection(hidden)

    def positions(self, start: int, count: int) -> Tensor:
        """Numbers [1, T] of the position table for ``count`` positions from ``start``."""
        first = self.backbone.row.position_offset + start
        return torch.arange(first, first + count, device=next(self.backbone.embeddings.parameters()).device)[None]

    def read(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """What the model says of a text in eval mode, without autograd: [B, T, D] at depth 0, [B, T] -> [B, D].

        The last hidden state of the first token; of an encoder-decoder, its encoder's. A decoder's first token has read
        nothing, so there it is that of the last.
        """
        backbone = self.backbone
        training = {module: module.training for block in backbone.blocks for module in block.modules()}
        try:
            backbone.blocks.eval()
            with torch.no_grad():
                if backbone.row.causal:
                    return decoders.read_last(backbone, hidden, mask)
                for number, call in enumerate(backbone.calls(hidden, mask)):
                    hidden = backbone.run_block(number, hidden, call)
                return hidden[:, 0]
        finally:
            for module, was in training.items():
                module.training = was

    def check(self) -> None:
        """Refuse a prompt in front of embeddings that take no vectors, or do more with them than named (PlanError)."""
        row = self.backbone.row
        if row.measured and row.kind == "encoder-decoder" and not fitting.embeds_as_named(self.backbone):
            raise PlanError(
                f"no prompt at the input of {row.name}: its encoder does more with vectors in place of words than "
                "backbone_from_names was told",
                "name position_table= and position_norm= where it has them, or use a late prompt: late_prompt(depth=0)",
            )
        if self.backbone.row.kind == "encoder" and not self._takes("inputs_embeds"):
            raise PlanError(
                f"no prompt at the input of {self.backbone.row.name}: its embeddings take no vectors",
                "use a late prompt: late_prompt(depth=0)",
            )

    def _takes(self, name: str) -> bool:
        """Whether the embeddings' ``forward`` has this parameter; without positions, blocks number the tokens."""
        return name in inspect.signature(self.backbone.embeddings.forward).parameters

    def shift(self, count: int) -> list[torch.utils.hooks.RemovableHandle]:
        """Let every text stand ``count`` positions further on, where the embeddings know of positions."""
        row, base = self.backbone.row, self.backbone.base
        if row.kind == "encoder":
            if not self._takes("position_ids"):
                return []
            return [self.backbone.embeddings.register_forward_pre_hook(_Shift(self, count), with_kwargs=True)]
        if row.position_table is None:
            return []
        table = base.get_submodule(row.position_table)
        if row.causal:
            return [table.register_forward_pre_hook(_Further(count))]
        return [table.register_forward_pre_hook(_Behind(count), with_kwargs=True)]


class _Further:
    """Adds P to the numbers [B, T] that a decoder's table of positions is given."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0] + self.count, *args[1:])


class _Behind:
    """Tells BART's table of positions, which counts them itself, that P tokens have gone before."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args[:1], {**kwargs, "past_key_values_length": self.count}


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
