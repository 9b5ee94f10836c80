"""A top that does not fit in memory either: its frozen weights are read while a block runs, forward and backward.

Forward, a block's weights are read, it runs, and they go; nothing that it computed is kept but its input. Backward it
is read once more and run again, and then its gradients follow (activation checkpointing by block, Chen et al., 2016).
So two blocks are in memory, the one in use and the next, which is read meanwhile, and the activations of one. The last
block's backward pass comes right after its forward pass, so it is neither read nor run twice. A batch reads the top
about twice, however large the batch is.

What trains is in memory throughout. The numbers are those of a top in memory, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from stratatune.model.body import Body
from stratatune.model.unread import Unread
from stratatune.model.waves import BlockReader, bytes_of


class StreamedTop:
    """Runs the blocks above the trunk, whose frozen weights are in the checkpoint; see :attr:`Body.through`.

    Args:
        unread: the weights.
        body: the model and its parts.
        depth: the frozen depth: the blocks below it are the trunk's.
    """

    def __init__(self, unread: Unread, body: Body, depth: int) -> None:
        self.depth, self.last = depth, body.border - 1
        self.block_bytes = max(map(bytes_of, body.blocks[depth : body.border]))
        self._reader = BlockReader(unread, body)

    def __call__(self, number: int, block: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
        """Block ``number`` on [B, T, D], by ``block``; below the depth, its weights are in memory already."""
        if number < self.depth:
            return block(hidden)
        trains = torch.is_grad_enabled()
        if trains and number < self.last:
            return checkpoint(
                block,
                hidden,
                use_reentrant=False,
                context_fn=lambda: (
                    self._reader.block(number, ahead=number + 1, device=hidden.device),
                    # After the lowest block's backward pass the next batch begins, with the same block.
                    self._reader.block(number, ahead=max(number - 1, self.depth), device=hidden.device),
                ),
            )
        ahead = number + 1 if number < self.last else max(number - 1, self.depth) if trains else self.depth
        with self._reader.block(number, ahead=ahead, device=hidden.device):
            return block(hidden)


def deepest_unread(body: Body, depth: int, room: int | None) -> int:
    """The depth down to which blocks stay in the checkpoint: ``depth``, or the end of the (first) stack.

    Args:
        body: the body of an unread model.
        depth: the frozen depth.
        room: bytes that the blocks above it may take; None: as many as they need.
    """
    # Shared blocks run below the depth too, where a wave reads them.
    if room is None or body.shape.distinct:
        return depth
    above = body.blocks[depth : body.border]
    return body.border if sum(map(bytes_of, above)) > room else depth
