"""Generate free text from a tuned model, by transformers' own ``generate``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stratatune.data.batching import pad_id
from stratatune.data.causal import prompt_ids
from stratatune.data.distinct import Distinct

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from stratatune.training.listening import Listener

BATCH_SIZE = 16
"""Texts of a batch, where no other number is given: a cache of keys and values grows with every token."""


def generate_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str] | Sequence[list[int]],
    longest: int,
    settings: dict[str, Any],
    room: int | None = None,
    batch_size: int = BATCH_SIZE,
    listener: Listener | None = None,
) -> list[str]:
    """The text that a model generates for each of ``texts``, which may be token ids for a decoder.

    A decoder's answer comes without the text, of which it keeps the last ``longest`` tokens; texts are padded on the
    left, since it writes on at the end. An encoder-decoder's are padded on the right, as it was trained. Texts of like
    lengths are batched together. ``room``: the positions for which the model has vectors, where it has a table of them;
    a text and its answer, or an encoder-decoder's answer, end there. ``batch_size``: the texts of a batch.
    ``listener``: follows the answers; under beam search, which revises them, it hears of whole answers only.
    """
    writes_on, call, pad = not model.config.is_encoder_decoder, _untyped(tokenizer), pad_id(tokenizer)
    rows: list[list[int]]
    # Cut on the left: an answer follows the end of the text.
    if writes_on:
        longest = longest if room is None else min(longest, room - 1)
        rows = [prompt_ids(tokenizer, one) if isinstance(one, str) else one for one in texts]
        lost = [max(0, len(one) - longest) for one in rows]
        rows = [one[-longest:] for one in rows]
    else:
        rows = call(texts, truncation=True, max_length=longest)["input_ids"]
        # An encoder-decoder's text loses its end; its whole length is wanted by a listener alone.
        whole = rows if listener is None else call(texts, verbose=False)["input_ids"]
        lost = [len(long) - len(short) for long, short in zip(whole, rows, strict=True)]
    # Sampled answers differ from text to text; without sampling, equal texts have equal answers.
    same = np.arange(len(rows)) if settings.get("do_sample") else Distinct.of((repr(row),) for row in rows).same
    # The longest first: memory runs out in the first batch or never.
    order = sorted(set(same.tolist()), key=lambda row: -len(rows[row]))
    taken = [len(row) if writes_on else 1 for row in rows]
    most, ends = settings["max_new_tokens"], _ends(model, settings)
    left = [most if room is None else min(most, room - own) for own in taken]
    said = [""] * len(rows)
    for index in _batches(order, left, batch_size):
        ids, mask = _padded([rows[row] for row in index], pad, left=writes_on)
        given = {"attention_mask": mask.to(model.device), "pad_token_id": pad, **settings}
        given["max_new_tokens"] = left[index[0]]
        before = [rows[row] if writes_on else [] for row in index]
        heard, width = None, ids.shape[1] if writes_on else 1
        if listener is not None:
            from stratatune.training.listening import ListeningCriteria  # it imports what only generation needs

            asked = [np.flatnonzero(same == row).tolist() for row in index]
            sizes = [(len(rows[row]), lost[row]) for row in index]
            heard = ListeningCriteria(listener, asked, sizes, width, ends, partial(_decoded, call, before))
            given |= heard.settings(settings.get("num_beams") or model.generation_config.num_beams or 1)
        out = _untyped(model).generate(ids.to(model.device), **given)
        for place, (row, tokens) in enumerate(zip(index, out[:, width:].tolist(), strict=True)):
            said[row] = _written_after(call, before[place], _until(tokens, ends))
        if heard is not None:
            heard.end(out.tolist(), [said[row] for row in index])
    return [said[row] for row in same]


def _batches(order: Sequence[int], left: Sequence[int], size: int) -> Iterator[list[int]]:
    """Batches of texts whose answers have the same number of tokens ``left``: a long text cuts no other's answer."""
    for _, together in groupby(order, key=lambda row: left[row]):
        rows = list(together)
        yield from (rows[start : start + size] for start in range(0, len(rows), size))


def _ends(model: Any, settings: dict[str, Any]) -> frozenset[int]:
    """The tokens that end an answer: those of the settings, else the model's own."""
    found = settings.get("eos_token_id") or model.generation_config.eos_token_id
    return frozenset([found] if isinstance(found, int) else found or ())


def _decoded(tokenizer: Any, before: Sequence[list[int]], place: int, answer: list[int]) -> str:
    return _written_after(tokenizer, before[place], answer)


def _written_after(tokenizer: Any, given: list[int], answer: list[int]) -> str:
    """The text of ``answer`` after ``given``, without the blank that separates the two.

    Blanks and line ends that the model writes are kept: in code they are a part of the answer.
    """
    before, whole = (tokenizer.decode(ids, skip_special_tokens=True) for ids in (given, [*given, *answer]))
    # A tokenizer may drop the blank that a text begins with, so an answer is not decoded alone.
    if not whole.startswith(before):
        return tokenizer.decode(answer, skip_special_tokens=True).strip()
    text = whole[len(before) :]
    # A sentencepiece tokenizer also puts one before a word that comes after a prompt's own last blank.
    single = text[:1] == " " and text[1:2] != " "
    extra = single if before.endswith(" ") else not before[-1:].isspace()
    return text.removeprefix(" ") if given and extra else text


def _until(tokens: list[int], ends: frozenset[int]) -> list[int]:
    """The tokens before the first that ends an answer: a tokenizer need not call it special, nor what fills up."""
    return tokens[: next((at for at, token in enumerate(tokens) if token in ends), None)]


def _untyped(value: Any) -> Any:
    """Drop the type: transformers' annotations lack lists of texts, and `generate` on every model."""
    return value


def _padded(rows: list[list[int]], pad: int, *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad to token ids and mask [B, T]."""
    width = max(map(len, rows))
    ids = [[pad] * (width - len(row)) + row if left else row + [pad] * (width - len(row)) for row in rows]
    real = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids), torch.tensor(real if left else [line[::-1] for line in real])
