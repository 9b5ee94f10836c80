"""The policy over ``cache/store.py``: whether, where and how a run remembers its trunk's output."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from stratatune._compat import numeric_versions
from stratatune.cache.calibrate import find_scales
from stratatune.cache.codec import Codec
from stratatune.cache.feed import Feed, run_trunk
from stratatune.cache.folders import evict
from stratatune.cache.keys import KEY_FILE, CacheKey, default_root
from stratatune.cache.policy import MEMORY_SHARE, Choice, choose, passes_of
from stratatune.cache.rows import estimate_bytes
from stratatune.cache.shards import read_identity
from stratatune.cache.store import TrunkCache
from stratatune.cache.trunks.filling import fill, runs_first, take_rows
from stratatune.data.batching import Batch
from stratatune.data.encoded import Encoded
from stratatune.errors import CacheError, ResourceError
from stratatune.hashing import fast_digest
from stratatune.model.split import Trunk
from stratatune.model.unread import Unread
from stratatune.progress import Reporter
from stratatune.training.cache_policy import free_memory, need_of, room_for
from stratatune.training.config import RunConfig
from stratatune.training.forward import Forward
from stratatune.units import Dtype, readable_size

_CLIPPED_TOLD = 1e-4
"""The share of clipped values above which the user gets a notice."""


class Caching:
    """Opens a feed for each data set of a run, with a cache where the settings and the machine allow one.

    Args:
        config: the run's settings.
        forward: the tuned model under its objective; how this writes its prompts belongs to a cache's key.
        tokenizer: how the texts were encoded; it belongs there too.
        reporter: gets a line about every decision.
        shared: caches that are open already, by their digest; those opened here join them, and whoever gave the mapping
            closes them all.
    """

    def __init__(
        self,
        config: RunConfig,
        forward: Forward,
        tokenizer: PreTrainedTokenizerBase,
        reporter: Reporter,
        shared: dict[str, TrunkCache] | None = None,
    ) -> None:
        self.config, self.forward, self.attached = config, forward, forward.attached
        self.tokenizer, self.autocast, self.reporter = tokenizer, forward.autocast, reporter
        self.one_position = forward.one_position
        self.opened: list[TrunkCache] = []
        self.feeding: list[Feed] = []
        self.shared = shared
        self._own: dict[str, int] = {}  # caches on disk of this run: their bytes by their digests
        self._streamed: list[tuple[TrunkCache, Encoded]] = []  # with the data of each, which may share a corpus
        self.choice: Choice | None = None
        """The choice of ``auto``."""
        self.codec: Codec | None = None
        """The precision of cached hidden states, settled by the first data to be fed: those that the run trains on."""

    def feed(self, data: Encoded, name: str, *, fill: bool = True) -> Feed:
        """The hidden states of ``data``, remembered where possible. The training data come first.

        ``fill``: a trunk that is streamed runs now; without it the caller calls :meth:`stream`.
        """
        cache = self._open(data, name) if self._wanted() and self._again(data, name) else None
        # Settled once, by the first data: evaluation and test data are then rounded as the training data were.
        if self.codec is None:
            self.codec = self._settled(data) if cache is None else cache.codec
        feed = self.forward.feed(cache, self.codec, self._go_on)
        self.feeding.append(feed)
        if fill:
            self.stream(feed, data, name)
        return feed

    def stream(self, feed: Feed, data: Encoded, name: str, batches: Sequence[np.ndarray] | None = None) -> None:
        """Fill the cache of a trunk that is not in memory, before any batch of it is needed.

        Meanwhile the top is not needed. ``batches`` are those of this process; None: all.

        Raises:
            ResourceError: there is no cache that can be written.
        """
        unread = Unread.of(self.attached.backbone.model)
        if unread is None:
            return
        if feed.cache is None or not feed.cache.writable and not feed.cache.complete:
            raise ResourceError(
                f"the trunk is streamed, and the {name} data have no trunk cache that can be written",
                "the notes above say why; give --cache FOLDER or a larger --cache-limit, or use --trunk resident",
            )
        if self.config.corpus is not None:
            for other, theirs in self._streamed:
                take_rows(feed, data, other, theirs)
            self._streamed.append((feed.cache, data))
        if not feed.cache.complete:
            unread.put_away(self.attached.own_blocks())
            with self.reporter.bar(f"trunk over the {name} data, streamed", feed.cache.texts) as bar:
                fill(feed, data, self.forward.pad_id, self.forward.device, bar.advance, batches)

    def run(self, feed: Feed, data: Encoded, name: str, batches: Sequence[np.ndarray]) -> None:
        """Run the trunk over ``batches``, wherever it is, and write the hidden states into the cache of ``feed``."""
        if Unread.of(self.attached.backbone.model) is None:
            fill(feed, data, self.forward.pad_id, self.forward.device, lambda examples: None, batches)
        else:
            self.stream(feed, data, name, batches)

    def fill_repeated(self, feed: Feed, data: Encoded, name: str) -> None:
        """Run the trunk over the distinct texts of ``data`` before the first batch, where many are equal."""
        if feed.cache is not None and runs_first(feed, data):
            with self.reporter.bar(f"trunk over the distinct texts of the {name} data", feed.cache.texts) as bar:
                fill(feed, data, self.forward.pad_id, self.forward.device, bar.advance)

    def _settled(self, data: Encoded) -> Codec:
        return Codec(self.dtype, self._scales(data) if self.dtype == "int8" else None)

    def _scales(self, data: Encoded) -> Tensor:
        """The scales of int8: those of the training data, for all other data too."""
        if self.codec is not None and self.codec.scales is not None:
            return self.codec.scales
        self.reporter.say("int8: finding the scale of each channel on a sample of the training data")
        return find_scales(
            Trunk(self.attached),
            data,
            self.forward.question,
            one_position=self.one_position,
            autocast=self.autocast,
            pad_id=self.forward.pad_id,
            device=self.forward.device,
        )

    def feeds(self, data: Mapping[str, Encoded | None], *, fill: bool = True) -> list[Feed | None]:
        """A feed for each data set by its name; when one cannot be opened, the others are closed. ``fill`` as in
        :meth:`feed`."""
        try:
            there = {name: one for name, one in data.items() if one is not None}
            self._choose(there)
            self._reserve(there)
            return [None if one is None else self.feed(one, name, fill=fill) for name, one in data.items()]
        except BaseException:
            self.close()
            raise

    @property
    def dtype(self) -> Dtype:
        """The precision in which hidden states are kept: the chosen one, else the first candidate."""
        return self._dtypes()[0] if self.choice is None else self.choice.dtype

    def _dtypes(self) -> tuple[Dtype, ...]:
        """The candidates: the settings' own precision, or the computation's and those that ``auto`` may use instead."""
        if self.config.cache_dtype != "auto":
            return (self.config.cache_dtype,)
        own: Dtype = "fp32" if self.autocast is None else "bf16"
        return (own, "int8") if self.config.cache == "auto" else (own,)

    def _choose(self, data: Mapping[str, Encoded]) -> None:
        """Settle the choice of ``auto`` for this run, and give the reason in one line."""
        if self.config.cache != "auto" or self.choice is not None or not self._wanted():
            return
        training = next(iter(data.values()))
        found: list[Dtype] = [dtype for dtype in self._dtypes() if self._begun(training, dtype)]
        if found:
            self.choice = Choice("disk", found[0], f"trunk cache: {found[0]} on disk, continued from an earlier run")
        else:
            need = need_of(
                {name: (one, self._passes(one, name)) for name, one in data.items()},
                self.attached.resolved.cached_width,
                "read" if self.one_position else "all",
                self._dtypes(),
                self._timed,
                self.forward.pad_id,
            )
            self.choice = choose(need, room_for(default_root(), self.config.cache_limit_bytes))
        # A run without a cache is slower than the user expects, so that is a notice and not a line among others.
        report = self.reporter.notice if "do not fit" in self.choice.why else self.reporter.say
        report(self.choice.why)

    def _passes(self, data: Encoded, name: str) -> float:
        """The number of times that the texts of a data set are read, by a sharing trial too where there is one."""
        passes = passes_of(name, self._epochs(data, name), self.config.eval_every) + self._looks(name)
        # A text in several examples is read for each of them.
        again = len(data) / len(data.distinct.first) if data.distinct.many else 1
        return passes * again if self.shared is None else 2 * passes * again

    def _epochs(self, data: Encoded, name: str) -> int:
        """The epochs in which the texts are read, as far as the settings say: a run may end within its first."""
        config = self.config
        if name != "training" or config.max_steps is None or config.batch_size is None:
            return config.epochs
        return min(config.epochs, -(-config.max_steps * config.accumulate * config.batch_size // len(data)))

    def _looks(self, name: str) -> int:
        """How often the texts are read for the untuned model's output (``training/untuned.py``)."""
        objective = self.forward.objective
        if name == "training":
            return int(objective.looks(training=True))
        return int(objective.looks(training=False) or (name == "evaluation" and objective.base_first))

    def _again(self, data: Encoded, name: str) -> bool:
        """Whether the data are worth remembering under ``auto``: they are read again, or are there already."""
        if self.config.cache != "auto":
            return True
        worth = self._passes(data, name) > 1 and self.choice is not None and self.choice.place != "none"
        return worth or self._begun(data, self.dtype)

    def _begun(self, data: Encoded, dtype: Dtype) -> bool:
        """Whether the folder of caches holds one of ``data``, whole or not."""
        # By key.json: the folder itself is made before it is known whether there is room.
        return (default_root() / self.key(data, dtype).digest / KEY_FILE).exists()

    def _timed(self, batch: Batch) -> float:
        """Run the trunk and wait for it."""
        trunk, batch = Trunk(self.attached), batch.to(self.forward.device)
        hidden = run_trunk(trunk, batch, self.forward.question, one_position=self.one_position, autocast=self.autocast)
        # Reading a number waits for the GPU, which is still busy when the call returns.
        return float(hidden.flatten()[0])

    def _go_on(self, error: ResourceError) -> None:
        self.reporter.notice(f"{error.message}; what is remembered stays in use, the trunk runs for the rest")

    def close(self) -> None:
        """Stop reading, write pending rows and let other runs write."""
        for feed in self.feeding:
            feed.close()
        for cache in self.opened:
            self._tell_clipped(cache)
            try:
                cache.close()
            except ResourceError as error:
                self.reporter.notice(error.message)

    def _tell_clipped(self, cache: TrunkCache) -> None:
        values = cache.bytes  # of int8: one a value
        if cache.clipped > _CLIPPED_TOLD * values:
            share = f"{cache.clipped / values:.2%} of the values in the trunk cache"
            self.reporter.notice(f"int8: {share} lay beyond their channel's scale and were clipped to it")

    def _wanted(self) -> bool:
        """Whether there is anything worth remembering."""
        choice, resolved = self.config.cache, self.attached.resolved
        if resolved.trains_embeddings:
            if choice not in ("auto", "off"):
                self.reporter.notice("no trunk cache: the embeddings train, so no hidden state stays the same")
            return False
        return choice != "off" and (choice != "auto" or resolved.frozen_depth > 0)

    def _size(self, data: Encoded) -> int:
        """Bytes that the whole cache of ``data`` takes."""
        positions = "read" if self.one_position else "all"
        lengths = data.lengths[data.distinct.first]
        return estimate_bytes(lengths, self.attached.resolved.cached_width, self.dtype, positions)

    def _reserve(self, data: Mapping[str, Encoded]) -> None:
        """Reserve the caches of this run before the first is opened, so that none makes room by deleting another."""
        root = self._root()
        if root is None or not self._wanted():
            return
        training = next(iter(data.values()), None)
        for name, one in data.items():
            key = self.key(one)
            if one is not training and self.dtype == "int8":  # kept with the scales of the training data
                key = replace(key, versions=(*key.versions, *_scales_version(self._begun_scales(root, training))))
            if self._again(one, name):
                self._own[key.digest] = self._size(one)

    def _begun_scales(self, root: Path, training: Encoded | None) -> Tensor | None:
        """The scales of int8, if the cache of the training data has been begun."""
        if training is None:
            return None
        with contextlib.suppress(CacheError):
            identity = read_identity(root / self.key(training).digest)
            return Codec.of(identity).scales if identity is not None else None
        return None

    def _make_room(self, root: Path, digest: str, size: int) -> None:
        """Delete older caches until this one, all others of this run and the rest are within the limit."""
        self._own[digest] = size
        evict(root, max(0, self.config.cache_limit_bytes - sum(self._own.values())), keep=self._own)

    def _open(self, data: Encoded, name: str) -> TrunkCache | None:
        key = self.key(data)
        known = self.shared if self.shared is not None else {cache.key.digest: cache for cache in self.opened}
        # One object reads and writes for all: a second one would find the lock taken, and see only what was whole.
        if key.digest in known:  # of another trial, or of the same texts under another name
            return known[key.digest]
        size, root = self._size(data), self._root()
        what = f"trunk cache of the {name} data (depth {key.depth}, {key.dtype}, {readable_size(size)})"
        if size > self.config.cache_limit_bytes:
            self.reporter.notice(f"no {what}: over the limit of {self.config.cache_limit}; the trunk runs every epoch")
            return None
        width = self.attached.resolved.cached_width

        def opened(root: Path | None) -> TrunkCache:
            return TrunkCache.open(
                root, key, data.lengths, width, distinct=data.distinct, scales=lambda: self._scales(data)
            )

        try:
            if root is not None:
                # Before opening, which checks for space.
                self._make_room(root, key.digest, size)
            cache = opened(root)
        except (ResourceError, CacheError) as error:
            # A cache in memory helps only a run that reads twice; for one pass it would be memory lost.
            fits = root is not None and self._passes(data, name) > 1 and size <= MEMORY_SHARE * free_memory()
            instead = "it is kept in memory" if fits else "the trunk runs every epoch"
            self.reporter.notice(f"no {what} on disk: {error.message}; {instead}")
            if not fits:
                return None
            root = None
            cache = opened(root)
        for notice in cache.notices:
            self.reporter.notice(notice)
        state = (
            "found, complete" if cache.complete else f"{cache.texts - cache.missing()} of {cache.texts} texts are there"
        )
        self.reporter.say(f"{what}: {state}{'' if root is None else f', in {root / key.digest}'}")
        if self.shared is None:
            self.opened.append(cache)
        else:
            self.shared[key.digest] = cache
        return cache

    def _root(self) -> Path | None:
        if self.config.cache == "auto":
            return None if self.choice is not None and self.choice.place == "ram" else default_root()
        return None if self.config.cache == "ram" else Path(self.config.cache).expanduser()

    def key(self, data: Encoded, dtype: Dtype | None = None) -> CacheKey:
        """Everything that the remembered numbers depend on; ``dtype`` in place of the chosen one."""
        return trunk_key(self.forward, self.tokenizer, data, dtype or self.dtype, self._scaled())

    def _scaled(self) -> list[tuple[str, str]]:
        """The scales as part of the key: other data are kept with the scales of the training data."""
        return _scales_version(None if self.codec is None else self.codec.scales)


