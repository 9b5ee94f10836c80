"""Encode texts to token ids: as they are, in pairs, or in a template. Longer ones are cut.

Shapes: N examples, T tokens of one example.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from stratatune.data.encoded import Encoded, offsets_of
from stratatune.data.readers import Table
from stratatune.data.templates import Template, mask_of
from stratatune.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Rows = list[list[int]]


def encode_plain(table: Table, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """Encode one text or a pair as the model's own classification input; the head reads position 0.

    Longer ones are cut on the tokenizer's own side, the longer text of a pair first, and counted in ``notices``.
    """
    ids, types = _tokenise(tokenizer, table.texts)
    for row, tokens in enumerate(ids):
        if not tokens:  # a blank text of a tokenizer that adds nothing
            ids[row] = [opening_token(tokenizer)]
            if types is not None:
                types[row] = [0]
    long = [row for row, tokens in enumerate(ids) if len(tokens) > max_length]
    if long:
        cut = [[column[row] for row in long] for column in table.texts]
        how = "longest_first" if len(cut) == 2 else "only_first"
        short, short_types = _tokenise(tokenizer, cut, truncation=how, max_length=max_length)
        _put(ids, types, long, short, short_types)
    return pack(ids, types, np.zeros(len(ids), np.int32), cut_notice(len(long), table, max_length))


def encode_template(table: Table, template: Template, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """Encode the template filled with every row, as one text; the head reads the mask.

    A row that fits is as the tokenizer gives it for the joined text. A longer one loses tokens at the end of its
    texts, the longer text first, never of the template.

    Raises:
        DataError: no mask token, a field without a column, or ``max_length`` too small for the template alone.
    """
    template.check(table.columns)
    mask_token, mask_id = mask_of(tokenizer)
    pieces = [template.pieces(mask_token, row) for row in zip(*table.texts, strict=True)]
    ids, types = _tokenise(tokenizer, [["".join(row) for row in pieces]])
    long = [row for row, tokens in enumerate(ids) if len(tokens) > max_length]
    # A text may itself hold the mask token; then the template's own is distinguished by its place in the text.
    odd = sorted({*long, *(row for row, tokens in enumerate(ids) if tokens.count(mask_id) != 1)})
    read = np.array([row.index(mask_id) for row in ids], np.int32)
    if odd:
        short, short_types, marks = _fit(tokenizer, template, [pieces[row] for row in odd], max_length)
        _put(ids, types, odd, short, short_types)
        read[odd] = marks
    return pack(ids, types, read, cut_notice(len(long), table, max_length))


def opening_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """A token for a text that has none."""
    known = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, 0)
    return next(int(token) for token in known if token is not None)  # pyright: ignore[reportArgumentType]


@contextmanager
def cut_at_the_end(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Make the tokenizer truncate on the right meanwhile: on the left, it gives windows in reverse order."""
    own, tokenizer.truncation_side = tokenizer.truncation_side, "right"
    try:
        yield
    finally:
        tokenizer.truncation_side = own


def _tokenise(
    tokenizer: PreTrainedTokenizerBase, columns: Sequence[list[str]], **options: Any
) -> tuple[Rows, Rows | None]:
    settings: dict[str, Any] = {"truncation": False, **options}
    call: Any = tokenizer  # its own annotation knows no lists in a star
    out = call(*columns, **settings, padding=False, return_attention_mask=False, verbose=False)
    return out["input_ids"], out.get("token_type_ids")


def _fit(
    tokenizer: PreTrainedTokenizerBase, template: Template, pieces: list[list[str]], max_length: int
) -> tuple[Rows, Rows | None, list[int]]:
    """Shorten rows that are too long, or hold more than one mask: token ids, types and mask position.

    Every token's place in the joined text says which part it is of; only tokens wholly inside a field may go.
    """
    out: Any = tokenizer(
        ["".join(row) for row in pieces],
        truncation=False,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,
    )
    kinds = [part.kind for part in template.parts]
    kept: list[np.ndarray] = []
    marks: list[int] = []
    for row, spans, special in zip(pieces, out["offset_mapping"], out["special_tokens_mask"], strict=True):
        places = np.asarray(spans)
        ends = np.cumsum([len(piece) for piece in row])
        parts = {kind: (end - len(piece), end) for kind, piece, end in zip(kinds, row, ends, strict=True)}
        fields = [inside(places, np.asarray(special), parts[name]) for name in ("a", "b") if name in parts]
        mask = int(np.flatnonzero((places[:, 1] > parts["mask"][0]) & (places[:, 0] < parts["mask"][1]))[0])
        keep = shorten(len(places), fields, max_length, template)
        kept.append(keep)
        marks.append(int(np.searchsorted(keep, mask)))
    ids = [[tokens[i] for i in keep] for tokens, keep in zip(out["input_ids"], kept, strict=True)]
    types = out.get("token_type_ids")
    return ids, types and [[row[i] for i in keep] for row, keep in zip(types, kept, strict=True)], marks


def inside(places: np.ndarray, special: np.ndarray, span: tuple[int, int]) -> np.ndarray:
    """The tokens whose characters all lie in ``span``; those added by the tokenizer never do."""
    return np.flatnonzero((special == 0) & (places[:, 0] >= span[0]) & (places[:, 1] <= span[1]))


def shorten(tokens: int, fields: list[np.ndarray], max_length: int, template: Template) -> np.ndarray:
    """The tokens that stay, in order, when the longer field loses its end first."""
    room = max_length - (tokens - sum(map(len, fields)))
    if room < len(fields):
        raise DataError(
            f"template {str(template)!r} leaves room for {max(room, 0)} tokens of text within {max_length}",
            "raise the maximal length or shorten the template",
        )
    if sum(map(len, fields)) <= room:
        return np.arange(tokens)
    drop = [field[keep:] for field, keep in zip(fields, _shares([len(f) for f in fields], room), strict=True)]
    return np.setdiff1d(np.arange(tokens), np.concatenate(drop))


def _shares(lengths: list[int], room: int) -> list[int]:
    """The number of tokens each field keeps: the shorter keeps all if it needs at most half, else both get halves."""
    if len(lengths) == 1:
        return [room]
    first = max(room - lengths[1], min(lengths[0], (room + 1) // 2))
    return [first, room - first]


def _put(ids: Rows, types: Rows | None, at: list[int], new_ids: Rows, new_types: Rows | None) -> None:
    for place, row in enumerate(at):
        ids[row] = new_ids[place]
        if types is not None and new_types is not None:
            types[row] = new_types[place]


def pack(ids: Rows, types: Rows | None, read: np.ndarray, notices: tuple[str, ...]) -> Encoded:
    """Rows of token ids as flat arrays."""
    offsets = offsets_of(np.fromiter(map(len, ids), np.int64, len(ids)))
    total = int(offsets[-1])
    return Encoded(
        ids=np.fromiter(chain.from_iterable(ids), np.int32, total),
        types=None if types is None else np.fromiter(chain.from_iterable(types), np.int8, total),
        offsets=offsets,
        read=read,
        notices=notices,
    )


def cut_notice(cut: int, table: Table, max_length: int) -> tuple[str, ...]:
    """The notice about ``cut`` texts that were too long."""
    return (f"{cut} of {len(table)} texts of {table.source} were cut to {max_length} tokens",) if cut else ()
