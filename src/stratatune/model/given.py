"""A tuned model's own forward from a given hidden state: everything below that depth is left out.

The model's own code does the rest (masks, blocks, head, loss, outputs), so its output is the usual one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from stratatune.model.body import Body
from stratatune.model.families.carried import SHARED, without_shared


@contextmanager
def given_hidden(body: Body, depth: int, hidden: Tensor) -> Iterator[None]:
    """While this is open, the block below ``depth`` returns ``hidden`` [B, T, D], and those below it compute nothing.

    ``depth`` is at least 1. Where blocks share weights, their runs are counted. Keys and values that blocks above read
    follow in ``hidden``, as a trunk gives them.
    """
    # A shared block is there several times, and its forward can be put back only once.
    below = list(dict.fromkeys(body.blocks[:depth]))
    first = {block: number for number, block in reversed(list(enumerate(body.blocks)))}
    for block in below:
        vars(block)["forward"] = _Skipped(body, block, first[block], depth, hidden)
    try:
        yield
    finally:
        for block in below:
            del vars(block)["forward"]


class _Skipped:
    """Replaces a block's forward."""

    def __init__(self, body: Body, block: nn.Module, number: int, depth: int, hidden: Tensor) -> None:
        self.body, self.block, self.number, self.depth, self.hidden = body, block, number, depth, hidden

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # A shared block runs below the depth and above it, so it must know which run this is.
        number = self.body.passes.done if self.body.passes.shared else self.number
        if number >= self.depth:
            return type(self.block).forward(self.block, *args, **kwargs)
        hidden = args[0] if args else kwargs["hidden_states"]
        if number == self.depth - 1:
            hidden, shared = without_shared(self.body, self.depth, self.hidden)
            kwargs.get(SHARED, {}).update(shared or {})
        if not self.body.row.tuple_blocks:
            return hidden
        return (hidden, None, None) if len(self.body.row.stacks) > 1 else (hidden, None)  # as the stack unpacks it
