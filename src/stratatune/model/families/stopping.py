"""A model's own forward, stopped before a block, or run without its blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from stratatune.model.body import Body
from stratatune.model.skeleton import Call


class _Reached(Exception):
    """Carries the hidden state out of the model's forward."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


def run_up_to(body: Body, depth: int, run: Callable[[], Any]) -> Tensor:
    """The hidden state [B, T, D] with which ``run``, a forward of the model, reaches ``depth``.

    It stops before block ``depth``, or after the last block when that is the model's depth.
    """
    if depth == len(body.blocks):
        return run_through(body, depth, run)
    # Before other hooks: those insert and cut at this depth, and insertions belong to the top.
    return _stopped(body.passes.before(depth, _leave_before, first=True), run)


def run_through(body: Body, depth: int, run: Callable[[], Any]) -> Tensor:
    """The output [B, T, D] of the last block below ``depth``; the run stops right after that block."""
    return _stopped(body.passes.after(depth - 1, _leave_after, first=True), run)


def _stopped(handle: RemovableHandle, run: Callable[[], Any]) -> Tensor:
    try:
        run()
    except _Reached as reached:
        return reached.hidden
    finally:
        handle.remove()
    raise AssertionError("the model's forward never reached its own blocks")


def _leave_before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NoReturn:
    raise _Reached(args[0] if args else kwargs["hidden_states"])


def _leave_after(module: nn.Module, args: tuple[Any, ...], output: Any) -> NoReturn:
    raise _Reached(output[0] if isinstance(output, tuple) else output)


@contextmanager
def recorded(body: Body, depth: int) -> Iterator[list[Call]]:
    """While this is open, the blocks below ``depth`` pass the hidden state on unchanged and record their arguments."""
    calls: list[Call] = []

    def note(*args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs.pop("hidden_states")
        calls.append(Call(args[1:], kwargs))
        return (hidden, None) if body.row.tuple_blocks else hidden

    # A shared block is there several times, and its method can be put back only once.
    distinct = list(dict.fromkeys(body.blocks[:depth]))
    own = {block: vars(block)["forward"] for block in distinct if "forward" in vars(block)}  # such as accelerate's
    for block in distinct:
        # On the instance it hides the class's method, and hooks on the block still run.
        vars(block)["forward"] = note
    try:
        yield calls
    finally:
        for block in distinct:
            if block in own:
                vars(block)["forward"] = own[block]
            else:
                del vars(block)["forward"]
