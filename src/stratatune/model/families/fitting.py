"""Check that a row fits a live model: the arguments of the blocks and, where a user added the row, what comes out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stratatune.errors import ModelError
from stratatune.model.body import Body
from stratatune.model.skeleton import Call


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


def check_calls(body: Body, theirs: Sequence[Call], ours: Sequence[Call], mask: Tensor) -> None:
    """Refuse a model that gives its blocks other masks or rotary angles than they get here.

    Args:
        body: the model.
        theirs: the arguments of each block, as the model's own forward gives them.
        ours: those that its family gives.
        mask: the real tokens of the texts that both are for, [B, T] bool.

    Raises:
        ModelError: they differ at a real token.
    """
    for number, (own, made) in enumerate(zip(theirs, ours, strict=True)):
        for name in ("attention_mask", "position_embeddings"):
            if not _agree(own.kwargs.get(name), made.kwargs.get(name), mask):
                raise ModelError(
                    f"{type(body.model).__name__}: its config or its code gives block {number} another {name} than "
                    f"{body.row.name} models have",
                    "use a model without that setting; fields such as layer_types and rope_parameters decide it",
                )


def _agree(own: Any, made: Any, mask: Tensor) -> bool:
    """Whether two masks [B, 1, T, T], or two tables of angles [B, T, W], are equal at the real tokens."""
    if isinstance(own, tuple | list):
        return all(_agree(*pair, mask) for pair in zip(own, made, strict=True))
    if not isinstance(own, Tensor) or not isinstance(made, Tensor):
        return True  # other kernels for attention take masks in forms of their own
    if own.dim() == 2:  # of a block that carries a state: which tokens are real
        return torch.equal(own.bool(), made.bool())
    if own.dim() == 4:
        seen = [(one if one.dtype is torch.bool else one == 0)[:, 0] for one in (own, made)]
        return torch.equal(*(one[mask] for one in seen))
    return torch.allclose(*(one.expand(*mask.shape, -1)[mask].float() for one in (own, made)), rtol=0, atol=1e-2)


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
