"""Conversations: messages in the order in which a chat template reads them, from the cells of a row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from stratatune.data.labels import cell_text, is_missing

TOOLS = "tools"
"""The column of descriptions of tools."""
HISTORY = "history"
"""The column of the turns before an instruction in Alpaca's layout: pairs of what was asked and answered."""
_TURNS = '[["first question", "first answer"], ...]'
_ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt"), "assistant"),
    **dict.fromkeys(("tool", "observation"), "tool"),
}
_CALLER = "function_call"
"""The role under which ShareGPT's files have an assistant's calls of tools, as JSON in the message's text."""
_CALL = '{"name": "...", "arguments": {...}}'
_MESSAGE = '{"role": "user", "content": "..."}'
_TOOL = '[{"type": "function", "function": {"name": "...", "parameters": {...}}}]'
_SKIP = "fix the row, or leave such rows out with --bad-rows skip"

_OURS = ("from", "value", "weight", "train")
"""Fields of a message that say something to a trainer and nothing to a template."""

Message = dict[str, Any]


@dataclass(frozen=True)
class Conversation:
    """Messages in the form that a chat template reads.

    Attributes:
        messages: each with ``role`` (system, user, assistant, tool), ``content`` and any other fields that it came
            with.
        learnt: the positions of the assistant's messages that count in the loss.
        tools: descriptions of tools, as a template takes them.
        is_text: a plain text, read as one message of the user.
    """

    messages: list[Message]
    learnt: tuple[int, ...] = ()
    tools: list[Any] | None = None
    is_text: bool = False

    @property
    def answers(self) -> list[int]:
        """The positions of the assistant's messages."""
        return [at for at, message in enumerate(self.messages) if message["role"] == "assistant"]

    def merged(self) -> Conversation:
        """The conversation with neighbours of one role as one message, a blank line between their texts.

        Results of tools stay apart. A merged answer is learnt where all of its parts are.
        """
        messages, learnt = list[Message](), list[bool]()
        for at, message in enumerate(self.messages):
            before = messages[-1] if messages else None
            if before is None or before["role"] != message["role"] or message["role"] == "tool":
                messages.append(message)
                learnt.append(at in self.learnt)
                continue
            texts = [one["content"] for one in (before, message) if one["content"].strip()]
            calls = [*before.get("tool_calls", ()), *message.get("tool_calls", ())]
            own = {"content": "\n\n".join(texts), **({"tool_calls": calls} if calls else {})}
            messages[-1] = {**before, **message, **own}
            learnt[-1] = learnt[-1] and at in self.learnt
        return replace(self, messages=messages, learnt=tuple(at for at, one in enumerate(learnt) if one))

    def without_opening(self) -> Conversation:
        """The conversation without what the assistant says before a user does."""
        first = next((at for at, one in enumerate(self.messages) if one["role"] == "user"), 0)
        left = [at for at, one in enumerate(self.messages) if at >= first or one["role"] == "system"]
        learnt = tuple(left.index(at) for at in self.learnt if at in left)
        return replace(self, messages=[self.messages[at] for at in left], learnt=learnt)

    def asked(self) -> Conversation:
        """The part of the conversation before the last answer."""
        return replace(self, messages=self.messages[: self.learnt[-1]], learnt=()) if self.learnt else self


class BadRow(Exception):
    """A fault in a row, and how to mend it."""

    def __init__(self, what: str, fix: str = _SKIP) -> None:
        super().__init__(what)
        self.what, self.fix = what, fix


@dataclass(frozen=True)
class Cells:
    """The cells of one row that a conversation is read from."""

    column: str
    prompt: Any
    answer_column: str | None
    answer: Any
    more: Any
    system: Any
    tools: Any
    history: Any = None


