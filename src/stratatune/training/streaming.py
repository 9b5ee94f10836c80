"""``--trunk``: whether a run holds its trunk in memory or reads it from the checkpoint, and what a wave may take."""

from __future__ import annotations

from pathlib import Path

import psutil

from stratatune.cache.keys import default_root
from stratatune.cache.trunks.streamed import wave_memory
from stratatune.errors import ConfigError
from stratatune.model.attached import Attached
from stratatune.model.checkpoint import Checkpoint
from stratatune.model.unread import Unread
from stratatune.progress import Reporter
from stratatune.training import distributed
from stratatune.training.cache_policy import free_memory
from stratatune.training.config import RunConfig
from stratatune.training.prepare import Outline
from stratatune.units import readable_size

_SHARE = 0.8
"""Of the memory that is free, for weights that stay in it: the rest is the run's."""
_LEAST_WAVE = 16 << 20


def streamed_below(outline: Outline, reporter: Reporter, *, alone: bool) -> int:
    """The depth below which the trunk is streamed; 0: it is held in memory. Says why in one line, where it chose.

    Args:
        outline: the run.
        reporter: told.
        alone: whether this run has its model to itself: trials share theirs.

    Raises:
        ConfigError: ``streamed`` is asked for, and cannot be.
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
    # As stored: a half-precision checkpoint stays so in memory (model/stored.py).
    need, limit = _stored_bytes(config), config.memory_limit_bytes
    # The user's limit does not make memory that the machine lacks.
    room = min(_SHARE * free_memory(), limit if limit is not None else float("inf"))
    if need <= room:
        return 0
    reporter.say(
        f"trunk: streamed: the checkpoint takes {readable_size(need)}, and there is room for {readable_size(int(room))}"
    )
    return depth


def _in_the_way(outline: Outline, *, alone: bool) -> str:
    """Why the trunk cannot be streamed; empty where it can."""
    config, resolved = outline.config, outline.resolved
    if resolved.frozen_depth == 0 or resolved.trains_embeddings:
        return f"the frozen depth of the plan is {resolved.frozen_depth}: there is no trunk"
    if config.cache == "off":
        return "without a trunk cache every batch would read the whole checkpoint"
    if not alone:
        return "trials share one model, which is in memory"
    if distributed.world() > 1:
        return "several processes share the work on a trunk in memory"
    return ""


def _stored_bytes(config: RunConfig) -> int:
    """Bytes of the checkpoint; 0 where its files do not tell."""
    if Path(config.model).is_dir() and not any(Path(config.model).glob("*.safetensors")):
        return 0
    found = Checkpoint.of(config.model, config.revision)
    return 0 if found is None else found.bytes


def settle_waves(attached: Attached, config: RunConfig) -> None:
    """How much memory a wave may take: what the limit leaves behind the process, the top and two blocks.

    Raises:
        ConfigError: the limit leaves too little for one.
    """
    unread = Unread.of(attached.backbone.model)
    if unread is None:
        return
    # Measured, with torch and the libraries in it, which the limit counts as well.
    used = psutil.Process().memory_info().rss
    given = config.memory_limit_bytes
    limit = used + int(_SHARE * free_memory()) if given is None else given
    training = 3 * sum(one.nbytes for one in attached.trained().values())  # gradients and AdamW's two moments
    room = wave_memory(limit, used + training, attached.backbone.blocks)
    if room < _LEAST_WAVE:
        raise ConfigError(
            [f"memory_limit: {config.memory_limit or readable_size(limit)}; {readable_size(limit - room)} are in use"],
            f"give {readable_size(limit - room + (256 << 20))} or more, or a plan with a smaller top",
        )
    unread.wave_bytes = room


def with_cache(config: RunConfig) -> RunConfig:
    """The settings of a run whose trunk is streamed: ``auto`` is a cache on disk, for there is nothing to weigh."""
    return config.model_copy(update={"cache": str(default_root())}) if config.cache == "auto" else config