def trunk_key(
    forward: Forward,
    tokenizer: PreTrainedTokenizerBase,
    data: Encoded,
    dtype: Dtype,
    scaled: Sequence[tuple[str, str]] = (),
) -> CacheKey:
    """Everything that the hidden states of ``data`` at the frozen depth depend on, kept in ``dtype``."""
    attached = forward.attached
    moved = attached.resolved.moved  # a prompt at the input moves the text on: the embeddings say something else
    return CacheKey(
        weights=attached.base_hash,
        tokenizer=tokenizer_hash(tokenizer),
        template=forward.objective.prompt,
        data=data.kept_as,
        max_length=forward.objective.max_length,
        depth=attached.resolved.frozen_depth,
        positions="read" if forward.one_position else "all",
        dtype=dtype,
        versions=(
            *numeric_versions(),
            ("computed", "fp32" if forward.autocast is None else "bf16"),
            *([("moved", str(moved))] if moved else []),
            *scaled,
        ),
        model=attached.backbone.model.config._name_or_path,
    )


def _scales_version(scales: Tensor | None) -> list[tuple[str, str]]:
    return [] if scales is None else [("scales", fast_digest([scales.numpy().tobytes()], bits=64))]


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """A fingerprint of everything that a fast tokenizer does, or of a slow one's vocabulary."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    text = str(sorted(tokenizer.get_vocab().items())) if fast is None else fast.to_str()
    return fast_digest([text])
