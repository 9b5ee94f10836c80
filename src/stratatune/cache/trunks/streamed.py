"""``streamed``: the trunk is read from its checkpoint, a block at a time, for as many tokens as memory holds.

A wave of batches goes through all blocks together, so each block is read once a wave, and the next one while this one
computes. After a wave its hidden states are written: a run that was stopped continues with the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from stratatune.cache.feed import Feed
from stratatune.cache.on_device import room_on
from stratatune.cache.trunks.source import building_batches
from stratatune.data.batching import Batch, collate
from stratatune.data.encoded import Encoded
from stratatune.model.families.last_block import take
from stratatune.model.question import Question
from stratatune.model.split import Trunk
from stratatune.model.unread import Unread
from stratatune.model.waves import Texts, bytes_of, run_wave
from stratatune.shapes.shape import Shape

_FP32 = 4
_IN_USE = 0.5  # of the memory for a wave, at most, for what one batch computes in a block


@dataclass(frozen=True)
class Room:
    """The amount that fits into a wave.

    Attributes:
        bytes: memory for the hidden states of a wave and what one batch computes in a block.
        shape: sizes of the model.
    """

    bytes: int
    shape: Shape

    def rows(self, tokens: int) -> int:
        """The number of texts of ``tokens`` tokens that may be one batch."""
        # Values a token at the widest place of a block: the FFN's, the projections', and eager attention's H x T
        # scores.
        ffn = max(self.shape.of_block(number).ffn for number in range(self.shape.blocks))
        inner = 3 * ffn + 8 * self.shape.hidden + 3 * self.shape.heads * tokens  # eager attention
        return max(1, int(_IN_USE * self.bytes / (tokens * inner * _FP32)))

    def held(self, batch: int, tokens: int) -> int:
        """Bytes that a batch of a wave holds: a hidden state, masks of two forms, and what blocks read besides."""
        shape = self.shape
        beside = shape.token_part * shape.blocks + max(map(shape.width, range(shape.blocks))) - shape.hidden
        return batch * tokens * (2 * shape.hidden + 2 * tokens + beside) * _FP32


class Streamed:
    """A trunk that is not in memory; see :class:`stratatune.cache.trunks.source.TrunkSource`.

    The numbers are those of the trunk in memory, so ``digest`` says nothing.

    Args:
        unread: the weights.
        memory: bytes that a wave may take.
        device: where it computes.
    """

    digest = ""

    def __init__(self, unread: Unread, memory: int, device: torch.device) -> None:
        # A wave's hidden states are on the device, whose own memory may be less than the machine's.
        self.memory = min(memory, room_on(device)) if device.type == "cuda" else memory
        self.unread, self.device = unread, device

    def fill(
        self,
        feed: Feed,
        data: Encoded,
        pad_id: int,
        advance: Callable[[int], object],
        batches: Sequence[np.ndarray] | None = None,
    ) -> None:
        """Fill the cache wave by wave; see the module's docstring."""
        assert feed.cache is not None
        assert isinstance(feed.trunk, Trunk)
        room = Room(self.memory, feed.trunk.attached.resolved.shape)
        wanted = building_batches(data) if batches is None else batches
        advance(sum(int(feed.cache.has(index).sum()) for index in wanted))
        for wave in self._waves(feed, data, room, wanted):
            self._run(feed, [collate(data, index, pad_id).to(self.device) for index in wave])
            # After each wave, so that a run that is stopped reads the checkpoint again for one wave only.
            feed.flush()
            advance(sum(len(index) for index in wave))

    def _waves(self, feed: Feed, data: Encoded, room: Room, wanted: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
        """The missing examples, in batches and waves that fit."""
        assert feed.cache is not None
        wave: list[np.ndarray] = []
        held = 0.0
        for whole in wanted:
            lacking = whole[~feed.cache.has(whole)]
            longest = int(data.lengths[lacking].max(initial=1))
            count = room.rows(longest)
            for index in (lacking[start : start + count] for start in range(0, len(lacking), count)):
                more = room.held(len(index), longest)
                # At least one batch a wave, however little memory there is: it may still fit.
                if wave and held + more > (1 - _IN_USE) * room.bytes:
                    yield wave
                    wave, held = [], 0.0
                wave.append(index)
                held += more
        if wave:
            yield wave

    def _run(self, feed: Feed, batches: list[Batch]) -> None:
        trunk = feed.trunk
        assert isinstance(trunk, Trunk)
        ask = feed.question
        texts = [
            Texts(one.input_ids, one.mask, one.token_types, Question() if ask is None else ask(one)) for one in batches
        ]
        mixed = torch.autocast(self.device.type, dtype=feed.autocast, enabled=feed.autocast is not None)
        with feed.clock.in_trunk(self.device), mixed:
            found = run_wave(trunk.family, self.unread, trunk.depth, texts)
        for place, batch in enumerate(batches):
            hidden = take(found[place], batch.read) if feed.one_position else found[place]
            feed.remember(batch, hidden)
            feed.clock.computed += len(batch.index)


def wave_memory(limit: int, used: int, blocks: torch.nn.ModuleList) -> int:
    """The bytes that are left for a wave: ``limit`` less the memory in use and two blocks of the trunk."""
    return limit - used - 2 * max(map(bytes_of, blocks), default=0)
