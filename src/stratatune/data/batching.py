"""Batches cut by length, so that they hold next to no padding.

Shapes: B examples of a batch, T tokens of its longest example.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stratatune.data.encoded import IGNORED, LABEL, Encoded
from stratatune.errors import DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

AT_ONCE, LONG = 8192, 256
"""The tokens of a batch, padding included, that are computed at once where a text has more than ``LONG`` of them.

What a step keeps then stays about that of a batch of 32 texts of 256 tokens, the defaults for short texts.
"""
WINDOW = 50  # batches that are sorted by length together: wide enough for little padding, narrow enough to mix


@dataclass(frozen=True)
class Batch:
    """B padded examples.

    Attributes:
        index: int64 [B], their numbers in the data set; always on the CPU.
        input_ids: int64 [B, T], padded on the right.
        mask: bool [B, T], True at real tokens.
        token_types: int64 [B, T] or None.
        read: int64 [B], the position the head reads.
        targets: the targets by name: [B, ...], or [B, U, ...] with -100 after the end.
        groups: int64 [G, K], which of the B texts are those of each of G examples, -1 after the last; None: each text
            is an example. Then targets are those of the G examples.
        places: int64 [B, U], the positions the head reads where there are several, -1 for what no token represents,
            -100 after the last; None: ``read``.
        given: float32 [B, E], as :attr:`stratatune.data.encoded.Encoded.given` has it; None: every text is computed.
    """

    index: Tensor
    input_ids: Tensor
    mask: Tensor
    token_types: Tensor | None
    read: Tensor
    targets: Mapping[str, Tensor] = field(default_factory=dict)
    groups: Tensor | None = None
    places: Tensor | None = None
    given: Tensor | None = None

    @property
    def examples(self) -> int:
        """The number of examples."""
        return len(self) if self.groups is None else len(self.groups)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def labels(self) -> Tensor | None:
        """The targets if an example has one kind of them; None without labels."""
        return self.targets.get(LABEL)

    @property
    def tokens(self) -> int:
        """The number of real tokens, without padding."""
        return int(self.mask.sum())

    def to(self, device: torch.device | str) -> Batch:
        """The batch on ``device``."""
        parts = ("input_ids", "mask", "token_types", "read", "groups", "places", "given")
        moved: dict[str, Any] = {
            name: part.to(device, non_blocking=True) for name in parts if (part := getattr(self, name)) is not None
        }
        targets = {name: one.to(device, non_blocking=True) for name, one in self.targets.items()}
        return replace(self, **moved, targets=targets)

    @property
    def computed(self) -> Tensor:
        """The numbers of the texts that are not :attr:`given`: int64 [b]."""
        import torch

        if self.given is None:
            return torch.arange(len(self), device=self.input_ids.device)
        return self.given[:, 0].isnan().nonzero()[:, 0]

    def texts(self, rows: Tensor) -> Batch:
        """A batch of the texts ``rows`` [b], as wide as the longest of them: no groups, no targets."""
        mask = self.mask[rows]
        width = max(1, int(mask.sum(1).max()))
        return Batch(
            index=self.index[rows.cpu()],
            input_ids=self.input_ids[rows, :width],
            mask=mask[:, :width],
            token_types=None if self.token_types is None else self.token_types[rows, :width],
            read=self.read[rows],
            places=None if self.places is None else self.places[rows],
            given=None if self.given is None else self.given[rows],
        )


def plan_batches(
    lengths: np.ndarray,
    *,
    batch_size: int | None = None,
    token_budget: int | None = None,
    seed: int,
    epoch: int,
    shuffle: bool = True,
) -> list[np.ndarray]:
    """Example numbers int64 [B] of every batch of one epoch; each example comes exactly once.

    Shuffled, then sorted by length inside windows of about `WINDOW` batches, cut, and the batches shuffled again; the
    same (seed, epoch) gives the same batches. Without ``shuffle`` all are sorted, the longest first, so that memory
    runs out at once or never.

    Args:
        lengths: [N] tokens of each example.
        batch_size: the most examples of a batch.
        token_budget: the most tokens B * T of a batch, padding included. Both bounds hold where both are given.

    Raises:
        DataError: neither bound, a bound below one, or an example longer than the budget.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    _check(lengths, batch_size, token_budget)
    if not shuffle:
        return _cut(np.argsort(-lengths, kind="stable"), lengths, batch_size, token_budget)
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    step = WINDOW * _typical_size(lengths, batch_size, token_budget)
    batches: list[np.ndarray] = []
    for start in range(0, len(order), step):
        window = order[start : start + step]
        by_length = window[np.argsort(-lengths[window], kind="stable")]
        batches += _cut(by_length, lengths, batch_size, token_budget)
    return [batches[i] for i in random.permutation(len(batches))]


