"""The command line: ``stratatune VERB ...``. Each verb is one function in ``app/verbs/``; here they are put together.

Nothing that this file imports brings in torch: a verb imports what it needs when it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from stratatune.app.door import app, build_only
from stratatune.app.failures import Interrupted, closed_pipe, report
from stratatune.app.streams import settle_streams, write_answer

# Each module registers its verbs on `app`, in the order in which `--help` shows them.
from stratatune.app.verbs import planning, training, using, exporting, listing, caches  # noqa: F401  # isort: skip
from stratatune.app.verbs import benching, grids, reporting, suggesting, trying  # noqa: F401  # isort: skip


def _version(wanted: bool) -> None:
    if wanted:
        from stratatune._compat import VERSION

        print(f"stratatune {VERSION}")
        raise typer.Exit


@app.callback(epilog="Every verb takes --json, --quiet and --debug, and `stratatune VERB --help` says what else.")
def _stratatune(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")] = False,
) -> None:
    """Fine-tune only the layers that need it, and pay only for those."""


def main() -> None:
    """The console script."""
    settle_streams()
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Runs one command and gives its exit code: 0 done, 2 the user's mistake, 1 a failure of ours or of the machine."""
    build_only(arguments)
    try:
        command = typer.main.get_command(app)
        code = command.main(list(arguments or ["--help"]), prog_name="stratatune", standalone_mode=False)
        write_answer("")  # what --help and the like left in the buffer
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        return closed_pipe()
    except KeyboardInterrupt:
        return report(Interrupted("interrupted"), as_json="--json" in arguments, debug=False)
    except Exception as error:
        return report(error, as_json="--json" in arguments, debug="--debug" in arguments)
