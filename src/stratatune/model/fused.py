"""Linears that hold several roles side by side, such as GPT-2's ``c_attn``, taken apart so that each role can be
treated.

GPT-2 keeps q, k and v as one ``Conv1D`` with weight [D, 3 D] (a linear whose weight is transposed). In the blocks that
train, each role becomes an ``nn.Linear`` of its own; the outputs are put side by side again, so the block notices
nothing. Then LoRA on q and v trains those slices and no other, as on any model. :func:`join` puts the original layer
back.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from stratatune.methods.site import SideBySide, Site
from stratatune.model.stored import StoredConv1D, StoredLinear, is_stored
from stratatune.shapes.architectures import Architecture


def separate(block: nn.Module, row: Architecture) -> None:
    """Take the fused and the transposed linears of a block apart, in place; the second time it finds nothing to do."""
    if not row.fused:
        return
    site = Site(block, {**row.roles, **{path: path for path in row.fused}}, "block")
    for path, roles in row.fused.items():
        layer = site.get(path)
        if isinstance(layer, Conv1D):
            weights, biases = layer.weight.chunk(len(roles), dim=1), layer.bias.chunk(len(roles))
            parts = {role: _linear(w, b, layer) for role, w, b in zip(roles, weights, biases, strict=True)}
            site.replace(path, SideBySide(parts))
    for role, layer in site.modules(row.roles):
        if isinstance(layer, Conv1D):
            site.replace(role, _linear(layer.weight, layer.bias, layer))


def join(block: nn.Module, row: Architecture) -> None:
    """Put the original layers back, holding what the separate ones hold now (after a merge); else nothing changes."""
    if not row.fused:
        return
    site = Site(block, {**row.roles, **{path: path for path in row.fused}}, "block")
    for path, roles in row.fused.items():
        layer = site.get(path)
        if isinstance(layer, SideBySide):
            site.replace(path, _conv([layer.get_submodule(role) for role in roles]))
    # The other roles (GPT-2's c_proj and c_fc) were transposed one for one.
    fused = {role for roles in row.fused.values() for role in roles}
    for role, layer in site.modules(role for role in row.roles if role not in fused):
        if isinstance(layer, nn.Linear):
            site.replace(role, _conv([layer]))


def roles_now(block: nn.Module, row: Architecture) -> dict[str, str]:
    """Role -> path in this block as it is now: of a fused layer that was not taken apart, that of the layer itself."""
    roles = dict(row.roles)
    for path, fused in row.fused.items():
        if not isinstance(block.get_submodule(path), SideBySide):
            roles |= dict.fromkeys(fused, path)
    return roles


@torch.no_grad()
def _linear(weight: Tensor, bias: Tensor, of: Conv1D) -> nn.Linear:
    """``weight`` [in, out], ``bias`` [out] of a Conv1D as a linear that owns its numbers; frozen."""
    kind = StoredLinear if isinstance(of, StoredConv1D) else nn.Linear
    # On meta, so that no weight is allocated and initialised only to be replaced. The slice is cloned: a view would
    # keep the fused matrix alive, and a step on one role would show in it.
    made = kind(weight.shape[0], weight.shape[1], device="meta").requires_grad_(False)
    made.weight = nn.Parameter(weight.t().clone(memory_format=torch.contiguous_format), requires_grad=False)
    made.bias = nn.Parameter(bias.clone(), requires_grad=False)
    return made


@torch.no_grad()
def _conv(parts: list[nn.Module]) -> Conv1D:
    """Linears side by side as one Conv1D."""
    weight = torch.cat([part.weight for part in parts]).t().contiguous()  # pyright: ignore[reportArgumentType, reportCallIssue]
    kind = StoredConv1D if is_stored(parts[0]) else Conv1D
    made = kind(weight.shape[1], weight.shape[0]).requires_grad_(False)
    made.weight = nn.Parameter(weight, requires_grad=False)
    made.bias = nn.Parameter(torch.cat([part.bias for part in parts]), requires_grad=False)  # pyright: ignore[reportArgumentType, reportCallIssue]
    return made
