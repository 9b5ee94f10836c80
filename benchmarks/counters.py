"""What is counted, not timed: operations, bytes saved for the backward pass, and weights resident while training."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


def saved_bytes(step: Callable[[], object], *weights: nn.Module | nn.Parameter | Tensor) -> int:
    """Bytes that autograd keeps between forward and backward of ``step``, each storage once, ``weights`` left out."""
    own = {t.untyped_storage().data_ptr() for t in _tensors(weights)}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # a node that saves its own output would otherwise hold itself, for ever

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = step()  # alive until the bytes are summed, so that no storage is counted under a reused address
    total = sum(seen.values())
    del kept
    return total


def counted_flops(step: Callable[[], object]) -> int:
    """FLOPs of the matrix products that ``step`` really does, its backward pass included."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def resident_bytes(*parts: nn.Module | nn.Parameter | Tensor) -> int:
    """Bytes of the weights of ``parts``, each storage once."""
    tensors = _tensors(parts)
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def _tensors(parts: Iterable[nn.Module | nn.Parameter | Tensor]) -> list[Tensor]:
    return [
        tensor
        for part in parts
        for tensor in ((*part.parameters(), *part.buffers()) if isinstance(part, nn.Module) else (part,))
    ]
