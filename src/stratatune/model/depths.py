"""Read every depth of a model in one forward: a text's hidden states at depth 0..L, at the objective's position."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from stratatune.errors import ModelError
from stratatune.model.backbone import Backbone
from stratatune.model.families.last_block import take


def _at(hidden: Tensor, mask: Tensor, read: Tensor) -> Tensor:
    return take(hidden, read)[:, 0]


def _mean(hidden: Tensor, mask: Tensor, read: Tensor) -> Tensor:
    return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


_READ: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"read": _at, "mean": _mean}
"""Ways to read a depth: hidden state [B, T, D], mask [B, T] bool, position [B] -> [B, D]."""


class Depths:
    """Hidden states of all depths, by the model's own forward in eval mode and without autograd.

    Depth d is the state after d blocks, so the input of a plan's insertion at depth d (at the last depth: before a
    final norm). A decoder is read at the position alone: no other token has seen the whole text.

    Args:
        backbone: the model seen through its row of the table.

    Raises:
        ModelError: the model is an encoder-decoder, which generates its labels as text.
    """

    def __init__(self, backbone: Backbone) -> None:
        if len(backbone.row.stacks) > 1:
            raise ModelError(
                f"{type(backbone.model).__name__} generates its labels as text, so no depth can be probed for them",
                "use an encoder or a decoder",
            )
        self.backbone = backbone
        self.count = len(backbone.blocks) + 1
        self.readings = backbone.family.depth_readings

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, mask: Tensor, token_types: Tensor | None, read: Tensor) -> Tensor:
        """``input_ids`` [B, T], ``mask`` [B, T] bool, ``token_types`` [B, T], ``read`` [B] -> [B, L + 1, K, D] fp32.

        K counts :attr:`readings`: the position ``read``, and (encoders) the mean over real tokens.
        """
        found: list[Tensor] = []

        def note(hidden: Tensor) -> None:
            parts = (_READ[reading](hidden, mask, read) for reading in self.readings)
            found.append(torch.stack(list(parts), dim=1).float())

        def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            note(args[0] if args else kwargs["hidden_states"])

        def after(module: Any, args: tuple[Any, ...], output: Any) -> None:
            note(output[0] if isinstance(output, tuple) else output)

        passes, known = self.backbone.passes, token_types is not None and self.backbone.row.token_types
        extra = {"token_type_ids": token_types} if known else {}
        with ExitStack() as hooks:
            # Depth 0 is the input of block 0, whatever the embeddings consist of (projections, norms, positions).
            hooks.enter_context(passes.before(0, before))
            for number in range(self.count - 1):
                hooks.enter_context(passes.after(number, after))
            self.backbone.base.eval()(input_ids=input_ids, attention_mask=mask.long(), **extra)
        return torch.stack(found, dim=1)
