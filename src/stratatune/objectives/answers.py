"""A trained model in use: its interface for objectives, and an objective's answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from stratatune.data.causal import cut_prompts, prompt_ids
from stratatune.data.readers import Table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Answers:
    """A model's answers for N texts, in the order given.

    Attributes:
        columns: the columns of the predictions' table, N values each.
        labels: N class names, or N generated texts; None where the answer is neither.
        probabilities: [N, C] in the order of the classes, or None.
        values: [N] numbers, or None.
        notices: warnings about them, one line each.
        chances: the columns that are probabilities, and the class or label of each.
    """

    columns: Mapping[str, Sequence[Any]]
    labels: list[str] | None = None
    probabilities: np.ndarray | None = None
    values: np.ndarray | None = None
    notices: tuple[str, ...] = ()
    chances: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_texts(cls, written: list[str], notices: tuple[str, ...] = ()) -> Answers:
        """N texts that a model wrote."""
        return cls({"generated": written}, labels=written, notices=notices)


def written_after(texts: Sequence[str], using: Using, max_length: int) -> Answers:
    """The text that a decoder writes after each of ``texts``, with a notice about those that are cut."""
    prompts = [prompt_ids(using.tokenizer, text) for text in texts]
    return Answers.of_texts(using.generate(prompts), cut_prompts(prompts, max_length))


class Using(Protocol):
    """The interface of a trained model in use, from which an objective gets its predictions."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the base model."""
        ...

    def output(self, table: Table) -> np.ndarray:
        """The output of :meth:`Objective.predict` for every row, in order."""
        ...

    def untuned(self, table: Table) -> np.ndarray:
        """The output for every row of the base model as it was before tuning."""
        ...

    def generate(self, texts: Sequence[str] | Sequence[list[int]], **options: Any) -> list[str]:
        """The text generated for each text, or after each prompt's token ids; ``options`` of ``generate``."""
        ...
