"""Hooks that run insertions in an encoder, on its own or before a decoder.

The caller's mask says which tokens are real. A prompt makes the sequence longer, so the blocks after it are called with
masks and positions of P + T.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from stratatune.model.families.family import Family
from stratatune.model.families.outputs import hidden_in, with_hidden
from stratatune.model.insertions import Insertions
from stratatune.model.passes import Call
from stratatune.model.skeleton import Call as BlockCall


def install_in_encoder(
    family: Family, inserted: Insertions, encoder: nn.Module
) -> tuple[list[RemovableHandle], Flow, int]:
    """Register the hooks before the blocks of ``encoder``.

    Returns:
        The handles, the state that the hooks of one forward share, and the number of positions that are put first.
    """
    body, flow, prompt = family.body, Flow(family), 0
    handles = [encoder.register_forward_pre_hook(flow.begin, with_kwargs=True)]
    for depth in range(body.border):
        for insertion in inserted.at(depth):
            handles.append(body.passes.before(depth, Insert(insertion, flow)))
            prompt += insertion.tokens
        if prompt:
            # Every block from there on needs masks of the longer sequence, not only the one at which a prompt enters.
            handles.append(body.passes.before(depth, Recall(flow, depth)))
    return handles, flow, prompt


class Flow:
    """The state that the hooks of one forward share: the caller's mask, and the blocks' calls for longer sequences."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.mask: Tensor | None = None
        self.calls: list[BlockCall] = []

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Remember the mask of the forward that begins."""
        # transformers' encoders take the mask as their second argument.
        given = args[1] if len(args) > 1 else kwargs.get("attention_mask")
        self.mask = None if given is None else given.bool()

    def seen(self, hidden: Tensor) -> Tensor:
        """The positions that are real [B, T] bool; those that a prompt put first all are."""
        if self.mask is None:
            return hidden.new_ones(hidden.shape[:2], dtype=torch.bool)
        return nn.functional.pad(self.mask, (hidden.shape[1] - self.mask.shape[1], 0), value=True)


class Insert:
    """Runs an insertion on the hidden state before a block."""

    def __init__(self, insertion: nn.Module, flow: Flow) -> None:
        self.insertion = insertion
        self.flow = flow

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        hidden, args, kwargs = _pop_hidden(args, kwargs)
        changed, mask = self.insertion(hidden, self.flow.seen(hidden))
        # New calls are needed only where the sequence became longer; an adapter leaves them as they are.
        if changed.shape != hidden.shape:
            self.flow.calls = self.flow.family.calls(changed, mask)
        return (changed, *args), kwargs


class Recall:
    """Calls a block as the model would for a sequence with the prompt before it: masks and positions of P + T."""

    def __init__(self, flow: Flow, number: int) -> None:
        self.flow = flow
        self.number = number

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        hidden, _, _ = _pop_hidden(args, kwargs)
        call = self.flow.calls[self.number]
        return (hidden, *call.args), dict(call.kwargs)


class Append:
    """Runs an insertion after a block: the last one, or one of a decoder that reads an encoder."""

    def __init__(self, insertion: nn.Module) -> None:
        self.insertion = insertion

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        hidden = hidden_in(output)
        changed, _ = self.insertion(hidden, hidden.new_ones(hidden.shape[:2], dtype=torch.bool))
        return with_hidden(output, changed)


class Strip:
    """Removes the prompt's positions again, so that heads and callers see the tokens they gave."""

    def __init__(self, prompt: int) -> None:
        self.prompt = prompt

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return with_hidden(output, hidden_in(output)[:, self.prompt :])


def _pop_hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
    if args:
        return args[0], args[1:], kwargs
    rest = dict(kwargs)
    return rest.pop("hidden_states"), (), rest
