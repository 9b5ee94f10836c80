"""A live Hugging Face model: its parts, its family, and its head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from stratatune.methods.site import Site
from stratatune.model.body import Body
from stratatune.model.families.registry import family_of
from stratatune.model.heads.registry import head_of
from stratatune.model.measure import measured
from stratatune.model.passes import Passes
from stratatune.model.skeleton import Call
from stratatune.shapes.architectures import Stack
from stratatune.shapes.shape import Shape

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Backbone:
    """A live model, its family and its head.

    Args:
        model: a Hugging Face model, with or without a head.
        shape: its sizes, where they were worked out from its config before; None: they are now.
        check: whether the row is tried on a few tokens; it cannot be on fake tensors.

    Attributes:
        body: the model's parts, by the names in its row.
        family: how the model is walked.
        head: turns its last hidden state into logits.

    Raises:
        ModelError: the table has no row for this type of model, or the row is wrong about it.
    """

    def __init__(self, model: PreTrainedModel, shape: Shape | None = None, *, check: bool = True) -> None:
        self.body = Body(model, shape)
        self.family = family_of(self.body)
        self.head = head_of(self.body, self.family)
        self.model, self.row, self.base = model, self.body.row, self.body.base
        self.embeddings, self.blocks = self.body.embeddings, self.body.blocks
        if self.row.measured:
            # Rows of the table work their sizes out of the config, and tests compare these with live models; a user's
            # row has no such tests, so it is measured and tried here.
            self.body.shape = measured(self.body, self.head)
            if check:
                self.family.check_forward(self.head)
        elif check:
            self.family.check_calls()

    @property
    def shape(self) -> Shape:
        """The sizes of the model."""
        return self.body.shape

    @property
    def passes(self) -> Passes:
        """The registry of hooks on the blocks."""
        return self.body.passes

    @property
    def border(self) -> int:
        """The number of blocks of the first stack: L, in most models."""
        return self.body.border

    def stack(self, number: int) -> Stack:
        """The list of blocks that holds block ``number``, as the row describes it."""
        return self.body.row_at(number).stacks[int(number >= self.border)]

    def site(self, number: int) -> Site:
        """Block ``number`` and its roles."""
        above = number - self.border
        name = f"block {number}" if above < 0 else f"decoder block {above}"
        return Site(self.blocks[number], self.family.roles(number), name, self.body.row_at(number).norms_read_by)

    def head_site(self) -> Site:
        """The head's pretrained parts that this model has, and the final norm."""
        parts = dict(self.head.paths)
        if self.row.final_norm:
            parts["final_norm"] = self.body.prefix + self.row.final_norm
            if self.shape.normed_by_final:
                parts["norm"] = parts["final_norm"]
        return Site(self.model, parts, "the head")

    def output_layer(self) -> list[nn.Parameter]:
        """The parameters of the task's own output layer, which no pretrained model brings."""
        return [parameter for path in self.head.new_layers for parameter in self.body.part(path).parameters()]

    def output_linear(self) -> nn.Linear | None:
        """The last linear of the task's own output layer, which may have a dense one before it; None without any."""
        layers = [part for path in self.head.new_layers for part in self.body.part(path).modules()]
        return next((one for one in reversed(layers) if isinstance(one, nn.Linear)), None)

    def encoder_ids(self) -> set[int]:
        """``id`` of every parameter of the embeddings, the blocks and the final norm."""
        modules = (*self.body.embedding_modules(), self.blocks, *self.body.final_norms())
        # By identity: `in` would compare tensors element by element.
        return {id(parameter) for module in modules for parameter in module.parameters()}

    def calls(self, hidden: Tensor, mask: Tensor) -> list[Call]:
        """The arguments of each block besides the hidden state [B, T, D]; with two stacks, of the first's blocks.

        ``mask`` [B, T] bool, which tokens are real.
        """
        return self.family.calls(hidden, mask)

    def run_block(self, number: int, hidden: Tensor, call: Call) -> Tensor:
        """Run one block on [B, T, D]."""
        return self.body.run_block(number, hidden, call)

    def run_block_at(self, number: int, hidden: Tensor, call: Call, places: Tensor) -> Tensor:
        """Run one block, of whose output only ``places`` [B, N] are needed: [B, T, D] -> [B, N, D]."""
        return self.body.run_block_at(number, hidden, call, places)
