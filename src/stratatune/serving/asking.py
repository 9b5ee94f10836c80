"""A request on its way to the tasks: what it may ask, and how its answers are waited for."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict
from typing_extensions import Required, TypedDict

from stratatune.data.readers import is_conversation
from stratatune.errors import StratatuneError, UserError
from stratatune.explain import failure_of
from stratatune.serving.batching import Batcher, Busy, Stopped
from stratatune.serving.batching import Request as Asked
from stratatune.serving.compute import columns_of
from stratatune.serving.generated import GeneratedText
from stratatune.serving.guard import error_body
from stratatune.serving.limits import Limits
from stratatune.serving.table import TaskTable
from stratatune.serving.task import Row, Task
from stratatune.training.generation import checked

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_ROWS = re.compile("bad[-_]rows")
_CONVERSATION = '{"texts": [[{"role": "user", "content": "..."}]]}'


class Message(TypedDict, total=False):
    """A message of a conversation; it may have other fields too."""

    __pydantic_config__ = ConfigDict(extra="allow")  # pyright: ignore[reportGeneralTypeIssues]

    role: Required[str]
    content: str | list[dict[str, Any]] | None
    tool_calls: list[dict[str, Any]] | None


class Refusal(Exception):
    """An error as an answer."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.hint = status, message, hint


def refusal(status: int, error: StratatuneError) -> Refusal:
    """An error of this package as an answer."""
    failure = failure_of(error)
    return Refusal(status, "; ".join(failure.lines), _without_options(failure.hint))


def _without_options(hint: str) -> str:
    """A hint without the parts that name ``bad_rows``, an option of commands and of Python that a client lacks."""
    parts = re.split("; |, or |, ", hint)
    return ", ".join(part for part in parts if not _ROWS.search(part)) if _ROWS.search(hint) else hint


def body_of(error: Exception) -> dict[str, Any]:
    """The body of an answer that is an error."""
    if isinstance(error, Refusal):
        return error_body(
            error.status, error.message, error.hint, code="model_not_found" if error.status == 404 else ""
        )
    failure = failure_of(error)
    return error_body(status_of(error), "; ".join(failure.lines), _without_options(failure.hint), failure.kind)


def status_of(error: Exception) -> int:
    """The HTTP status of an error that is no :class:`Refusal`."""
    if isinstance(error, Busy):
        return 429
    if isinstance(error, Stopped):
        return 503
    return 422 if isinstance(error, UserError) else 500


