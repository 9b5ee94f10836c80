"""What is particular to decoders: how masks and positions reach a block, and what the language-model head says.

A tuned decoder's top reads either one position (classification), or the candidates of a label (objective ``causal``),
or every token of a completion (objective ``completion``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stratatune.model.families.decoder_layout import Layout, branched, continued
from stratatune.model.families.last_block import take
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


def model_arguments(
    backbone: Backbone, mask: Tensor, read: Tensor | None, branches: Sequence[int]
) -> dict[str, object]:
    """What the whole decoder takes for texts padded on the right: ``mask`` [B, T] bool, ``read`` [B].

    Without branches the model makes masks and positions by itself.
    """
    if read is None or not sum(branches):
        return {"attention_mask": mask.long(), "use_cache": False}
    layout, dtype = branched(mask, read, tuple(branches)), next(backbone.base.parameters()).dtype
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


def run_blocks(
    attached: Attached, hidden: Tensor, mask: Tensor, read: Tensor, start: int, places: Tensor | None = None
) -> Tensor:
    """The blocks from ``start`` on, with the insertions before, between and behind them.

    Args:
        hidden: [B, T, D] at depth ``start``.
        mask: [B, T] bool, real tokens.
        read: [B], the last token of the text itself.
        places: [B, N], the tokens whose last hidden state is wanted: the last block computes no other. None: all.

    Returns:
        The last hidden state at ``places`` [B, N, D], or of every token [B, T, D].
    """
    backbone, layout, prompt = attached.backbone, branched(mask, read, attached.branches), 0
    depths = range(start, len(backbone.blocks))
    for depth in depths:
        for insertion in attached.insertions_at(depth):
            hidden, _ = insertion(hidden, layout.prefix)
            layout, prompt = behind(layout, insertion), prompt + insertion.tokens
        call = Call(kwargs=block_arguments(backbone, depth, hidden, layout))
        if depth == depths[-1] and places is not None:
            hidden = backbone.run_block_at(depth, hidden, call, places + prompt)
        else:
            hidden = backbone.run_block(depth, hidden, call)
    if places is None:
        hidden = hidden[:, prompt:]
    elif not depths:
        hidden = take(hidden, places)
    for insertion in attached.insertions_at(len(backbone.blocks)):  # none there makes prompts, so no mask is read
        hidden, _ = insertion(hidden, hidden.new_ones(hidden.shape[:2]).bool())
    return hidden


def lm_logits(backbone: Backbone, hidden: Tensor) -> Tensor:
    """``hidden`` [..., D] of the last block -> logits [..., V], by the final norm and the output matrix."""
    decoder = backbone.model.get_submodule(backbone.row.mlm_head["decoder"])
    logits = decoder(backbone.final_norms()[0](hidden))
    cap = getattr(backbone.model.config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


def class_logits(backbone: Backbone, hidden: Tensor) -> Tensor:
    """``hidden`` [B, D] of the last block at the position read -> logits [B, C]."""
    return backbone.model.get_submodule(backbone.row.classifier)(backbone.final_norms()[0](hidden))


def candidate_places(read: Tensor, suffixes: Sequence[Sequence[int]]) -> tuple[Tensor, list[int]]:
    """Where the candidates' tokens are predicted.

    The first token of every candidate is predicted by the text's last token, each later one by the token before it.

    Args:
        read: [B], the text's last token.
        suffixes: the C candidates' token ids.

    Returns:
        The places [B, N], and which of the N predicts each token of the candidates, one candidate after the other.
    """
    offsets, start = [0], 1
    source: list[int] = []
    for suffix in suffixes:
        later = range(start, start + len(suffix) - 1)
        source += [0, *range(len(offsets), len(offsets) + len(later))]
        offsets += later
        start += len(later)
    return read[:, None] + torch.tensor(offsets, device=read.device), source


def candidate_scores(
    backbone: Backbone, hidden: Tensor, source: Sequence[int], suffixes: Sequence[Sequence[int]]
) -> Tensor:
    """How likely each candidate is behind the text: the mean log-probability of its tokens (minus LPT's loss).

    Args:
        hidden: [B, N, D] of the last block, at the places of :func:`candidate_places`.
        source: which of the N predicts each token.
        suffixes: the C candidates' token ids.

    Returns:
        [B, C].
    """
    spoken = _at_least_fp32(lm_logits(backbone, hidden)).log_softmax(dim=-1)  # [B, N, V]
    target = torch.tensor([token for suffix in suffixes for token in suffix], device=hidden.device)
    chosen = spoken[:, torch.tensor(source, device=hidden.device), target]  # [B, sum of lengths]
    return torch.stack([part.mean(dim=1) for part in chosen.split([len(s) for s in suffixes], dim=1)], dim=1)


def completion_scores(backbone: Backbone, hidden: Tensor, mask: Tensor, read: Tensor, ids: Tensor) -> Tensor:
    """The summed log-probability of the tokens behind ``read``, and how many they are.

    Args:
        hidden: [B, T, D] of the last block.
        mask: [B, T] bool, real tokens.
        read: [B], the last token that is given.
        ids: [B, T], the tokens.

    Returns:
        [B, 2].
    """
    column = torch.arange(ids.shape[1], device=ids.device)
    told = (mask & (column > read[:, None]))[:, 1:]  # [B, T - 1], at the token that predicts
    logits = lm_logits(backbone, hidden[:, :-1][told])  # [n, V]
    loss = nn.functional.cross_entropy(_at_least_fp32(logits), ids[:, 1:][told], reduction="none")
    row = told.nonzero()[:, 0]
    total = hidden.new_zeros(len(ids), dtype=loss.dtype).index_add(0, row, -loss)
    return torch.stack([total, told.sum(dim=1).to(loss.dtype)], dim=1)


def decoder_output(
    attached: Attached, hidden: Tensor, mask: Tensor, read: Tensor, ids: Tensor | None, start: int
) -> Tensor:
    """From the hidden state at depth ``start`` to what the objective reads; see :class:`stratatune.model.split.Top`.

    Returns:
        Class logits [B, C]; mean log-probabilities of the candidates [B, C]; or :func:`completion_scores` [B, 2].
    """
    backbone, places, source = attached.backbone, None, []
    if hidden.shape[1] == 1 and mask.shape[1] > 1:  # the depth is the model's, and only the position read was kept
        mask, read = mask[:, :1], torch.zeros_like(read)
    classifies = backbone.output == "classification"
    if attached.suffixes and not classifies:
        places, source = candidate_places(read, attached.suffixes)
    elif classifies or ids is None:
        places = read[:, None]
    hidden = run_blocks(attached, hidden, mask, read, start, places)
    if classifies:
        return class_logits(backbone, hidden[:, 0])
    if attached.suffixes:
        return candidate_scores(backbone, hidden, source, attached.suffixes)
    if ids is not None:
        return completion_scores(backbone, hidden, mask, read, ids)
    return lm_logits(backbone, hidden)[:, 0]


def _at_least_fp32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
