"""Linears that hold several roles side by side, such as GPT-2's ``c_attn``, split so that methods can change each role.

GPT-2 computes q, k and v with one ``Conv1D`` of weight [D, 3 D] (a linear whose weight is transposed), ModernBERT and
Phi-3 with one linear, and GPT-NeoX with one whose outputs go head by head. In the blocks that train, each role becomes
an ``nn.Linear`` of its own; the outputs are put side by side again, so the block notices nothing. Then LoRA on q and v
trains those rows and no other, as on any model.
:func:`join` puts the original layer back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from stratatune.methods.site import SideBySide, joined, taken_apart
from stratatune.model.stored import StoredConv1D, StoredLinear, is_stored
from stratatune.shapes.architectures import Architecture
from stratatune.shapes.shape import Shape


def separate(block: nn.Module, row: Architecture, roles: Iterable[str], shape: Shape) -> None:
    """Split the linears of a block that play one of ``roles``, in place, and transpose all transposed ones.

    The second time it finds nothing to do. ``shape``: the block's, whose roles may differ in width.
    """
    if not row.fused:
        return
    wanted = set(roles)
    for path, parts in row.fused.items():
        layer = block.get_submodule(path)
        # A block's transposed linears are turned all or none, so that `join` knows which were.
        if isinstance(layer, Conv1D) or (isinstance(layer, nn.Linear) and not wanted.isdisjoint(parts)):
            heads = shape.heads if row.fused_by_head else 0
            block.set_submodule(path, _apart(layer, {role: shape.linears[role].outputs for role in parts}, heads))
    for path in row.roles.values():
        layer = block.get_submodule(path)
        if isinstance(layer, Conv1D):
            block.set_submodule(path, _linear(layer.weight.t(), layer.bias, stored=is_stored(layer)))


def join(block: nn.Module, row: Architecture) -> None:
    """Put the original layers back, with the values that the separate ones have now (after a merge), if any."""
    turned = False
    for path in row.fused:
        layer = block.get_submodule(path)
        if isinstance(layer, SideBySide):
            parts = [layer.get_submodule(role) for role in layer.roles]
            block.set_submodule(path, _together(parts, layer.transposed, layer.heads))
            turned |= layer.transposed
    # The other roles (GPT-2's c_proj and c_fc) were turned one for one.
    for path in row.roles.values() if turned else ():
        layer = block.get_submodule(path)
        if isinstance(layer, nn.Linear):
            block.set_submodule(path, _together([layer], transposed=True))


def roles_now(block: nn.Module, row: Architecture) -> dict[str, str]:
    """The path of each role in this block as it is now; a role of a split linear has its own."""
    roles = dict(row.roles)
    for path, fused in row.fused.items():
        if isinstance(block.get_submodule(path), SideBySide):
            roles |= {role: f"{path}.{role}" for role in fused}
    return roles


def _apart(layer: nn.Module, outputs: dict[str, int], heads: int) -> SideBySide:
    """Split a linear [in, sum of outputs] into one for each role, in their order; ``heads``: as for ``joined``."""
    whole: Any = layer
    transposed, sizes = isinstance(layer, Conv1D), list(outputs.values())
    weights = taken_apart(whole.weight.t() if transposed else whole.weight, sizes, heads)
    biases = [None] * len(sizes) if whole.bias is None else taken_apart(whole.bias, sizes, heads)
    made = (_linear(weight, bias, stored=is_stored(layer)) for weight, bias in zip(weights, biases, strict=True))
    return SideBySide(dict(zip(outputs, made, strict=True)), transposed=transposed, heads=heads)


@torch.no_grad()
def _linear(weight: Tensor, bias: Tensor | None, *, stored: bool) -> nn.Linear:
    """A frozen linear with its own copy of ``weight`` [out, in] and ``bias`` [out]."""
    kind = StoredLinear if stored else nn.Linear
    # On meta, so that no weight is allocated and initialised only to be replaced. The rows are cloned: a view would
    # keep the fused matrix alive, and a step on one role would show in it.
    made = kind(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta").requires_grad_(False)
    made.weight = nn.Parameter(weight.clone(memory_format=torch.contiguous_format), requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.clone(), requires_grad=False)
    return made


@torch.no_grad()
def _together(parts: Sequence[nn.Module], transposed: bool, heads: int = 0) -> nn.Module:
    """Join linears into one; a part without a bias adds zeros where another has one."""
    linears: list[Any] = list(parts)
    weight, stored = joined([part.weight for part in linears], heads, 0), is_stored(parts[0])
    biases = [part.weight.new_zeros(part.out_features) if part.bias is None else part.bias for part in linears]
    bias = None if all(part.bias is None for part in linears) else joined(biases, heads, 0)
    if not transposed:
        return _linear(weight, bias, stored=stored)
    made = (StoredConv1D if stored else Conv1D)(*weight.shape).requires_grad_(False)
    made.weight = nn.Parameter(weight.t().contiguous(), requires_grad=False)
    assert bias is not None  # every Conv1D has one
    made.bias = nn.Parameter(bias, requires_grad=False)
    return made