@dataclass(frozen=True)
class Asking:
    """The way from a request to the tasks.

    Attributes:
        table: the tasks.
        batcher: computes their answers.
        limits: limits on texts and on waiting.
    """

    table: TaskTable
    batcher: Batcher
    limits: Limits

    def named(self, name: str) -> Task:
        """The task called ``name``.

        Raises:
            Refusal: 404, there is none.
        """
        try:
            return self.table.named(name)
        except UserError as error:
            raise refusal(404, error) from error

    def reading(self, text: Any, *, generating: bool) -> list[Task]:
        """The tasks that read such texts, or those of them that generate text.

        Raises:
            Refusal: 422, none does.
        """
        found = [task for task in self.table.tasks.values() if _reads(task, text)]
        found = [task for task in found if task.objective.writes or not generating]
        if not found:
            what = "generates text from" if generating else "reads"
            raise Refusal(422, f"no task {what} {_kind(text)}", "GET /tasks lists them")
        return found

    async def answers(
        self,
        texts: Sequence[Any],
        tasks: Sequence[Task],
        options: Mapping[str, Any],
        written: Sequence[GeneratedText] = (),
    ) -> dict[str, list[Row]]:
        """The rows of each task by its name.

        Args:
            texts: N texts, pairs or conversations.
            tasks: those that answer.
            options: how text is generated.
            written: follows the answer to each text, where one is generated.

        Raises:
            Refusal: a text or an option is not legal, or the time is over.
            StratatuneError: what a task says of a text.
        """
        waiting = asyncio.wrap_future(self._submit(texts, tasks, options, written))
        try:
            return await asyncio.wait_for(waiting, self.limits.timeout)
        except (asyncio.TimeoutError, TimeoutError):
            raise self._late() from None

    async def pieces(
        self, text: Any, task: Task, options: Mapping[str, Any], count: int, stop: Sequence[str]
    ) -> AsyncGenerator[tuple[int, str] | Sequence[GeneratedText]]:
        """The pieces of ``count`` answers to one text as they are generated, and at the end the answers themselves.

        Raises:
            Refusal, StratatuneError: as :meth:`answers`; before the first piece, unless generation itself fails.
        """
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[tuple[int, str] | None]()

        def heard(number: int, piece: str) -> None:
            with contextlib.suppress(RuntimeError):  # the server has stopped meanwhile
                loop.call_soon_threadsafe(pieces.put_nowait, (number, piece))

        hearers = [lambda piece, number=number: heard(number, piece) for number in range(count)]
        written = [GeneratedText(stop, hearer, whole=True) for hearer in hearers]
        waiting = asyncio.wrap_future(self._submit([text] * count, [task], options, written))
        waiting.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await asyncio.wait_for(pieces.get(), self.limits.timeout)) is not None:
                yield piece
            await waiting  # its error, where there is one
            yield written
        except (asyncio.TimeoutError, TimeoutError):
            raise self._late() from None
        finally:
            waiting.cancel()

    def _submit(
        self, texts: Sequence[Any], tasks: Sequence[Task], options: Mapping[str, Any], written: Sequence[GeneratedText]
    ) -> Any:
        self._check(texts, tasks)
        return self.batcher.submit(Asked(texts, tasks, written, self._checked(options, tasks)))

    def _late(self) -> Refusal:
        return Refusal(504, f"no answer within {self.limits.timeout:g} s", "send fewer texts, or ask for fewer tokens")

    def _checked(self, options: Mapping[str, Any], tasks: Iterable[Task]) -> dict[str, Any]:
        """The options of generated text, if they are legal and every task generates some."""
        found = checked(options)
        if found and (other := next((task for task in tasks if not task.objective.writes), None)):
            said = f"{', '.join(found)}: task {other.name} learnt {other.objective.name} and generates no text"
            raise Refusal(422, said, "leave out the options for generated text")
        # Each beam takes the memory of a text.
        limits = {"max_new_tokens": (self.limits.new_tokens, "new-tokens"), "num_beams": (self.limits.batch, "batch")}
        for name, (most, option) in limits.items():
            if found.get(name, 0) > most:
                raise Refusal(422, f"{name}: {found[name]}", f"{most} at most (--{option})")
        return found

    def _check(self, texts: Sequence[Any], tasks: Sequence[Task]) -> None:
        """Refuse texts that a task cannot read, before they join the queue; a text is named by its number, from 1."""
        limits = self.limits
        if len(texts) > limits.texts:
            raise Refusal(422, f"{len(texts)} texts", f"send {limits.texts} at most at a time")
        for task in tasks:
            if not _reads(task, texts[0]):
                said = f"task {task.name} reads {_kinds(task)}"
                raise Refusal(422, said, f"write {_shape(task)}")
        for number, text in enumerate(texts, start=1):
            if _kind(text) != _kind(texts[0]):
                raise Refusal(422, f"text {number}: {_kind(texts[0])} and {_kind(text)} are mixed", "send them apart")
            self._check_text(number, text)

    def _check_text(self, number: int, text: Any) -> None:
        parts = [str(one.get("content") or "") for one in text] if is_conversation(text) else text
        parts, most = [parts] if isinstance(parts, str) else parts, self.limits.characters
        longest = sum(map(len, parts)) if is_conversation(text) else max(map(len, parts))
        if longest > most:
            raise Refusal(422, f"text {number}: {longest:,} characters", f"{most:,} at most")
        if any(map(_LONE_SURROGATE.search, _texts_in(text))):
            raise Refusal(422, f"text {number} holds half of a surrogate pair", "write the whole character")
        if not is_conversation(text) and not all(part.strip() for part in parts):
            raise Refusal(422, f"text {number} is empty", "leave it out")


def _texts_in(value: Any) -> Iterator[str]:
    """All texts in a value of JSON, but the names of fields."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, list | dict):
            left.extend(one.values() if isinstance(one, dict) else one)


def _reads(task: Task, text: Any) -> bool:
    return task.objective.converses if is_conversation(text) else task.reads(columns_of(text))


def _kind(text: Any) -> str:
    """What a text is, in words."""
    return "conversations" if is_conversation(text) else ("single texts", "pairs")[columns_of(text) - 1]


def _kinds(task: Task) -> str:
    own = "pairs of texts" if task.objective.asked_at_once == 2 else "single texts"
    return f"{own} and conversations" if task.objective.converses else own


def _shape(task: Task) -> str:
    if task.objective.converses:
        return f'{{"texts": ["text"]}} or {_CONVERSATION}'
    return '{"texts": [["first", "second"]]}' if task.objective.asked_at_once == 2 else '{"texts": ["text"]}'
