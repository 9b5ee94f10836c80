"""How many blocks a backward pass really went through: counted while it runs, not predicted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from stratatune.model.attached import Attached


def count_backward_blocks(strata: Attached, run: Callable[[], Any]) -> int:
    """Blocks in which at least one part computed gradients while ``run`` did a forward and a backward pass.

    Every part of a block that plays a role is watched, so it does not matter whether the model's own forward runs the
    block or :class:`~stratatune.model.split.Top` does, nor whether activations are checkpointed: only what the
    autograd engine executes counts.
    """
    reached: set[int] = set()
    with contextlib.ExitStack() as watching:
        for number in range(len(strata.backbone.blocks)):
            site = strata.backbone.site(number)
            for _, module in site.modules(site.roles):
                handle = module.register_forward_hook(_Watch(number, reached), prepend=True)
                watching.callback(handle.remove)
        run()
    return len(reached)


class _Watch:
    """A forward hook that notes its block's number when the backward pass reaches the module's output."""

    def __init__(self, number: int, reached: set[int]) -> None:
        self.number = number
        self.reached = reached

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        # A router returns its scores among others.
        for one in output if isinstance(output, tuple) else (output,):
            if one.grad_fn is not None:
                one.grad_fn.register_prehook(self._note)

    def _note(self, gradients: tuple[Tensor | None, ...]) -> None:
        if any(gradient is not None for gradient in gradients):
            self.reached.add(self.number)
