"""Conversations as tokens by a chat template, and which of the tokens count in the loss: the assistant's turns.

A template may mark them itself (``{% generation %}``). Most do not; then a turn is the difference of two prefixes: the
conversation up to the turn, with the prompt that asks for an answer, and the conversation up to its end. Both must be
prefixes of the whole as the template writes it. A template that rewrites earlier turns (many drop the thinking from
them) is refused: a wrong mask would train on the wrong text in silence.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from stratatune.data.conversations import CONVERSATIONS
from stratatune.data.encode import pack
from stratatune.data.encoded import IGNORED, Encoded
from stratatune.data.loading import line_of
from stratatune.data.messages import Conversation
from stratatune.data.readers import Table
from stratatune.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN = (
    "{{ bos_token }}{% for message in messages %}### {{ message.role | capitalize }}:\n{{ message.content | trim }}"
    "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### Assistant:\n{% endif %}"
)
"""A template of words, for tokenizers that have none and no tokens for turns; an answer ends with the text."""

_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
_MASKED: Any = {
    "tokenize": True,
    "return_dict": True,
    "return_assistant_tokens_mask": True,
    "tokenizer_kwargs": {"verbose": False},
}
_LAST_ONLY = "learn the last turn of each conversation alone (--objective 'chat(turns=last)')"
_GIVE_MARKS = "give a template with {% generation %} marks (--template FILE)"

MERGED, OPENED = "merged", "opened"
_HOW = {
    MERGED: "neighbours of one role are joined, with a blank line between",
    OPENED: "what the assistant says before the first user is left out",
}
CALLS = "tool_calls"
"""The field of a message that holds the calls of tools that an assistant makes."""

Span = tuple[int, int]
Made = TypeVar("Made")


class _Refused(Exception):
    """A template's message about a conversation that it refuses."""


@dataclass(frozen=True)
class Tokens:
    """A conversation as tokens.

    Attributes:
        ids: T token ids.
        spans: where each answer that is learnt is in them, from its first token to after its last.
        joined: answers whose first token begins inside the prompt.
        silent: answers that are not learnt: calls of tools and no text, and the template writes nothing of the calls.
        mended: what was done to the conversation, which the template refuses as it is: :data:`MERGED`, :data:`OPENED`.
        unopened: answers that are given and not learnt, as nothing comes before them.
    """

    ids: list[int]
    spans: list[Span]
    joined: int = 0
    silent: int = 0
    mended: tuple[str, ...] = ()
    unopened: int = 0


