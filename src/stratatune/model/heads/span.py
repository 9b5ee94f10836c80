"""``span``: the beginning and the end of an answer, by a new output layer on the last hidden state."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from stratatune.model.body import Body
from stratatune.model.heads.head import Head
from stratatune.model.heads.worn import wears
from stratatune.model.question import Question


class Span(Head):
    """The linear D -> 2 of the model's own class for question answering: the logits of a beginning, of an end.

    Args:
        body: the model and its parts.
        family: how the model is walked.
    """

    name: ClassVar[str] = "span"
    auto: ClassVar[str] = "AutoModelForQuestionAnswering"
    pipeline: ClassVar[str] = "question-answering"
    peft_task: ClassVar[str | None] = "QUESTION_ANS"
    families: ClassVar[frozenset[str]] = frozenset({"encoder", "decoder"})

    @classmethod
    def is_worn(cls, body: Body) -> bool:
        return wears(body, cls.auto)

    @classmethod
    def settings(cls, num_labels: int) -> dict[str, Any]:
        """Two labels, a beginning and an end, whatever the data's."""
        return {"num_labels": 2}

    @classmethod
    def of_output(cls, output: Any) -> Tensor:
        """The two logits [B, T, 2], which transformers' classes give by themselves."""
        return torch.stack([output.start_logits, output.end_logits], dim=-1)

    @property
    def new_layers(self) -> tuple[str, ...]:
        """The output layer, which has another name in ModernBERT's class."""
        return ("qa_outputs",) if "qa_outputs" in self.body.names else ("classifier",)

    def logits(self, hidden: Tensor, mask: Tensor, question: Question) -> Tensor:
        """Turn ``hidden`` [..., D] into logits [..., 2]."""
        # The model's own head wants a batch; places by a mask come without one.
        rows = hidden if hidden.dim() == 3 else hidden[None]
        logits = self.family.own_head(rows, rows.new_ones(rows.shape[:2]).bool(), self.new_layers[0])
        return logits.reshape(*hidden.shape[:-1], logits.shape[-1])