def parts_of(texts: int, longest: int, *, learning: bool = True) -> int:
    """The number of parts in which a batch is computed: 1 for short texts, and at most one for each text.

    Args:
        texts: the number of its texts.
        longest: the tokens of the longest of them.
        learning: whether a step keeps what it computes for its backward pass; else a part may have twice the tokens.
    """
    at_once = AT_ONCE if learning else 2 * AT_ONCE
    return max(1, min(texts, -(-texts * longest // at_once))) if longest > LONG else 1


def divided(batches: Sequence[np.ndarray], lengths: np.ndarray) -> list[np.ndarray]:
    """The batches [B] from which nothing is learnt, those of many tokens in parts (:func:`parts_of`).

    Args:
        batches: numbers of examples.
        lengths: [N] tokens of each example.
    """
    found: list[np.ndarray] = []
    for batch in batches:
        found += np.array_split(batch, parts_of(len(batch), int(lengths[batch].max()), learning=False))
    return found


def _check(lengths: np.ndarray, batch_size: int | None, token_budget: int | None) -> None:
    if batch_size is None and token_budget is None:
        raise DataError("neither a batch size nor a token budget is set", "give a batch size or a token budget")
    if batch_size is not None and batch_size < 1:
        raise DataError(f"batch size {batch_size} is below 1", "use 1 or more")
    longest = int(lengths.max(initial=0))
    if token_budget is not None and longest > token_budget:
        raise DataError(
            f"the longest text has {longest} tokens, more than a batch's token budget of {token_budget}",
            "raise the budget or lower the maximal length",
        )


def _typical_size(lengths: np.ndarray, batch_size: int | None, token_budget: int | None) -> int:
    by_tokens = (
        len(lengths) if token_budget is None else int(token_budget / max(lengths.mean(), 1)) if len(lengths) else 1
    )
    return max(1, min(by_tokens, batch_size or by_tokens))


def _cut(order: np.ndarray, lengths: np.ndarray, batch_size: int | None, token_budget: int | None) -> list[np.ndarray]:
    """Cut examples, longest first, into batches: the first of each is its longest and alone determines how many fit."""
    batches: list[np.ndarray] = []
    start = 0
    while start < len(order):
        fits = len(order) if token_budget is None else token_budget // max(int(lengths[order[start]]), 1)
        size = min(fits, batch_size or fits)
        batches.append(order[start : start + size])
        start += size
    return batches


def shard(batches: list[np.ndarray], rank: int, world: int, *, even: bool = True) -> list[np.ndarray]:
    """Process ``rank``'s share: every ``world``-th batch.

    With ``even`` all ranks get the same number, the first batches repeated where it does not come out, as gradients are
    summed in step; without it (evaluation) every batch goes to exactly one rank.
    """
    if even and batches:
        missing = -len(batches) % world
        batches = [*batches, *(batches[i % len(batches)] for i in range(missing))]
    return batches[rank::world]


def padding_ratio(batches: Sequence[np.ndarray], lengths: np.ndarray) -> float:
    """The ratio of padded tokens to real tokens, 1.0 at best."""
    lengths = np.asarray(lengths)
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    real = sum(int(lengths[batch].sum()) for batch in batches)
    return padded / real if real else 1.0


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token number that fills a batch's shorter rows; it is masked, so 0 serves where the tokenizer has none."""
    number = tokenizer.pad_token_id
    return number if isinstance(number, int) else 0


def collate(encoded: Encoded, index: np.ndarray, pad_id: int) -> Batch:
    """Collate the texts ``index`` [B], padded on the right to the longest of them."""
    import torch

    index = np.asarray(index, dtype=np.int64)
    lengths = encoded.lengths[index]
    mask = np.arange(int(lengths.max(initial=0))) < lengths[:, None]  # [B, T]
    flat = encoded.flat(index)

    def padded(values: np.ndarray, fill: int) -> Tensor:
        out = np.full(mask.shape, fill, np.int64)
        out[mask] = values[flat]
        return torch.from_numpy(out)

    return Batch(
        index=torch.from_numpy(index),
        input_ids=padded(encoded.ids, pad_id),
        mask=torch.from_numpy(mask),
        token_types=None if encoded.types is None else padded(encoded.types, 0),
        read=torch.from_numpy(encoded.read[index].astype(np.int64)),
        targets={} if encoded.groups is not None else _targets(encoded, index),
        places=None if encoded.places is None else torch.from_numpy(encoded.places.padded(index)),
        given=None if encoded.given is None else torch.from_numpy(encoded.given[index]),
    )


def _targets(encoded: Encoded, index: np.ndarray) -> dict[str, Tensor]:
    import torch

    return {name: torch.from_numpy(one.padded(index)) for name, one in encoded.targets.items()}


def collate_examples(encoded: Encoded, index: np.ndarray, pad_id: int) -> Batch:
    """Collate the examples ``index`` [G]: their texts as :func:`collate` pads them, and which of these each has."""
    if encoded.groups is None:
        return collate(encoded, index, pad_id)
    import torch

    texts, members = encoded.texts_of(index), encoded.groups.padded(index)
    groups = np.where(members == IGNORED, -1, np.searchsorted(texts, members))
    batch = collate(encoded, texts, pad_id)
    return replace(batch, groups=torch.from_numpy(groups), targets=_targets(encoded, index))
