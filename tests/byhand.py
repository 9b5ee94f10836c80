"""BERT and RoBERTa written out in plain torch operations, one text at a time: no padding, so no mask to get wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear

Step = Callable[[int, Tensor, Tensor], Tensor]


def nothing(block: int, x: Tensor, y: Tensor) -> Tensor:
    """Leaves what a part puts out as it is."""
    return y


class ByHand:
    """The arithmetic of a masked-LM model from its weights alone.

    Args:
        model: a ``BertForMaskedLM`` or ``RobertaForMaskedLM``.
    """

    def __init__(self, model: Any) -> None:
        family = model.config.model_type
        self.w = {name.removeprefix(f"{family}."): tensor.detach() for name, tensor in model.state_dict().items()}
        self.is_bert = family == "bert"
        self.blocks, self.heads = model.config.num_hidden_layers, model.config.num_attention_heads
        self.eps = model.config.layer_norm_eps

    def linear(self, name: str, x: Tensor) -> Tensor:
        return linear(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def norm(self, name: str, x: Tensor) -> Tensor:
        return layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"], self.eps)

    def embed(self, ids: Tensor, first: int = 0) -> Tensor:
        """[T] -> [T, D]; the first token stands at position ``first``."""
        words = self.w["embeddings.word_embeddings.weight"][ids]
        places = torch.arange(len(ids)) + first + (0 if self.is_bert else 2)
        positions = self.w["embeddings.position_embeddings.weight"][places]
        types = self.w["embeddings.token_type_embeddings.weight"][0]
        return self.norm("embeddings.LayerNorm", words + positions + types)

    def block(
        self, number: int, x: Tensor, after_o: Step = nothing, after_ffn: Step = nothing, prefix: Any = None
    ) -> Tensor:
        """One block on [T, D]; ``after_o(block, input, output)`` comes behind a projection, before the skip."""
        name = f"encoder.layer.{number}"
        q, k, v = (self.linear(f"{name}.attention.self.{part}", x) for part in ("query", "key", "value"))
        if prefix is not None:
            k, v = torch.cat([prefix[number][0], k]), torch.cat([prefix[number][1], v])
        q, k, v = (y.view(len(y), self.heads, -1).transpose(0, 1) for y in (q, k, v))  # [H, T, W]
        scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
        mixed = (scores.softmax(-1) @ v).transpose(0, 1).reshape(len(x), -1)
        attended = after_o(number, x, self.linear(f"{name}.attention.output.dense", mixed))
        x = self.norm(f"{name}.attention.output.LayerNorm", x + attended)
        inner = gelu(self.linear(f"{name}.intermediate.dense", x))
        fed = after_ffn(number, x, self.linear(f"{name}.output.dense", inner))
        return self.norm(f"{name}.output.LayerNorm", x + fed)

    def encode(self, x: Tensor, start: int = 0, stop: int | None = None, **steps: Any) -> Tensor:
        """Blocks ``start..stop-1`` on [T, D]."""
        for number in range(start, self.blocks if stop is None else stop):
            x = self.block(number, x, **steps)
        return x

    def head(self, x: Tensor) -> Tensor:
        """The masked-LM head on one hidden state [D] -> [V]."""
        if self.is_bert:
            x = gelu(self.linear("cls.predictions.transform.dense", x))
            x = self.norm("cls.predictions.transform.LayerNorm", x)
            return linear(x, self.w["embeddings.word_embeddings.weight"], self.w["cls.predictions.bias"])
        x = self.norm("lm_head.layer_norm", gelu(self.linear("lm_head.dense", x)))
        return linear(x, self.w["embeddings.word_embeddings.weight"], self.w["lm_head.bias"])
