"""``lm``: a decoder's language-model head, the final norm and the output matrix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from stratatune.methods.precision import product
from stratatune.model.body import Body
from stratatune.model.heads.head import Head
from stratatune.model.heads.token_scores import scores_of, token_scores
from stratatune.model.question import Question
from stratatune.model.stored import StoredLinear
from stratatune.shapes.architectures import DecoderArchitecture


class Lm(Head):
    """Final norm, output matrix and, in some models, a scale or a soft cap of the logits.

    Args:
        body: the model and its parts.
        family: how the model is walked.
    """

    name: ClassVar[str] = "lm"
    auto: ClassVar[str] = "AutoModelForCausalLM"
    pipeline: ClassVar[str] = "text-generation"
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
        """Turn ``hidden`` [..., D] into logits [..., V], or [..., C] for the requested rows.

        Where the question has the tokens that follow, into their scores [n, 2].
        """
        decoder: Any = self.body.part(self.paths["decoder"])
        hidden, rows, following = self.body.normed(hidden), question.rows, question.following
        # What the model's own forward does to its logits, which is not run here: Granite's scale, Gemma 2's soft cap.
        # The state is scaled, not the logits, of which there are many more; models with a scale have no output bias.
        scale = cast("DecoderArchitecture", self.body.row).logit_scale(vars(self.body.model.config))
        hidden = hidden if scale == 1.0 else hidden * scale
        cap = getattr(self.body.model.config, "final_logit_softcapping", None)
        if following is not None and _is_plain(decoder):
            return token_scores(hidden, decoder.weight, decoder.bias, following, cap)
        if rows is None:
            logits = decoder(hidden)
        else:
            # Rows are picked before the product: logits of the whole vocabulary are never made.
            bias = None if decoder.bias is None else decoder.bias[rows]
            logits = product(hidden, decoder.weight[rows], bias)
        if cap is not None:
            logits = torch.tanh(logits / cap) * cap
        return logits if following is None else scores_of(logits, following)


def _is_plain(decoder: Any) -> bool:
    """Whether the output matrix is an unpacked linear that does not train."""
    return type(decoder) in (nn.Linear, StoredLinear) and not any(one.requires_grad for one in decoder.parameters())
