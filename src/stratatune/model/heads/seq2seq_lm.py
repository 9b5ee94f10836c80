"""``seq2seq_lm``: the language-model head of an encoder-decoder, run by the model's own forward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

from torch import Tensor

from stratatune.errors import StratatuneError
from stratatune.model.body import Body
from stratatune.model.heads.head import Head
from stratatune.model.question import Question
from stratatune.shapes.architectures import EncoderDecoderArchitecture


class Seq2SeqLm(Head):
    """The output matrix after the second stack.

    Args:
        body: the model and its parts.
        family: how the model is walked.
    """

    name: ClassVar[str] = "seq2seq_lm"
    auto: ClassVar[str] = "AutoModelForSeq2SeqLM"
    pipeline: ClassVar[str] = "text2text-generation"
    peft_task: ClassVar[str | None] = "SEQ_2_SEQ_LM"
    families: ClassVar[frozenset[str]] = frozenset({"encoder-decoder"})
    parts: ClassVar[Literal["lm", "pooler", "none"]] = "lm"

    @classmethod
    def is_worn(cls, body: Body) -> bool:
        return cast("EncoderDecoderArchitecture", body.row).lm_head in body.names

    @property
    def paths(self) -> Mapping[str, str]:
        path = cast("EncoderDecoderArchitecture", self.body.row).lm_head
        return {"decoder": path, **({"bias": path} if self.body.shape.head_parts["bias"] else {})}

    def logits(self, hidden: Tensor, mask: Tensor, question: Question) -> Tensor:
        raise StratatuneError("the head of an encoder-decoder is run by the model's own forward")

    def for_targets(self, targets: Tensor) -> dict[str, Tensor]:
        """The targets [B, U] shifted by one token, with padding in place of -100."""
        model: Any = self.body.model
        # Shifted by the model's own method: T5 and BART start a target with different tokens.
        return {"decoder_input_ids": model.prepare_decoder_input_ids_from_labels(labels=targets)}
