"""A live Hugging Face model by the names in its row: its blocks, and the modules around them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from stratatune.errors import ModelError
from stratatune.model.families.last_block import LAST_BLOCK, take
from stratatune.model.names import check_names
from stratatune.model.passes import Passes
from stratatune.model.skeleton import Call
from stratatune.shapes.architectures import Architecture
from stratatune.shapes.shape import Shape
from stratatune.shapes.sizes import shape_of
from stratatune.shapes.table import architecture_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Body:
    """The model and its parts, as families and heads use them; it does not say how they are run.

    Args:
        model: a Hugging Face model, with or without a head.
        shape: its sizes, if they were already worked out from its config; None: work them out.

    Attributes:
        row: its row of the backbone table.
        base: the model without its head.
        prefix: the path to ``base`` in the model, such as ``"bert."``; empty when the model has no head.
        names: the names of all its modules.
        embeddings: the module whose output is the hidden state at depth 0.
        blocks: L blocks, those of a second stack after the first's; a shared block is listed once for each of its runs.
        shape: its sizes.
        through: runs a block [B, T, D] -> [B, T, D] by its number, what it computes and its input, where its weights
            are not in memory; None: it is simply run.

    Raises:
        ModelError: the table has no row for this type of model, or the row is wrong about it.
    """

    def __init__(self, model: PreTrainedModel, shape: Shape | None = None) -> None:
        self.model = model
        config = model.config.to_dict()
        self.row: Architecture = architecture_of(model.config.model_type, config)
        self.base: nn.Module = model.base_model
        self.prefix = "" if self.base is model else f"{model.base_model_prefix}."
        if self.row.measured:
            check_names(self.row, model, self.prefix)
        self.names = {name for name, _ in model.named_modules()}
        self.embeddings = self.base.get_submodule(self.row.embeddings)
        self.shape: Shape = shape_of(config) if shape is None else shape
        self._other_rows = self.row.rows_of(config)
        self.blocks = self._listed_blocks()
        self.through: Callable[[int, Callable[[Tensor], Tensor], Tensor], Tensor] | None = None

    def _listed_blocks(self) -> nn.ModuleList:
        lists = [self.base.get_submodule(stack.path) for stack in self.row.stacks]
        for stack, blocks in zip(self.row.stacks, lists, strict=True):
            if not isinstance(blocks, nn.ModuleList):
                raise ModelError(
                    f"{type(self.model).__name__}: {stack.path} is not a list of blocks",
                    "the backbone table's row is wrong",
                )
        distinct, (first, *more) = self.shape.distinct, lists
        # A new ModuleList, for numbering only: the blocks stay registered where the model has them.
        if more:
            return nn.ModuleList(block for blocks in lists for block in blocks.children())
        if not distinct:
            return first  # pyright: ignore[reportReturnType] - it is a ModuleList
        # Groups of layers as in transformers' AlbertTransformer: runs of equal length, in order.
        own = list(first.children())
        return nn.ModuleList(own[number * distinct // self.shape.blocks] for number in range(self.shape.blocks))

    def row_at(self, number: int) -> Architecture:
        """The row as it describes block ``number``, whose layout may be another than that of most."""
        return self._other_rows.get(number, self.row)

    @cached_property
    def passes(self) -> Passes:
        """The registry of hooks on the blocks."""
        return Passes(self.base, self.blocks)

    @property
    def border(self) -> int:
        """The number of blocks of the first stack: L, in most models."""
        return self.shape.border

    def has(self, path: str) -> bool:
        """Whether there is a module at ``path`` below the base."""
        return self.prefix + path in self.names

    def part(self, path: str) -> Any:
        """The module at ``path`` of the whole model."""
        return self.model.get_submodule(path)

    def embedding_modules(self) -> list[nn.Module]:
        """The embeddings and the modules that feed the blocks besides them."""
        paths = (*self.row.more_embeddings, *(path for path in self.row.beside if self.has(path)))
        return [self.embeddings, *map(self.base.get_submodule, paths)]

    def input_modules(self) -> list[nn.Module]:
        """The modules whose outputs make the hidden state at depth 0: one, unless no single one makes it."""
        return [self.base.get_submodule(path) for path in self.row.inputs]

    def final_norms(self) -> list[nn.Module]:
        """The norm after the last block, if the model has one, as a list."""
        return [self.base.get_submodule(self.row.final_norm)] if self.row.final_norm else []

    def normed(self, hidden: Tensor) -> Tensor:
        """``hidden`` [..., D] after the last block, as a head reads it: through the final norm, where there is one."""
        for norm in self.final_norms():
            hidden = norm(hidden)
        return hidden

    def run_block(self, number: int, hidden: Tensor, call: Call) -> Tensor:
        """Run one block on [B, T, D].

        Its ``forward`` is called, not the module: hooks on a block serve callers of the whole model
        (``model/hooks.py``), and here the insertions have been made already.
        """
        block: Any = self.blocks[number]

        def run(hidden: Tensor) -> Tensor:
            output = block.forward(hidden, *call.args, **call.kwargs)
            return output[0] if self.row.tuple_blocks else output

        return run(hidden) if self.through is None else self.through(number, run, hidden)

    def run_block_at(self, number: int, hidden: Tensor, call: Call, places: Tensor) -> Tensor:
        """Run one block, of whose output only ``places`` [B, N] are needed: [B, T, D] -> [B, N, D]."""
        way = self.row_at(number).last_block
        if way is None:
            return take(self.run_block(number, hidden, call), places)
        last, block = LAST_BLOCK[way], self.blocks[number]
        if self.through is None:
            return last(block, hidden, call, places)
        return self.through(number, lambda hidden: last(block, hidden, call, places), hidden)
