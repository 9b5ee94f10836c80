"""Preferences as tokens: each answer with its prompt before it, and where the answer is.

Shapes: N rows, T tokens of one text.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from stratatune.data.causal import prompt_and_completion
from stratatune.data.chat_tokens import ChatTemplate, Mending, nothing_written, silent_notice
from stratatune.data.encode import pack
from stratatune.data.encoded import Encoded, Targets, offsets_of
from stratatune.data.messages import Conversation
from stratatune.data.preferences import ANSWERS, QUERY
from stratatune.data.readers import Table
from stratatune.data.roles import roles_in
from stratatune.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class AnswerTokens(NamedTuple):
    """A prompt and one answer to it.

    Attributes:
        ids: T token ids.
        spans: where the answer is in them; several where a prompt is followed by several turns.
        silent: turns of the answer of which the chat template writes nothing.
    """

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    silent: int = 0


@dataclass
class _Count:
    """Counts of what is cut, for notices."""

    cut: int = 0
    same: int = 0
    lost: int = 0
    longest: int = 0
    silent: int = 0
    unheard: int = 0
    mending: Mending = field(default_factory=Mending)


def encode_preferences(
    table: Table, tokenizer: PreTrainedTokenizerBase, template: ChatTemplate | None, max_length: int
) -> Encoded:
    """Encode the texts of each row, the chosen answer first, as a group; equal ones are stored once.

    ``places`` are the tokens that predict one of the answer. Of a text that is too long the prompt loses its beginning;
    a conversation is cut at its end. A row is left out, and counted in a notice, if an answer of it has no token left,
    or if nothing is left in which the answers differ.

    Args:
        table: the rows, as :func:`stratatune.data.roles.read_roles` gives them.
        tokenizer: the model's.
        template: that of conversations; None: the rows are texts.
        max_length: the most tokens of a text.

    Raises:
        DataError: no row is left, or a template that refuses a conversation.
    """
    count, numbers = _Count(), dict[AnswerTokens, int]()
    groups: list[list[int]] = []
    rows = _of_texts(table, tokenizer, max_length, count) if template is None else _spoken(table, template, count)
    for row in rows:
        count.longest = max([count.longest, *(len(one.ids) for one in row)])
        count.silent += sum(one.silent for one in row)
        if any(one.silent and not one.spans for one in row):
            count.unheard += 1
            continue
        kept = [_within(one, max_length) for one in row] if template is not None else row
        count.cut += any(len(one.ids) < len(whole.ids) for one, whole in zip(kept, row, strict=True))
        if not all(one.spans for one in kept):
            count.lost += 1
        elif kept[0] in kept[1:]:
            count.same += 1
        else:
            groups.append([numbers.setdefault(one, len(numbers)) for one in kept])
    if not groups and count.unheard == len(table):
        raise nothing_written(table.source)
    if not groups:
        raise DataError(
            f"{table.source}: within {max_length} tokens no row has answers that differ",
            f"raise --max-length (the longest has {count.longest:,} tokens)",
        )
    found = list(numbers)
    places = [[at - 1 for start, end in one.spans for at in range(start, end)] for one in found]
    sizes = np.array([len(one) for one in places])
    read = np.array([one.spans[0][0] - 1 for one in found], np.int32)
    data = pack([list(one.ids) for one in found], None, read, tuple(_notices(count, table, max_length)))
    values = np.array([at for one in places for at in one], np.int64)
    return replace(data, places=Targets(values, offsets_of(sizes))).with_groups(groups)


def _notices(count: _Count, table: Table, max_length: int) -> Iterator[str]:
    if count.cut or count.lost:
        out = f"; {count.lost:,} lose an answer and are left out" if count.lost else ""
        yield (
            f"{table.source}: {count.cut:,} of {len(table):,} rows have texts of more than {max_length} tokens, which "
            f"are cut{out}; the longest has {count.longest:,} tokens (--max-length)"
        )
    if count.same:
        yield (
            f"{table.source}: {count.same:,} of {len(table):,} rows are left out: their answers do not differ within "
            f"{max_length} tokens (--max-length)"
        )
    if count.silent:
        yield silent_notice(table.source, count.silent, count.unheard)
    yield from count.mending.notices(table.source, len(table))


def _within(one: AnswerTokens, max_length: int) -> AnswerTokens:
    """The first ``max_length`` tokens, and what they have of the answer."""
    spans = tuple((start, min(end, max_length)) for start, end in one.spans if start < max_length)
    return AnswerTokens(one.ids[:max_length], spans)


# --- texts ---------------------------------------------------------------------------------------------------------


def _of_texts(
    table: Table, tokenizer: PreTrainedTokenizerBase, max_length: int, count: _Count
) -> Iterator[list[AnswerTokens]]:
    roles = roles_in(table)
    prompts = next((texts for texts, role in zip(table.texts, roles, strict=True) if role == QUERY), None)
    answers = [texts for texts, role in zip(table.texts, roles, strict=True) if role != QUERY]
    for at, texts in enumerate(zip(*answers, strict=True)):
        prompt = common_beginning(texts) if prompts is None else prompts[at]
        own = [text[len(prompt) :] if prompts is None else text for text in texts]
        pairs = [prompt_and_completion(tokenizer, prompt, text, max_length) for text in own]
        longest = max(whole for *_, whole in pairs)
        count.cut += longest > max_length
        count.longest = max(count.longest, longest)
        yield [
            AnswerTokens((*given, *answer), ((len(given), len(given) + len(answer)),) if answer else ())
            for given, answer, _ in pairs
        ]


def common_beginning(texts: Sequence[str]) -> str:
    """What all of the texts begin with, up to a word's end and without the white space there."""
    same = os.path.commonprefix(list(texts))
    if any(len(text) > len(same) and not text[len(same)].isspace() for text in texts):
        while same and not same[-1].isspace():
            same = same[:-1]
    return same.rstrip()


# --- conversations -------------------------------------------------------------------------------------------------


def _spoken(table: Table, template: ChatTemplate, count: _Count) -> Iterator[list[AnswerTokens]]:
    for number, row in zip(table.rows, table.further[ANSWERS], strict=True):
        place = f"{table.source}, row {number}"
        found = [template.tokens(one, place) for one in behind_the_same(list(row.values()))]
        count.mending.add(number, tuple(dict.fromkeys(what for one in found for what in one.mended)))
        yield [AnswerTokens(tuple(one.ids), tuple(one.spans), one.silent) for one in found]


def behind_the_same(row: Sequence[Conversation]) -> list[Conversation]:
    """The conversations of a row, in which what comes before they differ is given, not learnt."""
    first, *others = [one.messages for one in row]
    same = min(_common(first, other) for other in others)
    return [replace(one, learnt=tuple(at for at in one.learnt if at >= same)) for one in row]


def fault_of(row: Sequence[Conversation]) -> str:
    """Why the answers of a row cannot be compared; empty where they can."""
    first, *others = [one.messages for one in row]
    if first in others:
        return f"the rejected answer is the chosen one: {first[-1]['content']!r:.60}"
    if not all(one.learnt for one in behind_the_same(row)):
        return "after the messages that are the same no answer follows"
    return ""


def _common(one: Sequence[Any], other: Sequence[Any]) -> int:
    """The number of messages that are the same at the beginning."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
