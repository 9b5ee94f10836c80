"""The HTTP API and its OpenAPI schema."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import re
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Annotated, Any

from fastapi import Body, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException as AnyHTTPException

from stratatune._compat import VERSION
from stratatune.errors import StratatuneError, shown
from stratatune.explain import failure_of
from stratatune.serving.asking import Asking, Message, Refusal, body_of, status_of
from stratatune.serving.batching import Batcher, Busy
from stratatune.serving.counters import Counters
from stratatune.serving.guard import App, Guard, error_body
from stratatune.serving.keys import ADMIN_KEYS, Keys
from stratatune.serving.limits import Limits
from stratatune.serving.openai import add_openai
from stratatune.serving.table import TaskTable

Text = str | Annotated[list[str], Field(min_length=2, max_length=2)] | Annotated[list[Message], Field(min_length=1)]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Texts(_Closed):
    """Texts for one task."""

    texts: Annotated[
        list[Text], Field(min_length=1, description="Texts, pairs of texts, or conversations: lists of messages.")
    ]
    generation: Annotated[
        dict[str, Any], Field(description="How text is generated: max_new_tokens, temperature, top_p, ...")
    ] = Field(default_factory=dict)


class TextsForTasks(Texts):
    """Texts for several tasks at once."""

    tasks: Annotated[
        list[str] | None, Field(min_length=1, description="Names of tasks; all that read such texts by default.")
    ] = None


class NewTask(_Closed):
    """A run to serve."""

    run: Annotated[str, Field(min_length=1, description="A run's folder on the server.")]


class Answers(BaseModel):
    """A row for each text."""

    n: int
    answers: list[dict[str, Any]]


class AnswersOfTasks(BaseModel):
    """A row for each text and task, by the task's name."""

    n: int
    answers: dict[str, list[dict[str, Any]]]


_ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"description": "The key is missing or wrong."},
    404: {"description": "There is no such task."},
    413: {"description": "The body is too large."},
    422: {"description": "The texts are not as the tasks need them."},
    429: {"description": "The queue is full; Retry-After says when to try again."},
    503: {"description": "The server is stopping."},
    504: {"description": "There was no answer in time."},
}


def create_app(table: TaskTable, limits: Limits, keys: Keys, counters: Counters) -> App:
    """Make the whole application; it answers while its lifespan lasts."""
    batcher = Batcher(table, limits, counters)
    counters.watch(lambda: batcher.waiting, lambda: len(table.tasks))

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        await asyncio.to_thread(batcher.stop)

    # The pages that show an API's description load scripts from elsewhere; /openapi.json is for any tool.
    app = FastAPI(
        title="stratatune serve", version=VERSION, lifespan=lifespan, docs_url=None, redoc_url=None, responses=_ERRORS
    )
    _add_errors(app)
    _add_state(app, table, batcher, counters)
    asking = Asking(table, batcher, limits)
    _add_predictions(app, asking)
    add_openai(app, asking)
    _add_changes(app, asking, keys, counters)
    return Guard(app, limits, keys, counters)  # pyright: ignore[reportArgumentType]


