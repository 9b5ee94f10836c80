"""``token``: a tag for every token, by a new output layer on the last hidden state."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from stratatune.model.body import Body
from stratatune.model.heads.head import Head
from stratatune.model.heads.worn import wears
from stratatune.model.question import Question


class Token(Head):
    """Dropout and a linear, as the model's own class for token classification has them.

    Args:
        body: the model and its parts.
        family: how the model is walked.
    """

    name: ClassVar[str] = "token"
    auto: ClassVar[str] = "AutoModelForTokenClassification"
    pipeline: ClassVar[str] = "token-classification"
    peft_task: ClassVar[str | None] = "TOKEN_CLS"
    families: ClassVar[frozenset[str]] = frozenset({"encoder", "decoder"})

    @classmethod
    def is_worn(cls, body: Body) -> bool:
        return wears(body, cls.auto)

    @classmethod
    def settings(cls, num_labels: int) -> dict[str, Any]:
        return {"num_labels": num_labels}

    @property
    def new_layers(self) -> tuple[str, ...]:
        """The output layer, which has one of two names in transformers' classes."""
        return ("classifier",) if "classifier" in self.body.names else ("score",)

    def logits(self, hidden: Tensor, mask: Tensor, question: Question) -> Tensor:
        """Turn ``hidden`` [..., D] into logits [..., C]."""
        # The model's own head wants a batch; places by a mask come without one.
        rows = hidden if hidden.dim() == 3 else hidden[None]
        logits = self.family.own_head(rows, rows.new_ones(rows.shape[:2]).bool(), self.new_layers[0])
        return logits.reshape(*hidden.shape[:-1], logits.shape[-1])
