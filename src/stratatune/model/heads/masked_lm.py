"""An encoder's pretrained masked-LM head: run at one position, for label words alone, in a lower precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from stratatune.methods.precision import product

if TYPE_CHECKING:
    from stratatune.model.backbone import Backbone


class MlmHead:
    """The head of a model that has one: final norm, dense, activation, norm, decoder.

    Args:
        backbone: the model and its row.
        paths: part of the head -> path of its module; ``bias`` is the module whose bias [V] is the decoder's.
    """

    def __init__(self, backbone: Backbone, paths: dict[str, str]) -> None:
        self.backbone, self.paths = backbone, paths
        self._held: Tensor | None = None
        self._held_words: tuple[Tensor, Tensor] | None = None

    def _modules(self) -> dict[str, Any]:
        return {name: self.backbone.model.get_submodule(path) for name, path in self.paths.items()}

    def logits(self, hidden: Tensor, words: Tensor | None) -> Tensor:
        """``hidden`` [..., D] -> [..., V], or [..., C] for the numbers of label words [C]."""
        part, row = self._modules(), self.backbone.row
        activation = ACT2FN[row.mlm_activation or getattr(self.backbone.model.config, row.activation)]
        for norm in self.backbone.final_norms():
            hidden = norm(hidden)
        hidden = part["norm"](activation(part["dense"](hidden)))
        bias = part["bias"].bias
        if words is None:
            return product(hidden, self._decoder(), bias)
        return product(hidden, self._decoder(words), None if bias is None else bias[words])

    def _decoder(self, words: Tensor | None = None) -> Tensor:
        """The decoder as the head reads it [V, E], or the rows of ``words`` [C, E]."""
        if words is not None and self._held_words is not None and words is self._held_words[0]:
            return self._held_words[1]
        weight = self._modules()["decoder"].weight if self._held is None else self._held
        return weight if words is None else weight[words]

    def weights(self) -> list[nn.Module | nn.Parameter | Tensor]:
        """What it computes with, a decoder held in a lower precision in place of the one it was made from."""
        part = self._modules()
        decoder = self._decoder() if self._held_words is None else self._held_words[1]
        bias = [] if part["bias"].bias is None else [part["bias"].bias]
        return [*self.backbone.final_norms(), part["dense"], part["norm"], *bias, decoder]

    def hold_decoder(self, cast: Callable[[Tensor], Tensor]) -> None:
        """Read what ``cast`` makes of a frozen decoder; the embeddings it is tied to stay."""
        weight: Tensor = self._modules()["decoder"].weight
        self._held = None if weight.requires_grad else cast(weight.detach())

    def hold_words(self, words: Tensor | None) -> None:
        """Keep a frozen decoder's rows for ``words`` [C] alone, if nothing else will be asked; None: no more."""
        self._held_words = None
        if words is not None and not self._modules()["decoder"].weight.requires_grad:
            self._held_words = words, self._decoder(words).detach().clone()
            self._held = None

    @property
    def can_reset(self) -> bool:
        """Whether one can be built on the tied embeddings: they must be as wide as the hidden state."""
        return len(set(self._modules()["dense"].weight.shape)) == 1

    @torch.no_grad()
    def reset(self) -> None:
        """Make it read the hidden state as it is: dense = identity, norm and bias as new, decoder tied."""
        part = self._modules()
        nn.init.eye_(part["dense"].weight)
        for vector in (part["dense"].bias, part["norm"].bias, part["bias"].bias):
            if vector is not None:
                nn.init.zeros_(vector)
        nn.init.ones_(part["norm"].weight)
