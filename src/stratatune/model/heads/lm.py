"""``lm``: a decoder's language-model head, the final norm and the output matrix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor

from stratatune.methods.precision import product
from stratatune.model.body import Body
from stratatune.model.heads.head import Head
from stratatune.model.question import Question
from stratatune.shapes.architectures import DecoderArchitecture


class Lm(Head):
    """Final norm, output matrix and, in Gemma 2, a soft cap.

    Args:
        body: the model and its parts.
        family: how the model is walked.
    """

    name: ClassVar[str] = "lm"
    auto: ClassVar[str] = "AutoModelForCausalLM"
    peft_task: ClassVar[str | None] = "CAUSAL_LM"
    families: ClassVar[frozenset[str]] = frozenset({"decoder"})
    parts: ClassVar[Literal["lm", "pooler", "none"]] = "lm"

    @classmethod
    def is_worn(cls, body: Body) -> bool:
        return cast("DecoderArchitecture", body.row).lm_head in body.names

    @property
    def paths(self) -> Mapping[str, str]:
        path = cast("DecoderArchitecture", self.body.row).lm_head
        return {"decoder": path, **({"bias": path} if self.body.shape.head_parts["bias"] else {})}

    def logits(self, hidden: Tensor, mask: Tensor, question: Question) -> Tensor:
        """Turn ``hidden`` [..., D] into logits [..., V], or [..., C] for the requested rows."""
        decoder: Any = self.body.part(self.paths["decoder"])
        hidden, rows = self.body.normed(hidden), question.rows
        if rows is None:
            logits = decoder(hidden)
        else:
            # Rows are picked before the product: logits of the whole vocabulary are never made.
            bias = None if decoder.bias is None else decoder.bias[rows]
            logits = product(hidden, decoder.weight[rows], bias)
        # Gemma 2's soft cap is applied by its own forward, which is not run here.
        cap = getattr(self.body.model.config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap
