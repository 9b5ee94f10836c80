"""How text becomes a label: everything a trained adapter must remember to read new text as it was trained to."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import TypeAdapter, ValidationError

from stratatune.data.causal import Suffixes, encode_candidates, encode_completion, encode_last, encode_pairs
from stratatune.data.encode import Encoded, encode_plain, encode_template
from stratatune.data.labels import LabelSet, numbers
from stratatune.data.readers import Table
from stratatune.data.tasks import TASKS
from stratatune.data.templates import Template
from stratatune.errors import ModelError, shown
from stratatune.outside import first_mistake

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


TEXT_OBJECTIVES = ("completion", "seq2seq")
"""Objectives whose answer is free text."""


@dataclass(frozen=True)
class Reading:
    """The way from text to label, as plain data.

    Attributes:
        objective: ``mlm`` reads label words at a mask, ``causal`` label words behind a text, ``completion`` any text
            behind
            a text (or the text itself), ``seq2seq`` a text by an encoder-decoder, the others a new output layer.
        text: names of the one or two text columns.
        label: name of the label column.
        labels: the class names in the order of the logits; empty when the label is a number.
        value_range: the ends of the label's range when it is a number.
        template: the hard prompt, ``mlm`` and ``causal`` only.
        label_words: one word a class in the order of ``labels`` (or for the low and the high end), ``mlm`` only.
        loss: for ``mlm``: over the whole vocabulary (LPT's choice) or over the label words.
        max_length: texts are cut so that no more than this many tokens reach the model.
        metric: what selects the best epoch.
        task: the task's name, when it is one of the table.
        suffixes: the token ids of every candidate behind a text, ``causal`` only.
        decoder: whether the model reads from left to right, so that only the last token has seen the text.
        two_stacks: whether it is an encoder-decoder, whose decoder reads the text again to tell a class.
    """

    objective: Literal["mlm", "causal", "completion", "seq2seq", "classification", "regression"]
    text: tuple[str, ...]
    label: str | None
    labels: tuple[str, ...] = ()
    value_range: tuple[float, float] | None = None
    template: str | None = None
    label_words: tuple[str, ...] = ()
    loss: Literal["vocab", "words"] = "vocab"
    max_length: int = 256
    metric: str = "accuracy"
    task: str | None = None
    suffixes: Suffixes = ()
    decoder: bool = False
    two_stacks: bool = False

    @property
    def by_words(self) -> bool:
        """Whether a label is read as its word."""
        return self.objective in ("mlm", "causal")

    @property
    def generates(self) -> bool:
        """Whether the answer is free text."""
        return self.objective in TEXT_OBJECTIVES

    def to_data(self) -> dict[str, Any]:
        """As JSON takes it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Reading:
        """Back from JSON; keys that this version does not know are ignored.

        Raises:
            ModelError: a value of another kind than was written.
        """
        known = {field.name for field in dataclasses.fields(cls)} & data.keys()
        damaged = "train again, or take the folder from a backup"
        try:
            # By way of JSON, where strict still takes an array for a tuple.
            reading = TypeAdapter(cls).validate_json(json.dumps({key: data[key] for key in known}), strict=True)
        except ValidationError as error:
            raise ModelError(f"the adapter's record is damaged: reading.{first_mistake(error)}", damaged) from error
        if wrong := _disagreement(reading):
            raise ModelError(f"the adapter's record is damaged: reading.{wrong}", damaged)
        return reading


def _disagreement(reading: Reading) -> str:
    """Which field does not go with the others; empty when all do."""
    classes = 2 if reading.value_range is not None else len(reading.labels)
    if not 1 <= len(reading.text) <= 2 or not all(reading.text):
        return "text: one or two columns"
    if reading.max_length < 1:
        return "max_length: below 1"
    if not reading.generates and classes < 2:
        return "labels: fewer than two classes"
    if reading.by_words and (reading.template is None or len(reading.label_words) != classes):
        return "label_words: a template and one word for each label"
    if reading.objective == "causal" and len(reading.suffixes) != classes:
        return "suffixes: one for each label"
    if reading.decoder and reading.objective == "mlm":
        return "decoder: a decoder has no mask to read at"
    return "" if reading.task is None or reading.task in TASKS else f"task: {shown(reading.task)}"


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token number that fills a batch's shorter rows; it is masked, so 0 serves where the tokenizer has none."""
    number = tokenizer.pad_token_id
    return number if isinstance(number, int) else 0


def encode(table: Table, reading: Reading, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """Texts, and labels where there are any, as ``reading`` reads them.

    Raises:
        DataError: a label unseen in training, or a template that does not fit the columns.
    """
    if reading.objective == "seq2seq":
        return encode_pairs(table, tokenizer, reading.max_length)
    if reading.generates:
        return encode_completion(table, tokenizer, reading.max_length)
    if reading.decoder:
        encoded = _encode_for_decoder(table, reading, tokenizer)
    elif reading.template is None:
        encoded = encode_plain(table, tokenizer, reading.max_length)
    else:
        encoded = encode_template(table, Template.parse(reading.template), tokenizer, reading.max_length)
    if table.labels is None:
        return encoded
    if reading.value_range is not None:
        return encoded.with_labels(numbers(table.labels, table.source, table.rows))
    return encoded.with_labels(LabelSet(reading.labels).encode(table.labels, table.source, table.rows))


def _encode_for_decoder(table: Table, reading: Reading, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    if reading.template is None:
        return encode_last(table, tokenizer, reading.max_length)
    return encode_candidates(table, Template.parse(reading.template), tokenizer, reading.max_length, reading.suffixes)
