"""Parts that several trials share: one base model, one encoding of the data, one cache, one reading of a batch.

Each trial gets its own modules over the base model's tensors, so a method of one trial is in no other's model, and
sixteen trials hold the frozen weights once. Only what a trial trains is copied.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from stratatune.cache.feed import Feed, FeedClock
from stratatune.cache.siblings import filling
from stratatune.cache.store import TrunkCache
from stratatune.cache.trunks.filling import fill, fill_pooled, runs_first
from stratatune.data.batching import Batch
from stratatune.data.encoded import Encoded
from stratatune.data.readers import Table
from stratatune.errors import ResourceError
from stratatune.model.base import Base, load_base
from stratatune.model.precision import Casts
from stratatune.model.twins import twin
from stratatune.objectives.objective import Objective
from stratatune.objectives.registry import written
from stratatune.shapes.shape import LM_OBJECTIVES
from stratatune.training.config import RunConfig
from stratatune.training.prepare import Outline, Prepared, Tables, read_tables, settle, tokenizer_for

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")


class Shared:
    """The parts that are made once and requested by every trial of one call.

    Args:
        fill: run the trunk over everything before the first step. Trials with batches of their own would otherwise ask
            for the same examples in different company, and the trunk would run for both.
        pooled: the folder of trunk caches, if texts that another cache of the same trunk has are taken from there, and
            no other process fills one while a cache is filled: together they run the trunk once for each text
            (``cache/siblings.py``).
    """

    def __init__(self, fill: bool = False, pooled: Path | None = None) -> None:
        self.fill, self.pooled = fill, pooled
        self.caches: dict[str, TrunkCache] = {}
        """Caches by the digest of their key: within a process one cache object reads and writes for all."""
        self.casts: Casts = {}
        """Frozen weights in the precision of the computation."""
        self._made: dict[Hashable, Any] = {}
        self._tensors: dict[str, Tensor] = {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the result of ``make``, which is called when ``key`` is first requested."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def load_base(self, name: str, head: str, *, device: torch.device, **settings: Any) -> Base:
        """Load a model as :func:`stratatune.model.base.load_base` does, over tensors that all trials share.

        A classifier is made by the seed, so each seed reads the checkpoint once; the tensors that are equal stay one.
        """
        # Language-model heads come with the checkpoint or are built from it, so nothing in them depends on the seed.
        seed = None if head in LM_OBJECTIVES else settings["seed"]
        # The tops of one run have output layers of different sizes and classes.
        outputs = settings.get("num_labels"), settings.get("problem_type"), tuple(settings.get("labels", ()))
        key = ("base", head, seed, settings.get("cut"), *outputs)
        base = self.once(key, lambda: self._loaded(load_base(name, head, **settings), device))
        return Base(twin(base.model), base.tokenizer, list(base.new), list(base.notices), base.shape)

    def _loaded(self, base: Base, device: torch.device) -> Base:
        for name, parameter in base.model.to(device).named_parameters():  # pyright: ignore[reportArgumentType]
            known = self._tensors.setdefault(name, parameter.data)
            if known is not parameter.data and torch.equal(known, parameter.data):
                parameter.data = known
        return base

    def settle(self, outline: Outline, tables: Tables) -> Prepared:
        """Settle a run as :func:`stratatune.training.prepare.settle` does; all share one tokenizer and one encoding."""
        tokenizer = self.once("tokenizer", lambda: tokenizer_for(outline.config))
        return settle(outline, tables, tokenizer, self.encode)

    def read_tables(self, config: RunConfig, given: Mapping[str, Any], kind: type[Objective]) -> Tables:
        """Read tables as :func:`stratatune.training.prepare.read_tables` does: once, unless the seed draws rows."""
        return self.once(self.of_tables(config, kind), lambda: read_tables(config, given, kind))

    def of_tables(self, config: RunConfig, kind: type[Objective]) -> Hashable:
        """The key under which :meth:`once` keeps the tables of a trial."""
        drawn = config.train_samples is not None or isinstance(config.eval_split, float)
        # By the method: kinds of objectives that read tables alike share one table.
        # Options say how labels are written, and so which rows have the only one of their kind.
        own = (config.seed, *sorted(written(config.objective)[1].items())) if drawn else None
        return "tables", kind.read, config.label, own

    def encode(self, objective: Objective, table: Table, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        """Encode a table as the objective does, once for each objective."""
        # By id, which is not used again while the table lives, and `once` keeps the tables.
        return self.once(("encoded", id(table), repr(objective)), lambda: objective.encode(table, tokenizer))

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """While this is open, caches are opened and filled; of processes that pool their texts, by one at a time."""
        with contextlib.nullcontext() if self.pooled is None else filling(self.pooled):
            yield

    def feed(self, feed: Feed, data: Encoded, digest: str, pad_id: int, device: torch.device) -> Feed | ReadOnce:
        """A trial's feed of its training data, which reads a batch once for all whose batches are the same."""
        if feed.trunk.trains:
            return feed
        if feed.cache is not None and (self.fill and not feed.cache.complete or runs_first(feed, data)):
            if self.pooled is not None:
                fill_pooled(feed, data, pad_id, device)
            else:
                fill(feed, data, pad_id, device, lambda examples: None)
        return ReadOnce(feed, self.once(("read", digest), dict))

    def let_go(self) -> None:
        """Drop the weights kept for more trials; call when every trial has its model.

        From here on the trials alone hold the tensors, so what all of them release leaves memory.
        """
        for key in [key for key in self._made if isinstance(key, tuple) and key[0] in ("base", "start")]:
            del self._made[key]
        self._tensors.clear()
        self.casts.clear()  # they are found by address, and other tensors may be put there

    def close(self) -> None:
        """Write pending rows of the caches and let other runs write."""
        for cache in self.caches.values():
            with contextlib.suppress(ResourceError):  # on a full disk the hidden states are lost, but no trial is
                cache.close()


class ReadOnce:
    """A feed that reads from another one, unless the trial before it has just requested the same batch.

    Args:
        feed: the trial's own.
        last: the hidden states that trials over one cache requested last, by their batch.
    """

    def __init__(self, feed: Feed, last: dict[bytes, Tensor]) -> None:
        self.feed, self.last = feed, last

    @property
    def cache(self) -> TrunkCache | None:
        """The feed's cache; None where it has none."""
        return self.feed.cache

    @property
    def clock(self) -> FeedClock:
        """The cost of feeding this trial."""
        return self.feed.clock

    @property
    def complete(self) -> bool:
        """Whether the feed is complete, as :attr:`Feed.complete`."""
        return self.feed.complete

    def flush(self) -> None:
        """Flush the feed."""
        self.feed.flush()

    def move_to(self, device: torch.device) -> int:
        """Move the feed's cache to ``device``, once for all trials, which share it."""
        return self.feed.move_to(device)

    def prefetch(self, coming: Sequence[np.ndarray], device: torch.device) -> contextlib.AbstractContextManager[None]:
        """Do nothing: the trials read in turn, each batch once."""
        return contextlib.nullcontext()

    def hidden(self, batch: Batch) -> Tensor:
        """The hidden state for ``batch``, as :meth:`Feed.hidden` gives it."""
        key = batch.index.numpy().tobytes()
        if key not in self.last:
            # One batch at a time is kept: trials request the same one in turn, and then for the next.
            self.last.clear()
            self.last[key] = self.feed.hidden(batch)
        return self.last[key]
