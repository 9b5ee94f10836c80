"""Hooks that make a tuned model's own ``forward`` carry out the plan, for callers that know nothing of this package.

``transformers.Trainer``, ``pipeline`` and plain loops call the whole model. Hooks on its blocks put the insertions in
their place, cut the graph at the frozen depth (so that nothing can pull gradients below it, whatever the caller turns
on), and take a late prompt's positions away again after the last block.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from stratatune.model.attached import Attached
from stratatune.model.below import refuse_unfrozen, without_gradient
from stratatune.model.families.outputs import hidden_in, with_hidden


def install(attached: Attached) -> None:
    """Register the hooks; they last as long as the blocks, or until ``attached.hooks`` are removed."""
    handles, backbone = attached.hooks, attached.backbone
    handles += [*backbone.passes.handles, *_stop_backward(attached)]
    base = backbone.body.base
    if "use_cache" in inspect.signature(base.forward).parameters:
        handles.append(base.register_forward_pre_hook(_WithoutCache(backbone.model), with_kwargs=True))
    if attached.resolved.moved:
        handles += backbone.family.shift(attached.resolved.moved)
    if attached.insertions:
        handles += backbone.family.install(attached.insertions)


def _stop_backward(attached: Attached) -> list[RemovableHandle]:
    """Cut after the module whose output is the hidden state at the frozen depth."""
    if attached.resolved.trains_embeddings:
        return []
    backbone, depth, handles = attached.backbone, attached.resolved.frozen_depth, []
    border = backbone.border
    if depth > border:  # the decoder reads a frozen encoder, whatever makes that one's embeddings require gradients
        handles.append(backbone.passes.after(border - 1, _Cut(None)))
    hook = _Cut(backbone.blocks[depth] if depth < len(backbone.blocks) else None, attached)
    # There is no block below to hook: the hook goes to the modules whose outputs make the embeddings.
    if depth == 0:
        return [module.register_forward_hook(hook) for module in backbone.body.input_modules()]
    return [*handles, backbone.passes.after(depth - 1, hook)]


def cut(hidden: Tensor, above: nn.Module | None) -> Tensor:
    """``hidden`` without its autograd history, ready for the block ``above``.

    A re-entrant checkpoint gives its parameters no gradient unless an input of it requires one.
    """
    hidden = hidden.detach()
    wanted = torch.is_grad_enabled() and getattr(above, "gradient_checkpointing", False)
    # Not requires_grad_(wanted): under vmap (training/trials/together.py) torch refuses the call even with False.
    return hidden.requires_grad_() if wanted else hidden


class _Cut:
    """Cuts the graph between a module and the block ``above`` it.

    Args:
        above: that block, if there is one.
        attached: the model's, where the cut is at its frozen depth: what trains below it is refused.
    """

    def __init__(self, above: nn.Module | None, attached: Attached | None = None) -> None:
        self.above, self.attached = above, attached
        self.below = {} if attached is None else without_gradient(attached)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if self.attached is not None and self.attached.backbone.model.training and torch.is_grad_enabled():
            refuse_unfrozen(self.below, self.attached.resolved.frozen_depth)
        return with_hidden(output, cut(hidden_in(output), self.above))


class _WithoutCache:
    """Makes a model keep no key-value cache while its blocks are run again in the backward pass.

    A model does so itself in training mode. But the module that decides it is in eval mode with the trunk, and in GPT-2
    a block that is run again would write the cache a second time.

    Args:
        model: the whole model, whose mode is the caller's.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        again = self.model.training and torch.is_grad_enabled() and getattr(module, "gradient_checkpointing", False)
        return (args, {**kwargs, "use_cache": False}) if again else None
