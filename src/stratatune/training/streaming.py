"""``--trunk``: whether a run holds its trunk in memory or reads it from the checkpoint, and a wave's memory."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil

from stratatune.cache.keys import default_root
from stratatune.cache.trunks.streamed import wave_memory
from stratatune.errors import ConfigError, ModelError
from stratatune.model.artefact import place_of_base
from stratatune.model.attached import Attached
from stratatune.model.checkpoint import Checkpoint
from stratatune.model.peft_folder import is_peft
from stratatune.model.saving import read_record
from stratatune.model.streamed_top import StreamedTop
from stratatune.model.unread import Unread
from stratatune.model.waves import bytes_of
from stratatune.outside import path_exists
from stratatune.plan import Plan, shape_of
from stratatune.progress import Reporter
from stratatune.training import distributed
from stratatune.training.cache_policy import free_memory
from stratatune.training.config import RunConfig, parse_bytes
from stratatune.training.machine import gpu_memory
from stratatune.training.prepare import Outline
from stratatune.units import readable_size

_SHARE = 0.8
"""The share of free memory for weights that stay in it: the rest is the run's."""
_LEAST_WAVE = 16 << 20
_TOP = 0.7
"""The most of the remaining memory that the top's blocks may take and stay in it; activations get the rest."""


def streamed_below(outline: Outline, reporter: Reporter, *, alone: bool) -> int:
    """The depth below which the trunk is streamed; 0: it is held in memory. Reports the reason for ``auto``.

    Args:
        outline: the run.
        reporter: gets that line.
        alone: whether this run has its model to itself: trials share theirs.

    Raises:
        ConfigError: ``streamed`` is requested and not possible.
    """
    config, depth = outline.config, outline.resolved.frozen_depth
    if config.trunk == "resident":
        return 0
    wrong = _in_the_way(outline, alone=alone)
    if config.trunk == "streamed":
        if wrong:
            raise ConfigError([f"trunk: 'streamed'; {wrong}"], "use --trunk resident, or auto")
        return depth
    if wrong:
        return 0
    why = too_large(config.model, config.revision, config.memory_limit_bytes, config.device)
    # Machines differ, and the processes build the caches together.
    if not distributed.agreed(bool(why)):
        return 0
    reporter.say(why or "trunk: streamed: the checkpoint does not fit on another machine")
    return depth


def too_large(model: str, revision: str | None, limit: int | None, device: str) -> str:
    """Why ``auto`` streams the trunk of a model, in one line; empty where the checkpoint fits into memory.

    On a GPU it must fit into both memories: it is loaded into the machine's, and moved.
    """
    need = _stored_bytes(model, revision)
    # The user's limit does not make memory that the machine lacks.
    rooms = {"in memory": _SHARE * free_memory() / distributed.local_world()}
    if limit is not None:
        rooms["within the memory limit"] = limit
    if (free := gpu_memory(device)) is not None:
        rooms["in the memory of the GPU"] = _SHARE * free
    where = min(rooms, key=lambda name: rooms[name])
    if need <= rooms[where]:
        return ""
    return (
        f"trunk: streamed: the checkpoint takes {readable_size(need)}, and there is room for "
        f"{readable_size(rooms[where])} {where}"
    )


def trunk_of_saved(
    folder: str | Path, base: str | None, trunk: str, limit: str | None, device: str = "auto"
) -> str | None:
    """Why a saved adapter's trunk is streamed, in one line, empty if that was requested; None: it is not.

    Args:
        folder: the folder of the run, or of its adapter.
        base: where the base model is now, if it has moved.
        trunk: as in a run's settings; ``limit`` and ``device`` likewise.

    Raises:
        ConfigError: no such place, or ``streamed`` is requested where there is no trunk.
        ModelError: nothing trained is there.
    """
    if trunk not in ("auto", "resident", "streamed"):
        raise ConfigError([f"trunk: {trunk!r}"], "legal: auto, resident, streamed")
    bytes_allowed = _limit(limit)
    if trunk == "resident":
        return None
    folder = Path(folder) / "adapter" if path_exists(Path(folder) / "adapter") else Path(folder)
    if is_peft(folder):
        return None
    record = read_record(folder)
    name, revision = place_of_base(record, folder, base)
    resolved = Plan.from_data(record["plan"]).resolve(shape_of(name, revision))
    there = resolved.frozen_depth > 0 and not resolved.trains_embeddings and record["output"] is not None
    if trunk == "streamed":
        if not there:
            raise ConfigError(["trunk: 'streamed'; this adapter has no trunk to stream"], "use --trunk resident")
        return ""
    with contextlib.suppress(ModelError):  # which loading the model says in its own words
        return (too_large(name, revision, bytes_allowed, device) or None) if there else None
    return None


