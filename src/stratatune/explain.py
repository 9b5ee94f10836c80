"""Turn any exception into what the user reads: its lines, a hint and an exit code. No torch."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stratatune.elsewhere import OF_OTHERS, SAID_OTHERWISE, meant
from stratatune.errors import ConfigError, StratatuneError
from stratatune.spelling import spelled

_DEBUG = "run the same command with --debug for the traceback; if this is a bug in stratatune, please report it"
_SMALLER = (
    "train with a smaller --batch-size, --max-length or --eval-batch-size, --precision bf16, or a plan with a deeper "
    "frozen depth; eval and predict with a smaller --eval-batch-size"
)
_SMALLER_ON_GPU = (
    "train with a smaller --batch-size (and a larger --accumulate), --trunk streamed, --pack nf4 or a smaller "
    "--max-length; eval and predict with a smaller --eval-batch-size, --trunk streamed or --device cpu"
)
_GPU_IS_FULL = re.compile("(CUDA|HIP|MPS backend)( error:)? out of memory|CUBLAS_STATUS_ALLOC_FAILED")
_ON_GPU = re.compile(r"allocate ([\d.]+ \w+)\. .* capacity of ([\d.]+ \w+) of which ([\d.]+ \w+) is free")
"""What torch says of the GPU, before it goes on to its allocator."""
_DISK = {
    errno.ENOSPC: "free some space, or choose another folder",
    errno.EDQUOT: "free some space, or choose another folder",
}
_DISK |= dict.fromkeys(
    (errno.EACCES, errno.EPERM, errno.EROFS), "choose a file or folder that you have permission to use"
)
_PATH = {
    errno.ENAMETOOLONG: "the name is too long for the file system: check the path",
    errno.EISDIR: "it is a folder, and a file is needed",
    errno.ENOTDIR: "a part of the path is a file, and a folder is needed",
    errno.ELOOP: "its symbolic links form a loop",
    errno.ENOENT: "check the path",
}
_MOST_LINES, _WIDEST = 8, 1000


@dataclass(frozen=True)
class Failure:
    """The printed form of an error; ``kind`` is the name of its class. ``picture``: lines that go under the hint."""

    lines: tuple[str, ...]
    hint: str
    kind: str
    exit_code: int
    picture: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The object that ``--json`` prints."""
        inner = {"message": "; ".join(self.lines), "hint": self.hint, "kind": self.kind}
        return json.dumps({"error": inner}, ensure_ascii=False)


def failure_of(error: Exception) -> Failure:
    """The report of ``error``: ours bring their own text; memory, disk and command line are known by their kind."""
    kind = type(error).__name__
    if isinstance(error, StratatuneError):
        lines = error.errors if isinstance(error, ConfigError) else [error.message]
        hint, _, picture = error.hint.partition("\n")
        return Failure(_few(lines), _one_line(hint), kind, error.exit_code, tuple(picture.splitlines()[:2]))
    if hasattr(error, "format_message"):  # click's, whether typer brings its own copy of click or not
        return _usage(error, kind)
    if _GPU_IS_FULL.search(str(error)):
        return Failure((_full_gpu(error),), spelled(_SMALLER_ON_GPU), "ResourceError", 1)
    if _is_out_of_memory(error):
        return Failure((f"out of memory: {_first_line(error)}",), spelled(_SMALLER), "ResourceError", 1)
    if isinstance(error, OSError) and error.errno in _DISK:
        place = f": {error.filename}" if error.filename else ""
        return Failure((_one_line(f"{error.strerror}{place}"),), _DISK[error.errno], "ResourceError", 1)
    if isinstance(error, OSError) and error.errno in _PATH and error.filename:
        return Failure((_one_line(f"{error.filename}: {error.strerror}"),), _PATH[error.errno], "UserError", 2)
    return Failure((f"{kind}: {_first_line(error)}",), _DEBUG, kind, 1)


def _usage(error: Exception, kind: str) -> Failure:
    """A mistake in the command line itself, in click's words."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "stratatune"
    message = _one_line(error.format_message())  # pyright: ignore[reportAttributeAccessIssue]
    fix = f"{command} --help says what it takes"
    if context and (said := _of_another_tool(getattr(error, "option_name", ""), context.command.params)):
        message, fix = f"No such option: {getattr(error, 'option_name', '')}", said
    return Failure((message,), fix, kind, 2)


def _of_another_tool(option: str, taken: Sequence[Any]) -> str:
    """What to write in place of an option that is another tool's; ``taken``: the parameters of the command."""
    name = option.removeprefix("--").replace("-", "_")
    if name in OF_OTHERS:
        found = meant(name, [one.name for one in taken])
        return f"did you mean --{found.replace('_', '-')}?" if found else ""
    return SAID_OTHERWISE.get(name, "")


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out; by the error's name, so that torch need not be imported."""
    named = type(error).__name__ == "OutOfMemoryError" and type(error).__module__.startswith("torch")
    return named or isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def _full_gpu(error: Exception) -> str:
    """What did not fit on a GPU, as far as torch says."""
    if found := _ON_GPU.search(str(error)):
        asked, whole, free = found.groups()
        return f"out of memory: the GPU has {whole}, {free} of it free, and {asked} were needed at once"
    return "out of memory: the GPU's memory is full"


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return _one_line(text.splitlines()[0]) if text else type(error).__name__


def _few(lines: Sequence[str]) -> tuple[str, ...]:
    """The first lines, and the number of the others."""
    more = len(lines) - _MOST_LINES
    said = [_one_line(line) for line in lines[:_MOST_LINES]]
    return (*said, f"and {more:,} more") if more > 0 else tuple(said)


def _one_line(text: str) -> str:
    """``text`` without line breaks, and no longer than a screen."""
    line = " ".join(text[: 4 * _WIDEST].split())
    return line if len(line) <= _WIDEST else f"{line[: _WIDEST - 3]}..."
