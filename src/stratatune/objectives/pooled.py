"""What the objectives share that read a new output layer on what the model's own classification head pools."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from stratatune.data.causal import encode_last
from stratatune.data.encode import Encoded, encode_plain
from stratatune.data.readers import Table
from stratatune.objectives.objective import Objective

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from stratatune.data.batching import Batch
    from stratatune.model.question import Question

_ENCODE: Mapping[str, Callable[[Table, PreTrainedTokenizerBase, int], Encoded]] = {
    "encoder": encode_plain,
    "decoder": encode_last,
    "encoder-decoder": encode_plain,
}
_PLACES = {"encoder": "[CLS]", "decoder": "the last token", "encoder-decoder": "the last token"}


@dataclass(frozen=True, kw_only=True)
class Pooled(Objective):
    """One set of targets a text, read from what the classification head pools. Abstract."""

    head: ClassVar[str] = "sequence"
    families: ClassVar[frozenset[str]] = frozenset(_ENCODE)
    reads: ClassVar[Literal["one", "few", "all"]] = "one"
    place: ClassVar[str] = "[CLS]"

    @abc.abstractmethod
    def targets(self, table: Table) -> np.ndarray:
        """What is to be predicted of a table with labels: classes int64 [N], values float32 [N], or sets bool [N, C].

        Raises:
            DataError: a label unseen in training, or one of another kind.
        """

    @property
    def position(self) -> str:
        return _PLACES[self.family]

    def encode(self, table: Table, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        encoded = self.encode_texts(table, tokenizer)
        return encoded if table.labels is None else encoded.with_targets(self.targets(table))

    def encode_texts(self, table: Table, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        """The text, or both, as the classification head of a model of this family reads them."""
        return _ENCODE[self.family](table, tokenizer, self.max_length)

    def question(self, batch: Batch, *, training: bool) -> Question:
        """What the head pools; a second stack reads the text over again."""
        from stratatune.model.question import Question

        return Question(targets=batch.input_ids)