def conversation_of(cells: Cells, *, need_labels: bool, blanks: bool) -> Conversation:
    """The messages of a row in their order, and which of them count in the loss.

    Raises:
        BadRow: names the fault.
    """
    value, behind, is_text = _parsed(cells.prompt, cells.column), list[Any](), False
    if isinstance(value, list):
        said = value
    elif cells.answer_column is None and need_labels:
        raise BadRow(
            f"column {cells.column!r} holds {_kind(value)}, not a list of messages", f"write [{_MESSAGE}, ...]"
        )
    else:
        said, is_text = [{"role": "user", "content": _joined(value, cells)}], True
    if cells.answer_column is not None:
        answer = _parsed(cells.answer, cells.answer_column)
        answer = cell_text(answer) if isinstance(answer, int | float) else answer
        behind = answer if isinstance(answer, list) else [{"role": "assistant", "content": answer}]
    messages = [_message(one, at, blanks) for at, one in enumerate([*said, *behind], start=1)]
    weights = [_weight(one, at) for at, one in enumerate([*said, *behind], start=1)]
    if cells.answer_column is not None:  # a prompt's own answers are given
        weights[: len(said)] = [0] * len(said)
    before = _turns_before(cells.history) if is_text else []
    messages, weights = [*before, *messages], [*(1 for _ in before), *weights]
    if messages and messages[0]["role"] == "system" and not messages[0]["content"].strip():
        messages, weights = messages[1:], weights[1:]
    system = _beside(cells.system, "the system prompt")
    if system.strip() and messages and messages[0]["role"] != "system":
        messages, weights = [{"role": "system", "content": system}, *messages], [0, *weights]
    if not messages:
        raise BadRow("there are no messages")
    answers = [at for at, one in enumerate(messages) if one["role"] == "assistant"]
    tools = _tools(cells.tools)
    if tools and any("from" in one for one in said if isinstance(one, Mapping)):
        tools = [_described(one) for one in tools]
    made = Conversation(messages, (), tools, is_text)
    if not need_labels:
        return _to_be_answered(made)
    learnt = tuple(at for at in answers if weights[at])
    if not learnt:
        what = "every message of the assistant has weight 0" if answers else "there is no message of an assistant"
        raise BadRow(f"{what}, so nothing is learnt")
    if not any(one["role"] == "user" for one in messages[: learnt[-1]]):
        raise BadRow("there is no message of a user before the assistant's")
    return replace(made, messages=messages[: learnt[-1] + 1], learnt=learnt)


def _to_be_answered(made: Conversation) -> Conversation:
    """The conversation without an answer at its end."""
    messages = made.messages[:-1] if made.messages[-1]["role"] == "assistant" else made.messages
    if not messages or messages[-1]["role"] == "system":
        raise BadRow("there is no message to answer")
    return replace(made, messages=messages)


def _parsed(value: Any, column: str) -> Any:
    """Parse a cell: a text, or a list of messages, also as JSON, since csv has no lists."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if is_missing(value):
        raise BadRow(f"column {column!r} is missing or empty")
    if isinstance(value, str) and value.lstrip().startswith(("[{", "[\n", "[ ")):
        try:
            listed = json.loads(value)
        except ValueError:
            return value
        return listed if all(isinstance(one, Mapping) for one in listed) else value
    if isinstance(value, Mapping) and value and all(isinstance(one, list) for one in value.values()):
        return _rows_of(value, column)
    if isinstance(value, Mapping) and {"role", "from"} & value.keys():
        return [value]
    return list(value) if isinstance(value, list | tuple) else value


def messages_in(value: Any) -> list[Mapping[str, Any]]:
    """The messages of a cell, as a list or as JSON in a text; empty where it holds something else."""
    try:
        found = _parsed(value, "")
    except BadRow:
        return []
    named = isinstance(found, list) and all(isinstance(one, Mapping) and {"role", "from"} & one.keys() for one in found)
    return found if named else []


def _from_json(value: Any, column: str, form: str) -> Any:
    """The value of a cell that holds a list, or one in JSON; None where it is empty. ``form``: how it is written."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise BadRow(f"column {column!r} is no JSON: {error}", f"write {form}") from error
    empty = is_missing(value) or value in ("", [], ()) or (isinstance(value, str) and not value.strip())
    return None if empty else value


def _tools(value: Any) -> list[Any] | None:
    """The cell of tools: a list, or one in JSON; None where it is empty."""
    value = _from_json(value, TOOLS, _TOOL)
    if value is not None and not isinstance(value, list | tuple):
        raise BadRow(f"column {TOOLS!r} holds {_kind(value)}, not a list of tools", f"write {_TOOL}")
    return None if value is None else list(value)


def _turns_before(value: Any) -> list[Message]:
    """The messages of a cell of earlier turns, pairs of what was asked and answered; answers are learnt, too."""
    value = _from_json(value, HISTORY, _TURNS)
    if value is None:
        return []
    listed = value if isinstance(value, list | tuple) else []
    pairs = [one.tolist() if hasattr(one, "tolist") else one for one in listed]
    if not pairs or not all(
        isinstance(one, list | tuple) and len(one) == 2 and all(isinstance(text, str) and text.strip() for text in one)
        for one in pairs
    ):
        raise BadRow(f"column {HISTORY!r} holds {_kind(value)}, not pairs of texts", f"write {_TURNS}")
    return [
        {"role": role, "content": text} for one in pairs for role, text in zip(("user", "assistant"), one, strict=True)
    ]


