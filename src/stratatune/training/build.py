"""Run the trunk alone: ``stratatune cache build``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from stratatune.cache.feed import Feed
from stratatune.cache.keys import default_root
from stratatune.cache.trunks.filling import fill
from stratatune.data.encoded import Encoded
from stratatune.errors import ConfigError, NotFiniteError, ResourceError
from stratatune.model.finite import damage
from stratatune.progress import Reporter
from stratatune.training import distributed
from stratatune.training.config import RunConfig
from stratatune.training.prepare import Outline, read_tables
from stratatune.training.run import open_session
from stratatune.training.session import Session


def build_cache(config: RunConfig, reporter: Reporter) -> dict[str, Any]:
    """Run the trunk over the training and the evaluation data of a run, and train nothing.

    Returns:
        ``caches`` (one record a data set: ``digest``, ``folder``, ``examples``, ``computed``, ``bytes``,
        ``trunk_seconds``), ``depth`` and ``seconds``.

    Raises:
        ConfigError: the settings leave nothing to remember (``cache`` off or ram, or a plan that trains from the
            embeddings or block 0 on).
        UserError: a mistake in the settings or the data.
        ResourceError: no room or no permission.
        NotFiniteError: a weight of the base is NaN or infinite.
    """
    if config.cache in ("off", "ram"):
        raise ConfigError([f"cache: {config.cache!r} keeps nothing on disk"], "give --cache auto or a folder")
    if config.cache == "auto":  # a cache that is requested by name is built, or it is an error
        config = config.model_copy(update={"cache": str(default_root())})
    outline = Outline(config)
    data = read_tables(config, {}, outline.kind)
    started = time.perf_counter()
    session, caching = open_session(outline, data, Path(config.out), reporter)
    try:
        # A run would find it at its first loss; here nothing else reads what is written.
        if said := damage(session.top.attached.backbone.model.named_parameters()):
            raise NotFiniteError(f"the trunk of {config.model} gives NaN or infinite values", said)
        records = [_fill(session, name, part, feed) for name, part, feed in session.fed()]
    finally:
        # Also after an error: whole shards stay, and the next build goes on from them.
        caching.close()
    depth = session.top.attached.resolved.frozen_depth
    # A plan without a trunk is the user's mistake, a trunk without a cache is the machine's: the exit codes differ.
    if not any(records) and depth:
        raise ResourceError("no trunk cache could be built", "the notes above say why")
    if not any(records):
        raise ConfigError(
            [f"plan: the frozen depth is {depth}: there is no trunk to remember"], "the notes above say why"
        )
    return {"caches": records, "depth": depth, "seconds": round(time.perf_counter() - started, 3)}


def _fill(session: Session, name: str, data: Encoded, feed: Feed) -> dict[str, Any]:
    """Fill in all that a data set's cache still lacks; an empty record if it has no cache."""
    cache = feed.cache
    if cache is None:
        return {}
    with session.reporter.bar(f"trunk over the {name} data", cache.texts) as bar:
        fill(feed, data, session.forward.pad_id, session.device, bar.advance)
    if cache.folder is None or not cache.complete:
        raise ResourceError(f"the trunk cache of the {name} data could not be built", "the notes above say why")
    return {
        "digest": cache.key.digest,
        "folder": str(cache.folder),
        "examples": len(data),
        "computed": int(distributed.added(np.array([feed.clock.computed]))[0]),
        "bytes": cache.bytes,
        "trunk_seconds": round(feed.clock.trunk_seconds, 3),
    }
