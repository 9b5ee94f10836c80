"""The request of a run for an objective, before it is settled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stratatune.data.encoded import Encoded
from stratatune.data.readers import Table
from stratatune.data.tasks import Task
from stratatune.errors import ModelError
from stratatune.plan import Plan

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from stratatune.shapes.shape import Shape


@dataclass(frozen=True)
class Asked:
    """The request of a run: everything from which an objective is chosen and settled.

    Attributes:
        plan: the plan of the run.
        family: the family of the model: ``encoder``, ``decoder`` or ``encoder-decoder``.
        longest: the most tokens that the model takes.
        hidden: D, the width of its hidden states.
        sees_ahead: whether it is a decoder that cannot predict the next token, since each token sees the whole text.
        carries_state: whether some of its blocks carry a state from token to token, so that no row can hold several
            continuations of a text side by side.
        objective: an objective's name, or ``auto``.
        options: the options written in brackets after the name, by their own names.
        task: the named task, where there is one.
        template, label_words, loss, metric, max_length: the settings of these names.
        table: the training data; None while an objective is chosen, before the data are read.
        others: the evaluation and test data, for facts that every part needs, such as the names of the labels.
        tokenizer: the model's; likewise.
    """

    plan: Plan
    family: str
    longest: int
    objective: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)
    task: Task | None = None
    template: str | None = None
    label_words: Mapping[str, str] = field(default_factory=dict)
    loss: str = "vocab"
    metric: str | None = None
    max_length: int = 256
    table: Table | None = None
    others: tuple[Table, ...] = ()
    tokenizer: PreTrainedTokenizerBase | None = None
    hidden: int = 0
    sees_ahead: bool = False
    carries_state: bool = False

    @classmethod
    def on(cls, shape: Shape, plan: Plan, **settings: Any) -> Asked:
        """The request for a model of this shape; ``settings`` are further attributes."""
        can = {"sees_ahead": shape.sees_ahead, "carries_state": shape.carries_state}
        return cls(plan=plan, family=shape.family, **{"longest": shape.max_tokens, **can, **settings})

    @property
    def data(self) -> Table:
        """The training data, which have been read by the time an objective is settled."""
        assert self.table is not None
        return self.table

    @property
    def tokens(self) -> PreTrainedTokenizerBase:
        """The tokenizer, which is there by the time an objective is settled."""
        assert self.tokenizer is not None
        return self.tokenizer

    @property
    def prompted(self) -> bool:
        """Whether the plan's paper reads a label under a prompt, not by a new output layer, and the model can."""
        return self.plan.prompted and not self.sees_ahead and not self.carries_state

    @property
    def numeric(self) -> bool:
        """Whether the labels of the task are numbers."""
        return self.task is not None and self.task.numeric

    def check_fast(self, objective: str) -> None:
        """Refuse a tokenizer that does not give the place of each token in its text.

        Raises:
            ModelError: it is not a fast one.
        """
        if not self.tokens.is_fast:
            hint = "take another model"
            raise ModelError(f"{objective} needs a fast tokenizer, which says where each token lies", hint)


def pretended_common(texts: Encoded, family: str, metric: str) -> dict[str, Any]:
    """The fields that all objectives have, for made-up texts."""
    longest = int(texts.lengths.max())
    return {"text": ("text",), "label": "label", "metric": metric, "max_length": longest, "family": family}


def common_of(asked: Asked, metric: str) -> dict[str, Any]:
    """The fields that all objectives have, from a run's request."""
    return {
        "text": asked.data.columns,
        "label": asked.data.label_column,
        "metric": metric,
        "max_length": min(asked.max_length, asked.longest),
        "task": asked.task.name if asked.task else None,
        "family": asked.family,
    }
