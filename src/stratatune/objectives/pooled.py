"""Texts for a head that pools them by itself. Shared by the objectives with a new output layer on top."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from stratatune.data.causal import encode_last
from stratatune.data.encode import Encoded, encode_plain
from stratatune.data.readers import Table

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
"""The position that a classification head reads, for people."""
FAMILIES = frozenset(_ENCODE)
"""The families whose models have a classification head."""


def encode_pooled(family: str, table: Table, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """The text, or both, as the classification head of a model of this family reads them."""
    return _ENCODE[family](table, tokenizer, max_length)


def pooled(batch: Batch) -> Question:
    """What the head pools; a second stack reads the text over again."""
    from stratatune.model.question import Question

    return Question(targets=batch.input_ids)
