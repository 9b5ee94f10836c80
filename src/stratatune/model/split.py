"""A tuned model in two halves: the trunk below the frozen depth, and the top above it.

The trunk is the model's own forward, stopped when it reaches the first block above the frozen depth. The top runs that
block and the later ones from any hidden state of that depth, be it the trunk's or one remembered in a cache, and
computes nothing that the objective does not read (contract 7): the last block only at the position that is read, the
head only there and, where the loss allows it, only the label words' rows.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from stratatune.model.attached import Attached
from stratatune.model.families.decoder import decoder_output, model_arguments
from stratatune.model.families.encoder_decoder import encode_whole, read_text
from stratatune.model.families.last_block import take
from stratatune.model.hooks import cut
from stratatune.model.offload import reload_trunk


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
        self, input_ids: Tensor, mask: Tensor, token_types: Tensor | None = None, read: Tensor | None = None
    ) -> Tensor:
        """``input_ids`` [B, T], ``mask`` [B, T] bool, ``token_types`` [B, T] -> hidden state at the depth [B, T, D].

        ``read`` [B] is the last token of the text itself, where a decoder's candidates stand behind it.
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
                self._reader()(input_ids=input_ids, **self._mask(mask, read), **extra)
        except _Reached as reached:
            return reached.hidden
        finally:
            handle.remove()
        raise AssertionError("the model's forward never reached its own blocks")

    def _reader(self) -> nn.Module:
        """The module that runs the trunk: the model without its head, of an encoder-decoder the encoder."""
        base: Any = self.backbone.base
        return base.encoder if self.backbone.row.kind == "encoder-decoder" else base

    def _mask(self, mask: Tensor, read: Tensor | None) -> dict[str, object]:
        if self.backbone.row.causal:
            return model_arguments(self.backbone, mask, read, self.attached.branches)
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

    def forward(
        self, hidden: Tensor, mask: Tensor, read: Tensor, words: Tensor | None = None, ids: Tensor | None = None
    ) -> Tensor:
        """From the frozen depth to the logits.

        Args:
            hidden: the hidden state at the frozen depth [B, T, D]; when that is the model's depth and the head reads
                one position, only that is needed: [B, 1, D].
            mask: which positions are real tokens [B, T], bool.
            read: the position that the objective reads [B].
            words: vocabulary numbers of the label words [C]; then only their logits are computed.
            ids: the tokens [B, T] by which a decoder's completion is scored; an encoder-decoder's targets [B, U], or
                the source's tokens [B, T] where it tells classes.

        Returns:
            Logits at the position read: [B, C] for the label words or the classes, [B, V] for the whole vocabulary. Of
            a decoder what :func:`stratatune.model.families.decoder.decoder_output` says.
        """
        if self.attached.backbone.row.kind == "encoder-decoder":
            assert ids is not None
            if self.depth <= self.attached.backbone.encoder_blocks and not self.attached.resolved.trains_embeddings:
                hidden = cut(
                    hidden, self.attached.backbone.blocks[min(self.depth, len(self.attached.backbone.blocks) - 1)]
                )
            return read_text(self.attached, hidden, mask, ids)
        if self.attached.backbone.row.causal:
            if self.depth < len(self.attached.backbone.blocks) and not self.attached.resolved.trains_embeddings:
                hidden = cut(hidden, self.attached.backbone.blocks[self.depth])
            return decoder_output(self.attached, hidden, mask, read, ids, self.depth)
        hidden = self.blocks(hidden, mask, read)
        for insertion in self.attached.insertions_at(len(self.attached.backbone.blocks)):
            hidden, _ = insertion(hidden, mask[:, : hidden.shape[1]])
        mask = mask if self.attached.backbone.reads_all else torch.ones_like(mask[:, :1])
        return self.attached.backbone.head(hidden, words, mask)[:, 0]

    def blocks(self, hidden: Tensor, mask: Tensor, read: Tensor) -> Tensor:
        """The blocks above the frozen depth; the last of them only at ``read``: -> [B, 1, D].

        Where the head reads every token, all of them: -> [B, T, D] without a late prompt's positions.
        """
        backbone, depths = self.attached.backbone, range(self.depth, len(self.attached.backbone.blocks))
        if not depths:
            return hidden if backbone.reads_all or hidden.shape[1] == 1 else take(hidden, read)
        calls, tokens = backbone.calls(hidden, mask), hidden.shape[1]
        if not self.attached.resolved.trains_embeddings:
            hidden = cut(hidden, backbone.blocks[self.depth])
        for depth in depths:
            for insertion in self.attached.insertions_at(depth):
                hidden, mask = insertion(hidden, mask)
                read = read + insertion.tokens
                calls = backbone.calls(hidden, mask) if insertion.tokens else calls
            if depth == depths[-1] and not backbone.reads_all:
                return backbone.run_block_at(depth, hidden, calls[depth], read)
            hidden = backbone.run_block(depth, hidden, calls[depth])
        return hidden[:, -tokens:]
