"""``stratatune serve``: trained runs served over HTTP."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Annotated, Any

import typer

from stratatune.app.door import Answer, Door, verb
from stratatune.app.verbs.using import machine
from stratatune.errors import ConfigError, counted
from stratatune.serving.limits import Limits, describe


class LimitOptions:
    """The group of options for the limits of a server, one for each field of ``Limits``."""

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.Signature([_option(one) for one in dataclasses.fields(Limits)])

    def __call__(self, **given: Any) -> Limits:
        return Limits(**given)


def _option(one: dataclasses.Field[Any]) -> inspect.Parameter:
    kind = type(one.default)
    option = typer.Option(f"--{one.name.replace('_', '-')}", help=describe(one.name), rich_help_panel="Limits")
    annotation = Annotated[kind, option]  # pyright: ignore[reportInvalidTypeForm]
    return inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=annotation)


@verb(where=machine, most=LimitOptions())
def serve(
    door: Door,
    where: dict[str, Any],
    most: Limits,
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="Runs' folders, or NAME=FOLDER; by default a task has the folder's name."
        ),
    ],
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 is a free one.")] = 8080,
) -> Answer:
    """Serve trained runs over HTTP, with a page to try texts on at /; docs/serve.md describes the API.

    Runs of one base model and frozen depth share its weights and the work of the trunk. API keys are read from
    STRATATUNE_SERVE_KEYS and STRATATUNE_SERVE_ADMIN_KEYS.
    """
    from stratatune.serving.keys import KEYS, Keys
    from stratatune.serving.names import named_run
    from stratatune.serving.server import Address, Server, bound, check_installed

    keys = Keys.from_environment()
    check_installed()
    named = [named_run(run) for run in runs]
    twice = sorted({name for name, _ in named if [one for one, _ in named].count(name) > 1})
    if twice:
        raise ConfigError([f"two runs are called {twice[0]}"], "name them: NAME=RUN")
    reporter = door.reporter()
    with bound(host, port) as listener:
        from stratatune.serving.table import TaskTable

        table = TaskTable(most.remember_bytes, **where)
        for name, run in named:
            task = table.add(name, run)
            reporter.notice_once(task.predictor.notices)
            reporter.say(f"loaded {name}: {task.objective.name}, trunk {task.trunk[:12] or 'its own'}")
        if host not in ("127.0.0.1", "::1", "localhost") and not keys.users:
            reporter.notice(f"anyone who reaches {host} can send requests: set {KEYS} to require a key")
        found: list[Address] = []

        def ready(address: Address) -> None:
            found.append(address)
            reporter.say(f"serving {counted(len(table.tasks), 'task')} on {address.url} (Ctrl-C stops)")

        Server(table, most, keys).run(listener, ready)
    return Answer({**dataclasses.asdict(found[0]), "tasks": list(table.tasks)}, note="stopped")
