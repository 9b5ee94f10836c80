"""A tuned model in two halves: the trunk below the frozen depth, and the top above it.

The trunk is the model's own forward, stopped when it reaches the first block above the frozen depth. The top runs that
block and the later ones from any hidden state of that depth, be it the trunk's or one remembered in a cache, and
computes nothing that the question does not ask for (contract 7): the last block only at the places asked, the head only
there and, where the loss allows it, only the label words' rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stratatune.model.attached import Attached
from stratatune.model.hooks import cut
from stratatune.model.offload import reload_trunk
from stratatune.model.question import Question
from stratatune.model.unread import Unread
from stratatune.model.waves import Texts, run_wave


class Trunk:
    """Runs a tuned model up to its frozen depth, in eval mode and without autograd (contract 3).

    Where the embeddings themselves train, the depth is 0 and they take part in the backward pass.

    Args:
        attached: the state that :func:`stratatune.apply` attached to the model.
    """

    def __init__(self, attached: Attached) -> None:
        self.attached = attached
        self.family = attached.backbone.family
        self.depth = attached.resolved.frozen_depth
        self.trains = attached.resolved.trains_embeddings

    def __call__(
        self, input_ids: Tensor, mask: Tensor, token_types: Tensor | None = None, question: Question | None = None
    ) -> Tensor:
        """``input_ids`` [B, T], ``mask`` [B, T] bool, ``token_types`` [B, T] -> hidden state at the depth [B, T, D].

        Only the positions of a decoder's candidates after the text matter in ``question``.
        """
        asked = question or Question()
        unread = Unread.of(self.attached.backbone.model)
        if unread is not None and self.depth:
            return run_wave(self.family, unread, self.depth, [Texts(input_ids, mask, token_types, asked)])[0]
        # A trunk whose weights were offloaded may be needed again for new data: they come back from the base.
        reload_trunk(self.attached)
        # set_grad_enabled, not no_grad: where the embeddings train, the backward pass goes through the trunk.
        with torch.set_grad_enabled(self.trains and torch.is_grad_enabled()):
            return self.family.trunk(input_ids, mask, token_types, self.depth, asked)


class Top(nn.Module):
    """The blocks above the frozen depth, the insertions between them, and the head.

    Shares its modules with the tuned model, so training one trains the other.

    Args:
        attached: the state that :func:`stratatune.apply` attached to the model.
    """

    def __init__(self, attached: Attached) -> None:
        super().__init__()
        self.attached = attached
        self.depth = attached.resolved.frozen_depth
        self.model = attached.backbone.model
        self._unread = Unread.of(self.model)

    def forward(self, hidden: Tensor, mask: Tensor, question: Question) -> Tensor:
        """Run from the frozen depth to the logits.

        Args:
            hidden: the hidden state at the frozen depth [B, T, D]; when that is the model's depth and each text has one
                requested position, only that one: [B, 1, D].
            mask: which positions are real tokens [B, T], bool.
            question: which logits are wanted.

        Returns:
            The logits; :class:`Question` says in which shape.
        """
        backbone, inserted = self.attached.backbone, self.attached.insertions
        if self._unread is not None:
            self._unread.bring_back()
        return backbone.family.top(self._cut(hidden), mask, self.depth, inserted, question, backbone.head)

    def _cut(self, hidden: Tensor) -> Tensor:
        """``hidden`` without its autograd history, unless the embeddings train, whose gradient goes through it."""
        if self.attached.resolved.trains_embeddings:
            return hidden
        # Above the border the hidden state given is the encoder's output; no block is entered with it directly.
        blocks, border = self.attached.backbone.blocks, self.attached.backbone.border
        return cut(hidden, blocks[self.depth] if self.depth <= border and self.depth < len(blocks) else None)
