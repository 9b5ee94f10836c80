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

from stratatune.model.attached import Attached
from stratatune.model.backbone import Backbone
from stratatune.model.families.decoder_hooks import install_insertions
from stratatune.model.families.encoder_decoder_hooks import install_behind_encoder
from stratatune.model.inputs import Inputs
from stratatune.model.passes import Call
from stratatune.model.skeleton import Call as BlockCall


def install(attached: Attached) -> None:
    """Register the hooks; they live and die with the blocks, or until ``attached.hooks`` are removed."""
    handles = attached.hooks
    backbone = attached.backbone
    handles += [*backbone.passes.handles, *_stop_backward(attached)]
    if attached.resolved.moved:
        handles += Inputs(backbone).shift(attached.resolved.moved)
    if backbone.row.causal:
        handles += install_insertions(attached)
    elif attached.insertions:
        handles += _install_insertions(attached)


def _install_insertions(attached: Attached) -> list[RemovableHandle]:
    """The hooks of the insertions into an encoder, or into an encoder-decoder."""
    backbone, flow, two_stacks = (
        attached.backbone,
        _Flow(attached.backbone),
        attached.backbone.row.decoder_blocks is not None,
    )
    encoder = backbone.base.get_submodule("encoder") if two_stacks else backbone.base
    handles, last = [encoder.register_forward_pre_hook(flow.begin, with_kwargs=True)], len(backbone.blocks) - 1
    prompt = 0  # positions put in front so far
    for depth in range(backbone.encoder_blocks):
        for insertion in attached.insertions_at(depth):
            handles.append(backbone.passes.before(depth, _Insert(insertion, flow)))
            prompt += insertion.tokens
        if prompt:
            handles.append(backbone.passes.before(depth, _Recall(flow, depth)))
    for depth, insertion in attached.insertions:
        if depth > (backbone.encoder_blocks if two_stacks else last):
            handles.append(backbone.passes.after(depth - 1, _Append(insertion)))
    if two_stacks:
        handles += install_behind_encoder(attached, flow.seen)
    elif prompt:
        handles.append(backbone.passes.after(last, _Strip(prompt)))
    return handles


def _stop_backward(attached: Attached) -> list[RemovableHandle]:
    """Cut behind the module whose output is the hidden state at the frozen depth."""
    if attached.resolved.trains_embeddings:
        return []
    backbone, depth, handles = attached.backbone, attached.resolved.frozen_depth, []
    border = backbone.encoder_blocks
    if depth > border:  # the decoder reads a frozen encoder, whatever makes that one's embeddings require gradients
        handles.append(backbone.passes.after(border - 1, _Cut(None)))
    hook = _Cut(backbone.blocks[depth] if depth < len(backbone.blocks) else None)
    if depth == 0:
        return [module.register_forward_hook(hook) for module in backbone.input_modules()]
    return [*handles, backbone.passes.after(depth - 1, hook)]


def cut(hidden: Tensor, above: nn.Module | None) -> Tensor:
    """``hidden`` without its history, ready for the block ``above``.

    A re-entrant checkpoint gives its parameters no gradient unless an input of it requires one.
    """
    hidden = hidden.detach()
    wanted = torch.is_grad_enabled() and getattr(above, "gradient_checkpointing", False)
    return (
        hidden.requires_grad_() if wanted else hidden
    )  # vmap (training/trials/together.py) refuses the call, whatever it says


class _Cut:
    """Cuts the graph between a module and the block ``above`` it."""

    def __init__(self, above: nn.Module | None) -> None:
        self.above = above

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return _with_hidden(output, cut(_hidden(output), self.above))


class _Flow:
    """What the hooks of one forward share: the caller's mask, and what longer sequences make of the blocks' calls."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.mask: Tensor | None = None
        self.calls: list[BlockCall] = []

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Remember the mask of the forward that begins."""
        given = args[1] if len(args) > 1 else kwargs.get("attention_mask")
        self.mask = None if given is None else given.bool()

    def seen(self, hidden: Tensor) -> Tensor:
        """Which positions are real [B, T] bool; those that were put in front all are."""
        if self.mask is None:
            return hidden.new_ones(hidden.shape[:2], dtype=torch.bool)
        return nn.functional.pad(self.mask, (hidden.shape[1] - self.mask.shape[1], 0), value=True)


class _Insert:
    """Runs an insertion on the hidden state in front of a block."""

    def __init__(self, insertion: nn.Module, flow: _Flow) -> None:
        self.insertion = insertion
        self.flow = flow

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        hidden, args, kwargs = _pop_hidden(args, kwargs)
        changed, mask = self.insertion(hidden, self.flow.seen(hidden))
        if changed.shape != hidden.shape:
            self.flow.calls = self.flow.backbone.calls(changed, mask)
        return (changed, *args), kwargs


class _Recall:
    """Calls a block as the model would for a sequence with the prompt in front: masks and positions of P + T."""

    def __init__(self, flow: _Flow, number: int) -> None:
        self.flow = flow
        self.number = number

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        hidden, _, _ = _pop_hidden(args, kwargs)
        call = self.flow.calls[self.number]
        return (hidden, *call.args), dict(call.kwargs)


class _Append:
    """Runs an insertion behind a block: the last one, or one of a decoder that reads an encoder."""

    def __init__(self, insertion: nn.Module) -> None:
        self.insertion = insertion

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        hidden = _hidden(output)
        changed, _ = self.insertion(hidden, hidden.new_ones(hidden.shape[:2], dtype=torch.bool))
        return _with_hidden(output, changed)


class _Strip:
    """Takes the prompt's positions off again, so that heads and callers see the tokens they gave."""

    def __init__(self, prompt: int) -> None:
        self.prompt = prompt

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return _with_hidden(output, _hidden(output)[:, self.prompt :])


def _hidden(output: Any) -> Tensor:
    """The hidden state in what a block returns."""
    return output[0] if isinstance(output, tuple) else output


def _with_hidden(output: Any, hidden: Tensor) -> Any:
    """What a block returns, with another hidden state."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def _pop_hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
    if args:
        return args[0], args[1:], kwargs
    rest = dict(kwargs)
    return rest.pop("hidden_states"), (), rest
