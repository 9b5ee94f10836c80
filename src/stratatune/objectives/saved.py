"""What an objective's saved data must hold, checked once where they are read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from stratatune.data.tasks import TASKS
from stratatune.errors import shown
from stratatune.outside import Written

_Number = Annotated[float, Field(allow_inf_nan=False)]


class SavedObjective(Written):
    """The fields that our objectives write; each reads those of its own. One of the user's own may have others."""

    text: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    label: str | None = None
    metric: str = "accuracy"
    max_length: Annotated[int, Field(ge=1, le=2**31)] = 256
    task: str | None = None
    family: Literal["encoder", "decoder", "encoder-decoder"] = "encoder"
    decoder: bool = False
    two_stacks: bool = False
    labels: list[str] | None = None
    value_range: Annotated[list[_Number], Field(min_length=2, max_length=2)] | None = None
    template: str | None = None
    label_words: list[str] = Field(default_factory=list)
    loss: Literal["vocab", "words"] = "vocab"
    chat_template: str | None = None
    turns: Literal["all", "last"] = "all"
    stop_tokens: list[Annotated[int, Field(ge=0)]] = Field(default_factory=list)
    system: str = ""
    suffixes: list[Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]] = Field(default_factory=list)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """The fields go with one another."""
        classes = len(self.labels or ())
        if self.task is not None and self.task not in TASKS:
            raise ValueError(f"task: there is no task {shown(self.task)}")
        if self.value_range is not None and self.value_range[0] >= self.value_range[1]:
            raise ValueError(f"value_range: {shown(self.value_range)} is not a range")
        if self.label_words and len(self.label_words) != (classes or 2):
            raise ValueError(f"label_words: {len(self.label_words)} words for {classes or 2} labels")
        if self.label_words and self.template is None:
            raise ValueError("template: there are label words and no template for them")
        if self.suffixes and len(self.suffixes) != len(self.label_words):
            raise ValueError(f"suffixes: {len(self.suffixes)} for {len(self.label_words)} words")
        if len(set(self.labels or ())) != classes:
            raise ValueError("labels: one occurs twice")
        return self
