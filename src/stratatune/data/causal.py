"""Texts for decoders: label words after a text (LPT's protocol), completions, and texts whose last token is read.

LPT puts the template at the end, `` It was {w} .``: everything from the label word on is the candidate's *suffix*.
One row holds the text and after it the tokens of every candidate but its last, which predicts nothing
(``model/families/decoder_layout.py`` keeps the candidates apart). So with one-token words at the end of the template
a row is the text alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stratatune.data.encode import Rows, cut_notice, inside, opening_token, pack, shorten
from stratatune.data.encoded import Encoded
from stratatune.data.readers import Table
from stratatune.data.templates import Template
from stratatune.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATES = {1: "{a} It was <mask> .", 2: "{a} ? {b} . Answer : <mask> ."}
"""The template for one and for two texts, where a task's own has text after its label word. The second one is ours."""

Suffixes = tuple[tuple[int, ...], ...]


def check_order(template: Template) -> None:
    """Refuse a template with text after the label word: a decoder reads from left to right."""
    kinds = [part.kind for part in template.parts]
    if {"a", "b"} & set(kinds[kinds.index("mask") :]):
        raise DataError(
            f"template {str(template)!r} has text after the label word, which a decoder has not read at that point",
            f"put <mask> at the end, as in {TEMPLATES[template.columns]!r}",
        )


def suffixes_of(tokenizer: PreTrainedTokenizerBase, template: Template, words: Sequence[str]) -> Suffixes:
    """The token ids of every candidate: the label word and the rest of the template, the space before included.

    Raises:
        DataError: text after the label word, or two words with the same tokens.
    """
    check_order(template)
    parts = [part.text for part in template.parts]
    tail = "".join(parts[[part.kind for part in template.parts].index("mask") + 1 :])
    found = [tuple(_behind(tokenizer, f" {word}{tail}")) for word in words]
    if len(set(found)) < len(found):
        raise DataError(
            f"two of the label words {', '.join(words)} are the same tokens", "choose others with --label-words"
        )
    return tuple(found)


