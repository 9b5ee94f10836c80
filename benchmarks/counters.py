"""What is counted, not timed: bytes saved for the backward pass, and weights resident while training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def saved_bytes(step: Callable[[], object], model: nn.Module) -> int:
    """Bytes that autograd keeps between forward and backward of ``step``, each storage once, the model's own weights left out."""
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = step()  # alive until the bytes are summed, so that no storage is counted under a reused address
    total = sum(seen.values())
    del kept
    return total


def resident_bytes(*parts: nn.Module | nn.Parameter | Tensor) -> int:
    """Bytes of the weights of ``parts``, each storage once."""
    tensors = [t for part in parts for t in ((*part.parameters(), *part.buffers()) if isinstance(part, nn.Module) else (part,))]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())
