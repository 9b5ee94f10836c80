"""Names of tasks. No torch."""

from __future__ import annotations

import re
from pathlib import Path

from stratatune.errors import ConfigError, shown

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_name(name: str) -> str:
    """Return ``name`` if it is a legal name for a task.

    Raises:
        ConfigError: it may not.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            [f"task name: {shown(name)}"], "letters, digits, '.', '_' and '-', 64 at most; write NAME=RUN to choose one"
        )
    return name


def named_run(text: str) -> tuple[str, str]:
    """Split ``NAME=RUN`` into a name and a folder; without a name it is that of the run's folder.

    Raises:
        ConfigError: the folder's name cannot be a task's.
    """
    name, equals, run = text.partition("=")
    if equals and run and "/" not in name:
        return check_name(name), run
    folder = Path(text).expanduser().resolve()
    return check_name(folder.parent.name if folder.name == "adapter" else folder.name), text
