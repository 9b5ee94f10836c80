"""Run the trunk of a model that does not fit in memory: many batches at once go through one block after another.

Each block is read once for all the batches of a wave, and the next one meanwhile. A batch meets the same modules, masks
and positions as in the model's own forward, so the numbers are bit for bit the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stratatune.model.body import Body
from stratatune.model.families.family import Family
from stratatune.model.question import Question
from stratatune.model.unread import Slots, Unread, in_memory


@dataclass
class Texts:
    """A batch that the trunk is to run over.

    Attributes:
        ids: tokens [B, T].
        mask: which of them are real [B, T] bool.
        types: token types [B, T] or None.
        question: says which candidates follow a decoder's text.
    """

    ids: Tensor
    mask: Tensor
    types: Tensor | None
    question: Question


@torch.no_grad()
def run_wave(family: Family, unread: Unread, depth: int, texts: Sequence[Texts]) -> list[Tensor]:
    """The hidden states [B, T, D] of each batch at ``depth``.

    Raises:
        ModelError: the checkpoint cannot be read.
    """
    body, device = family.body, texts[0].ids.device
    begun = [family.begin(one.ids, one.mask, one.types, depth, one.question) for one in texts]
    hidden, calls = [state for state, _ in begun], [calls for _, calls in begun]
    # An encoder-decoder's trunk ends with its encoder, however deep the frozen part goes into the decoder.
    numbers = range(min(depth, body.border))
    with BlockReader(unread, body) as reader:
        for number in numbers:
            ahead = None if number == numbers[-1] else number + 1
            with reader.block(number, ahead=ahead, device=device):
                for place, state in enumerate(hidden):
                    hidden[place] = body.run_block(number, state, calls[place][number])
    return [family.behind_trunk(state, depth, of) for state, of in zip(hidden, calls, strict=True)]


class BlockReader:
    """Reads the blocks of a model, one ahead of the one in use.

    Args:
        unread: their weights.
        body: has them.
    """

    def __init__(self, unread: Unread, body: Body) -> None:
        self.unread, self.body = unread, body
        # One thread and one block ahead: so at most two blocks are in memory.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stratatune-blocks")
        self._coming: tuple[int, Slots, Future[dict[int, Tensor]]] | None = None

    def __enter__(self) -> BlockReader:
        return self

    def __exit__(self, *error: Any) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    @contextmanager
    def block(self, number: int, *, ahead: int | None, device: torch.device) -> Iterator[None]:
        """Yield block ``number`` on ``device``; meanwhile block ``ahead`` is being read (None: none)."""
        # The first block of a wave was not announced by one before it.
        if self._coming is None or self._coming[0] != number:
            self._coming = self._begin(number)
        _, slots, values = self._coming
        self._coming = None if ahead is None else self._begin(ahead)
        with in_memory(slots, values, device):
            yield

    def _begin(self, number: int) -> tuple[int, Slots, Future[dict[int, Tensor]]]:
        slots = self.unread.slots(self.body.blocks[number])
        return number, slots, self._thread.submit(self._read, slots)

    def _read(self, slots: Slots) -> dict[int, Tensor]:
        return {id(one): self.unread.read(one) for one in {id(slot[2]): slot[2] for slot in slots}.values()}


def bytes_of(part: nn.Module) -> int:
    """The bytes that the parameters of ``part`` take in memory, or would take."""
    return sum(one.numel() * one.element_size() for one in part.parameters())
