"""The path from a batch to the logits that an objective needs: the feed, the precision and the top, in one place.

Training, evaluation, prediction, trials and benchmarks all go through :class:`Forward`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from stratatune.cache.codec import Codec
from stratatune.cache.feed import Asking, Feed
from stratatune.cache.store import TrunkCache
from stratatune.data.batching import Batch, collate_examples
from stratatune.data.encoded import Encoded
from stratatune.errors import ResourceError
from stratatune.model.attached import Attached
from stratatune.model.question import Question
from stratatune.model.split import Top, Trunk
from stratatune.model.stored import computes_in
from stratatune.objectives.objective import Objective


class Feeding(Protocol):
    """Gives hidden states at the frozen depth."""

    def hidden(self, batch: Batch) -> Tensor:
        """The hidden states [B, T, D], or [B, 1, D] if one position matters."""
        ...

    def prefetch(self, coming: Sequence[np.ndarray], device: torch.device) -> contextlib.AbstractContextManager[None]:
        """While this is open, coming batches [B] may be read before they are needed."""
        ...


class ReadingAhead(Protocol):
    """The interface of a feed that an evaluation uses."""

    def prefetch(self, coming: Sequence[np.ndarray], device: torch.device) -> contextlib.AbstractContextManager[None]:
        """While this is open, coming batches may be read before they are needed."""
        ...


class Answering(Protocol):
    """The interface of a model that an evaluation uses, run by torch or by onnxruntime (``onnx_engine.py``)."""

    @property
    def objective(self) -> Objective:
        """The objective that the model answers."""
        ...

    @property
    def device(self) -> torch.device:
        """The device on which it computes."""
        ...

    @property
    def precision(self) -> torch.dtype:
        """The dtype of its numbers."""
        ...

    def evaluating(self) -> contextlib.AbstractContextManager[None]:
        """Turn dropout off while this is open."""
        ...

    def batch(self, data: Encoded, index: np.ndarray) -> Batch:
        """The examples ``index`` [B] of ``data``, padded, on the device."""
        ...

    def __call__(self, batch: Batch, feed: Any, *, training: bool) -> Tensor:
        """The objective's representation of a batch."""
        ...


class Below(Protocol):
    """A substitute for a :class:`stratatune.model.split.Trunk`: gives hidden states at the frozen depth.

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
        objective: the objective.
        pad_id: the token that fills a batch's shorter rows.
        device: the device on which it computes.
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
        """The forward of a tuned model's top."""
        if autocast is not None:
            attached.backbone.head.widen_output()
        return cls(Top(attached), objective, pad_id, device, autocast)

    @property
    def attached(self) -> Attached:
        """The state that :func:`stratatune.apply` attached to the model."""
        return self.top.attached

    @property
    def one_position(self) -> bool:
        """Whether only one position of a text's hidden state at the frozen depth matters."""
        return self.objective.positions == "one" and self.attached.all_in_trunk

    @property
    def question(self) -> Asking:
        """The question for a batch in use; the trunk needs to know no more."""
        return functools.partial(self.objective.question, training=False)

    @property
    def precision(self) -> torch.dtype:
        """The dtype in which the model computes."""
        return self.autocast or computes_in(self.attached.backbone.model)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Put the top into eval mode while this is open, then restore its mode."""
        was_training = self.top.training
        self.top.eval()
        try:
            yield
        finally:
            self.top.train(was_training)

    def mixed(self) -> torch.autocast:
        """The autocast context of the computation."""
        return torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None)

    def feed(
        self,
        cache: TrunkCache | None = None,
        codec: Codec | None = None,
        on_full: Callable[[ResourceError], None] | None = None,
        trunk: Below | None = None,
    ) -> Feed:
        """A feed of hidden states for this model's top; arguments as those of :class:`stratatune.cache.feed.Feed`.

        ``trunk``: a substitute for the model's own trunk.
        """
        return Feed(
            Trunk(self.attached) if trunk is None else cast("Trunk", trunk),  # a feed needs nothing else of it
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
        """The objective's representation of a batch: the logits that its question asks for, or a pooling of them.

        Texts whose representation is given (:attr:`Batch.given`) are not run.
        """
        if batch.given is None:
            return self.above(feed.hidden(batch), batch, training=training)
        rows = batch.computed
        if not len(rows):
            return batch.given
        asked = batch.texts(rows)
        found = self.above(feed.hidden(asked), asked, training=training)
        return batch.given.to(found.dtype).index_copy(0, rows, found)

    def remember(self, batch: Batch, feed: Feeding) -> None:
        """Run the trunk for a batch, so that the cache of ``feed`` has its hidden states."""
        if batch.given is None or len(batch.computed):
            feed.hidden(batch if batch.given is None else batch.texts(batch.computed))

    def above(self, hidden: Tensor, batch: Batch, *, training: bool) -> Tensor:
        """Compute the representation from the batch's hidden states at the frozen depth.

        Where the objective has the batch run in pieces, each is run again in the backward pass in place of keeping what
        it computed: gradient caching, with the random numbers of the first time. Pieces are cut by length.
        """
        size = self.objective.piece
        if not 0 < size < len(batch):
            return self.at_once(hidden, batch, training)
        order = batch.mask.sum(1).argsort(descending=True)
        found = []
        for rows in order.split(size):
            part = batch.texts(rows)
            states = hidden[rows, : part.mask.shape[1]]
            found.append(checkpoint(self.at_once, states, part, training, use_reentrant=False))
        return torch.cat(found)[order.argsort()]

    def at_once(self, hidden: Tensor, batch: Batch, training: bool) -> Tensor:
        """Compute as :meth:`above` does, never in pieces."""
        # The loss is left outside: objectives compute it in fp32.
        with self.mixed():
            question = replace(self.objective.question(batch, training=training), ids=batch.input_ids)
            logits = self.top(hidden, batch.mask, question)
            return self.objective.represent(logits, batch)

    def loss(self, batch: Batch, feed: Feeding) -> Tensor:
        """The mean training loss of a batch."""
        return self.objective.loss(self(batch, feed, training=True), batch)
