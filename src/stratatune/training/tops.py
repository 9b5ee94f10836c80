"""Several tops over one trunk, used as one model: the trunk runs once for a text, and each top answers its heads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stratatune.cache.feed import Asking, Feed
from stratatune.data.batching import Batch
from stratatune.data.encoded import Encoded
from stratatune.errors import ModelError
from stratatune.model.attached import Attached
from stratatune.objectives.multitask import Multitask
from stratatune.training.forward import Feeding, Forward


@dataclass(frozen=True)
class SeveralTops:
    """:class:`stratatune.training.forward.Forward` for several tops; the trunk is that of the first.

    Attributes:
        each: the tops, in the order of the heads.
        objective: the heads of all of them.
    """

    each: tuple[Forward, ...]
    objective: Multitask

    @classmethod
    def of(cls, each: Sequence[Forward], folder: object) -> SeveralTops:
        """The tops of one run, ``folder``.

        Raises:
            ModelError: they do not belong together.
        """
        parts = [one.objective for one in each]
        trunks = {(one.attached.base_hash, one.attached.resolved.frozen_depth, one.autocast) for one in each}
        if len(trunks) > 1 or not all(isinstance(one, Multitask) for one in parts):
            raise ModelError(
                f"{folder} is damaged: its tops have no trunk in common", "train again, or restore it from a backup"
            )
        return cls(tuple(each), Multitask.together(parts))  # pyright: ignore[reportArgumentType]

    @property
    def _first(self) -> Forward:
        return self.each[0]

    @property
    def attached(self) -> Attached:
        """The attached state of the first top, to which the trunk belongs."""
        return self._first.attached

    @property
    def pad_id(self) -> int:
        """The token that fills a batch's shorter rows."""
        return self._first.pad_id

    @property
    def device(self) -> torch.device:
        """The device on which it computes."""
        return self._first.device

    @property
    def autocast(self) -> torch.dtype | None:
        """The autocast dtype: bf16 or None."""
        return self._first.autocast

    @property
    def precision(self) -> torch.dtype:
        """The dtype of its numbers."""
        return self._first.precision

    @property
    def one_position(self) -> bool:
        """Whether only one position is read, as in :attr:`stratatune.training.forward.Forward.one_position`."""
        return self._first.one_position

    @property
    def question(self) -> Asking:
        """The question that the trunk gets."""
        return self._first.question

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Turn dropout off while this is open."""
        with contextlib.ExitStack() as opened:
            for one in self.each:
                opened.enter_context(one.evaluating())
            yield

    def mixed(self) -> torch.autocast:
        """The autocast context of the computation."""
        return self._first.mixed()

    def feed(self, *given: Any, **named: Any) -> Feed:
        """A feed of hidden states for all tops; arguments as of :meth:`stratatune.training.forward.Forward.feed`."""
        return self._first.feed(*given, **named)

    def batch(self, data: Encoded, index: np.ndarray) -> Batch:
        """The examples ``index`` [B] of ``data``, padded, on the device."""
        return self._first.batch(data, index)

    def remember(self, batch: Batch, feed: Feeding) -> None:
        """Run the trunk for a batch, so that the cache of ``feed`` has its hidden states."""
        feed.hidden(batch)

    def __call__(self, batch: Batch, feed: Feeding, *, training: bool) -> Tensor:
        """The logits of all heads, side by side [B, sum C]."""
        hidden = feed.hidden(batch)
        return torch.cat([one.above(hidden, batch, training=training) for one in self.each], dim=1)
