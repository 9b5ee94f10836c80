"""Texts for a head that pools them itself. Shared by the objectives with a new output layer on top."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from stratatune.data.causal import encode_last
from stratatune.data.encode import encode_plain
from stratatune.data.encoded import Encoded
from stratatune.data.readers import Table
from stratatune.objectives.objective import Objective
from stratatune.objectives.weights import with_weights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from stratatune.data.batching import Batch
    from stratatune.model.question import Question

_ENCODE: Mapping[str, Callable[[Table, PreTrainedTokenizerBase, int], Encoded]] = {
    "encoder": encode_plain,
    "decoder": encode_last,
    "encoder-decoder": encode_plain,
}
PLACES = {"encoder": "[CLS]", "decoder": "the last token", "encoder-decoder": "the last token"}
"""The position that a classification head reads, as text for people."""
JOINED_BY = {"decoder": "\n"}
"""What is written between two texts, where the tokenizer of a family puts nothing of its own there."""
FAMILIES = frozenset(_ENCODE)
"""The families whose models have a classification head."""


def encode_pooled(family: str, table: Table, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """Encode the text, or both, for the classification head of a model of this family."""
    return _ENCODE[family](table, tokenizer, max_length)


def pooled(batch: Batch) -> Question:
    """The question for the head's pooled output; a second stack reads the text again."""
    from stratatune.model.question import Question

    return Question(targets=batch.input_ids)


@dataclass(frozen=True, kw_only=True)
class Pooled(Objective):
    """One label of some kind for a text, from the output of the classification head. Abstract."""

    head: ClassVar[str] = "sequence"
    families: ClassVar[frozenset[str]] = FAMILIES
    reads: ClassVar[Literal["one", "few", "all"]] = "one"
    weighted: ClassVar[bool] = True
    place: ClassVar[str] = "[CLS]"

    @abc.abstractmethod
    def targets(self, table: Table) -> np.ndarray:
        """The targets of a table with labels: classes int64 [N], values float32 [N], or sets bool [N, C].

        Raises:
            DataError: a label unseen in training, or one of another kind.
        """

    @property
    def position(self) -> str:
        return PLACES[self.family]

    def encode(self, table: Table, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        encoded = encode_pooled(self.family, table, tokenizer, self.max_length)
        return encoded if table.labels is None else with_weights(encoded.with_targets(self.targets(table)), table)

    def question(self, batch: Batch, *, training: bool) -> Question:
        return pooled(batch)
