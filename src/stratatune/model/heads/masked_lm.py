"""``masked_lm``: an encoder's pretrained head, run at a few positions, for label words alone, in a lower precision."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from stratatune.methods.precision import product
from stratatune.model.body import Body
from stratatune.model.families.family import Family
from stratatune.model.heads.head import Head, Weights
from stratatune.model.question import Question
from stratatune.shapes.architectures import Architecture, EncoderArchitecture


class MaskedLm(Head):
    """Final norm, dense, activation, norm, decoder.

    Args:
        body: the model and its parts.
        family: how the model is walked.
    """

    name: ClassVar[str] = "masked_lm"
    auto: ClassVar[str] = "AutoModelForMaskedLM"
    pipeline: ClassVar[str] = "fill-mask"
    families: ClassVar[frozenset[str]] = frozenset({"encoder"})
    parts: ClassVar[Literal["lm", "pooler", "none"]] = "lm"

    def __init__(self, body: Body, family: Family) -> None:
        super().__init__(body, family)
        self.row = cast("EncoderArchitecture", body.row)
        self._paths = _layout(body)
        self._held: Tensor | None = None
        self._held_words: tuple[Tensor, Tensor] | None = None

    @classmethod
    def is_worn(cls, body: Body) -> bool:
        return bool(_layout(body))

    @property
    def paths(self) -> Mapping[str, str]:
        """The module of each part of the head; ``bias`` is the module whose bias [V] is the decoder's."""
        return self._paths

    def _modules(self) -> dict[str, Any]:
        return {name: self.body.part(path) for name, path in self.paths.items()}

    def logits(self, hidden: Tensor, mask: Tensor, question: Question) -> Tensor:
        """Turn ``hidden`` [..., D] into logits [..., V], or [..., C] for the requested rows of the decoder."""
        part, words = self._modules(), question.rows
        activation = ACT2FN[self.row.mlm_activation or getattr(self.body.model.config, self.row.activation)]
        hidden = part["norm"](activation(part["dense"](self.body.normed(hidden))))
        bias = part["bias"].bias
        if words is None:
            return product(hidden, self._decoder(), bias)
        return product(hidden, self._decoder(words), None if bias is None else bias[words])

    def _decoder(self, words: Tensor | None = None) -> Tensor:
        """The decoder as the head reads it [V, E], or the rows of ``words`` [C, E]."""
        # By identity: comparing the numbers would wait for a GPU in every step.
        if words is not None and self._held_words is not None and words is self._held_words[0]:
            return self._held_words[1]
        weight = self._modules()["decoder"].weight if self._held is None else self._held
        return weight if words is None else weight[words]

    def weights(self) -> Weights:
        """The weights that it computes with; a decoder held in a lower precision replaces the original."""
        part = self._modules()
        decoder = self._decoder() if self._held_words is None else self._held_words[1]
        bias = [] if part["bias"].bias is None else [part["bias"].bias]
        return [*self.body.final_norms(), part["dense"], part["norm"], *bias, decoder]

    def hold_decoder(self, cast: Callable[[Tensor], Tensor]) -> None:
        """Use ``cast`` of the decoder's weight where it is frozen; the tied embeddings stay as they are."""
        weight: Tensor = self._modules()["decoder"].weight
        self._held = None if weight.requires_grad else cast(weight.detach())

    def hold_rows(self, rows: Tensor | None) -> None:
        """Keep only ``rows`` [C] of a frozen decoder, if no others are needed; None: undo this."""
        self._held_words = None
        if rows is not None and not self._modules()["decoder"].weight.requires_grad:
            self._held_words = rows, self._decoder(rows).detach().clone()
            self._held = None

    @classmethod
    def own_setting(cls, row: Architecture, unused: Iterable[str]) -> dict[str, bool]:
        """The setting that makes transformers read the masked-LM head of the published DeBERTa-v2 and v3 checkpoints.

        They keep their head under names that transformers reads with ``legacy=False`` alone, and their configs do not
        say so: a new head would take its place (transformers #18674).
        """
        setting = cast("EncoderArchitecture", row).mlm_setting
        # Only where the checkpoint brings such a head: others are to get a new one.
        if setting is None or not any(name.startswith(setting[0]) for name in unused):
            return {}
        return {setting[1]: setting[2]}

    @torch.no_grad()
    def build(self, missing: Iterable[str]) -> str:
        """Build a head that reads the hidden state as it is: dense = identity, norm and bias as new, decoder tied.

        The tied embeddings must be as wide as the hidden state.
        """
        part = self._modules()
        # An identity exists only where the dense layer keeps the width (ALBERT's narrows it to the embeddings').
        square = len(set(part["dense"].weight.shape)) == 1
        if not square or not any(name.startswith(self.paths["dense"]) for name in missing):
            return ""
        # A random dense layer before tied embeddings would score words at random; the identity keeps the hidden
        # state.
        nn.init.eye_(part["dense"].weight)
        for vector in (part["dense"].bias, part["norm"].bias, part["bias"].bias):
            if vector is not None:
                nn.init.zeros_(vector)
        nn.init.ones_(part["norm"].weight)
        return "this model brings no masked-LM head: one was built on its tied embeddings (dense = identity)"


def _layout(body: Body) -> dict[str, str]:
    """The path of the module of each part of the head; empty when the model has no such head."""
    row = cast("EncoderArchitecture", body.row)
    # The first layout whose modules are all there: versions of a model's class name them differently.
    for layout in (row.mlm_head, *row.mlm_alternatives):
        if layout and body.names.issuperset(layout.values()):
            return {"bias": layout["decoder"], **layout}
    return {}
