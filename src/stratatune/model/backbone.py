"""A live Hugging Face model seen through its row of the backbone table.

Everything that depends on how a family of models is built is asked here: where the blocks are, which module plays which
role, what a block is called with, how the head turns one hidden state into logits.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from stratatune.errors import ModelError
from stratatune.methods.fused import FusedLinear
from stratatune.methods.site import Site
from stratatune.model.families.decoder import class_logits, lm_logits
from stratatune.model.families.encoder_decoder import encoder_calls
from stratatune.model.families.last_block import LAST_BLOCK, take
from stratatune.model.fitting import check_forward, check_names
from stratatune.model.fused import join, roles_now, separate
from stratatune.model.heads.masked_lm import MlmHead
from stratatune.model.measure import measured
from stratatune.model.passes import Passes
from stratatune.model.question import Question, last_of
from stratatune.model.skeleton import Call, Skeleton
from stratatune.shapes.architectures import Architecture
from stratatune.shapes.shape import Shape
from stratatune.shapes.sizes import shape_of
from stratatune.shapes.table import architecture_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Output = Literal["mlm", "causal", "seq2seq", "classification", "none"]


class Backbone:
    """A live model and its row.

    Args:
        model: a Hugging Face model, with or without a head.

    Raises:
        ModelError: the table has no row for this type of model, or the row is wrong about it.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        config = model.config.to_dict()
        self.row: Architecture = architecture_of(model.config.model_type, config)
        self.base: nn.Module = model.base_model
        self._prefix = "" if self.base is model else f"{model.base_model_prefix}."
        if self.row.measured:
            check_names(self.row, model, self._prefix)
        self.embeddings = self.base.get_submodule(self.row.embeddings)
        self._names = {name for name, _ in model.named_modules()}
        layout = self._mlm_layout()
        self.mlm = MlmHead(self, layout) if layout else None
        self.output = self._output()
        shape = shape_of(config)
        self.blocks = self._listed_blocks(shape)
        self.shape: Shape = measured(shape, self) if self.row.measured else shape
        if self.row.measured and self.row.kind != "encoder":
            check_forward(self)

    def _listed_blocks(self, shape: Shape) -> nn.ModuleList:
        """L blocks, those of a second stack behind the first's; shared ones are there as often as they run."""
        blocks = self.base.get_submodule(self.row.blocks)
        if not isinstance(blocks, nn.ModuleList):
            raise ModelError(
                f"{type(self.model).__name__}: {self.row.blocks} is no list of blocks",
                "the backbone table's row is wrong",
            )
        if self.row.decoder_blocks is not None:
            return nn.ModuleList([*blocks, *self.base.get_submodule(self.row.decoder_blocks).children()])
        if not shape.distinct:
            return blocks
        return nn.ModuleList(blocks[number * shape.distinct // shape.blocks] for number in range(shape.blocks))

    def _mlm_layout(self) -> dict[str, str]:
        """Part of the MLM head -> path of its module; empty when the model has no such head."""
        for layout in (self.row.mlm_head, *self.row.mlm_alternatives) if self.row.kind == "encoder" else ():
            if layout and self._names.issuperset(layout.values()):
                return {"bias": layout["decoder"], **layout}
        return {}

    @property
    def encoder_blocks(self) -> int:
        """How many of the blocks are the encoder's, in an encoder-decoder."""
        return self.shape.border

    def stacks(self, depth: int) -> list[nn.Module]:
        """The modules that hold everything below ``depth``: the model without its head, of two stacks the encoder."""
        if self.row.kind != "encoder-decoder":
            return [self.base]
        base: Any = self.base
        return [base.encoder, base.decoder] if depth > self.encoder_blocks else [base.encoder]

    def _output(self) -> Output:
        if self.row.kind != "encoder" and self.row.mlm_head["decoder"] in self._names:
            return "causal" if self.row.causal else "seq2seq"
        if self.mlm is not None:
            return "mlm"
        return "classification" if self.row.classifier in self._names else "none"

    @cached_property
    def passes(self) -> Passes:
        """Where hooks on the blocks are registered."""
        return Passes(self.base, self.blocks)

    @cached_property
    def skeleton(self) -> Skeleton:
        """The model's own forward around its blocks."""
        return Skeleton(
            self.model,
            self._prefix,
            [self.row.embeddings, *([self.row.projection] if self.row.projection and self.projection else [])],
            self.row.blocks,
            depth=len(self.blocks),
            returns_tuple=self.row.tuple_blocks,
        )

    def _has(self, path: str) -> bool:
        """Whether the encoder has a module at ``path``."""
        return self._prefix + path in self._names

    def embedding_modules(self) -> list[nn.Module]:
        """The embeddings and what feeds the blocks beside them."""
        paths = (*self.row.more_embeddings, *(path for path in self.row.beside if self._has(path)))
        return [self.embeddings, *map(self.base.get_submodule, paths)]

    def input_modules(self) -> list[nn.Module]:
        """The modules whose outputs make the hidden state at depth 0: one, unless no single one makes it."""
        paths = (path for path in self.row.more_embeddings if path not in self.row.behind_blocks)
        return [self.embeddings, *map(self.base.get_submodule, paths)]

    @property
    def projection(self) -> nn.Module | None:
        """What maps the embeddings' width E to D, where they differ."""
        path = self.row.projection
        return self.base.get_submodule(path) if path and self._has(path) else None

    def final_norms(self) -> list[nn.Module]:
        """The norm behind the last block, where there is one."""
        return [self.base.get_submodule(self.row.final_norm)] if self.row.final_norm else []

    def site(self, number: int) -> Site:
        """Block ``number`` and its roles."""
        if number >= self.encoder_blocks:
            name = f"decoder block {number - self.encoder_blocks}"
            return Site(self.blocks[number], self.row.decoder_roles, name, self.row.norms_read_by)
        if self.row.kind != "encoder":
            roles = roles_now(self.blocks[number], self.row)
            return Site(self.blocks[number], roles, f"block {number}", self.row.norms_read_by)
        block, roles = self.blocks[number], {}
        for role, path in self.row.roles.items():
            if role not in self.row.lacks.get(number, ()):
                roles[role] = f"{path}.{role}" if isinstance(block.get_submodule(path), FusedLinear) else path
        return Site(block, roles, f"block {number}")

    def take_apart(self, number: int, roles: tuple[str, ...]) -> None:
        """Give each of ``roles`` a linear of its own in block ``number``, where one linear plays several."""
        block = self.blocks[number]
        if self.row.kind != "encoder":
            separate(block, self.row)
            return
        for path, parts in self.row.fused.items():
            linear = block.get_submodule(path)
            if set(parts) & set(roles) and isinstance(linear, nn.Linear):
                block.set_submodule(path, FusedLinear(linear, parts))

    def put_together(self) -> None:
        """Undo :meth:`take_apart`, once the methods are merged: the blocks are as the model defines them."""
        for block in dict.fromkeys(self.blocks):
            if self.row.kind != "encoder":
                join(block, self.row)
                continue
            for path in self.row.fused:
                fused = block.get_submodule(path)
                if isinstance(fused, FusedLinear):
                    block.set_submodule(path, fused.joined())

    def head_site(self) -> Site:
        """The head's parts that this model has: those of the MLM head or the pooler, and the final norm."""
        norm = {"final_norm": self._prefix + self.row.final_norm} if self.row.final_norm else {}
        if self.row.kind != "encoder":
            path = self.row.mlm_head["decoder"]
            parts = {} if self.output == "classification" else {"decoder": path}
            if self.shape.head_parts["bias"]:
                parts["bias"] = path
            if "norm" in self.row.mlm_head:
                parts["norm"] = norm["final_norm"]
            return Site(self.model, {**parts, **norm}, "the head")
        pooler = {} if self.row.pooler is None else {"pooler": self.row.pooler}
        parts = {"classification": pooler, "none": {}}[self.output] if self.mlm is None else self.mlm.paths
        return Site(self.model, {**parts, **norm}, "the head")

    def output_layer(self) -> list[nn.Parameter]:
        """The parameters of the task's own output layer, which no pretrained model brings; empty for ``mlm``."""
        if self.output != "classification":
            return []
        paths = [path for path in (self.row.classifier_before, self.row.classifier) if path]
        return [parameter for path in paths for parameter in self.model.get_submodule(path).parameters()]

    def in_encoder(self, parameter: nn.Parameter) -> bool:
        """Whether ``parameter`` belongs to the embeddings, a block or the final norm."""
        return id(parameter) in self._encoder_parameters()

    def _encoder_parameters(self) -> set[int]:
        modules = (*self.embedding_modules(), self.blocks, *self.final_norms())
        return {id(parameter) for module in modules for parameter in module.parameters()}

    @property
    def reads_all(self) -> bool:
        """Whether the head reads every token (mean pooling), not one position."""
        says = getattr(self.model.config, self.row.pooling) if self.row.pooling else None
        return self.output == "classification" and says == "mean"

    def calls(self, hidden: Tensor, mask: Tensor) -> list[Call]:
        """What each block (of two stacks: of the encoder) is called with beside the hidden state [B, T, D].

        ``mask`` [B, T] bool, which tokens are real.
        """
        if self.row.kind == "encoder-decoder":
            return encoder_calls(self, hidden, mask)
        return self.skeleton.calls(hidden, mask)

    def run_block(self, number: int, hidden: Tensor, call: Call) -> Tensor:
        """One block on [B, T, D].

        Its ``forward`` is called, not the module: hooks on a block serve callers of the whole model
        (``model/hooks.py``), and here the insertions have been made already.
        """
        block: Any = self.blocks[number]
        output = block.forward(hidden, *call.args, **call.kwargs)
        return output[0] if self.row.tuple_blocks else output

    def run_block_at(self, number: int, hidden: Tensor, call: Call, places: Tensor) -> Tensor:
        """One block, of whose result only ``places`` [B, N] are wanted: [B, T, D] -> [B, N, D]."""
        if self.row.last_block is None:
            return take(self.run_block(number, hidden, call), places)
        return LAST_BLOCK[self.row.last_block](self.blocks[number], hidden, call, places)

    def places(self, question: Question, mask: Tensor) -> Tensor | None:
        """Where the last hidden state is wanted: as the question says, or the one position that the head pools."""
        if question.places is not None or self.output != "classification" or self.reads_all:
            return question.places
        return last_of(mask) if self.row.causal else torch.zeros_like(mask[:, :1], dtype=torch.long)

    def logits(self, hidden: Tensor, mask: Tensor, question: Question) -> Tensor:
        """The last hidden state -> the logits that are asked for, by the head.

        Args:
            hidden: at the places asked [B, N, D] or [n, D], or of every token [B, T, D].
            mask: real tokens [B, T], which a head that pools them all reads.
            question: says whether the head pools, and which rows it gives.

        Raises:
            ModelError: the model has no head, or one that pools every token is asked for places.
        """
        if self.output == "none":
            name = type(self.model).__name__
            raise ModelError(f"{name} has no head", "load it with a masked-LM or a classification head")
        if self.output == "classification":
            return self._class_logits(hidden, mask, pooled=question.places is None)
        if self.mlm is not None:
            return self.mlm.logits(hidden, question.rows)
        return lm_logits(self, hidden, question.rows)

    def _class_logits(self, hidden: Tensor, mask: Tensor, *, pooled: bool) -> Tensor:
        if self.row.causal:
            logits = class_logits(self, hidden)
        elif self.reads_all:
            if not pooled:
                raise ModelError("this head pools all tokens: it has no logits at places", "ask for none")
            return self.skeleton.logits(hidden, mask)
        else:
            rows = hidden.reshape(-1, 1, hidden.shape[-1])
            ones = torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device)
            logits = self.skeleton.logits(rows, ones).unflatten(0, hidden.shape[:-1])
        return logits[:, 0] if pooled else logits

    def head_weights(self) -> list[nn.Module | nn.Parameter | Tensor]:
        """What the head computes with, a decoder held in a lower precision in place of the one it was made from."""
        if self.output == "classification":
            paths = (self.row.pooler, self.row.classifier_before, self.row.classifier)
            return [*self.final_norms(), *(self.model.get_submodule(path) for path in paths if path)]
        if self.output != "none" and self.row.kind != "encoder":
            return [*self.final_norms(), self.model.get_submodule(self.row.mlm_head["decoder"])]
        return [] if self.mlm is None else self.mlm.weights()

    def untie_decoder(self) -> str:
        """Give the decoder a copy of the embeddings that it shares, so that it can train apart; says so in one line."""
        decoder: Any = self.model.get_submodule(self.row.mlm_head["decoder"])
        decoder.weight = nn.Parameter(decoder.weight.detach().clone(), requires_grad=False)
        self.model.config.tie_word_embeddings = False
        count = decoder.weight.numel()
        return f"head(untie): the decoder is a copy of its own now, {count:,} parameters more than the base model has"