def _beside(value: Any, what: str) -> str:
    """A text that belongs to a conversation, in a column of its own; a number is one too."""
    if is_missing(value):
        return ""
    value = cell_text(value) if isinstance(value, int | float) else value
    if not isinstance(value, str):
        raise BadRow(f"{what} is {_kind(value)}, not a text")
    return value


def _rows_of(columns: Mapping[str, list[Any]], column: str) -> list[dict[str, Any]]:
    """Messages written as lists of roles and of contents."""
    sizes = {name: len(values) for name, values in columns.items()}
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{count} of {name!r}" for name, count in sizes.items())
        raise BadRow(f"column {column!r} holds lists of different lengths: {said}")
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _joined(value: Any, cells: Cells) -> Any:
    """Join a prompt and the text that belongs to it."""
    if not isinstance(value, str):
        raise BadRow(f"column {cells.column!r} holds {_kind(value)}, not a text or a list of messages")
    more = _beside(cells.more, f"what follows {cells.column!r}").strip()
    return f"{value}\n\n{more}" if more else value


def _kind(value: Any) -> str:
    return {str: "a text", dict: "an object", list: "a list"}.get(type(value), f"the value {value!r}")


def _message(value: Any, number: int, blanks: bool) -> Message:
    if not isinstance(value, Mapping) or not ({"role", "from"} & value.keys()):
        raise BadRow(f"message {number} is {_kind(value)} without a role", f"write {_MESSAGE}")
    named = {name: one for name, one in value.items() if one is not None and name not in _OURS}
    role = str(value.get("role", value.get("from"))).strip().lower()
    if role == _CALLER:
        return {"role": "assistant", "content": "", "tool_calls": _calls_in(value, number)}
    if role not in _ROLES:
        raise BadRow(f"message {number} is of {role!r}", f"legal: {', '.join((*_ROLES, _CALLER))}")
    role = _ROLES[role]
    content = next((value[name] for name in ("content", "value", "text") if value.get(name) is not None), "")
    content = _text(content, number)
    if isinstance(calls := named.get("tool_calls"), list | tuple):
        named["tool_calls"] = [_call(one) for one in calls]
    empty_is_legal = blanks or role in ("system", "tool") or "tool_calls" in named
    if not content.strip() and not empty_is_legal:
        raise BadRow(f"message {number}, of the {role}, is empty", "fill it, or use --bad-rows skip (or empty)")
    return {**named, "role": role, "content": content}


def _calls_in(value: Mapping[str, Any], number: int) -> list[Any]:
    """The calls that a message of ShareGPT's role for them holds, one or several, in OpenAI's form."""
    found = next((value[name] for name in ("value", "content") if value.get(name) is not None), "")
    try:
        found = json.loads(found) if isinstance(found, str) else found
    except ValueError as error:
        raise BadRow(f"message {number}, of {_CALLER!r}, is no JSON: {error}", f"write {_CALL}") from error
    calls = found if isinstance(found, list | tuple) else [found]
    if not calls or not all(isinstance(one, Mapping) and isinstance(one.get("name"), str) for one in calls):
        raise BadRow(f"message {number}, of {_CALLER!r}, holds no call with a name", f"write {_CALL}")
    return [_call({"type": "function", "function": dict(one)}) for one in calls]


def _described(tool: Any) -> Any:
    """A tool in OpenAI's form; ShareGPT's files have the function alone."""
    bare = isinstance(tool, Mapping) and "name" in tool and not {"type", "function"} & tool.keys()
    return {"type": "function", "function": dict(tool)} if bare else tool


def _call(call: Any) -> Any:
    """A call with its arguments as an object: OpenAI's files have them as JSON in a text, and templates write JSON."""
    own = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(own, Mapping) or not isinstance(own.get("arguments"), str):
        return call
    try:
        own = {**own, "arguments": json.loads(own["arguments"])}
    except ValueError:
        return call  # the text is the template's to write
    return {**call, "function": own} if "function" in call else own


def _text(content: Any, number: int) -> str:
    """A message's text; its parts joined where it comes in parts."""
    if isinstance(content, list | tuple):
        for part in content:
            if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
                what = part.get("type") if isinstance(part, Mapping) else part
                raise BadRow(f"message {number} holds a part {what!r}", "chat reads text alone")
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise BadRow(f"message {number} holds {_kind(content)}, not a text")
    return content


def _weight(value: Any, number: int) -> int:
    """The weight of a message in the loss, as OpenAI's files give it (``weight``), or axolotl's (``train``)."""
    if isinstance(trained := value.get("train"), bool) and not trained:
        return 0
    weight = value.get("weight")
    if weight is None:
        return 1
    if weight not in (0, 1):
        raise BadRow(f"message {number} has weight {weight!r}", "legal: 0 (it is not learnt) and 1")
    return int(weight)