def _add_state(app: FastAPI, table: TaskTable, batcher: Batcher, counters: Counters) -> None:
    page = files("stratatune.serving").joinpath("page.html").read_text(encoding="utf-8")
    policy = {"content-security-policy": _policy(page), "x-content-type-options": "nosniff"}

    @app.get("/", include_in_schema=False)
    async def page_() -> HTMLResponse:
        return HTMLResponse(page, headers=policy)

    @app.get("/health", summary="Whether the process lives.")
    async def health() -> dict[str, str]:
        return {"status": "ok", "version": VERSION}

    @app.get("/ready", summary="Whether requests are answered.", responses={503: {"description": "They are not."}})
    async def ready() -> JSONResponse:
        yes = batcher.alive and bool(table.tasks)
        return JSONResponse({"ready": yes, "tasks": len(table.tasks)}, 200 if yes else 503)

    @app.get("/metrics", summary="Counters as Prometheus reads them.", response_class=Response)
    async def metrics() -> Response:
        return Response(counters.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/tasks", summary="The tasks that are served.")
    async def tasks() -> dict[str, Any]:
        return {"tasks": [task.describe() for task in table.tasks.values()]}


def _policy(page: str) -> str:
    """The content security policy: the page may run its own script and style and call this server, nothing else."""
    hashes = {
        tag: base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
        for tag in ("script", "style")
        if (found := re.search(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL))
    }
    allowed = "; ".join(f"{tag}-src 'sha256-{value}'" for tag, value in hashes.items())
    return f"default-src 'none'; {allowed}; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"


def _add_predictions(app: FastAPI, asking: Asking) -> None:
    @app.post("/predict", summary="Predict texts with several tasks.", response_model=AnswersOfTasks)
    async def predict(asked: Annotated[TextsForTasks, Body()]) -> dict[str, Any]:
        if asked.tasks is None:
            tasks = asking.reading(asked.texts[0], generating=bool(asked.generation))
        else:
            tasks = [asking.named(name) for name in dict.fromkeys(asked.tasks)]
        return {"n": len(asked.texts), "answers": await asking.answers(asked.texts, tasks, asked.generation)}

    @app.post("/tasks/{name}/predict", summary="Predict texts with one task.", response_model=Answers)
    async def predict_one(name: str, asked: Annotated[Texts, Body()]) -> dict[str, Any]:
        found = await asking.answers(asked.texts, [asking.named(name)], asked.generation)
        return {"n": len(asked.texts), "answers": found[name]}


def _add_changes(app: FastAPI, asking: Asking, keys: Keys, counters: Counters) -> None:
    table = asking.table

    def check(request: Request) -> None:
        if not keys.admins:
            raise Refusal(403, "tasks cannot be changed", f"start the server with {ADMIN_KEYS}")
        if not keys.may_change(request.headers.get("authorization", "")):
            raise Refusal(401, "this needs an administrator's key", f"Authorization: Bearer KEY, one of {ADMIN_KEYS}")

    @app.put("/tasks/{name}", summary="Serve a run.", status_code=201)
    async def add(name: str, new: Annotated[NewTask, Body()], request: Request) -> dict[str, Any]:
        check(request)
        task = await asyncio.to_thread(table.add, name, new.run)
        return task.describe()

    @app.delete("/tasks/{name}", summary="Serve a task no longer.", status_code=204)
    async def remove(name: str, request: Request) -> None:
        check(request)
        asking.named(name)
        await asyncio.to_thread(table.remove, name)
        counters.forget(name)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> JSONResponse:
        return JSONResponse(body_of(error), error.status)

    @app.exception_handler(StratatuneError)
    async def failed(request: Request, error: StratatuneError) -> JSONResponse:
        headers = {"retry-after": str(error.after)} if isinstance(error, Busy) else {}
        return JSONResponse(body_of(error), status_of(error), headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        message, hint = _mistake(error.errors()[0])
        return JSONResponse(error_body(422, message, hint), 422)

    @app.exception_handler(AnyHTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(error_body(error.status_code, str(error.detail)), error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> JSONResponse:
        failure = failure_of(error)
        return JSONResponse(error_body(500, "; ".join(failure.lines), "", failure.kind), 500)


def _mistake(first: dict[str, Any]) -> tuple[str, str]:
    """The mistake in a body, and a fix, from pydantic's first error."""
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    if first["type"] == "json_invalid":
        return f"the body is not JSON: {first.get('ctx', {}).get('error', '')}, at character {place}", "send JSON"
    if not place and isinstance(first.get("input"), bytes):
        return "the body was not read as JSON", "send Content-Type: application/json"
    said = f"{shown(place)[1:-1]}: {first['msg']}" if place else str(first["msg"])
    return said, "GET /openapi.json describes what is read"
