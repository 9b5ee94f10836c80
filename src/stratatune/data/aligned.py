"""Words to tokens, for objectives that read every word: where each begins, and long texts in overlapping windows.

A token belongs to the word in which its first character lies; that is what a fast tokenizer's ``word_ids`` say of words
given one by one, and it holds for words of a plain text too. Where windows overlap, each token counts in one of them:
the one that shows most of the text on both of its sides. So each word is read once, and the words of the windows, one
window after the other, are those of the text.

Shapes: N windows, T tokens of a window, W words of all texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stratatune.data.encode import cut_at_the_end, opening_token, pack
from stratatune.data.encoded import Encoded, Targets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FAR = 2**31


@dataclass(frozen=True)
class Aligned:
    """Texts as windows of tokens, with the word of each token.

    Attributes:
        encoded: N windows; its ``places`` are the first tokens of the words that are read there, -1 for a word that has
            no token.
        words: int64 [sum T], the number of each token's word among all W; -1 for a token that is of none, or counts in
            another window.
        first: bool [sum T], whether the token is the first of its word.
        continues: int64 [N], 1 where a window goes on with the text of the one before.
    """

    encoded: Encoded
    words: np.ndarray
    first: np.ndarray
    continues: np.ndarray


@dataclass
class _Window:
    """One window of a text: the number of its first token in the text, and the word of each token (or -1)."""

    start: int
    body: np.ndarray
    words: np.ndarray
    first: np.ndarray
    places: list[int]


def encode_words(
    texts: Sequence[str],
    words: Sequence[Sequence[tuple[int, int]]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    stride: int,
    source: str = "the list of texts",
) -> Aligned:
    """Tokenise texts whose words lie at the characters ``words``.

    Args:
        texts: the texts, which are tokenised as they are.
        words: (start, end) of each word of each text, in order.
        tokenizer: a fast one.
        max_length: tokens of a window at most, special tokens included.
        stride: tokens that neighbouring windows share.
        source: the name of the data in notices.
    """
    call: Any = tokenizer
    options = {"truncation": True, "max_length": max_length, "stride": stride, "return_overflowing_tokens": True}
    asked = {"return_offsets_mapping": True, "return_special_tokens_mask": True, "return_attention_mask": False}
    with cut_at_the_end(tokenizer):
        out = call(list(texts), **options, **asked, padding=False, verbose=False)
    ids, types, owners = out["input_ids"], out.get("token_type_ids"), out["overflow_to_sample_mapping"]
    found: list[_Window] = []
    before, at = 0, 0
    for number, (text, places) in enumerate(zip(texts, words, strict=True)):
        first = at
        while at < len(owners) and owners[at] == number:
            at += 1
        body = [np.flatnonzero(np.asarray(out["special_tokens_mask"][row]) == 0) for row in range(first, at)]
        spans = [np.asarray(out["offset_mapping"][row]).reshape(-1, 2)[keep] for row, keep in enumerate(body, first)]
        windows = _windows(
            text, np.asarray(places).reshape(-1, 2), body, spans, [len(ids[row]) for row in range(first, at)], stride
        )
        _own(windows, len(places), before)
        found += windows
        before += len(places)
    for row, tokens in enumerate(ids):
        if not tokens:  # a blank text of a tokenizer that adds nothing
            ids[row] = [opening_token(tokenizer)]
            found[row].words, found[row].first = np.array([-1]), np.array([False])
    return _together(
        pack(ids, types, np.zeros(len(ids), np.int32), ()), found, owners, before, (max_length, stride, source)
    )


def _windows(
    text: str, places: np.ndarray, body: list[np.ndarray], spans: list[np.ndarray], lengths: list[int], stride: int
) -> list[_Window]:
    """The windows of one text, every token with the word that it lies in, numbered within the text."""
    step = max(1, len(body[0]) - stride)
    windows = []
    for row, (keep, span, length) in enumerate(zip(body, spans, lengths, strict=True)):
        words = np.full(length, -1)
        words[keep] = _word_of(text, places, span)
        windows.append(_Window(row * step, keep, words, np.zeros(length, bool), []))
    return windows


def _word_of(text: str, places: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """The word in which the first character of each token lies; -1 where there is none."""
    starts = spans[:, 0].copy()
    for at, (start, end) in enumerate(spans):
        while start < end and text[start].isspace():  # of a sentencepiece, whose token holds the blank before it
            start += 1
        starts[at] = start
    if not len(places):
        return np.full(len(starts), -1)
    words = np.searchsorted(places[:, 0], starts, side="right") - 1
    return np.where((words >= 0) & (starts < places[words, 1]) & (starts < spans[:, 1]), words, -1)


def _own(windows: list[_Window], count: int, before: int) -> None:
    """Keep each token in one window, mark the first of each word, and number words from ``before`` on."""
    if len(windows) > 1:
        _share(windows)
    seen, last = -1, windows[0]
    for window in windows:
        for at in window.body:
            word = int(window.words[at])
            if word <= seen:
                continue
            last.places.extend([-1] * (word - seen - 1))  # words that have no token
            last, seen = window, word
            window.first[at] = True
            window.places.append(int(at))
    last.places.extend([-1] * (count - 1 - seen))
    for window in windows:
        window.words[window.words >= 0] += before


def _share(windows: list[_Window]) -> None:
    """Keep each token in the window where it is farthest from the edges."""
    shares = counted_in([window.start for window in windows], [len(window.body) for window in windows])
    for window, counts in zip(windows, shares, strict=True):
        window.words[window.body[~counts]] = -1


def counted_in(starts: Sequence[int], sizes: Sequence[int]) -> list[np.ndarray]:
    """The tokens of each window of one text that count there: bool [size].

    Each token counts in the window where it is farthest from the edges; ends of the text are not edges.

    Args:
        starts: the number of each window's first token in the text.
        sizes: the number of tokens of each window.
    """
    total = max(start + size for start, size in zip(starts, sizes, strict=True))
    most, of = np.full(total, -1), np.zeros(total, np.int64)
    for row, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        left = np.full(size, _FAR) if row == 0 else np.arange(size)
        right = np.full(size, _FAR) if row == len(sizes) - 1 else np.arange(size)[::-1]
        room, here = np.minimum(left, right), slice(start, start + size)
        of[here] = np.where(room > most[here], row, of[here])
        most[here] = np.maximum(room, most[here])
    return [of[start : start + size] == row for row, (start, size) in enumerate(zip(starts, sizes, strict=True))]


def _together(
    encoded: Encoded, windows: list[_Window], owners: Sequence[int], count: int, said: tuple[int, int, str]
) -> Aligned:
    max_length, stride, source = said
    sizes = np.array([len(window.places) for window in windows], np.int64)
    values = np.array([place for window in windows for place in window.places], np.int64)
    continues = np.concatenate([[0], np.diff(np.asarray(owners)) == 0]).astype(np.int64)
    notices = []
    texts = len(owners) - int(continues.sum())
    if long := len(set(np.asarray(owners)[continues == 1].tolist())):
        what = f"have more than {max_length} tokens, and are split into windows that overlap by {stride}"
        notices.append(f"{long:,} of {texts:,} texts of {source} {what}")
    if lost := int((values < 0).sum()):
        notices.append(f"{lost:,} of {count:,} words of {source} have no token in this model")
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return Aligned(
        replace(encoded, places=Targets(values, offsets), notices=tuple(notices)),
        np.concatenate([window.words for window in windows]),
        np.concatenate([window.first for window in windows]),
        continues,
    )