@dataclass
class Mending:
    """The conversations of a data set that a template refuses as they are, and what was done to them.

    Attributes:
        rows: the numbers of their rows, in order.
        done: how many were mended in each way.
        unopened: answers that begin a conversation, and are given but not learnt.
    """

    rows: list[int] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    unopened: int = 0

    def add(self, row: int, mended: Sequence[str], unopened: int = 0) -> None:
        """Count a conversation."""
        if mended and (not self.rows or self.rows[-1] != row):
            self.rows.append(row)
        self.done.update(mended)
        self.unopened += unopened

    def notices(self, source: str, total: int) -> list[str]:
        """One line about all of them."""
        said = []
        if self.rows:
            how = " and ".join(f"{_HOW[what]} ({count:,})" for what, count in self.done.items())
            said.append(
                f"{source}: the chat template refuses {len(self.rows):,} of {total:,} conversations as they are, from "
                f"row {self.rows[0]}, so {how}"
            )
        if self.unopened:
            said.append(
                f"{source}: {self.unopened:,} answers come before any message of a user; they are given, and not learnt"
            )
        return said


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template and its tokenizer.

    Attributes:
        text: the template, in Jinja.
        tokenizer: a fast one, which says where each token lies.
        last: whether only the last answer is learnt.
    """

    text: str
    tokenizer: PreTrainedTokenizerBase
    last: bool = False

    @property
    def marked(self) -> bool:
        """Whether the template marks the assistant's turns itself."""
        return bool(_MARK.search(self.text))

    @cached_property
    def closers(self) -> set[int]:
        """The tokens that can close a turn: those added to the vocabulary proper, and the end of text.

        White space is none of them, though some vocabularies (Gemma's) have it among the added tokens.
        """
        own: Any = self.tokenizer
        return {*(at for text, at in own.get_added_vocab().items() if text.strip(" \t\n\r▁")), *own.all_special_ids}

    def render(self, conversation: Conversation, end: int | None = None, *, asks: bool = False) -> str:
        """Render the first ``end`` messages as text; ``asks``: with the prompt for the assistant's answer."""
        return self._apply(conversation, end, tokenize=False, add_generation_prompt=asks)

    def _apply(self, conversation: Conversation, end: int | None = None, **options: Any) -> Any:
        own: Any = self.tokenizer
        given = {"chat_template": self.text, "tools": conversation.tools}
        try:
            return own.apply_chat_template(conversation.messages[:end], **given, **options)
        except Exception as error:  # a template may raise anything
            raise _Refused(line_of(error)) from error

    def mistake(self) -> str:
        """The template's own mistake; empty where only a conversation can show one."""
        try:
            self.render(Conversation([{"role": "user", "content": "a"}]))
        except _Refused as error:
            return str(error) if type(error.__cause__).__name__ == "TemplateSyntaxError" else ""
        return ""

    def unwritten(self, conversation: Conversation) -> list[str]:
        """The parts of a conversation that the template leaves out: ``tool calls``, ``tools``."""
        less = dict[str, Conversation]()
        calls = [at for at, message in enumerate(conversation.messages) if message.get(CALLS)]
        if calls:
            less["tool calls"] = _without_calls(conversation, calls)
        if conversation.tools:
            less["tools"] = replace(conversation, tools=None)
        try:
            whole = self.render(conversation) if less else ""
            return [what for what, one in less.items() if self.render(one) == whole]
        except _Refused:
            return []

    def whole(self, conversation: Conversation, place: str) -> tuple[str, tuple[str, ...]]:
        """A conversation as text, and what was mended.

        The text is without the token that the tokenizer itself puts in front of every text.

        Raises:
            DataError: the template refuses the conversation.
        """
        text, mended = self._mending(conversation, place, self.render)
        own: Any = self.tokenizer
        opening = own.bos_token
        adds = bool(opening) and own("a", verbose=False)["input_ids"][:1] == [own.bos_token_id]
        return text.removeprefix(opening) if adds else text, mended

    def prompt(self, conversation: Conversation, place: str) -> tuple[list[int], tuple[str, ...]]:
        """The token ids after which the assistant speaks, and what was mended.

        Raises:
            DataError: the template refuses the conversation.
        """
        text, mended = self._mending(conversation, place, lambda one: self.render(one, asks=True))
        own: Any = self.tokenizer
        return list(own(text, add_special_tokens=False, verbose=False)["input_ids"]), mended

    def tokens(self, conversation: Conversation, place: str) -> Tokens:
        """Encode a conversation; ``place`` names it in errors.

        Raises:
            DataError: the template refuses it, rewrites earlier turns, or its marks do not fit.
        """
        by = self._by_marks if self.marked else self._by_prefixes
        tokens, mended = self._mending(conversation, place, lambda one: by(one, place))
        return replace(tokens, mended=mended)

    def _mending(
        self, conversation: Conversation, place: str, use: Callable[[Conversation], Made]
    ) -> tuple[Made, tuple[str, ...]]:
        """What ``use`` makes of a conversation, as it is or mended until the template takes it, and what was mended.

        Raises:
            DataError: the template refuses it however it is mended.
        """
        try:
            return use(conversation), ()
        except _Refused as error:
            merged, opened = conversation.merged(), conversation.without_opening()
            ways = {(MERGED,): merged, (OPENED,): opened, (MERGED, OPENED): opened.merged()}
            for how, mended in ways.items():
                # One that is joined with a message of weight 0 is not learnt: the template's own words say more then.
                keeps = bool(mended.learnt) or not conversation.learnt
                if mended.messages != conversation.messages and keeps:
                    with contextlib.suppress(_Refused):
                        return use(mended), how
            raise _refused(place, error) from error

    def stop(self, tokens: Tokens) -> int | None:
        """The token that closes the last answer; white space may follow it. None: there is no such token."""
        at = self._closer(tokens.ids, tokens.spans[-1])
        return None if at is None else tokens.ids[at]

    def _closer(self, ids: Sequence[int], span: Span) -> int | None:
        """Where the token that closes a turn is in its span; None: there is none."""
        own: Any = self.tokenizer
        for at in range(span[1] - 1, span[0] - 1, -1):
            if ids[at] in self.closers:
                return at
            if own.decode([ids[at]]).strip():
                return None
        return None

    def _learnt(self, conversation: Conversation) -> tuple[list[int], list[int]]:
        """The answers that are learnt, and those that would be but have nothing written of them.

        A call of a tool that the template leaves out would teach the model to answer with nothing.
        """
        wanted = conversation.learnt[-1:] if self.last else conversation.learnt
        messages = conversation.messages
        calls = [at for at in wanted if messages[at].get(CALLS) and not messages[at]["content"].strip()]
        whole = self.render(conversation) if calls else ""
        silent = [at for at in calls if self.render(_without_calls(conversation, [at])) == whole]
        return [at for at in wanted if at not in silent], silent

    # --- by the template's own marks -------------------------------------------------------------------------------

    def _by_marks(self, conversation: Conversation, place: str) -> Tokens:
        out = self._apply(conversation, **_MASKED)
        ids, mask = list(out["input_ids"]), np.asarray(out["assistant_masks"], bool)
        learnt, silent = self._learnt(conversation)
        if not learnt:
            return Tokens(ids, [], silent=len(silent))
        spans = [self._with_closer(ids, span) for span in runs(mask)]
        if not spans:
            raise DataError(
                f"{place}: the template's generation marks mark no token of this conversation",
                "put {% generation %} and {% endgeneration %} around what the assistant says, or take out the marks",
            )
        answers = conversation.answers
        if len(learnt) < len(answers):
            # An answer of which nothing is written is marked only where its closing token is inside the marks.
            marked = next((some for some in (answers, _less(answers, silent)) if len(some) == len(spans)), None)
            if marked is None:
                raise DataError(
                    f"{place}: the template marks {len(spans)} turns of {len(answers)} answers, and not all of them "
                    "are learnt",
                    "mark each answer once, or take out the marks",
                )
            spans = [spans[marked.index(at)] for at in learnt]
        return Tokens(ids, spans, silent=len(silent))

    def _with_closer(self, ids: list[int], span: Span) -> Span:
        """The span with the token that closes its turn, where the marks leave that out."""
        start, end = span
        is_closed = any(token in self.closers for token in ids[start:end])
        return (start, end + 1) if not is_closed and end < len(ids) and ids[end] in self._stops else span

    @cached_property
    def _stops(self) -> set[int]:
        """The tokens that follow an answer which ends a conversation."""
        probe = Conversation([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], (1,))
        out = self._apply(probe, **_MASKED)
        ids, mask = list(out["input_ids"]), np.asarray(out["assistant_masks"], bool)
        end = max((end for _, end in runs(mask)), default=len(ids))
        return set(ids[end : end + 1]) & self.closers

    # --- by differences of prefixes --------------------------------------------------------------------------------

    def _by_prefixes(self, conversation: Conversation, place: str) -> Tokens:
        whole = self.render(conversation)
        learnt, silent = self._learnt(conversation)
        # A template writes no prompt where there is no message, so nothing shows where a first answer begins.
        opening = sum(at == 0 for at in learnt)
        found = [self._turn(conversation, at, whole, place) for at in learnt if at > 0]
        own: Any = self.tokenizer
        out = own(whole, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        places = np.asarray(out["offset_mapping"]).reshape(-1, 2)
        filled, ids = places[:, 1] > places[:, 0], list(out["input_ids"])
        spans, joined = [], 0
        for start, end in found:
            inside = np.flatnonzero(filled & (places[:, 1] > start) & (places[:, 0] < end))
            if not len(inside):
                raise DataError(f"{place}: an answer of the assistant has no token", "fix the row, or leave it out")
            span = int(inside[0]), int(inside[-1]) + 1
            closer = self._closer(ids, span)  # what the template writes behind it, a line's end, is not the answer's
            spans.append(span if closer is None else (span[0], closer + 1))
            joined += int(places[inside[0], 0] < start)
        return Tokens(ids, spans, joined, len(silent), unopened=opening)

    def _turn(self, conversation: Conversation, at: int, whole: str, place: str) -> Span:
        """The span of the answer that is message ``at`` in the whole text, its end included."""
        before = self.render(conversation, at, asks=True)
        if not whole.startswith(before):
            earlier = whole.startswith(self.render(conversation, at))
            what = (
                f"its prompt for an answer is not what it writes before message {at + 1}"
                if earlier
                else f"it rewrites what comes before message {at + 1}"
            )
            raise _rewritten(place, what, last_helps=not earlier and not self.last)
        if at == len(conversation.messages) - 1:
            return len(before), len(whole)
        behind = self.render(conversation, at + 1)
        if not whole.startswith(behind):
            behind = self._without_end(behind)
        if not behind.startswith(before) or not whole.startswith(behind):
            raise _rewritten(place, f"it rewrites message {at + 1} once others follow", last_helps=True)
        return len(before), len(behind)

    def _without_end(self, text: str) -> str:
        """A conversation's text without the special token that closes it as a whole (Phi-3's end of text)."""
        own: Any = self.tokenizer
        end = next((token for token in own.all_special_tokens if text.endswith(token)), "")
        return text.removesuffix(end)


def _without_calls(conversation: Conversation, at: Collection[int]) -> Conversation:
    """The conversation without the calls of tools in the messages ``at``."""
    messages = [
        {name: value for name, value in one.items() if name != CALLS} if here in at else one
        for here, one in enumerate(conversation.messages)
    ]
    return replace(conversation, messages=messages)


def _less(these: Sequence[int], others: Collection[int]) -> list[int]:
    return [one for one in these if one not in others]


def nothing_written(source: str) -> DataError:
    """The error for data of which no answer is left to learn, as all are calls that the template does not write."""
    return DataError(
        f"{source}: every answer is a call of a tool, and the chat template writes nothing of them, so nothing is "
        "learnt",
        "give a template that writes calls (--template FILE)",
    )


def silent_notice(source: str, answers: int, lost: int) -> str:
    """The note of ``answers`` that are not learnt as nothing is written of them, and the rows left out for that."""
    out = f"; {lost:,} rows have no other answer and are left out" if lost else ""
    return (
        f"{source}: {answers:,} answers of the assistant are calls of tools of which the chat template writes nothing: "
        f"they do not count in the loss{out} (--template FILE)"
    )


def _refused(place: str, error: _Refused) -> DataError:
    hint = "write the conversation as the template wants it, or give another template (--template FILE)"
    return DataError(f"{place}: the chat template refuses it: {error}", hint)


def _rewritten(place: str, what: str, *, last_helps: bool) -> DataError:
    hint = f"{_LAST_ONLY}, or {_GIVE_MARKS}" if last_helps else _GIVE_MARKS
    return DataError(f"{place}: the chat template does not show which tokens are the assistant's: {what}", hint)


def runs(mask: np.ndarray) -> list[Span]:
    """The runs of True in a bool array [T]: the start of each, and the position after its end."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def encode_chat(table: Table, template: ChatTemplate, max_length: int) -> Encoded:
    """Encode conversations; the targets are the tokens of the answers, -100 elsewhere.

    A conversation that is too long is cut at its end. Answers that are lost so are counted in a notice, and a
    conversation that loses all of them is left out, since nothing of it would be learnt or scored. ``read`` is the last
    token before the first answer.

    Raises:
        DataError: as :meth:`ChatTemplate.tokens`; or no conversation keeps an answer.
    """
    rows, targets, read = list[list[int]](), list[np.ndarray](), list[int]()
    count = _Count()
    for number, conversation in zip(table.rows, table.further[CONVERSATIONS], strict=True):
        place = f"{table.source}, row {number}"
        if table.labels is None or not conversation.learnt:
            ids, mended = template.prompt(conversation, place)
            one = Tokens(ids[-max_length:], [])
            count.mending.add(number, mended)
        else:
            one = template.tokens(conversation, place)
            count.mending.add(number, one.mended, one.unopened)
            if count.leaves_out(one, max_length):
                continue
        ids = np.asarray(one.ids[:max_length])
        aims = np.full(len(ids), IGNORED)
        for start, end in one.spans:
            aims[start:end] = ids[start:end]
        rows.append(ids.tolist())
        targets.append(aims)
        read.append(max(0, one.spans[0][0] - 1) if one.spans else len(ids) - 1)
    if not rows and count.unheard == len(table):
        raise nothing_written(table.source)
    if not rows:
        raise DataError(
            f"{table.source}: within {max_length} tokens no conversation has an answer",
            f"raise --max-length (the longest has {count.longest:,} tokens)",
        )
    encoded = pack(rows, None, np.array(read, np.int32), tuple(count.notices(table, max_length)))
    if table.labels is None:
        return encoded
    return encoded.with_targets(np.concatenate(targets).astype(np.int64), encoded.offsets)


@dataclass
class _Count:
    """The counts of conversations that are too long, and of their answers."""

    cut: int = 0
    answers: int = 0
    lost: int = 0
    left_out: int = 0
    joined: int = 0
    longest: int = 0
    silent: int = 0
    unheard: int = 0
    mending: Mending = field(default_factory=Mending)

    def leaves_out(self, one: Tokens, max_length: int) -> bool:
        """Count a conversation; returns whether no answer of it is left."""
        ends = [end for _, end in one.spans]
        self.longest = max(self.longest, len(one.ids))
        self.answers += len(ends)
        self.joined += one.joined
        self.silent += one.silent
        if not one.spans:
            self.unheard += 1
            return True
        self.cut += len(one.ids) > max_length
        self.lost += sum(end > max_length for end in ends)
        left_out = one.spans[0][0] >= max_length
        self.left_out += left_out
        return left_out

    def notices(self, table: Table, max_length: int) -> Sequence[str]:
        said = []
        if self.cut:
            cut = f"{self.cut:,} of {len(table):,} conversations of {table.source} are cut to {max_length} tokens"
            lost = f"{self.lost:,} of {self.answers:,} answers lose their end or all"
            out = f"{self.left_out:,} conversations keep no answer and are left out"
            said.append(f"{cut}: {lost}, {out}; the longest has {self.longest:,} tokens (--max-length)")
        if self.joined:
            said.append(
                f"{table.source}: {self.joined:,} of {self.answers:,} answers begin inside a token of the prompt; let "
                "the template's prompt for an answer end where a token does"
            )
        if self.silent:
            said.append(silent_notice(table.source, self.silent, self.unheard))
        return [*said, *self.mending.notices(table.source, len(table))]
