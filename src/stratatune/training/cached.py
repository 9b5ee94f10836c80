"""``st.cached``: run the trunk once over a data set, so that any trainer of the model can reuse its output.

For those who train by transformers' ``Trainer``, Accelerate, Lightning or their own loop. The data set gets one
column more, the number of each row in the trunk cache; the model takes it as one more input and begins at the frozen
depth. Everything else, collators, losses, metrics and saving, is as it was.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from stratatune._compat import numeric_versions
from stratatune.cache.keys import CacheKey, default_root
from stratatune.cache.siblings import filling
from stratatune.cache.store import TrunkCache
from stratatune.data.distinct import Distinct
from stratatune.errors import ConfigError, DataError, PlanError, counted, did_you_mean, shown
from stratatune.hashing import fast_digest
from stratatune.model.attach import Tuned, tuned
from stratatune.model.attached import Attached
from stratatune.model.below import refuse_unfrozen, trunk_hash, without_gradient
from stratatune.model.body import Body
from stratatune.model.families.carried import SHARED, empty, with_shared
from stratatune.model.families.stopping import run_through
from stratatune.model.finite import check_hidden
from stratatune.model.given import given_hidden
from stratatune.model.stored import computes_in
from stratatune.progress import Reporter, launched

if TYPE_CHECKING:
    from stratatune.units import Dtype

ROW = "trunk_row"
_IDS, _MASK, _TYPES = "input_ids", "attention_mask", "token_type_ids"


def cached(
    model: Tuned,
    data: Any,
    *,
    cache: str | Path | None = None,
    dtype: Dtype = "fp32",
    batch_size: int = 32,
    reporter: Reporter | None = None,
) -> tuple[Any, Tuned]:
    """Run the part of ``model`` below its frozen depth over ``data`` once, so that training begins above it.

    ::

        model = st.apply(AutoModelForSequenceClassification.from_pretrained("roberta-base"), "9: lora")
        train, top = st.cached(model, tokenized)
        Trainer(top, arguments, train_dataset=train).train()

    Rows may then be shuffled, selected and split as you like; texts must stay as they are; every batch is checked.
    Rows without the column, of another data set, run through the whole model.

    Args:
        model: one that :func:`stratatune.apply` or :func:`stratatune.load` returned; its frozen depth is above 0.
        data: rows that are tokenized as for the model: a ``datasets.Dataset`` or ``DatasetDict``, a list of mappings,
            or a map-style dataset of torch. ``input_ids``, and ``attention_mask`` and ``token_type_ids`` where the
            model reads them.
        cache: the folder of trunk caches; ``"ram"``: memory; None: the one that ``stratatune train`` uses.
        dtype: the precision of the cache: ``fp32``, ``bf16`` or ``fp16``.
        batch_size: texts that the trunk runs at once.
        reporter: prints progress; on standard error by default.

    Returns:
        The data with the additional column ``trunk_row``, and the same model, which now accepts it.

    Raises:
        PlanError: the model has no plan, its plan trains the first block or the embeddings, or something below the
            frozen depth was unfrozen by hand.
        DataError: the rows have no ``input_ids``, are empty, or cannot be read by their numbers.
        ConfigError: ``batch_size`` is below 1.
        ResourceError: the cache cannot be written.
    """
    model = tuned(model)
    if dtype not in ("fp32", "bf16", "fp16"):
        raise DataError(f"dtype: {dtype!r}", did_you_mean(str(dtype), ("fp32", "bf16", "fp16")))
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ConfigError([f"batch_size: {shown(batch_size)}"], "legal: a whole number, 1 or more")
    rows = _rows_of(model)
    if isinstance(data, dict):  # a DatasetDict, too
        parts = {name: _one(rows, part, cache, dtype, batch_size, reporter) for name, part in data.items()}
        return type(data)(parts), model
    return _one(rows, data, cache, dtype, batch_size, reporter), model


def _one(
    rows: Rows, data: Any, cache: str | Path | None, dtype: Dtype, batch_size: int, reporter: Reporter | None
) -> Any:
    """One data set with its column."""
    texts = Texts.of(data)
    first = rows.add(texts, cache, dtype, batch_size, reporter or Reporter())
    return _with_column(data, np.arange(first, first + len(texts)))


def _with_column(data: Any, numbers: np.ndarray) -> Any:
    if not hasattr(data, "add_column"):
        return WithRows(data, numbers)
    # A format such as "torch" hides the columns that it does not list, and add_column keeps it as it was.
    given = data.format
    plain = data.with_format(None)
    plain = (plain.remove_columns(ROW) if ROW in plain.column_names else plain).add_column(ROW, numbers)
    # A data set that showed all its columns goes on doing so; one with a selection shows the new one, too.
    columns = None if set(given["columns"]) >= set(data.column_names) else [*given["columns"], ROW]
    return plain.with_format(given["type"], columns=columns, **given["format_kwargs"])


class WithRows(torch.utils.data.Dataset[dict[str, Any]]):
    """Rows with their numbers in the trunk cache.

    Args:
        data: the rows.
        numbers: one for each [N].
    """

    def __init__(self, data: Sequence[Mapping[str, Any]], numbers: np.ndarray) -> None:
        self.data, self.numbers = data, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.data[index], ROW: int(self.numbers[index])}


@dataclass(frozen=True)
class Texts:
    """The tokens of N rows, as a model gets them.

    Attributes:
        ids, mask, types: a list of numbers for each row; a row ends with its last real token.
    """

    ids: list[list[int]]
    mask: list[list[int]]
    types: list[list[int]] | None

    @classmethod
    def of(cls, data: Any) -> Texts:
        """The texts of a data set.

        Raises:
            DataError: it has no ``input_ids``, or no rows.
        """
        columns = _columns(data)
        if not columns.get(_IDS):
            raise DataError("the data have no rows with input_ids", "tokenize them first, as for Trainer")
        ids = [_numbers(row) for row in columns[_IDS]]
        mask = [_numbers(row) for row in columns[_MASK]] if _MASK in columns else [[1] * len(row) for row in ids]
        types = [_numbers(row) for row in columns[_TYPES]] if _TYPES in columns else None
        if types is not None and (odd := _of_another_length(types, ids)) is not None:
            raise DataError(
                f"row {odd}: {len(ids[odd])} input_ids and {len(types[odd])} token_type_ids", "give one for each token"
            )
        ends = []
        for number, (row, real) in enumerate(zip(ids, mask, strict=True)):
            if other := sorted({*real} - {0, 1}):
                raise DataError(f"row {number}: attention_mask holds {other[0]}", "legal: 1 at a token, 0 at padding")
            if len(row) != len(real) or not any(real):
                raise DataError(
                    f"row {number}: {len(row)} input_ids and {sum(map(bool, real))} real tokens",
                    "give each row as many attention_mask as input_ids, and a token at least",
                )
            # Tokenizers may have padded to a fixed length already: that padding is not stored.
            ends.append(len(real) - real[::-1].index(1))
        cut = lambda rows: [row[:end] for row, end in zip(rows, ends, strict=True)]  # noqa: E731
        return cls(cut(ids), cut(mask), None if types is None else cut(types))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        """Real tokens of each row [N]."""
        return np.array([sum(row) for row in self.mask], np.int64)

    @property
    def fingerprint(self) -> str:
        """A hash of everything that a trunk reads and, where rows repeat, of how many are kept."""
        found = fast_digest(self._contents())
        return f"{found}/{len(self.distinct.first)}" if self.distinct.repeated else found

    @cached_property
    def distinct(self) -> Distinct:
        """The rows that are equal."""
        return Distinct.of((row,) for row in self._contents())

    def _contents(self) -> Iterator[str]:
        types = self.types or [[]] * len(self)
        return (repr(row) for row in zip(self.ids, self.mask, types, strict=True))

    def batch(self, index: np.ndarray, pad: int) -> dict[str, Tensor]:
        """The rows ``index`` [B], padded on the right."""
        width = max(len(self.ids[i]) for i in index)
        padded = {_IDS: (self.ids, pad), _MASK: (self.mask, 0), **({_TYPES: (self.types, 0)} if self.types else {})}
        return {
            name: torch.tensor([[*rows[i], *[fill] * (width - len(rows[i]))] for i in index])
            for name, (rows, fill) in padded.items()
        }


def _columns(data: Any) -> dict[str, Any]:
    wanted = (_IDS, _MASK, _TYPES)
    # A row is known by its number ever after, so data that can be read in one order alone cannot be remembered.
    if isinstance(data, str) or not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        kind = f"{type(data).__module__}.{type(data).__qualname__}".removeprefix("builtins.")
        raise DataError(
            f"the data are {shown(data) if data is None or isinstance(data, str) else f'a {kind}'}, "
            "whose rows cannot be read by their numbers",
            "give a datasets.Dataset, a list of mappings, or a map-style dataset of torch",
        )
    if hasattr(data, "column_names"):
        plain = data.with_format(None)
        return {name: list(plain[name]) for name in wanted if name in plain.column_names}
    # A mapping, such as what a tokenizer returns for many texts, has columns and no rows.
    if hasattr(data, "keys"):
        raise DataError("the data are one mapping of columns, not rows", "give datasets.Dataset.from_dict(dict(data))")
    rows = [data[number] for number in range(len(data))]
    if not rows:
        return {}
    if not all(hasattr(row, "keys") for row in rows):  # a BatchEncoding is no Mapping
        raise DataError("the data are not rows of named columns", "give a datasets.Dataset, or a list of mappings")
    there = [name for name in wanted if any(name in row for row in rows)]
    for number, row in enumerate(rows):
        if lacks := [name for name in there if name not in row]:
            raise DataError(
                f"row {number} has no {lacks[0]}, and other rows have it", "give every row the same columns"
            )
    return {name: [row[name] for row in rows] for name in there}


def _of_another_length(rows: list[list[int]], ids: list[list[int]]) -> int | None:
    """The number of the first row that is not as long as its ``ids``; None: all are."""
    return next((n for n, (row, own) in enumerate(zip(rows, ids, strict=True)) if len(row) != len(own)), None)


def _numbers(row: Any) -> list[int]:
    try:
        return [int(one) for one in (row.tolist() if hasattr(row, "tolist") else row)]
    except (TypeError, ValueError):
        raise DataError(
            f"a row of tokens is {shown(row)}, and not a list of whole numbers", "tokenize each text by itself"
        ) from None


def _marks(ids: Tensor, mask: Tensor) -> Tensor:
    """A hash of the real tokens of each row in their order, without what surrounds them: [B, T], [B, T] -> [B]."""
    places = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
    # Each place has a different weight, so the same tokens in another order give another number; the cube keeps the
    # weights from being evenly spaced.
    turned = (ids + 1) * (places * 2654435761 + 97) ** 3  # int64, which wraps
    return (turned * mask).sum(dim=1)


def _starts(mask: Tensor) -> Tensor:
    """The first real token of each row [B]."""
    return mask.int().argmax(dim=1)


class Rows:
    """The trunk's output for data sets, one after another, by the numbers of their rows.

    Args:
        model: the tuned model.

    Raises:
        PlanError: nothing of it stays the same while it trains.
    """

    def __init__(self, model: Tuned) -> None:
        self.model = model
        self.depth = _depth(model.attached)
        self.caches: list[TrunkCache] = []
        self.firsts: list[int] = []
        self.count = 0
        self.marks = torch.empty(0, dtype=torch.long)
        self.starts = torch.empty(0, dtype=torch.long)

    @property
    def body(self) -> Body:
        """The parts of the model."""
        return self.model.attached.backbone.body

    def __deepcopy__(self, memo: dict[int, Any]) -> Rows:
        """The rows of a copy of the model, whose trunk has the same output."""
        memo[id(self)] = copied = copy.copy(self)
        copied.model = copy.deepcopy(self.model, memo)
        return copied

    def add(self, texts: Texts, place: str | Path | None, dtype: Dtype, batch_size: int, reporter: Reporter) -> int:
        """Run the trunk over ``texts`` that no cache has, and return the number of the first."""
        attached = self.model.attached
        root = None if place == "ram" else default_root() if place is None else Path(place).expanduser()
        key = CacheKey(
            weights=trunk_hash(attached),
            # The rows are token ids already, so neither a tokenizer nor a template takes part in what is stored.
            tokenizer="",
            template="",
            data=texts.fingerprint,
            max_length=int(texts.lengths.max()),
            depth=self.depth,
            positions="all",
            dtype=dtype,
            # A separate version, because batches are padded here in another way than in `stratatune train`.
            versions=(*numeric_versions(), ("door", "cached"), ("computed", _computed(self.model))),
            model=self.model.config._name_or_path,
        )
        width = self.body.shape.width(self.depth)
        with _one_at_a_time(root):
            opened = TrunkCache.open(root, key, texts.lengths, width, distinct=texts.distinct)
            if not opened.complete and not opened.writable:
                opened.close()
                reporter.notice("another process writes this trunk cache: this one keeps its own in memory")
                opened = TrunkCache.open(None, key, texts.lengths, width, distinct=texts.distinct)
            self._fill(opened, texts, batch_size, reporter)
            opened.flush()
            # The lock goes at once: training may take long, and other processes want to read and write meanwhile.
            opened.stop_writing()
        for notice in opened.notices:
            reporter.notice(notice)
        whole = texts.batch(np.arange(len(texts)), 0)
        self.marks = torch.cat([self.marks, _marks(whole[_IDS], whole[_MASK])])
        self.starts = torch.cat([self.starts, _starts(whole[_MASK])])
        self.caches.append(opened)
        self.firsts.append(self.count)
        self.count += len(texts)
        return self.firsts[-1]

    def _fill(self, cache: TrunkCache, texts: Texts, batch_size: int, reporter: Reporter) -> None:
        first = texts.distinct.first
        missing = first[~cache.has(first)]
        # By length, so that a batch holds little padding.
        missing = missing[np.argsort([len(texts.ids[i]) for i in missing], kind="stable")]
        device, pad = next(self.model.parameters()).device, getattr(self.model.config, "pad_token_id", None) or 0
        if not len(missing):
            reporter.say(f"trunk cache: complete, {counted(len(texts), 'row')} at depth {self.depth}")
            return
        with reporter.bar(f"trunk over {counted(len(missing), 'row')}, depth {self.depth}", len(missing)) as bar:
            for start in range(0, len(missing), batch_size):
                index = missing[start : start + batch_size]
                batch = {name: one.to(device) for name, one in texts.batch(index, pad).items()}
                hidden = self._trunk(batch)[batch[_MASK].bool()]
                check_hidden(hidden, self.model, f"{counted(len(texts), 'row')} at depth {self.depth}")
                cache.put(index, hidden.cpu())
                bar.advance(len(index))

    @torch.no_grad()
    def _trunk(self, batch: dict[str, Tensor]) -> Tensor:
        base: Any = self.body.base
        # With two stacks only the first is run: its output is all that is remembered.
        run = base if len(self.body.row.stacks) < 2 else base.get_encoder()
        taken = inspect.signature(run.forward).parameters
        known: dict[str, Any] = {name: one for name, one in batch.items() if name in taken}
        shared = empty(self.body)
        known |= {} if shared is None else {SHARED: shared}
        hidden = run_through(self.body, self.depth, lambda: run(**known))
        return with_shared(self.body, self.depth, hidden, shared)

    def hidden(self, numbers: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """The hidden state at the depth [B, T, D] of rows ``numbers`` [B], zeros at padding.

        Raises:
            DataError: a number that no data set has, or other tokens than it was run with.
        """
        at, real = numbers.cpu(), mask.bool()
        if int(at.min()) < 0 or int(at.max()) >= self.count:
            raise DataError(
                f"{ROW}: {int(at.max())}, and {self.count} rows were cached", "give this data set to cached, too"
            )
        for what, was, now in (
            ("other tokens than it had when it was cached", self.marks, _marks(ids, real)),
            ("padding in front, and had less or more when it was cached", self.starts, _starts(real)),
        ):
            if (odd := (was[at] != now.cpu()).nonzero()).numel():
                raise DataError(
                    f"{ROW} {int(at[odd[0, 0]])} has {what}", "tokenize first, then call cached; pad on the right"
                )
        width = self.body.shape.width(self.depth)
        found = torch.zeros(*ids.shape, width, device=ids.device, dtype=computes_in(self.model))
        # Into the caller's own padding: a collator pads as it likes, and the cache has real tokens only.
        found[real] = self._stored(at.numpy()).to(found)
        return found

    def _stored(self, numbers: np.ndarray) -> Tensor:
        """Read the rows [sum T, D] from the caches, in order."""
        owner = np.searchsorted(self.firsts, numbers, side="right") - 1
        if (owner == owner[0]).all():
            cache = self.caches[owner[0]]
            return cache.codec.unpack(cache.get(numbers - self.firsts[owner[0]]), torch.float32)
        return torch.cat([self._stored(numbers[at : at + 1]) for at in range(len(numbers))])


def _depth(attached: Attached) -> int:
    """The depth that is remembered: the frozen depth, or the end of the first of two stacks, which the second reads.

    Blocks of a first stack hand more to one another than the hidden state (T5: the relative positions), so that it is
    remembered as a whole or not at all.
    """
    resolved, border = attached.resolved, attached.backbone.border
    depth = resolved.frozen_depth
    if len(attached.backbone.row.stacks) > 1:
        depth = border if depth >= border else 0
    if resolved.trains_embeddings or resolved.moved or depth == 0:
        raise PlanError(
            f"nothing that could be remembered stays the same under {resolved.plan}",
            "train the model as it is, or choose a plan that begins higher, such as '6: lora' or 'dec : lora'",
        )
    refuse_unfrozen(without_gradient(attached), resolved.frozen_depth)
    return depth


@contextlib.contextmanager
def _one_at_a_time(root: Path | None) -> Iterator[None]:
    """Let one process of a launcher run the trunk, and the others wait for it and read what it wrote.

    It locks a file instead of making a process group: Trainer and Accelerate would find the group and keep it, whatever
    device, backend or time limit they are given.

    """
    if root is None or launched() <= 1:
        yield
        return
    with filling(root):
        yield


class _FromRows:
    """A model's forward that takes ``trunk_row``.

    Args:
        model: the tuned model.
        rows: its trunk's output.
    """

    def __init__(self, model: Tuned, rows: Rows) -> None:
        self.model, self.rows = model, rows

    @property
    def __signature__(self) -> inspect.Signature:
        """The class's signature with the number of the row: ``Trainer`` keeps the columns that it finds here."""
        own = inspect.signature(type(self.model).forward.__get__(self.model))
        added = inspect.Parameter(ROW, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Tensor | None)
        given = list(own.parameters.values())
        # The signature must keep **kwargs last, or Signature.replace refuses it.
        behind = [one for one in given if one.kind is one.VAR_KEYWORD]
        return own.replace(parameters=[*(one for one in given if one not in behind), added, *behind])

    def __call__(self, *args: Any, trunk_row: Tensor | None = None, **kwargs: Any) -> Any:
        forward = type(self.model).forward.__get__(self.model)
        # Evaluation data that were not cached, and generate, take the ordinary way.
        if trunk_row is None:
            return forward(*args, **kwargs)
        call = inspect.signature(forward).bind_partial(*args, **kwargs).arguments
        call = {**call, **call.get("kwargs", {})}
        ids, mask = call[_IDS], call.get(_MASK)
        hidden = self.rows.hidden(trunk_row, ids, torch.ones_like(ids) if mask is None else mask)
        with given_hidden(self.rows.body, self.rows.depth, hidden):
            return forward(*args, **kwargs)

    def remove(self) -> None:
        """Give the model its own forward again."""
        # The instance's forward hid the class's own.
        vars(self.model).pop("forward", None)


def _rows_of(model: Tuned) -> Rows:
    """The rows of a model, created if it has none."""
    known = vars(model).get("forward")
    if isinstance(known, _FromRows):
        return known.rows
    rows = Rows(model)
    forward = _FromRows(model, rows)
    vars(model)["forward"] = forward
    model.attached.hooks.append(forward)  # pyright: ignore[reportArgumentType] - merge and remove take it off, too
    return rows


def _computed(model: Tuned) -> str:
    """The precision in which a pass of ``model`` computes here and now."""
    kind = next(model.parameters()).device.type
    found = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else computes_in(model)
    return str(found).removeprefix("torch.")
