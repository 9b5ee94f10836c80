"""What is particular to decoders: how masks and positions reach a block, and what the language-model head says.

A tuned decoder's top is asked for one position (classification), for those that predict the candidates of a label, or
for those that predict a completion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stratatune.methods.precision import product
from stratatune.model.families.decoder_layout import Layout, branched, continued
from stratatune.model.families.last_block import take
from stratatune.model.question import Question, text_end
from stratatune.model.skeleton import Call

if TYPE_CHECKING:
    from stratatune.model.attached import Attached
    from stratatune.model.backbone import Backbone


def window_of(backbone: Backbone, number: int) -> int | None:
    """How many positions back block ``number`` looks; None: to the start."""
    config = backbone.model.config
    window, types = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    if types is not None and types[number] != "sliding_attention":
        return None
    return window


def _mask(backbone: Backbone, layout: Layout, window: int | None, dtype: torch.dtype) -> Tensor:
    eager = backbone.model.config._attn_implementation == "eager"
    return layout.mask(window, dtype if eager else None)


def block_arguments(backbone: Backbone, number: int, hidden: Tensor, layout: Layout) -> dict[str, object]:
    """What a decoder's block takes beside the hidden state [B, Q, D]: mask, positions, rotary embeddings."""
    found: dict[str, object] = {
        "attention_mask": _mask(backbone, layout, window_of(backbone, number), hidden.dtype),
        "position_ids": layout.positions,
    }
    if backbone.row.rotary is not None:
        rotary = backbone.base.get_submodule(backbone.row.rotary)
        kind = [backbone.model.config.layer_types[number]] if backbone.row.rotary_by_type else []
        found["position_embeddings"] = rotary(hidden, layout.positions, *kind)
    return found


def decoder_calls(backbone: Backbone, hidden: Tensor, mask: Tensor) -> list[Call]:
    """What each block of a decoder is called with beside the hidden state [B, T, D]; ``mask`` [B, T] bool."""
    layout = continued(mask, None, hidden.shape[1])
    numbers = range(len(backbone.blocks))
    return [Call(kwargs=block_arguments(backbone, number, hidden, layout)) for number in numbers]


def model_arguments(backbone: Backbone, mask: Tensor, question: Question) -> dict[str, object]:
    """What the whole decoder takes for texts padded on the right: ``mask`` [B, T] bool.

    Without branches the model makes masks and positions by itself.
    """
    if not sum(question.branches):
        return {"attention_mask": mask.long(), "use_cache": False}
    layout = branched(mask, text_end(question, mask), question.branches)
    dtype = next(backbone.base.parameters()).dtype
    types = getattr(backbone.model.config, "layer_types", None)
    windows = [window_of(backbone, number) for number in range(len(backbone.blocks))]
    masks: object = _mask(backbone, layout, windows[0], dtype)
    if types is not None:
        masks = {kind: _mask(backbone, layout, window, dtype) for kind, window in zip(types, windows, strict=True)}
    return {"attention_mask": masks, "position_ids": layout.positions, "use_cache": False}


def behind(layout: Layout, insertion: Any, *, rows: bool = True) -> Layout:
    """``layout`` behind what ``insertion`` puts in front; ``rows``: see :meth:`Layout.with_prompt`."""
    put = layout.behind_words if insertion.positions else layout.with_prompt
    return put(insertion.tokens, rows=rows)


def embed_vectors(backbone: Backbone, vectors: Tensor) -> Tensor:
    """The hidden state at depth 0 of vectors in place of the first words: [P, D] -> [1, P, D]."""
    if backbone.row.position_table is None:
        return vectors[None]
    places = torch.arange(len(vectors), device=vectors.device)[None]
    return vectors[None] + backbone.base.get_submodule(backbone.row.position_table).forward(places)


def run_plain(backbone: Backbone, hidden: Tensor, mask: Tensor) -> Tensor:
    """Every block over [B, T, D] at depth 0, nothing inserted; padding on either side is not in ``mask`` [B, T]."""
    layout = continued(mask, None, hidden.shape[1])
    for number, block in enumerate(backbone.blocks):
        hidden = block.forward(hidden, **block_arguments(backbone, number, hidden, layout))
    return hidden


def read_last(backbone: Backbone, hidden: Tensor, mask: Tensor) -> Tensor:
    """What the model says at the last token of ``mask`` [B, T]: ``hidden`` [B, T, D] at depth 0 -> [B, D], normed."""
    hidden = run_plain(backbone, hidden, mask)
    last = mask.shape[1] - 1 - mask.int().flip(1).argmax(dim=1)
    return backbone.final_norms()[0](take(hidden, last)[:, 0])


def decoder_top(
    attached: Attached,
    hidden: Tensor,
    mask: Tensor,
    branches: tuple[int, ...],
    end: Tensor,
    places: Tensor | None,
    start: int,
) -> Tensor:
    """The blocks from ``start`` on, with the insertions before, between and behind them.

    Args:
        hidden: [B, T, D] at depth ``start``.
        mask: [B, T] bool, real tokens.
        branches: how many tokens of each candidate stand behind the text.
        end: [B], the last token of the text itself.
        places: [B, N], the tokens whose last hidden state is wanted: the last block computes no other; or a mask of
            them [B, T] bool. None: all.

    Returns:
        The last hidden state at ``places`` [B, N, D] or [n, D], or of every token [B, T, D].
    """
    backbone, layout, prompt = attached.backbone, branched(mask, end, branches), 0
    depths, few = range(start, len(backbone.blocks)), None if places is None or places.dtype is torch.bool else places
    for depth in depths:
        for insertion in attached.insertions_at(depth):
            hidden, _ = insertion(hidden, layout.prefix)
            layout, prompt = behind(layout, insertion), prompt + insertion.tokens
        call = Call(kwargs=block_arguments(backbone, depth, hidden, layout))
        if depth == depths[-1] and few is not None:
            hidden = backbone.run_block_at(depth, hidden, call, few + prompt)
        else:
            hidden = backbone.run_block(depth, hidden, call)
    if few is None:
        hidden = hidden[:, prompt:]
    elif not depths:
        hidden = take(hidden, few)
    for insertion in attached.insertions_at(len(backbone.blocks)):  # none there makes prompts, so no mask is read
        hidden, _ = insertion(hidden, hidden.new_ones(hidden.shape[:2]).bool())
    return hidden[places] if places is not None and places.dtype is torch.bool else hidden


def lm_logits(backbone: Backbone, hidden: Tensor, rows: Tensor | None = None) -> Tensor:
    """``hidden`` [..., D] of the last block -> logits [..., V], by the final norm and the output matrix.

    ``rows`` [C]: of these tokens alone, [..., C].
    """
    decoder: Any = backbone.model.get_submodule(backbone.row.mlm_head["decoder"])
    hidden = backbone.final_norms()[0](hidden)
    if rows is None:
        logits = decoder(hidden)
    else:
        bias = None if decoder.bias is None else decoder.bias[rows]
        logits = product(hidden, decoder.weight[rows], bias)
    cap = getattr(backbone.model.config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


def class_logits(backbone: Backbone, hidden: Tensor) -> Tensor:
    """``hidden`` [..., D] of the last block at the places asked -> logits [..., C]."""
    return backbone.model.get_submodule(backbone.row.classifier)(backbone.final_norms()[0](hidden))
