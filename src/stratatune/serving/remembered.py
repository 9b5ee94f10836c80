"""A trunk that runs once for each text, for all tasks, and keeps its output for a while."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from stratatune.cache.feed import run_trunk
from stratatune.data.batching import collate, plan_batches
from stratatune.data.encoded import Encoded
from stratatune.model.question import Question
from stratatune.training.forward import Forward

_TOKEN_BUDGET = 16_384


class RememberedTrunk:
    """Hidden states of texts by their tokens; a substitute for a :class:`stratatune.model.split.Trunk`.

    Args:
        limit: bytes that are kept when nothing is being computed; the texts that were requested longest ago go first.

    Attributes:
        asked: how many texts tasks have requested.
        computed: the number of texts for which the trunk has run.
    """

    trains = False

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.asked = self.computed = 0
        self._rows: OrderedDict[bytes, Tensor] = OrderedDict()  # [T, D] each
        self._bytes = 0

    def run(self, forward: Forward, parts: Sequence[Encoded], batch_size: int = 64) -> None:
        """Run the trunk of ``forward`` for the texts in ``parts`` that are not remembered, each once."""
        for data in parts:
            data = data.ungrouped()  # its texts, of which an example may have several
            keys = list(_keys(data))
            self.asked += len(keys)
            fresh: dict[bytes, int] = {}
            for number, key in enumerate(keys):
                if key in self._rows:
                    self._rows.move_to_end(key)
                else:
                    fresh.setdefault(key, number)
            if fresh:
                self._compute(forward, data.subset(np.fromiter(fresh.values(), np.int64)), list(fresh), batch_size)

    @torch.no_grad()
    def _compute(self, forward: Forward, data: Encoded, keys: list[bytes], batch_size: int) -> None:
        budget = max(_TOKEN_BUDGET, int(data.lengths.max()))
        trunk = forward.feed().trunk
        batches = plan_batches(data.lengths, batch_size=batch_size, token_budget=budget, seed=0, epoch=0, shuffle=False)
        for index in batches:
            batch = collate(data, index, forward.pad_id).to(forward.device)
            hidden = run_trunk(trunk, batch, one_position=False, autocast=forward.autocast)
            for row, number in enumerate(index):
                self._keep(keys[number], hidden[row, : int(data.lengths[number])].clone())
        self.computed += len(keys)

    def _keep(self, key: bytes, rows: Tensor) -> None:
        self._rows[key] = rows
        self._bytes += rows.nbytes

    def trim(self) -> None:
        """Forget the oldest texts beyond the limit."""
        while self._bytes > self.limit and self._rows:
            _, rows = self._rows.popitem(last=False)
            self._bytes -= rows.nbytes

    @property
    def bytes(self) -> int:
        """The bytes of the remembered hidden states."""
        return self._bytes

    def __call__(
        self, input_ids: Tensor, mask: Tensor, token_types: Tensor | None = None, question: Question | None = None
    ) -> Tensor:
        """``input_ids`` [B, T], ``mask`` [B, T] bool, ``token_types`` [B, T] -> [B, T, D], zeros for padding."""
        ids, lengths = input_ids.int().cpu().numpy(), mask.sum(dim=1).tolist()
        types = None if token_types is None else token_types.to(torch.int8).cpu().numpy()
        found = [
            self._rows[_key(row[:length], None if types is None else types[number, :length])]
            for number, (row, length) in enumerate(zip(ids, lengths, strict=True))
        ]
        return torch.nn.utils.rnn.pad_sequence(found, batch_first=True)


def _keys(data: Encoded) -> Iterator[bytes]:
    ids = data.ids.astype(np.int32, copy=False)
    for start, end in zip(data.offsets[:-1], data.offsets[1:], strict=True):
        yield _key(ids[start:end], None if data.types is None else data.types[start:end])


def _key(ids: np.ndarray, types: np.ndarray | None) -> bytes:
    return ids.tobytes() if types is None else ids.tobytes() + types.tobytes()
