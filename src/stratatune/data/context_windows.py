"""Encode questions with their contexts; a context that is too long in several windows, each with the whole question.

Shapes: N windows, C tokens of the context in a window, and one null token more: C + 1 tokens of a window are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stratatune.data.aligned import counted_in
from stratatune.data.encode import cut_at_the_end, pack
from stratatune.data.encoded import Encoded, Targets, offsets_of
from stratatune.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NULL = -1
"""The beginning and the end of the null token, which has no characters."""
_AT_ONCE = 512  # pairs whose tokens are lists of Python at one time: those of a whole data set need gigabytes


@dataclass(frozen=True)
class ContextWindows:
    """Questions and contexts as windows of tokens, with the characters of each token that is read.

    Attributes:
        encoded: N windows; its ``places`` are the null token and the context's tokens, in the order of the text.
        rows: int64 [N], the number of each window's question.
        characters: int64 [sum (C + 1), 2], the first character of each token in the context, and the one after its
            last, without blanks; :data:`NULL` of the null token.
        counts: bool [sum (C + 1)], whether the token counts in this window: where windows overlap, it does in one.
    """

    encoded: Encoded
    rows: np.ndarray
    characters: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class Windowing:
    """How questions and contexts become windows.

    Attributes:
        tokenizer: a fast one.
        max_length: tokens of a window at most, special tokens included.
        stride: tokens of the context that neighbouring windows share.
        null: which token stands for "no answer here": the ``first``, or the ``last`` of a model whose tokens see
            nothing that follows them; then an end-of-text token is added where there is none.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    stride: int
    null: Literal["first", "last"]

    @property
    def room(self) -> int:
        """The number of tokens that a question and its context have in a window.

        Raises:
            ConfigError: there is next to none.
        """
        found = self.max_length - self.tokenizer.num_special_tokens_to_add(pair=True) - (self.null == "last")
        if found < 4:
            said = f"max_length: {self.max_length} leaves no room for a question and a context"
            raise ConfigError([said], "raise it")
        return found

    @property
    def most_question(self) -> int:
        """The most tokens of a question: a half of the room."""
        return self.room // 2

    @property
    def most_stride(self) -> int:
        """The largest stride that moves every window on, however long the question."""
        # The line break behind a decoder's question is one more token of it.
        return self.room - self.most_question - 1 - (self.null == "last")

    def encode(self, questions: Sequence[str], contexts: Sequence[str], source: str) -> ContextWindows:
        """Encode N questions with their contexts; notices say how many contexts have windows, and questions were cut.

        Raises:
            ModelError: the tokenizer has no token that ends a text, and the null token is the last one.
        """
        short, cut = self._questions(questions)
        ids, types, found = list[list[int]](), list[list[int]](), list[_Window]()
        for window in self._windows(short, contexts):
            ids.append(window.ids)
            if window.types is not None:
                types.append(window.types)
            found.append(window)
        rows = np.array([window.row for window in found], np.int64)
        encoded = pack(ids, types or None, np.zeros(len(ids), np.int32), ())
        offsets = offsets_of(np.array([len(window.places) for window in found], np.int64))
        notices = []
        if cut:
            said = f"have more than {self.most_question} tokens, half of what max_length leaves, and are cut"
            notices.append(f"{cut:,} of {len(questions):,} questions of {source} {said}")
        if long := int((np.bincount(rows, minlength=len(questions)) > 1).sum()):
            said = f"do not fit into {self.max_length} tokens with their question"
            said += f", and are split into windows that overlap by {self.stride}"
            notices.append(f"{long:,} of {len(questions):,} contexts of {source} {said}")
        places = Targets(np.concatenate([window.places for window in found]), offsets)
        return ContextWindows(
            replace(encoded, places=places, notices=tuple(notices)),
            rows,
            np.concatenate([window.characters for window in found]),
            np.concatenate([window.counts for window in found]),
        )

    def _questions(self, questions: Sequence[str]) -> tuple[list[str], int]:
        """The questions, those of too many tokens cut behind the last that fits, and how many those are."""
        call: Any = self.tokenizer
        found, cut = list(questions), 0
        options = {"add_special_tokens": False, "return_offsets_mapping": True, "verbose": False}
        for start in range(0, len(found), _AT_ONCE):
            part = found[start : start + _AT_ONCE]
            for at, spans in enumerate(call(part, **options)["offset_mapping"], start=start):
                if len(spans) > self.most_question:
                    found[at] = found[at][: spans[self.most_question - 1][1]]
                    cut += 1
        return found, cut

    def _windows(self, questions: Sequence[str], contexts: Sequence[str]) -> Iterator[_Window]:
        call: Any = self.tokenizer
        length = self.max_length - (self.null == "last")
        options = {"truncation": "only_second", "max_length": length, "stride": self.stride, "padding": False}
        asked = {"return_overflowing_tokens": True, "return_offsets_mapping": True, "return_attention_mask": False}
        end = "\n" if self.null == "last" else ""  # decoders' tokenizers put nothing between the two
        for start in range(0, len(questions), _AT_ONCE):
            part = [f"{question}{end}" for question in questions[start : start + _AT_ONCE]]
            with cut_at_the_end(self.tokenizer):
                out = call(part, list(contexts[start : start + _AT_ONCE]), **asked, **options, verbose=False)
            owners, types = out["overflow_to_sample_mapping"], out.get("token_type_ids")
            at = 0
            while at < len(owners):
                row: int = start + owners[at]
                first = at
                own: list[tuple[list[int], list[int] | None, list[int | None], np.ndarray]] = []
                while at < len(owners) and start + owners[at] == row:
                    own.append((
                        list(out["input_ids"][at]),
                        None if types is None else list(types[at]),
                        out.sequence_ids(at),  # 0 of the question, 1 of the context, None of a special token
                        np.asarray(out["offset_mapping"][at], np.int64).reshape(-1, 2),
                    ))  # fmt: skip
                    at += 1
                bodies = [np.flatnonzero([one == 1 for one in parts]) for _, _, parts, _ in own]
                step = max(1, len(bodies[0]) - self.stride) if at - first > 1 else 0
                shares = counted_in([number * step for number in range(len(own))], list(map(len, bodies)))
                for (ids, kinds, parts, spans), body, counts in zip(own, bodies, shares, strict=True):
                    real = _stripped(contexts[row], spans[body])
                    window = _Window(row, ids, kinds, body, real, counts)
                    yield self._with_null(window, ends=bool(parts) and parts[-1] is None)

    def _with_null(self, window: _Window, *, ends: bool) -> _Window:
        """The window with its null token; ``ends``: whether a special token is its last one."""
        none, always = np.full((1, 2), NULL), np.ones(1, bool)
        body, spans, counts = window.places, window.characters, window.counts
        if self.null == "first":
            places = np.concatenate([[0], body])
            return replace(window, places=places, characters=_joined(none, spans), counts=np.append(always, counts))
        ids, types = window.ids, window.types
        if not ends:
            end = self.tokenizer.eos_token_id
            if not isinstance(end, int):
                raise ModelError("the tokenizer has no end-of-text token, at which no answer would be read", _OTHER)
            ids, types = [*ids, end], None if types is None else [*types, 0]
        places, characters = np.append(body, len(ids) - 1), _joined(spans, none)
        return replace(
            window, ids=ids, types=types, places=places, characters=characters, counts=np.append(counts, always)
        )


_OTHER = "take another model"


@dataclass(frozen=True)
class _Window:
    """One window of a row: its tokens, and of those that are read their places, characters and whether they count."""

    row: int
    ids: list[int]
    types: list[int] | None
    places: np.ndarray
    characters: np.ndarray
    counts: np.ndarray


def _joined(*parts: np.ndarray) -> np.ndarray:
    return np.concatenate(parts).astype(np.int64).reshape(-1, 2)


def _stripped(context: str, spans: np.ndarray) -> np.ndarray:
    """The characters of each token without blanks at their ends, which sentencepiece and bytes put into tokens."""
    found = spans.copy()
    for at, (start, end) in enumerate(spans.tolist()):
        piece = context[start:end]
        if piece[:1].isspace() or piece[-1:].isspace():
            found[at] = start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())
    found[:, 1] = np.maximum(found[:, 0], found[:, 1])  # of a token that is blank
    return found
