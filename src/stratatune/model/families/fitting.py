"""Check that a row added by a user fits its live model: the arguments of the blocks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from stratatune.errors import ModelError
from stratatune.model.body import Body


@torch.no_grad()
def check_alike(body: Body, both_ways: Callable[[], tuple[Tensor, Tensor]], hint: str) -> None:
    """Refuse a model whose own forward and whose blocks, called as the row says, give different numbers.

    Args:
        body: the model; it is in eval mode meanwhile.
        both_ways: gives both.
        hint: the fix.

    Raises:
        ModelError: they differ, or a block does not take the row's arguments.
    """
    model, training = body.model, body.model.training
    try:
        model.eval()
        wanted, found = both_ways()
    except (TypeError, ValueError, AttributeError, RuntimeError, KeyError, IndexError) as error:
        # A wrong row fails wherever the model's code first meets it; to the user all of these mean the same.
        reason = str(error).partition("\n")[0]
        raise ModelError(
            f"{type(model).__name__}: its blocks cannot be run as its row describes: {reason}", hint
        ) from error
    finally:
        model.train(training)
    # Above the rounding of half precision, and far below the effect of a missing scale or bias.
    if not torch.allclose(found, wanted, rtol=0, atol=0.01 * wanted.abs().max().item()):
        raise ModelError(f"{type(model).__name__} does more around its blocks than its row describes", hint)


def some_tokens(body: Body) -> Tensor:
    """Five token numbers [1, 5]."""
    return torch.arange(1, 6, device=next(body.model.parameters()).device)[None] % body.shape.vocab


@contextlib.contextmanager
def entering(block: nn.Module) -> Iterator[list[Tensor]]:
    """Yield the list of hidden states that ``block`` is called with while this is open."""
    seen: list[Tensor] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    handle = block.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()
