"""From a batch to the logits that an objective asks for: the feed, the precision and the top, in one place.

Training, evaluation, prediction, trials and benchmarks all go through :class:`Forward`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor

from stratatune.cache.codec import Codec
from stratatune.cache.feed import Asking, Feed
from stratatune.cache.store import TrunkCache
from stratatune.data.batching import Batch, collate_examples
from stratatune.data.encode import Encoded
from stratatune.errors import ResourceError
from stratatune.model.attached import Attached
from stratatune.model.question import Question
from stratatune.model.split import Top, Trunk
from stratatune.model.stored import computes_in
from stratatune.objectives.objective import Objective


class Feeding(Protocol):
    """Gives hidden states at the frozen depth."""

    def hidden(self, batch: Batch) -> Tensor:
        """[B, T, D], or [B, 1, D] where one position matters."""
        ...


class Below(Protocol):
    """What stands in for a :class:`stratatune.model.split.Trunk`: gives hidden states at the frozen depth.

    Attributes:
        trains: whether the embeddings train, so that the backward pass goes through it.
    """

    trains: bool

    def __call__(
        self, input_ids: Tensor, mask: Tensor, token_types: Tensor | None = None, question: Question | None = None
    ) -> Tensor:
        """``input_ids`` [B, T], ``mask`` [B, T] bool, ``token_types`` [B, T] -> [B, T, D]."""
        ...


@dataclass(frozen=True)
class Forward:
    """A tuned model under an objective.

    Attributes:
        top: the model above the frozen depth.
        objective: what is asked of it.
        pad_id: the token that fills a batch's shorter rows.
        device: where it computes.
        autocast: bf16 or None.
    """

    top: Top
    objective: Objective
    pad_id: int
    device: torch.device
    autocast: torch.dtype | None

    @classmethod
    def of(
        cls, attached: Attached, objective: Objective, pad_id: int, device: torch.device, autocast: torch.dtype | None
    ) -> Forward:
        """The top of what was attached to a model."""
        return cls(Top(attached), objective, pad_id, device, autocast)

    @property
    def attached(self) -> Attached:
        """What was put into the model."""
        return self.top.attached

    @property
    def one_position(self) -> bool:
        """Whether one position of the hidden state at the frozen depth is all that matters of a text."""
        return self.objective.positions == "one" and self.attached.all_in_trunk

    @property
    def question(self) -> Asking:
        """What is asked of a batch in use; the trunk needs to know no more."""
        return functools.partial(self.objective.question, training=False)

    @property
    def precision(self) -> torch.dtype:
        """What the model computes in."""
        return self.autocast or computes_in(self.attached.backbone.model)

    def mixed(self) -> torch.autocast:
        """The precision of the computation."""
        return torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None)

    def feed(
        self,
        cache: TrunkCache | None = None,
        codec: Codec | None = None,
        on_full: Callable[[ResourceError], None] | None = None,
        trunk: Below | None = None,
    ) -> Feed:
        """Hidden states for this model's top; arguments as those of :class:`stratatune.cache.feed.Feed`.

        ``trunk``: what stands in for the model's own trunk.
        """
        return Feed(
            Trunk(self.attached) if trunk is None else cast("Trunk", trunk),  # a feed asks it for nothing else
            cache,
            one_position=self.one_position,
            autocast=self.autocast,
            question=self.question,
            codec=codec,
            on_full=on_full,
        )

    def batch(self, data: Encoded, index: np.ndarray) -> Batch:
        """The examples ``index`` [B] of ``data``, padded, on the device."""
        return collate_examples(data, index, self.pad_id).to(self.device)

    def __call__(self, batch: Batch, feed: Feeding, *, training: bool) -> Tensor:
        """The logits for a batch, as the objective's question says."""
        return self.above(feed.hidden(batch), batch, training=training)

    def above(self, hidden: Tensor, batch: Batch, *, training: bool) -> Tensor:
        """The same from the hidden states of the batch at the frozen depth."""
        with self.mixed():
            return self.top(hidden, batch.mask, self.objective.question(batch, training=training))

    def loss(self, batch: Batch, feed: Feeding) -> Tensor:
        """The mean training loss of a batch."""
        return self.objective.loss(self(batch, feed, training=True), batch)
