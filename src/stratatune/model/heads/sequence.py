"""``sequence``: a class or a number for a text, by a new output layer on the output of the model's own pooling."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from stratatune.errors import ModelError
from stratatune.model.body import Body
from stratatune.model.heads.head import Head
from stratatune.model.question import Question


class Sequence(Head):
    """The model's own classification head.

    It pools one token, or all of them where the config says so. With places it reads each of those by itself.

    Args:
        body: the model and its parts.
        family: how the model is walked.
    """

    name: ClassVar[str] = "sequence"
    auto: ClassVar[str] = "AutoModelForSequenceClassification"
    pipeline: ClassVar[str] = "text-classification"
    peft_task: ClassVar[str | None] = "SEQ_CLS"
    parts: ClassVar[Literal["lm", "pooler", "none"]] = "pooler"

    @classmethod
    def is_worn(cls, body: Body) -> bool:
        return body.row.classifier in body.names

    @classmethod
    def settings(cls, num_labels: int) -> dict[str, Any]:
        # Set here, or transformers would guess it from the first labels it sees, and save its guess in the config.
        problem = "regression" if num_labels == 1 else "single_label_classification"
        return {"num_labels": num_labels, "problem_type": problem}

    @property
    def paths(self) -> Mapping[str, str]:
        return {"pooler": self.body.row.pooler} if self.body.row.pooler else {}

    @property
    def new_layers(self) -> tuple[str, ...]:
        return tuple(path for path in (self.body.row.classifier_before, self.body.row.classifier) if path)

    @property
    def pools_all(self) -> bool:
        return self.body.row.pools_all(vars(self.body.model.config))

    def places(self, question: Question, mask: Tensor) -> Tensor | None:
        """The requested positions, or the one token that it pools."""
        return self.family.pooled(mask) if question.places is None and not self.pools_all else question.places

    def logits(self, hidden: Tensor, mask: Tensor, question: Question) -> Tensor:
        """Logits [B, C] of the pooled text, or [B, N, C] and [n, C] at places."""
        output = self.body.row.classifier
        if self.pools_all:
            if question.places is not None:
                raise ModelError(
                    "this head pools all tokens, so it has no logits at single positions", "ask without places"
                )
            return self.family.own_head(hidden, mask, output)
        # Each place becomes a text of one token, which is then what the model's own head pools, first or last.
        rows = hidden.reshape(-1, 1, hidden.shape[-1])
        ones = torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device)
        logits = self.family.own_head(rows, ones, output)
        logits = logits.reshape(*hidden.shape[:-1], logits.shape[-1])
        return logits[:, 0] if question.places is None else logits

    def widen_output(self) -> None:
        # A text has few scores, and in bf16 many texts have the same.
        output = [one for one in self.body.part(self.body.row.classifier).modules() if isinstance(one, nn.Linear)][-1]
        output.forward = functools.partial(_in_fp32, output)

    def for_targets(self, targets: Tensor) -> dict[str, Tensor]:
        """The source's own tokens [B, T]: the decoder reads them again, and the head reads its state at their end."""
        return {"input_ids": targets}


def _in_fp32(linear: nn.Linear, input: Tensor) -> Tensor:
    """``input`` [..., in] -> fp32 [..., out]."""
    bias = None if linear.bias is None else linear.bias.float()
    with torch.autocast(input.device.type, enabled=False):
        return nn.functional.linear(input.float(), linear.weight.float(), bias)
