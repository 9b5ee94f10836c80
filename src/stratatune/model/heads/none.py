"""``none``: a model without a head, whose last hidden state is the output."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from torch import Tensor

from stratatune.errors import ModelError
from stratatune.model.body import Body
from stratatune.model.heads.head import Head
from stratatune.model.question import Question

_POOLER = "pooler"
"""The attribute that holds the pooler in transformers' encoders; each runs without one where it is None."""


class NoHead(Head):
    """The last hidden state, through the final norm.

    Args:
        body: the model and its parts.
        family: how the model is walked.
    """

    name: ClassVar[str] = "none"
    auto: ClassVar[str] = "AutoModel"
    pipeline: ClassVar[str] = "feature-extraction"
    peft_task: ClassVar[str | None] = "FEATURE_EXTRACTION"

    @classmethod
    def is_worn(cls, body: Body) -> bool:
        return body.prefix == ""

    def build(self, missing: Iterable[str]) -> str:
        """Leave out a pooler that the checkpoint does not bring: this head does not read it, and it would be random."""
        if any(name.startswith(f"{_POOLER}.") for name in missing):
            setattr(self.body.base, _POOLER, None)
        return ""

    def logits(self, hidden: Tensor, mask: Tensor, question: Question) -> Tensor:
        """The normed last hidden state: ``hidden`` [..., D] -> [..., D].

        Raises:
            ModelError: the model has a head after all, one that the table does not know.
        """
        if self.body.prefix:
            name = type(self.body.model).__name__
            hint = "load it with a masked-LM or a classification head"
            raise ModelError(f"{name} has a head that stratatune does not know", hint)
        return self.body.normed(hidden)
