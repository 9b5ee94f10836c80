"""Generate free text from a tuned model, by transformers' own ``generate``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
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
        rows = [(prompt_ids(tokenizer, one) if isinstance(one, str) else one)[-longest:] for one in texts]
    else:
        rows = call(texts, truncation=True, max_length=longest)["input_ids"]
    # Sampled answers differ from text to text; without sampling, equal texts have equal answers.
    same = np.arange(len(rows)) if settings.get("do_sample") else Distinct.of((repr(row),) for row in rows).same
    # The longest first: memory runs out in the first batch or never.
    order = sorted(set(same.tolist()), key=lambda row: -len(rows[row]))
    said = [""] * len(rows)
    for start in range(0, len(order), batch_size):
        index = order[start : start + batch_size]
        ids, mask = _padded([rows[row] for row in index], pad, left=writes_on)
        given = {"attention_mask": mask.to(model.device), "pad_token_id": pad, **settings}
        if room is not None:
            given["max_new_tokens"] = min(settings["max_new_tokens"], room - (ids.shape[1] if writes_on else 1))
        before = [rows[row] if writes_on else [] for row in index]
        heard = None
        if listener is not None:
            from stratatune.training.listening import Heard  # it imports what only generation needs

            asked = [np.flatnonzero(same == row).tolist() for row in index]
            sizes, width = [len(rows[row]) for row in index], ids.shape[1] if writes_on else 1
            heard = Heard(listener, asked, sizes, width, _ends(model, settings), partial(_decoded, call, before))
            given |= heard.settings(given)
        out = _untyped(model).generate(ids.to(model.device), **given)
        for place, (row, tokens) in enumerate(zip(index, out[:, ids.shape[1] :] if writes_on else out, strict=True)):
            own = _until(tokens, settings.get("eos_token_id")).tolist()
            said[row] = _written_after(call, before[place], own)
        if heard is not None:
            heard.end(out.tolist(), [said[row] for row in index])
    return [said[row] for row in same]


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


def _until(tokens: torch.Tensor, stops: list[int] | None) -> torch.Tensor:
    """The tokens before the first that ends an answer, which a tokenizer need not call special."""
    found = torch.isin(tokens.cpu(), torch.tensor(stops or [], dtype=torch.long)).nonzero()
    return tokens[: int(found[0])] if len(found) else tokens


def _untyped(value: Any) -> Any:
    """Drop the type: transformers' annotations lack lists of texts, and `generate` on every model."""
    return value


def _padded(rows: list[list[int]], pad: int, *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad to token ids and mask [B, T]."""
    width = max(map(len, rows))
    ids = [[pad] * (width - len(row)) + row if left else row + [pad] * (width - len(row)) for row in rows]
    real = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids), torch.tensor(real if left else [line[::-1] for line in real])