def _behind(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The token ids of ``text`` as it is encoded after other text, whatever the tokenizer does at the start of one."""
    anchor = "a"
    before = tokenizer(anchor, add_special_tokens=False, verbose=False)["input_ids"]
    whole = tokenizer(anchor + text, add_special_tokens=False, verbose=False)["input_ids"]
    if list(whole[: len(before)]) != list(before):  # pyright: ignore[reportArgumentType, reportIndexIssue]
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])  # pyright: ignore[reportArgumentType]
    return list(whole[len(before) :])  # pyright: ignore[reportArgumentType, reportIndexIssue]


def encode_candidates(
    table: Table, template: Template, tokenizer: PreTrainedTokenizerBase, max_length: int, suffixes: Suffixes
) -> Encoded:
    """Every row's text, filled into the template up to the label word, and the candidates' tokens after it.

    Too long texts lose tokens at the end of their fields, never of the template; a text and its longest suffix have
    at most ``max_length`` tokens. ``read`` is the text's last token.
    """
    template.check(table.columns)
    head = Template(template.parts[: [part.kind for part in template.parts].index("mask")])
    pieces = [head.pieces("", row) for row in zip(*table.texts, strict=True)]
    room = max_length - max(map(len, suffixes))
    ids, cut = _prefixes(tokenizer, head, pieces, room, template)
    behind = [token for suffix in suffixes for token in suffix[:-1]]
    read = np.array([len(row) - 1 for row in ids], np.int32)
    return pack([row + behind for row in ids], None, read, cut_notice(cut, table, max_length))


def _prefixes(
    tokenizer: PreTrainedTokenizerBase, head: Template, pieces: list[list[str]], room: int, template: Template
) -> tuple[Rows, int]:
    """The token ids of every text, cut to ``room``, and how many were cut."""
    call: Any = tokenizer
    out = call(
        ["".join(row).rstrip() for row in pieces],
        truncation=False,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        return_attention_mask=False,
        verbose=False,
    )
    kinds, cut, rows = [part.kind for part in head.parts], 0, []
    for row, tokens, spans, special in zip(
        pieces, out["input_ids"], out["offset_mapping"], out["special_tokens_mask"], strict=True
    ):
        end = _without_closing(tokens, special) or len(tokens)
        keep = np.arange(end)
        if end > room:
            ends = np.cumsum([len(piece) for piece in row])
            parts = {kind: (stop - len(piece), stop) for kind, piece, stop in zip(kinds, row, ends, strict=True)}
            places = np.asarray(spans)[:end]
            fields = [inside(places, np.asarray(special)[:end], parts[name]) for name in ("a", "b") if name in parts]
            keep, cut = shorten(end, fields, room, template), cut + 1
        rows.append([tokens[i] for i in keep] or [opening_token(tokenizer)])
    return rows, cut


def _without_closing(tokens: Sequence[int], special: Sequence[int]) -> int:
    """The number of tokens without special ones at the end: nothing is to be closed before the label word."""
    end = len(tokens)
    while end and special[end - 1]:
        end -= 1
    return end


def encode_last(table: Table, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """Encode one text, or two with a line break between them, for their last token. Long texts are cut at the end."""
    rows = [_ids(tokenizer, "\n".join(texts)) for texts in zip(*table.texts, strict=True)]
    cut = sum(len(row) > max_length for row in rows)
    rows = [row[:max_length] or [opening_token(tokenizer)] for row in rows]
    return pack(rows, None, np.array([len(row) - 1 for row in rows], np.int32), cut_notice(cut, table, max_length))


def encode_pairs(table: Table, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """Encode sources and targets as an encoder-decoder's tokenizer closes them, both cut to ``max_length``."""
    call: Any = tokenizer
    limits = {"truncation": True, "max_length": max_length, "return_attention_mask": False, "verbose": False}
    sources = call(list(table.texts[0]), **limits)["input_ids"]
    read = np.zeros(len(sources), np.int32)
    data = pack(sources, None, read, ())
    if table.labels is None:
        return data
    targets = pack(call(text_target=[str(label) for label in table.labels], **limits)["input_ids"], None, read, ())
    return data.with_targets(targets.ids, targets.offsets)


def encode_completion(table: Table, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """Encode prompts and completions (the label column), closed by the end of text; without labels, the texts.

    ``read`` is the last token that is given; the loss is over those after it. Where a row is too long, the prompt
    loses its beginning, and a completion that is too long by itself loses its end. Plain text loses nothing: a long one
    is several examples (:func:`_encode_plain_text`).
    """
    if table.labels is None:
        return _encode_plain_text(table, tokenizer, max_length)
    rows, read, cut = [], [], 0
    for text, completion in zip(table.texts[0], table.labels, strict=True):
        given, answer, whole = prompt_and_completion(tokenizer, text, completion, max_length)
        rows.append(given + answer)
        read.append(len(given) - 1)
        cut += whole > max_length
    return pack(rows, None, np.array(read, np.int32), cut_notice(cut, table, max_length))


def _encode_plain_text(table: Table, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """Every token of every text but its first is predicted once: a long text in blocks of ``max_length``.

    A block after the first is given the last token of the one before it, and before that whatever the tokenizer
    opens a text with.
    """
    rows, read, long = [], [], 0
    for text in table.texts[0]:
        ids = _closed(_ids(tokenizer, text), tokenizer) or [opening_token(tokenizer)]
        opening = ids[: int(ids[0] in tokenizer.all_special_ids)]
        rows.append(ids[:max_length])
        read.append(0)
        long += len(ids) > max_length
        for start in range(max_length - 1, len(ids) - 1, max_length - len(opening) - 1):
            rows.append(opening + ids[start : start + max_length - len(opening)])
            read.append(len(opening))
    notice = (
        f"{table.source}: {long} of {len(table)} texts are longer than {max_length} tokens and make several examples"
    )
    return pack(rows, None, np.array(read, np.int32), (notice,) if long else ())


def prompt_and_completion(
    tokenizer: PreTrainedTokenizerBase, text: str, completion: object, max_length: int
) -> tuple[list[int], list[int], int]:
    """The tokens of a prompt and of its completion, cut as :func:`encode_completion` does, and how many there were."""
    given, answer = _given_and_answer(tokenizer, text, completion)
    whole = len(given) + len(answer)
    return *((given, answer) if whole <= max_length else _cut(given, answer, max_length)), whole


def _given_and_answer(tokenizer: PreTrainedTokenizerBase, text: str, completion: object) -> tuple[list[int], list[int]]:
    """The tokens of the prompt, at least one, and those of the completion.

    A blank separates them, unless there is white space: at the end of the prompt, where it stays the prompt's and what
    is generated begins after it, or at the beginning of the completion, where it is the first that is generated.
    """
    given, own = prompt_ids(tokenizer, text), text[-1:].isspace()
    between = "" if own or str(completion)[:1].isspace() or not (text and str(completion)) else " "
    whole = _ids(tokenizer, f"{text}{between}{completion}")
    if whole[: len(given)] == given:
        return given, _closed(whole[len(given) :], tokenizer)
    if not text:  # the tokenizer opens no text, and all of it is the answer
        return given, _closed(whole, tokenizer)
    if own:  # a tokenizer that joins the blank and the word after it
        call: Any = tokenizer
        answer = call(str(completion), add_special_tokens=False, verbose=False)["input_ids"]
        return given, _closed(list(answer), tokenizer)
    same = next((i for i, (a, b) in enumerate(zip(given, whole, strict=False)) if a != b), min(len(given), len(whole)))
    return whole[: max(same, 1)], _closed(whole[max(same, 1) :], tokenizer)


def prompt_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """A prompt's token ids, its white space included; at least one."""
    return _ids(tokenizer, text) or [opening_token(tokenizer)]


def cut_prompts(prompts: Sequence[Sequence[int]], max_length: int) -> tuple[str, ...]:
    """The notice about prompts, as token ids, of which only the end is read."""
    long = sum(len(prompt) > max_length for prompt in prompts)
    said = f"{long} of {len(prompts)} prompts are longer than {max_length} tokens and lose their beginning"
    return (said,) if long else ()


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids with the tokenizer's special tokens before a text, and without those after it."""
    call: Any = tokenizer
    out = call(text, truncation=False, return_special_tokens_mask=True, verbose=False)
    return list(out["input_ids"][: _without_closing(out["input_ids"], out["special_tokens_mask"])]) or list(
        out["input_ids"][:1]
    )


def _closed(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    end = tokenizer.eos_token_id
    return ids if end is None else [*ids, int(end)]  # pyright: ignore[reportArgumentType]


def _cut(given: list[int], answer: list[int], max_length: int) -> tuple[list[int], list[int]]:
    answer = answer[: max_length - 1]
    room = max_length - len(answer)
    return (given[:1] + given[len(given) - room + 1 :] if room > 1 else given[:1]), answer
