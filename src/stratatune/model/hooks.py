"""What makes a tuned model's own ``forward`` do what the plan says, for callers that know nothing of this package.

``transformers.Trainer``, ``pipeline`` and plain loops call the whole model. Hooks on its blocks put the insertions in
their place, cut the graph at the frozen depth (so that nothing can pull gradients below it, whatever the caller turns
on), and take a late prompt's positions away again behind the last block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from stratatune.model.decoder_hooks import install_insertions
from stratatune.model.inputs import Inputs
from stratatune.model.strata import Strata

Call = tuple[tuple[Any, ...], dict[str, Any]]


def install(strata: Strata) -> None:
    """Register the hooks; they live and die with the blocks, or until ``strata.hooks`` are removed."""
    handles = strata.hooks
    handles += _stop_backward(strata)
    if strata.backbone.row.causal:
        handles += install_insertions(strata)
        return
    blocks = strata.backbone.blocks
    if strata.resolved.moved:
        handles.append(Inputs(strata.backbone).shift(strata.resolved.moved))
    prompt = 0  # positions put in front so far
    for depth, block in enumerate(blocks):
        for insertion in strata.insertions_at(depth):
            handles.append(block.register_forward_pre_hook(_Insert(insertion), with_kwargs=True))
            prompt += insertion.tokens
        if prompt:
            handles.append(block.register_forward_pre_hook(_GrowMask(prompt), with_kwargs=True))
    for insertion in strata.insertions_at(len(blocks)):
        handles.append(blocks[-1].register_forward_hook(_Append(insertion)))
    if prompt:
        handles.append(blocks[-1].register_forward_hook(_Strip(prompt)))


def _stop_backward(strata: Strata) -> list[RemovableHandle]:
    """Cut behind the module whose output is the hidden state at the frozen depth."""
    if strata.resolved.trains_embeddings:
        return []
    below = (strata.backbone.embeddings, *strata.backbone.blocks)
    depth = strata.resolved.frozen_depth
    border, handles = strata.backbone.encoder_blocks, []
    if depth > border:  # the decoder reads a frozen encoder, whatever makes that one's embeddings require gradients
        handles.append(below[border].register_forward_hook(_Cut(None)))
    above = below[depth + 1] if depth + 1 < len(below) else None
    modules = strata.backbone.embedding_modules if depth == 0 else [below[depth]]
    return handles + [module.register_forward_hook(_Cut(above)) for module in modules]


def cut(hidden: Tensor, above: nn.Module | None) -> Tensor:
    """``hidden`` without its history, ready for the block ``above``.

    A re-entrant checkpoint gives its parameters no gradient unless an input of it requires one.
    """
    hidden = hidden.detach()
    return hidden.requires_grad_(torch.is_grad_enabled() and getattr(above, "gradient_checkpointing", False))


class _Cut:
    """Cuts the graph between a module and the block ``above`` it."""

    def __init__(self, above: nn.Module | None) -> None:
        self.above = above

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):  # T5: and its position biases
            return (cut(output[0], self.above), *output[1:])
        return cut(output, self.above)


class _Insert:
    """Runs an insertion on the hidden state in front of a block."""

    def __init__(self, insertion: nn.Module) -> None:
        self.insertion = insertion

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        hidden, args, kwargs = _pop_hidden(args, kwargs)
        changed, _ = self.insertion(hidden, _token_mask(hidden, args, kwargs))
        return (changed, *args), kwargs


class _GrowMask:
    """Lets every token see the P prompt positions: P columns and rows of "allowed" are put before the block's mask."""

    def __init__(self, prompt: int) -> None:
        self.prompt = prompt

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        if "attention_mask" in kwargs:
            return args, {**kwargs, "attention_mask": self._grown(kwargs["attention_mask"])}
        if len(args) > 1:
            return (args[0], self._grown(args[1]), *args[2:]), kwargs
        return args, kwargs

    def _grown(self, mask: Tensor | None) -> Tensor | None:
        if mask is None:
            return None
        allowed = True if mask.dtype == torch.bool else 0.0
        # New query rows see exactly what the first token's row sees; new key columns are seen by all.
        mask = torch.cat([mask[..., :1, :].expand(*mask.shape[:-2], self.prompt, -1), mask], dim=-2)
        return nn.functional.pad(mask, (self.prompt, 0), value=allowed)


class _Append:
    """Runs an insertion behind the last block."""

    def __init__(self, insertion: nn.Module) -> None:
        self.insertion = insertion

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        changed, _ = self.insertion(output, output.new_ones(output.shape[:2], dtype=torch.bool))
        return changed


class _Strip:
    """Takes the prompt's positions off again, so that heads and callers see the tokens they gave."""

    def __init__(self, prompt: int) -> None:
        self.prompt = prompt

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return output[:, self.prompt :]


def _pop_hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
    if args:
        return args[0], args[1:], kwargs
    rest = dict(kwargs)
    return rest.pop("hidden_states"), (), rest


def _token_mask(hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """[B, P+T] bool: the real tokens, read off the block's [B, 1, T, T] mask (its last row sees every real token).

    ``hidden`` [B, P+T, D] may hold P prompt positions already, of which that mask does not know.
    """
    mask = kwargs["attention_mask"] if "attention_mask" in kwargs else (args[0] if args else None)
    if mask is None:
        return hidden.new_ones(hidden.shape[:2], dtype=torch.bool)
    last = mask[:, 0, -1]
    seen = last if last.dtype == torch.bool else last == 0
    seen = seen.expand(hidden.shape[0], -1)
    return nn.functional.pad(seen, (hidden.shape[1] - seen.shape[1], 0), value=True)
