"""What an assistant writes next in a conversation. Shared by the objectives that learn it under a chat template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from stratatune.data.causal import cut_prompts
from stratatune.data.chat_tokens import ChatTemplate, Mending, Tokens, nothing_written
from stratatune.data.conversations import CONVERSATIONS
from stratatune.data.messages import Conversation
from stratatune.data.readers import Table
from stratatune.objectives.answers import Using

_SHOWN = 60


def first_learnt(template: ChatTemplate, source: str, rows: Iterable[tuple[int, Conversation]]) -> tuple[int, Tokens]:
    """The first of the numbered conversations that has an answer to learn, and its tokens.

    Raises:
        DataError: no conversation has one, because the template does not write their answers; or it refuses one.
    """
    for number, one in rows:
        tokens = template.tokens(one, f"{source}, row {number}")
        if tokens.spans:
            return number, tokens
    raise nothing_written(source)


def stop_tokens(template: ChatTemplate, tokens: Tokens) -> tuple[tuple[int, ...], list[str]]:
    """The tokens that end an answer, seen in a conversation of the data, and a warning if the template has none."""
    own: Any = template.tokenizer
    closer = template.stop(tokens)
    # Both: a base model ends a text by its own token, and learns to end a turn by the template's.
    found = tuple(dict.fromkeys(int(one) for one in (closer, own.eos_token_id) if isinstance(one, int)))
    unclosed = (
        "the chat template closes an answer with no token of its own, so the model does not learn where to "
        "stop: let it write {{ eos_token }} after an answer"
    )
    return found, [unclosed] if closer is None else []


def shared_system(conversations: Iterable[Conversation]) -> str:
    """The system prompt that all of the conversations have; empty where they differ."""
    systems = {_system(one) for one in conversations}
    return systems.pop() if len(systems) == 1 else ""


def _system(conversation: Conversation) -> str:
    """The system prompt of a conversation; empty where it has none."""
    first = conversation.messages[0]
    return first["content"] if first["role"] == "system" else ""


def written_by(
    template: ChatTemplate, table: Table, using: Using, system: str, stop: Sequence[int], max_length: int
) -> tuple[list[str], tuple[str, ...]]:
    """The next answer in each conversation of ``table``, and notices about them.

    A plain text is asked under ``system``: without the system prompt that all of the training data had, the question
    would be another one.
    """
    prompts, mending = [], Mending()
    for row, one in zip(table.rows, table.further[CONVERSATIONS], strict=True):
        asked = one.asked()
        if asked.is_text and system and not _system(asked):
            asked = Conversation([{"role": "system", "content": system}, *asked.messages], tools=asked.tools)
        prompt, mended = template.prompt(asked, f"{table.source}, row {row}")
        prompts.append(prompt)
        mending.add(row, mended)
    end = {"eos_token_id": list(stop)} if stop else {}
    notices = (*cut_prompts(prompts, max_length), *mending.notices(table.source, len(table)))
    return using.generate(prompts, **end), notices


def unwritten(template: ChatTemplate, table: Table, rows: Sequence[Sequence[Conversation]]) -> list[str]:
    """A note of tools and calls in the conversations of ``rows`` that the template leaves out, which are not learnt."""
    found: dict[str, list[int]] = {}
    for number, row in zip(table.rows, rows, strict=True):
        for what in dict.fromkeys(what for one in row for what in template.unwritten(one)):
            found.setdefault(what, []).append(number)
    return [
        f"the chat template writes nothing of the {what} in {len(numbers):,} of {len(table):,} conversations, from row "
        f"{numbers[0]}, so they are not learnt: give one that does (--template FILE)"
        for what, numbers in found.items()
    ]


def example(template: ChatTemplate, tokens: Tokens, row: int) -> str:
    """A line on which tokens count in the loss, with the first answer of ``row`` as an example."""
    own: Any = template.tokenizer
    ids = tokens.ids[slice(*tokens.spans[0])]
    shown = own.decode(ids)
    if len(shown) > 2 * _SHOWN:
        shown = f"{shown[:_SHOWN]} ... {shown[-_SHOWN:]}"
    how = "marked by the template" if template.marked else "found by comparing prefixes"
    return (
        f"the loss covers the assistant's turns only ({how}); the first, in row {row}: {shown!r} ({len(ids):,} tokens)"
    )
