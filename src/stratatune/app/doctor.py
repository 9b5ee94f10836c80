"""A report on this installation: versions, extras, devices, memory, the folder of caches and its disk."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import metadata, requires
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from stratatune._compat import VERSION, installed
from stratatune.cache.folders import list_caches
from stratatune.cache.keys import default_root
from stratatune.units import readable_size

_PACKAGE = "stratatune"
_LITTLE = 10**9  # bytes of a disk, below which runs and caches soon fail


@dataclass(frozen=True)
class Library:
    """A library that this package names.

    Attributes:
        name: its name for pip.
        wants: the range of versions.
        has: the installed version; empty where there is none.
        fits: whether that is in the range.
    """

    name: str
    wants: str
    has: str
    fits: bool

    @classmethod
    def of(cls, needed: Requirement) -> Library:
        """The installed library that a requirement names."""
        has = installed(needed.name)
        return cls(needed.name, str(needed.specifier), has, bool(has) and needed.specifier.contains(has, True))


def examine() -> dict[str, Any]:
    """Everything that :func:`as_text` shows, as plain data."""
    libraries = [Library.of(one) for one in _requirements("")]
    extras = {extra: [Library.of(one) for one in _requirements(extra)] for extra in _extras()}
    found = {
        "stratatune": VERSION,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": [vars(one) for one in libraries],
        "extras": [_extra(name, needed) for name, needed in extras.items()],
        "devices": _devices(),
        "memory": _memory(),
        "caches": _caches(default_root()),
        "hub": _hub(),
    }
    return {**found, "problems": list(_problems(found))}


def _requirements(extra: str) -> Iterator[Requirement]:
    """The requirements of this package, or those of an extra; an extra that names others includes theirs."""
    for line in requires(_PACKAGE) or ():
        needed = Requirement(line)
        if not _applies(needed, extra):
            continue
        if needed.name == _PACKAGE:
            for other in sorted(needed.extras):
                yield from _requirements(other)
        else:
            yield needed


def _applies(needed: Requirement, extra: str) -> bool:
    """Whether a requirement belongs to this extra (empty: to none), on this machine."""
    if needed.marker is None:
        return not extra
    if not extra:
        return needed.marker.evaluate({"extra": ""})
    return needed.marker.evaluate({"extra": extra}) and not needed.marker.evaluate({"extra": ""})


def _extras() -> list[str]:
    """The extras for users; ``dev`` is for those who work on the package itself."""
    return [name for name in metadata(_PACKAGE).get_all("Provides-Extra") or [] if name != "dev"]


def _extra(name: str, needed: list[Library]) -> dict[str, Any]:
    missing = [one.name for one in needed if not one.fits]
    command = f'pip install "{_PACKAGE}[{name}]"' if missing else None
    return {"name": name, "installed": not missing, "missing": missing, "command": command}


def _devices() -> list[dict[str, Any]]:
    import torch

    found = [{"device": "cpu", "name": processor(), "threads": torch.get_num_threads(), "memory": None}]
    for number in range(torch.cuda.device_count()):
        own = torch.cuda.get_device_properties(number)
        found.append({"device": f"cuda:{number}", "name": own.name, "threads": None, "memory": own.total_memory})
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "name": "Apple GPU", "threads": None, "memory": None})
    return found


def processor() -> str:
    """The name of this machine's processor, or its architecture where the system names none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"model name\s*:\s*(.+)", lines)
    return found[1].strip() if found else platform.machine()


def _memory() -> dict[str, int]:
    import psutil

    from stratatune.training.cache_policy import free_memory

    return {"total": int(psutil.virtual_memory().total), "free": free_memory()}


def _caches(root: Path) -> dict[str, Any]:
    from stratatune.training.cache_policy import disk_speed

    speed = disk_speed(root)
    there = next((folder for folder in (root, *root.parents) if folder.is_dir()), Path("/"))
    infos = list_caches(root)
    return {
        "root": str(root),
        "writable": bool(speed),
        "free": shutil.disk_usage(there).free,
        "bytes_per_second": int(speed),
        "caches": len(infos),
        "bytes": sum(info.bytes for info in infos),
    }


def _hub() -> dict[str, Any]:
    from huggingface_hub import constants

    return {"offline": bool(constants.HF_HUB_OFFLINE), "cache": constants.HF_HUB_CACHE, "token": _has_token()}


def _has_token() -> bool:
    """Whether there is a token; it is neither read nor shown."""
    from huggingface_hub import constants

    return bool(os.environ.get("HF_TOKEN")) or Path(constants.HF_TOKEN_PATH).exists()


def _problems(found: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Problems that keep runs from working, and the command that helps."""
    for one in found["libraries"]:
        if not one["fits"]:
            what = (
                f"{one['name']} {one['has']} is outside {one['wants']}" if one["has"] else f"{one['name']} is missing"
            )
            yield {"problem": what, "command": f"pip install '{one['name']}{one['wants']}'"}
    caches = found["caches"]
    if not caches["writable"]:
        said = f"trunk caches cannot be written to {caches['root']}"
        yield {"problem": said, "command": "export STRATATUNE_CACHE=A/FOLDER/OF/YOURS"}
    elif caches["free"] < _LITTLE:
        said = f"the disk of {caches['root']} has {readable_size(caches['free'])} free"
        yield {"problem": said, "command": "stratatune cache rm --all" if caches["caches"] else "df -h"}


def as_text(found: dict[str, Any]) -> str:
    """The findings of :func:`examine` as text for people."""
    caches, memory, hub = found["caches"], found["memory"], found["hub"]
    lines = [f"stratatune {found['stratatune']}, Python {found['python']}, {found['platform']}", "", "libraries"]
    for one in found["libraries"]:
        lines.append(
            f"  {'ok     ' if one['fits'] else 'PROBLEM'} {one['name']:<14} {one['has'] or '-':<12} {one['wants']}"
        )
    lines += ["", "extras"]
    for one in found["extras"]:
        state = "installed" if one["installed"] else f"{one['command']}   (missing: {', '.join(one['missing'])})"
        lines.append(f"  {one['name']:<8} {state}")
    lines += ["", "devices"]
    for one in found["devices"]:
        more = f", {one['threads']} threads" if one["threads"] else ""
        more += f", {readable_size(one['memory'])}" if one["memory"] else ""
        lines.append(f"  {one['device']:<8} {one['name']}{more}")
    lines += [
        f"  memory   {readable_size(memory['free'])} free of {readable_size(memory['total'])}",
        "",
        "trunk caches",
        f"  {caches['root']}: {caches['caches']} caches, {readable_size(caches['bytes'])}",
        f"  disk: {readable_size(caches['free'])} free, {readable_size(caches['bytes_per_second'])} a second",
        "",
        "hub",
        f"  {'offline (HF_HUB_OFFLINE)' if hub['offline'] else 'online'}, {'a' if hub['token'] else 'no'} token,"
        f" cache {hub['cache']}",
        "",
    ]
    problems = [f"problem: {one['problem']}\n  try: {one['command']}" for one in found["problems"]]
    return "\n".join([*lines, *(problems or ["no problems found"])])
