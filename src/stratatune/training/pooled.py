"""Runs and predictions that share the trunk's output, such as the fits and scores of a search.

Each data set has its own trunk cache on disk, and takes from the others what they have (``cache/siblings.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratatune.cache.codec import Codec
from stratatune.cache.feed import Feed
from stratatune.cache.folders import evict
from stratatune.cache.rows import estimate_bytes
from stratatune.cache.siblings import filling
from stratatune.cache.store import TrunkCache
from stratatune.cache.trunks.filling import fill_pooled
from stratatune.data.encoded import Encoded
from stratatune.errors import CacheError, ResourceError
from stratatune.progress import Reporter
from stratatune.training.caching import trunk_key
from stratatune.training.config import RunConfig
from stratatune.training.forward import Forward
from stratatune.training.run import Result, finish, trial
from stratatune.training.trials.sharing import Shared

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def train_pooled(config: RunConfig, tables: Mapping[str, Any], reporter: Reporter) -> Result:
    """Train as :func:`stratatune.training.run.train` does, but fill the cache with the trunk before the first step."""
    shared = Shared(fill=True, pooled=Path(config.cache).expanduser())
    try:
        return finish(trial(config, tables, reporter, shared))
    finally:
        shared.close()


def pooled_feed(
    forward: Forward, data: Encoded, tokenizer: PreTrainedTokenizerBase, codec: Codec, root: Path, limit: int
) -> Feed:
    """A feed of hidden states for predictions, remembered for every run on the same texts.

    Args:
        forward: the tuned model under its objective.
        data: the texts.
        tokenizer: how they were encoded.
        codec: the precision that the model was trained with; int8, which has its own scales, is not remembered.
        root: the folder of trunk caches.
        limit: bytes that all of them may take; the oldest go, and texts that take more alone are not remembered.
    """
    depth = forward.attached.resolved.frozen_depth
    if codec.scales is not None or depth == 0 or forward.attached.resolved.trains_embeddings or not len(data):
        return forward.feed(codec=codec)
    key = trunk_key(forward, tokenizer, data, codec.name)  # pyright: ignore[reportArgumentType]  one of its names
    width = forward.attached.resolved.cached_width
    size = estimate_bytes(data.lengths[data.distinct.first], width, codec.name, key.positions)
    if size > limit:
        return forward.feed(codec=codec)
    try:
        with filling(root):
            # Before opening, so that the new cache finds room within the limit.
            evict(root, limit - size, keep=(key.digest,))
            cache = TrunkCache.open(root, key, data.lengths, width, distinct=data.distinct)
            feed = forward.feed(cache, codec)
            fill_pooled(feed, data, forward.pad_id, forward.device)
        # Others that wait for the lock need not wait for this model to be done with its rows.
        cache.stop_writing()
        return feed
    # A cache is a convenience here: without one the trunk simply runs.
    except (ResourceError, CacheError):
        return forward.feed(codec=codec)
