"""The place of a method: some roles of one block (or of the head) of a live model.

Methods never look for modules by name. They are handed a :class:`Site` and ask it for a role; which module plays that
role is one row of the backbone table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


def train(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Mark ``parameters`` as trained, and return them."""
    trained = list(parameters)
    for parameter in trained:
        parameter.requires_grad_(True)
    return trained


def joined(parts: Sequence[Tensor], heads: int, dim: int) -> Tensor:
    """The values of several roles in the order of the one linear that computes them, along ``dim``.

    ``heads``: their number where the linear's outputs go head by head, with all roles of one head next to each other
    (GPT-NeoX); 0: role by role.
    """
    if not heads:
        return torch.cat([*parts], dim)
    at = dim % parts[0].dim()
    return torch.cat([part.unflatten(at, (heads, -1)) for part in parts], at + 1).flatten(at, at + 1)


def taken_apart(whole: Tensor, widths: Sequence[int], heads: int) -> Sequence[Tensor]:
    """The rows of each role of ``whole`` [sum of ``widths``, ...]: the inverse of :func:`joined` along dimension 0."""
    if not heads:
        return whole.split([*widths])
    by_head = whole.unflatten(0, (heads, -1)).split([width // heads for width in widths], 1)
    return [rows.flatten(0, 1) for rows in by_head]


class SideBySide(nn.Module):
    """``[W_1 x + b_1, ..., W_n x + b_n]``: one linear per role, in the order of the layer that it replaces.

    Args:
        parts: role -> its linear [in, out].
        transposed: whether the weight of that layer is [in, out] (GPT-2's ``Conv1D``).
        heads: as for :func:`joined`.
    """

    def __init__(self, parts: dict[str, nn.Linear], *, transposed: bool = False, heads: int = 0) -> None:
        super().__init__()
        self.roles, self.transposed, self.heads = tuple(parts), transposed, heads
        for role, linear in parts.items():
            self.add_module(role, linear)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., in] -> [..., sum of outs]."""
        return joined([self.get_submodule(role)(x) for role in self.roles], self.heads, -1)


@dataclass(frozen=True)
class Site:
    """One block of a live model together with the dotted path of each role in it.

    Attributes:
        module: the block (or the whole model, for the head and the embeddings).
        roles: role -> dotted path of the module that plays it, relative to ``module``.
        name: how to speak of this place in messages, such as ``"block 5"``.
        read_by: a norm's role -> the roles of the linears that read its output, where nothing else does.
    """

    module: nn.Module
    roles: Mapping[str, str]
    name: str
    read_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def get(self, role: str) -> nn.Module:
        """The module that plays ``role`` now (a wrapper, when a method put one there)."""
        return self.module.get_submodule(self.roles[role])

    def parent(self, role: str) -> nn.Module:
        """The module that contains ``role``: the attention, for ``q``, fused with other roles or not."""
        path = self.roles[role].rpartition(".")[0]
        if isinstance(self.module.get_submodule(path), SideBySide):
            path = path.rpartition(".")[0]
        return self.module.get_submodule(path)

    def replace(self, role: str, module: nn.Module) -> None:
        """Put ``module`` in the place of ``role``."""
        parent, _, leaf = self.roles[role].rpartition(".")
        setattr(self.module.get_submodule(parent), leaf, module)

    def modules(self, roles: Iterable[str]) -> Iterator[tuple[str, Any]]:
        """``(role, module)`` for those of ``roles`` that this architecture has."""
        for role in roles:
            if role in self.roles:
                yield role, self.get(role)


@dataclass(frozen=True)
class Place:
    """A depth of a live model, as an insertion sees it.

    Attributes:
        depth: the number of blocks below it.
        hidden: D.
        before: prompt positions of earlier insertions; the first token is at this position.
        words: the model's word embeddings, [V] numbers to vectors of width E.
        embed: ``vectors [P, D] -> [1, P, D]``: embeds vectors given in place of the first P words.
        read: ``(hidden [B, T, D] at depth 0, mask [B, T]) -> [B, D]``: the model's output for the text, in eval mode
            and without autograd: the last hidden state of the first token, or in a decoder of the last.
    """

    depth: int
    hidden: int
    before: int
    words: nn.Embedding
    embed: Callable[[Tensor], Tensor]
    read: Callable[[Tensor, Tensor], Tensor]
