"""``stratatune cache``: the trunk caches on this machine. Only ``build`` imports torch."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stratatune.app.door import Answer, Door, app, verb
from stratatune.app.run_options import run_options
from stratatune.errors import ConfigError, shown

if TYPE_CHECKING:
    from stratatune.cache.folders import CacheInfo
    from stratatune.training.config import RunConfig

group = typer.Typer(no_args_is_help=False)
app.add_typer(group, name="cache", help="The trunk caches: ls, build, verify, rm.")

Root = Annotated[
    Path | None,
    typer.Option("--root", help="Where the caches are ($STRATATUNE_CACHE, ~/.cache/stratatune).", show_default=False),
]


def _root(root: Path | None) -> Path:
    from stratatune.cache.keys import default_root

    return default_root() if root is None else root.expanduser()


@verb(of=group)
def ls(door: Door, root: Root = None) -> Answer:
    """List the trunk caches, the most recently used first."""
    from stratatune.cache.folders import list_caches
    from stratatune.units import readable_size

    infos = list_caches(_root(root))
    note = f"{len(infos)} in {_root(root)}, {readable_size(sum(info.bytes for info in infos))}"
    return Answer([_row(info) for info in infos], "\n".join(map(_line, infos)), note)


def _row(info: CacheInfo) -> dict[str, Any]:
    key = info.key
    return {
        "digest": info.digest,
        "folder": str(info.folder),
        "model": key.model if key else None,
        "depth": key.depth if key else None,
        "dtype": key.dtype if key else None,
        "positions": key.positions if key else None,
        "examples": info.examples,
        "present": info.present,
        "complete": info.complete,
        "bytes": info.bytes,
        "last_used": info.last_used,
    }


def _line(info: CacheInfo) -> str:
    from stratatune.units import readable_size

    used = time.strftime("%Y-%m-%d %H:%M", time.localtime(info.last_used))
    if info.key is None:
        return f"{info.digest}  {readable_size(info.bytes):>8}  {used}  unreadable; remove it"
    share = "complete" if info.complete else f"{info.present} of {info.examples}"
    what = f"{info.key.model} at depth {info.key.depth}, {info.key.dtype}, {info.examples} examples, {share}"
    return f"{info.digest}  {readable_size(info.bytes):>8}  {used}  {what}"


@verb(of=group, interrupted="run the same command again to continue", settings=run_options)
def build(door: Door, settings: RunConfig) -> Answer:
    """Run the trunk once over a run's data and keep its output, so that `train` starts from there."""
    from stratatune.training.build import build_cache

    data = build_cache(settings, door.reporter())
    return Answer(
        data, note="built; `stratatune cache ls` shows it, `stratatune train` with the same data and model uses it"
    )


@verb(of=group)
def verify(
    door: Door,
    digest: Annotated[
        str | None, typer.Argument(help="The start of its digest; default: all caches.", show_default=False)
    ] = None,
    root: Root = None,
) -> Answer:
    """Read every byte of the caches and compare checksums; the exit code is 1 if one is damaged."""
    from stratatune.cache.folders import verify_cache

    checked = {info.digest: verify_cache(info.folder) for info in _chosen(_root(root), digest)}
    lines = [f"{name}  {'sound' if not problems else '; '.join(problems)}" for name, problems in checked.items()]
    bad = any(checked.values())
    note = "remove a damaged cache with: stratatune cache rm DIGEST" if bad else f"{len(checked)} checked"
    rows = [{"digest": name, "sound": not problems, "problems": problems} for name, problems in checked.items()]
    return Answer(rows, "\n".join(lines), note, exit_code=int(bad))


@verb(of=group)
def rm(
    door: Door,
    digest: Annotated[str | None, typer.Argument(help="The start of its digest.", show_default=False)] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove every cache.")] = False,
    unused: Annotated[
        str | None,
        typer.Option(help="Remove the caches that no run has opened for this long: 12h, 30d, 4w.", metavar="AGE"),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            help="Remove the least recently used caches until the others take this much: 50GB.", metavar="SIZE"
        ),
    ] = None,
    root: Root = None,
) -> Answer:
    """Remove one trunk cache, all of them, those unused for a time, or those beyond a total size.

    --unused and --keep leave caches that are being written, or that another user owns.
    """
    from stratatune.cache.folders import prune, remove_cache
    from stratatune.units import readable_size

    pruned = unused is not None or keep is not None
    if (digest is not None) + everything + pruned != 1:
        given = ("a digest" if digest is not None else "", "--all" if everything else "")
        some = [*filter(None, (*given, "--unused or --keep" if pruned else ""))]
        said = f"{' and '.join(some)} were both given" if some else "no cache was named"
        fix = "give a digest (`stratatune cache ls` lists them), --unused 30d, --keep 50GB, or --all"
        raise ConfigError([f"cache rm: {said}"], fix)
    if pruned:
        found = prune(_root(root), _seconds(unused), None if keep is None else _bytes(keep))
        names, freed, left = [one.digest for one in found.removed], sum(one.bytes for one in found.removed), found.left
    else:
        names = [info.digest for info in _chosen(_root(root), digest)]
        freed, left = sum(remove_cache(_root(root), name) for name in names), []
    more = f"; {len(left)} in use or of another user {'stays' if len(left) == 1 else 'stay'}" if left else ""
    data = {"removed": names, "bytes": freed, "left": [one.digest for one in left]}
    return Answer(data, note=f"removed {len(names)}, {readable_size(freed)} freed{more}")


def _bytes(size: str) -> int:
    from stratatune.training.config import parse_bytes

    try:
        return parse_bytes(size)
    except ValueError as error:
        raise ConfigError([f"keep: {error}"], "write a size such as 50GB") from error


_AGES = {"h": 3600, "d": 86_400, "w": 7 * 86_400}


def _seconds(age: str | None) -> float | None:
    """The seconds of an age such as 30d.

    Raises:
        ConfigError: it is none.
    """
    if age is None:
        return None
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)([hdw])", age.strip())
    if found is None:
        raise ConfigError([f"unused: {shown(age)}"], "write hours, days or weeks: 12h, 30d, 4w")
    return float(found[1]) * _AGES[found[2]]


def _chosen(root: Path, digest: str | None) -> list[CacheInfo]:
    """All caches, or the one whose digest begins so.

    Raises:
        ConfigError: none or several begin so.
    """
    from stratatune.cache.folders import list_caches

    infos = list_caches(root)
    if digest is None:
        return infos
    found = [info for info in infos if digest and info.digest.startswith(digest)]
    if len(found) != 1:
        there = ", ".join(info.digest for info in found or infos) or "none"
        raise ConfigError([f"{len(found)} trunk caches in {root} match {digest!r}"], f"there are: {there}")
    return found
