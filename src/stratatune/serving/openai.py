"""The part of OpenAI's HTTP API that clients of language models use: chat, completions, embeddings, models.

Its objects and fields are described at https://platform.openai.com/docs/api-reference. ``model`` is a task's name.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import Body, FastAPI
from fastapi.responses import StreamingResponse

from stratatune.serving.asking import Asking, Refusal, body_of
from stratatune.serving.generated import GeneratedText
from stratatune.serving.openai_fields import Asked, ChatAsked, CompletionAsked, EmbeddingsAsked, refuse_others
from stratatune.serving.task import Task
from stratatune.training.generation import checked

_STREAMED = {"cache-control": "no-cache", "x-accel-buffering": "no"}  # a proxy passes each piece on at once


def add_openai(app: FastAPI, asking: Asking) -> None:
    """Add the routes under ``/v1``."""

    @app.get("/v1/models", summary="The tasks, as OpenAI's API lists models.")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(task) for task in asking.table.tasks.values()]}

    @app.get("/v1/models/{name}", summary="A task, as OpenAI's API describes a model.")
    async def model(name: str) -> dict[str, Any]:
        return _model(asking.named(name))

    @app.post("/v1/chat/completions", summary="The next message of a conversation, as OpenAI's API gives it.")
    async def chat(asked: Annotated[ChatAsked, Body()]) -> Any:
        task = _generating(asking.named(asked.model))
        if not task.objective.converses:
            said = f"task {task.name} learnt {task.objective.name} and reads no conversations"
            raise Refusal(422, said, "POST /v1/completions takes a prompt")
        if asked.messages[-1]["role"].strip().lower() == "assistant":
            raise Refusal(422, "the last message is the assistant's", "end with the message to answer")
        return await _answer(asking, _Chat(asked, task.name), task, [asked.messages])

    @app.post("/v1/completions", summary="The text that follows a prompt, as OpenAI's API gives it.")
    async def completions(asked: Annotated[CompletionAsked, Body()]) -> Any:
        task = _generating(asking.named(asked.model))
        prompts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
        return await _answer(asking, _Completion(asked, task.name), task, prompts)

    @app.post("/v1/embeddings", summary="The vectors of texts, as OpenAI's API gives them.")
    async def embeddings(asked: Annotated[EmbeddingsAsked, Body()]) -> dict[str, Any]:
        refuse_others(asked)
        task = asking.named(asked.model)
        if task.objective.name != "vectors":
            said = f"task {task.name} learnt {task.objective.name} and gives no vectors"
            raise Refusal(422, said, "POST /predict asks it")
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        rows = (await asking.answers(texts, [task], {}))[task.name]
        vectors = np.array([row["vector"] for row in rows], np.float32)
        vectors = vectors if asked.dimensions is None else _narrowed(vectors, asked.dimensions, task)
        data = [
            {"object": "embedding", "index": at, "embedding": _coded(vector, asked.encoding_format)}
            for at, vector in enumerate(vectors)
        ]
        count = await asyncio.to_thread(task.count, texts)
        usage = {"prompt_tokens": count, "total_tokens": count}
        return {"object": "list", "data": data, "model": task.name, "usage": usage}


def _model(task: Task) -> dict[str, Any]:
    return {"id": task.name, "object": "model", "created": task.loaded, "owned_by": "stratatune"}


def _generating(task: Task) -> Task:
    if not task.objective.writes:
        said = f"task {task.name} learnt {task.objective.name} and generates no text"
        raise Refusal(422, said, "POST /predict asks it; GET /tasks says which tasks generate text")
    return task


# --- embeddings -------------------------------------------------------------------------------------------------------


def _narrowed(vectors: np.ndarray, width: int, task: Task) -> np.ndarray:
    """The first ``width`` values of each vector [N, E], of unit length where the vectors are."""
    whole = vectors.shape[1]
    legal = sorted({*task.objective.widths, whole})
    if width not in legal:
        said = f"dimensions: {width}; task {task.name} learnt vectors of {', '.join(map(str, legal))}"
        raise Refusal(422, said, 'train with --objective "vectors(matryoshka=...)" for others')
    cut = vectors[:, :width]
    if not task.objective.normalise:
        return cut
    return cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def _coded(vector: np.ndarray, form: str | None) -> list[float] | str:
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.tolist()


# --- text -------------------------------------------------------------------------------------------------------------


class _Chat:
    """The objects of ``/v1/chat/completions``."""

    kind, piece_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def __init__(self, asked: Asked, name: str) -> None:
        self.asked, self.name = asked, name
        self._id, self._created = f"{self.prefix}-{uuid.uuid4().hex}", int(time.time())

    def whole(self, answers: Sequence[GeneratedText]) -> dict[str, Any]:
        """All answers at once."""
        choices = [self._choice(at, one.text, one.reason) for at, one in enumerate(answers)]
        return {**self._head(self.kind), "choices": choices, "usage": _usage(answers, self.asked.n or 1)}

    def begun(self, at: int) -> dict[str, Any] | None:
        """The object before the pieces of an answer, where there is one."""
        return self._event(at, {"role": "assistant", "content": ""}, None)

    def piece(self, at: int, text: str) -> dict[str, Any]:
        """A piece of an answer."""
        return self._event(at, {"content": text}, None)

    def ended(self, at: int, answer: GeneratedText) -> dict[str, Any]:
        """The end of an answer."""
        return self._event(at, {}, answer.reason)

    def usage(self, answers: Sequence[GeneratedText]) -> dict[str, Any]:
        """The numbers of tokens, after all pieces."""
        return {**self._head(self.piece_kind), "choices": [], "usage": _usage(answers, self.asked.n or 1)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self.name}

    def _choice(self, at: int, text: str, reason: str | None) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": at, "message": message, "logprobs": None, "finish_reason": reason}

    def _event(self, at: int, delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
        choice = {"index": at, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**self._head(self.piece_kind), "choices": [choice]}


class _Completion(_Chat):
    """The objects of ``/v1/completions``."""

    kind, piece_kind, prefix = "text_completion", "text_completion", "cmpl"

    def begun(self, at: int) -> dict[str, Any] | None:
        return None

    def _choice(self, at: int, text: str, reason: str | None) -> dict[str, Any]:
        return {"index": at, "text": text, "logprobs": None, "finish_reason": reason}

    def _event(self, at: int, delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
        return {**self._head(self.piece_kind), "choices": [self._choice(at, delta.get("content", ""), reason)]}


def _usage(answers: Sequence[GeneratedText], for_each: int) -> dict[str, int]:
    """The numbers of tokens; ``for_each`` answers have one prompt."""
    asked, said = (sum(one.prompt_tokens for one in answers[::for_each]), sum(one.tokens for one in answers))
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}


async def _answer(asking: Asking, form: _Chat, task: Task, texts: Sequence[Any]) -> Any:
    """The answers to ``texts``, whole or in pieces, as the request wants them."""
    asked, count = form.asked, form.asked.n or 1
    options = asked.options(task.new_tokens(asking.limits.new_tokens))
    if count > 1 and not checked(options).get("do_sample"):
        raise Refusal(422, f"n: {count}; without a temperature all answers are the same", "give one above 0")
    if (many := count * len(texts)) > asking.limits.texts:
        raise Refusal(422, f"{many} answers", f"ask for {asking.limits.texts} at most at a time")
    if not asked.stream:
        several = [text for text in texts for _ in range(count)]
        written = [GeneratedText(asked.stops, whole=True) for _ in several]
        await asking.answers(several, [task], options, written)
        _check_read(written, task)
        return form.whole(written)
    if len(texts) > 1:
        raise Refusal(422, f"{len(texts)} prompts; a stream answers one", "send them apart, or without stream")
    pieces = asking.pieces(texts[0], task, options, count, asked.stops)
    # The first piece is waited for here, so that what is refused is an error of HTTP and not of the stream.
    first = await anext(pieces)
    if not isinstance(first, tuple):
        _check_read(first, task)
    return StreamingResponse(_events(form, count, first, pieces), headers=_STREAMED, media_type="text/event-stream")


def _check_read(answers: Sequence[GeneratedText], task: Task) -> None:
    """Refuse a text of which a part did not fit: what it asks for may be there."""
    long = next((one for one in answers if one.lost), None)
    if long is not None:
        said = (
            f"the text has {long.prompt_tokens + long.lost:,} tokens, and task {task.name} reads {long.prompt_tokens:,}"
        )
        raise Refusal(422, said, "send less of it, or train with a larger --max-length")


async def _events(form: _Chat, count: int, first: Any, pieces: AsyncGenerator[Any]) -> AsyncIterator[str]:
    """The events of a stream, as server-sent events."""
    piece = first
    async with contextlib.aclosing(pieces):  # what a client does not wait for is not generated
        for at in range(count):
            if (event := form.begun(at)) is not None:
                yield _event(event)
        try:
            while isinstance(piece, tuple):
                yield _event(form.piece(*piece))
                piece = await anext(pieces)
        except Exception as error:  # the answer has begun: there is no status to give any more
            yield _event(body_of(error))
            return
    answers: Sequence[GeneratedText] = piece
    for at, answer in enumerate(answers):
        yield _event(form.ended(at, answer))
    if form.asked.stream_options is not None and form.asked.stream_options.include_usage:
        yield _event(form.usage(answers))
    yield "data: [DONE]\n\n"


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
