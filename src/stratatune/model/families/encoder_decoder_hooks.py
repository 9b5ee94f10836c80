"""Hooks that make a tuned encoder-decoder's own ``forward`` and ``generate`` carry out the plan for its two stacks.

In the encoder the hooks are those of any encoder (``encoder_hooks.py``). What differs: a prompt stays before the
encoder's output, so the decoder's mask over that output is made longer; and an adapter may follow the encoder or be
between the decoder's blocks, where it runs on whatever tokens it is given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from stratatune.model.body import Body
from stratatune.model.insertions import Insertions

Call = tuple[tuple[Any, ...], dict[str, Any]]


def install_behind_encoder(body: Body, inserted: Insertions, seen: Callable[[Tensor], Tensor]) -> list[RemovableHandle]:
    """Register the hooks at and above the border between the stacks.

    ``seen`` gives which positions of a hidden state [B, P + T, D] of the encoder are real.
    """
    base: Any = body.base
    handles = [base.encoder.register_forward_hook(_Output(one, seen)) for one in inserted.at(body.border)]
    if any(one.tokens for _, one in inserted.modules):
        handles.append(base.decoder.register_forward_pre_hook(_SeePrompt(), with_kwargs=True))
    return handles


class _Output:
    """Runs an insertion on the encoder's output."""

    def __init__(self, insertion: nn.Module, seen: Callable[[Tensor], Tensor]) -> None:
        self.insertion, self.seen = insertion, seen

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        hidden, _ = self.insertion(output[0], self.seen(output[0]))
        if isinstance(output, tuple):
            return (hidden, *output[1:])
        # A ModelOutput is rebuilt: its items and its attributes are kept twice, and setting one may miss the other.
        return type(output)(**{**output, "last_hidden_state": hidden})


class _SeePrompt:
    """Lets the decoder see the P positions before the encoder's output, which are missing in every caller's mask."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        mask, encoded = kwargs.get("encoder_attention_mask"), kwargs.get("encoder_hidden_states")
        if mask is None or encoded is None:
            return args, kwargs
        # Measured, not stored: generate may repeat both for its beams, which changes no length.
        prompt = encoded.shape[1] - mask.shape[1]
        return args, {**kwargs, "encoder_attention_mask": nn.functional.pad(mask, (prompt, 0), value=1)}