def _limit(text: str | None) -> int | None:
    try:
        return None if text is None else parse_bytes(text)
    except ValueError as error:
        raise ConfigError([f"memory_limit: {text!r}"], f"write {error}") from None


def _in_the_way(outline: Outline, *, alone: bool) -> str:
    """The reason why the trunk cannot be streamed; empty where it can."""
    config, resolved = outline.config, outline.resolved
    if resolved.frozen_depth == 0 or resolved.trains_embeddings:
        return f"the frozen depth of the plan is {resolved.frozen_depth}: there is no trunk"
    if config.cache == "off":
        return "without a trunk cache every batch would read the whole checkpoint"
    if not alone:
        return "trials share one model, which is in memory"
    return ""


def _stored_bytes(model: str, revision: str | None) -> int:
    """The bytes of the checkpoint; 0 if its files do not say."""
    if Path(model).is_dir() and not any(Path(model).glob("*.safetensors")):
        return 0
    found = Checkpoint.of(model, revision)
    return 0 if found is None else found.bytes


def room_for_top(config: RunConfig) -> int | None:
    """The bytes that a top's blocks may take before it is streamed as well; None: they must be in memory."""
    # Packing reads every weight of the top, once.
    return None if config.pack != "none" else _room_above(config.memory_limit, config.device)


def room_for_saved(trunk: str | None, limit: str | None, device: str) -> int | None:
    """The bytes that a saved adapter's top may take; ``trunk`` as :func:`trunk_of_saved` returns it."""
    return None if trunk is None else _room_above(limit, device)


def _room_above(asked: str | None, device: str) -> int:
    room, free = _limit_of_process(asked) - psutil.Process().memory_info().rss, gpu_memory(device)
    return int(_TOP * (room if free is None else min(room, _SHARE * free)))


def _limit_of_process(asked: str | None) -> int:
    if asked is not None:
        return parse_bytes(asked)
    return psutil.Process().memory_info().rss + int(_SHARE * free_memory()) // distributed.local_world()


def top_streamed(attached: Attached) -> str:
    """A notice that the top is streamed as well, and its consequence; empty where it is in memory."""
    through = attached.backbone.body.through
    if not isinstance(through, StreamedTop):
        return ""
    size = sum(map(bytes_of, attached.own_blocks()))
    return f"top: streamed: its blocks take {readable_size(size)}, and each batch reads them twice: large batches pay"


def settle_waves(attached: Attached, asked: str | None) -> None:
    """Set the memory that a wave may take: the limit less the process and two blocks.

    The top waits in the checkpoint until the caches are filled. ``asked`` is the limit as written; None: the free
    memory. Where the model is in memory there are no waves, and the process is compared with the limit.

    Raises:
        ConfigError: the limit leaves too little for a wave, or later for the top; or it is exceeded already.
    """
    unread = Unread.of(attached.backbone.model)
    if unread is None:
        _check_resident(attached, asked)
        return
    # Until the caches are filled the trunk needs all the memory, and the top none.
    unread.put_away(attached.own_blocks())
    # Measured, with torch and the libraries in it, which the limit counts as well.
    used = psutil.Process().memory_info().rss
    limit = _limit_of_process(asked)
    training = 3 * sum(one.nbytes for one in attached.trained().values())  # gradients and AdamW's two moments
    room = wave_memory(limit, used + training, attached.backbone.blocks)
    through = attached.backbone.body.through
    above = 2 * through.block_bytes if isinstance(through, StreamedTop) else unread.away_bytes
    least = min(room, limit - used - training - above)
    if least < _LEAST_WAVE:
        raise _in_use(asked or readable_size(limit), limit - least, "a plan with a smaller top")
    unread.wave_bytes = room


def _check_resident(attached: Attached, asked: str | None) -> None:
    """Refuse a limit that the process exceeds with the model in memory."""
    used = psutil.Process().memory_info().rss
    if asked is None or used <= parse_bytes(asked):
        return
    resolved, blocks = attached.resolved, attached.backbone.blocks
    trunk = [] if resolved.trains_embeddings else blocks[: resolved.frozen_depth]
    helps = used - sum(map(bytes_of, trunk)) < parse_bytes(asked)
    raise _in_use(asked, used, "--trunk streamed" if helps else "a smaller model")


def _in_use(limit: str, used: int, instead: str) -> ConfigError:
    more = readable_size(used + (256 << 20))
    return ConfigError(
        [f"memory_limit: {limit}; {readable_size(used)} are in use"], f"give {more} or more, or {instead}"
    )


def with_cache(config: RunConfig) -> RunConfig:
    """The settings of a run with a streamed trunk: its ``auto`` cache is on disk, as there is no alternative."""
    return config.model_copy(update={"cache": str(default_root())}) if config.cache == "auto" else config
