"""Counts instead of times: operations, bytes saved for the backward pass, and weights resident while training."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


class _Held:
    """A saved tensor that autograd holds, until it drops the node that saved it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # a node that saves its own output would otherwise hold itself forever


def saved_bytes(step: Callable[[], object], *weights: nn.Module | nn.Parameter | Tensor) -> int:
    """The bytes that autograd keeps between forward and backward of ``step``, each storage once, less ``weights``."""
    own = {t.untyped_storage().data_ptr() for t in _tensors(weights)}
    saved: list[weakref.ref[_Held]] = []

    def pack(tensor: Tensor) -> _Held:
        held = _Held(tensor)
        saved.append(weakref.ref(held))
        return held

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
        kept = step()
    # Only tensors that are still held have unique addresses: a dropped one may have left its address to another.
    held = [one for one in (reference() for reference in saved) if one is not None]
    storages = {s.data_ptr(): s.nbytes() for s in (one.tensor.untyped_storage() for one in held)}
    del kept
    return sum(size for address, size in storages.items() if address not in own)


def counted_flops(step: Callable[[], object]) -> int:
    """The FLOPs of the matrix products that ``step`` really computes, with its backward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def resident_bytes(*parts: nn.Module | nn.Parameter | Tensor) -> int:
    """The bytes of the weights of ``parts``, each storage once."""
    tensors = _tensors(parts)
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def _tensors(parts: Iterable[nn.Module | nn.Parameter | Tensor]) -> list[Tensor]:
    return [
        tensor
        for part in parts
        for tensor in ((*part.parameters(), *part.buffers()) if isinstance(part, nn.Module) else (part,))
    ]
