"""Masks, positions and rotary angles for a decoder's blocks, and for the whole decoder."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from stratatune.model.body import Body
from stratatune.model.families.carried import Given, empty, parts_of
from stratatune.model.families.decoder_layout import Layout, branched, continued
from stratatune.model.question import Question, text_end
from stratatune.model.skeleton import Call
from stratatune.model.stored import computes_in
from stratatune.shapes.architectures import DecoderArchitecture


def window_of(body: Body, number: int) -> int | None:
    """The number of positions that block ``number`` looks back, itself included; None: to the start."""
    config, field = body.model.config, cast("DecoderArchitecture", body.row).window
    # Taken from the row: a config may hold a field that the model's code does not read.
    window, types = getattr(config, field, None) if field else None, getattr(config, "layer_types", None)
    # The config of a model that mixes both kinds has one window, which holds for the sliding layers alone.
    if types is not None and types[number] != "sliding_attention":
        return None
    # transformers' masks of tokens that see both ways leave the token itself out of the count, but for Gemma 3's own.
    return window + 1 if window is not None and getattr(config, "is_causal", True) is False else window


def _mask(body: Body, layout: Layout, window: int | None, dtype: torch.dtype) -> Tensor:
    # Eager attention adds the mask to the scores; torch's fused one also takes booleans, which are smaller.
    eager = body.model.config._attn_implementation == "eager"
    return layout.mask(window, dtype if eager else None)


def block_arguments(
    body: Body, number: int, hidden: Tensor, layout: Layout, given: Given | None = None
) -> dict[str, object]:
    """The arguments of a decoder's block besides the hidden state [B, Q, D]: mask, positions, rotary embeddings.

    ``given``: what its blocks read besides, where they are not run by the model itself.
    """
    if body.shape.of_block(number).state:
        mask = layout.mask_of_states()
    else:
        mask = _mask(body, layout, window_of(body, number), hidden.dtype)
    found: dict[str, object] = {"attention_mask": mask, "position_ids": layout.positions}
    found |= {} if given is None else given.of(number)
    row = cast("DecoderArchitecture", body.row)
    if row.rotary is not None:
        rotary = body.base.get_submodule(row.rotary)
        kind = [body.model.config.layer_types[number]] if row.rotary_by_type else []
        # Only the dtype and the device of `hidden` are read: the angles follow from the positions.
        found["position_embeddings"] = rotary(hidden, layout.positions, *kind)
    return found


def decoder_calls(body: Body, hidden: Tensor, mask: Tensor) -> list[Call]:
    """The arguments of each block of a decoder besides the hidden state [B, T, D]; ``mask`` [B, T] bool.

    Its blocks are to be run in their order, where some read what others have computed.
    """
    layout = continued(mask, None, hidden.shape[1], both=body.shape.sees_ahead)
    given = Given(empty(body), parts_of(body, None, hidden))
    numbers = range(len(body.blocks))
    return [Call(kwargs=block_arguments(body, number, hidden, layout, given)) for number in numbers]


def model_arguments(body: Body, mask: Tensor, question: Question) -> dict[str, object]:
    """The arguments of the whole decoder for texts padded on the right: ``mask`` [B, T] bool.

    Without branches the model makes masks and positions by itself.
    """
    if not sum(question.branches):
        return {"attention_mask": mask.long(), "use_cache": False}
    layout = branched(mask, text_end(question, mask), question.branches)
    dtype = computes_in(body.model)
    types = getattr(body.model.config, "layer_types", None)
    windows = [window_of(body, number) for number in range(len(body.blocks))]
    # transformers takes a mask of four dimensions as it is, and where a model has kinds of layers, a dict of them by
    # kind.
    masks: object = _mask(body, layout, windows[0], dtype)
    if types is not None:
        masks = {kind: _mask(body, layout, window, dtype) for kind, window in zip(types, windows, strict=True)}
    return {"attention_mask": masks, "position_ids": layout.positions, "use_cache": False}


def behind(layout: Layout, insertion: Any, *, rows: bool = True) -> Layout:
    """``layout`` after the prompts that ``insertion`` puts before it; ``rows``: see :meth:`Layout.with_prompt`."""
    put = layout.behind_words if insertion.positions else layout.with_prompt
    return put(insertion.tokens, rows=rows)
