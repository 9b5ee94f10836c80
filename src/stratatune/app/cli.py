"""The command line: ``stratatune VERB ...``. Each verb is one function in ``app/verbs/``; this module collects them.

Nothing that this file imports brings in torch: a verb imports what it needs when it runs.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from stratatune.app.door import app, build_only
from stratatune.app.failures import Interrupted, closed_pipe, report
from stratatune.app.streams import settle_streams, write_answer
from stratatune.errors import UserError
from stratatune.spelling import read_by

# Each module registers its verbs on `app`, in the order in which `--help` shows them.
from stratatune.app.verbs import planning, training, evaluating, predicting, exporting, listing, caches  # noqa: F401  # isort: skip
from stratatune.app.verbs import benching, grids, reporting, serving, suggesting, trying, helping  # noqa: F401  # isort: skip


def _version(wanted: bool) -> None:
    if wanted:
        from stratatune._compat import VERSION

        print(f"stratatune {VERSION}")
        raise typer.Exit


@app.callback(epilog="Every verb takes --json, --quiet and --debug, and `stratatune VERB --help` lists the rest.")
def _stratatune(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")] = False,
) -> None:
    """Fine-tune only the layers that need it, and pay only for those."""


_PLAN, _FLAGS = re.compile(r"-\d"), ("--json", "--quiet", "--debug")


def main() -> None:
    """The console script; shells also call it, through the environment, to complete a command line."""
    settle_streams()
    sys.exit(run(sys.argv[1:] or completed_words()))


def completed_words(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The words of the command line that a shell is completing; empty where none does."""
    if "_STRATATUNE_COMPLETE" not in environment:
        return []
    return (environment.get("COMP_WORDS") or environment.get("_TYPER_COMPLETE_ARGS") or "").split()[1:]


def plans_behind(arguments: Sequence[str]) -> list[str]:
    """A plan that begins with a dash (``-1: full``) is not an option: it goes to the end, after ``--``.

    A value of an option stays where it is (``--plan "-1: full"``), whatever it begins with.
    """
    given = list(arguments)
    if "--" in given:
        return given
    plans = [n for n, word in enumerate(given) if _PLAN.match(word) and (not n or not _takes_value(given[n - 1]))]
    rest = [word for number, word in enumerate(given) if number not in plans]
    return [*rest, "--", *(given[number] for number in plans)] if plans else given


def _takes_value(word: str) -> bool:
    return word.startswith("--") and "=" not in word and word not in _FLAGS


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code: 0 done, 2 the user's mistake, 1 a failure of ours or of the machine."""
    with read_by("command"):
        return _run(arguments)


def _check_folder() -> None:
    """Refuse a working folder that was removed, on which libraries fail each in its own way.

    Raises:
        UserError: it was.
    """
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise UserError(
            "the working folder no longer exists", "cd to one that does, and run the command again"
        ) from error


def _run(arguments: Sequence[str]) -> int:
    build_only(arguments)
    try:
        _check_folder()
        command = typer.main.get_command(app)
        code = command.main(plans_behind(arguments or ["--help"]), prog_name="stratatune", standalone_mode=False)
        write_answer("")  # what --help and similar options left in the buffer
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        return closed_pipe()
    except KeyboardInterrupt:
        return report(Interrupted("interrupted"), as_json="--json" in arguments, debug=False)
    except Exception as error:
        return report(error, as_json="--json" in arguments, debug="--debug" in arguments)
