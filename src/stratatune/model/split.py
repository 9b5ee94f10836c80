"""A tuned model in two halves: the trunk below the frozen depth, and the top above it.

The trunk is the model's own forward, stopped when it reaches the first block above the frozen depth. The top runs that
block and the later ones from any hidden state of that depth, be it the trunk's or one remembered in a cache, and
computes nothing that the question does not ask for (contract 7): the last block only at the places asked, the head only
there and, where the loss allows it, only the label words' rows.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from stratatune.model.attached import Attached
from stratatune.model.families.decoder import decoder_top, model_arguments
from stratatune.model.families.encoder_decoder import answer, encode_whole
from stratatune.model.families.last_block import take
from stratatune.model.hooks import cut
from stratatune.model.offload import reload_trunk
from stratatune.model.question import Question, text_end


class _Reached(Exception):
    """Carries the hidden state out of the model's forward at the frozen depth."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


class Trunk:
    """Runs a tuned model up to its frozen depth, in eval mode and without autograd (contract 3).

    Where the embeddings themselves train, the depth is 0 and they take part in the backward pass.

    Args:
        attached: what :func:`stratatune.apply` put into the model.
    """

    def __init__(self, attached: Attached) -> None:
        self.attached = attached
        self.backbone = attached.backbone
        self.depth = attached.resolved.frozen_depth
        self.trains = attached.resolved.trains_embeddings

    def __call__(
        self, input_ids: Tensor, mask: Tensor, token_types: Tensor | None = None, question: Question | None = None
    ) -> Tensor:
        """``input_ids`` [B, T], ``mask`` [B, T] bool, ``token_types`` [B, T] -> hidden state at the depth [B, T, D].

        Of the ``question`` only where a decoder's candidates stand behind the text matters here.
        """
        if self.backbone.row.kind == "encoder-decoder" and self.depth >= self.backbone.encoder_blocks:
            with torch.no_grad():
                return encode_whole(self.backbone, input_ids, mask)
        reload_trunk(self.attached)
        handle = self._stop()
        known = token_types is not None and self.backbone.row.token_types
        extra = {"token_type_ids": token_types} if known else {}
        try:
            with torch.set_grad_enabled(self.trains and torch.is_grad_enabled()):
                self._reader()(input_ids=input_ids, **self._mask(mask, question), **extra)
        except _Reached as reached:
            return reached.hidden
        finally:
            handle.remove()
        raise AssertionError("the model's forward never reached its own blocks")

    def _reader(self) -> nn.Module:
        """The module that runs the trunk: the model without its head, of an encoder-decoder the encoder."""
        base: Any = self.backbone.base
        return base.encoder if self.backbone.row.kind == "encoder-decoder" else base

    def _mask(self, mask: Tensor, question: Question | None) -> dict[str, object]:
        if self.backbone.row.causal:
            return model_arguments(self.backbone, mask, question or Question())
        return {"attention_mask": mask.long()}

    def _stop(self) -> torch.utils.hooks.RemovableHandle:
        """Stop in front of block d, or behind the last block when d is the model's depth."""
        passes, last = self.backbone.passes, len(self.backbone.blocks) - 1
        if self.depth <= last:
            return passes.before(self.depth, _leave_before, first=True)
        return passes.after(last, _leave_after, first=True)


def _leave_before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NoReturn:
    raise _Reached(args[0] if args else kwargs["hidden_states"])


def _leave_after(module: nn.Module, args: tuple[Any, ...], output: Any) -> NoReturn:
    raise _Reached(output[0] if isinstance(output, tuple) else output)


class Top(nn.Module):
    """The blocks above the frozen depth, the insertions between them, and the head.

    Shares its modules with the tuned model, so training one trains the other.

    Args:
        attached: what :func:`stratatune.apply` put into the model.
    """

    def __init__(self, attached: Attached) -> None:
        super().__init__()
        self.attached = attached
        self.depth = attached.resolved.frozen_depth
        self.model = attached.backbone.model

    def forward(self, hidden: Tensor, mask: Tensor, question: Question) -> Tensor:
        """From the frozen depth to the logits.

        Args:
            hidden: the hidden state at the frozen depth [B, T, D]; when that is the model's depth and one position is
                asked of each text, only that is needed: [B, 1, D].
            mask: which positions are real tokens [B, T], bool.
            question: which logits are wanted.

        Returns:
            The logits; :class:`Question` says in which shape.
        """
        backbone = self.attached.backbone
        hidden = self._cut(hidden)
        if backbone.row.kind == "encoder-decoder":
            return answer(self.attached, hidden, mask, question)
        one = hidden.shape[1] == 1 < mask.shape[1]  # the depth is the model's, and only the position asked was kept
        places = torch.zeros_like(mask[:, :1], dtype=torch.long) if one else backbone.places(question, mask)
        if backbone.row.causal:
            end = text_end(question, mask)
            found = decoder_top(self.attached, hidden, mask, question.branches, end, places, self.depth)
        else:
            found = self.blocks(hidden, mask, places)
        return backbone.logits(found, mask, question)

    def _cut(self, hidden: Tensor) -> Tensor:
        """``hidden`` without its history, unless the embeddings train, whose gradient goes through it."""
        if self.attached.resolved.trains_embeddings:
            return hidden
        blocks, border = self.attached.backbone.blocks, self.attached.backbone.encoder_blocks
        return cut(hidden, blocks[self.depth] if self.depth <= border and self.depth < len(blocks) else None)

    def blocks(self, hidden: Tensor, mask: Tensor, places: Tensor | None) -> Tensor:
        """The blocks above the frozen depth, without a late prompt's positions.

        The last block computes only the ``places`` [B, N]: -> [B, N, D]; of a mask [B, T] bool: -> [n, D]; None: of
        every token: -> [B, T, D].
        """
        backbone, depths, tokens = self.attached.backbone, range(self.depth, len(self.attached.backbone.blocks)), mask
        few = None if places is None or places.dtype is torch.bool else places
        calls, width = backbone.calls(hidden, mask) if depths else [], hidden.shape[1]
        for depth in depths:
            for insertion in self.attached.insertions_at(depth):
                hidden, mask = insertion(hidden, mask)
                few = few if few is None else few + insertion.tokens
                calls = backbone.calls(hidden, mask) if insertion.tokens else calls
            if depth == depths[-1] and few is not None:
                hidden = backbone.run_block_at(depth, hidden, calls[depth], few)
            else:
                hidden = backbone.run_block(depth, hidden, calls[depth])
        if few is None:
            hidden = hidden[:, -width:]
        elif not depths:
            hidden = take(hidden, few)
        for insertion in self.attached.insertions_at(len(backbone.blocks)):
            hidden, _ = insertion(hidden, tokens[:, : hidden.shape[1]])
        return hidden[places] if places is not None and places.dtype is torch.bool else hidden
