"""Hooks on the n-th run of a block, also where one block runs several times in a forward (ALBERT)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

Call = tuple[tuple[Any, ...], dict[str, Any]]
Before = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Call | None]
After = Callable[[nn.Module, tuple[Any, ...], Any], Any]


class Passes:
    """Registers hooks by the number of a block, 0..L-1.

    Where blocks share weights, the runs of a forward are counted: each hook looks whether it is its turn.

    Args:
        base: the encoder; its forward begins the count.
        blocks: L modules, some perhaps the same.
    """

    def __init__(self, base: nn.Module, blocks: nn.ModuleList) -> None:
        self.blocks = blocks
        self.shared = len(set(blocks)) < len(blocks)
        self.done = 0
        self.handles: list[RemovableHandle] = []
        # Only where blocks share weights: in other models a counter in every forward would cost time for no use.
        if self.shared:
            self.handles.append(base.register_forward_pre_hook(self._begin))
            self.handles += [block.register_forward_hook(self._count) for block in dict.fromkeys(blocks)]

    def _begin(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.done = 0

    def _count(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.done += 1

    def is_due(self, number: int) -> bool:
        """Whether it is block ``number``'s turn: that many blocks have run."""
        return not self.shared or self.done == number

    def before(self, number: int, hook: Before, *, first: bool = False) -> RemovableHandle:
        """Register ``hook`` before block ``number``; ``first``: before the hooks that are there already."""
        in_turn = _InTurn(self, number, hook)
        return self.blocks[number].register_forward_pre_hook(in_turn, prepend=first, with_kwargs=True)

    def after(self, number: int, hook: After, *, first: bool = False) -> RemovableHandle:
        """Register ``hook`` after block ``number``; ``first``: before the hooks that are there already."""
        due = number if first else number + 1  # the count is a hook too, and the first to have been registered
        return self.blocks[number].register_forward_hook(_InTurn(self, due, hook), prepend=first)


class _InTurn:
    """A hook that runs once ``due`` blocks have run. (No closure: a copy of the model must get a copy of it.)"""

    def __init__(self, passes: Passes, due: int, hook: Callable[..., Any]) -> None:
        self.passes = passes
        self.due = due
        self.hook = hook

    def __call__(self, *given: Any) -> Any:
        return self.hook(*given) if self.passes.is_due(self.due) else None
