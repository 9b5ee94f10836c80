"""Encoders: every token sees the whole text.

How masks and positions reach a block is recorded from the model's own forward (``model/skeleton.py``), which also runs
its own head on a last hidden state.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from stratatune.errors import PlanError
from stratatune.model.body import Body
from stratatune.model.families.encoder_hooks import Append, Strip, install_in_encoder
from stratatune.model.families.family import Family, Reader
from stratatune.model.families.last_block import take
from stratatune.model.fused import join, roles_now, separate
from stratatune.model.insertions import Insertions
from stratatune.model.question import Question
from stratatune.model.skeleton import Call, Skeleton
from stratatune.shapes.architectures import EncoderArchitecture


class Encoder(Family):
    """A live encoder.

    Args:
        body: the model and its parts.
    """

    def __init__(self, body: Body) -> None:
        super().__init__(body)
        self.row = cast("EncoderArchitecture", body.row)

    @cached_property
    def skeleton(self) -> Skeleton:
        """The model's own forward without its embeddings and blocks."""
        return Skeleton(
            self.body.model,
            self.body.prefix,
            [self.row.embeddings, *([self.row.projection] if self.row.projection and self.projection else [])],
            self.row.blocks,
            depth=len(self.body.blocks),
            returns_tuple=self.row.tuple_blocks,
        )

    @property
    def projection(self) -> nn.Module | None:
        """The linear that maps the embeddings' width E to D, where they differ."""
        path = self.row.projection
        return self.body.base.get_submodule(path) if path and self.body.has(path) else None

    def roles(self, number: int) -> Mapping[str, str]:
        """The path of each role; a linear that was taken apart holds its roles by their names."""
        lacks = self.row.lacks.get(number, ())
        return {role: path for role, path in roles_now(self.body.blocks[number], self.row).items() if role not in lacks}

    def take_apart(self, number: int, roles: tuple[str, ...]) -> None:
        separate(self.body.blocks[number], self.row, roles, self.body.shape)

    def put_together(self) -> None:
        for block in dict.fromkeys(self.body.blocks):
            join(block, self.row)

    def calls(self, hidden: Tensor, mask: Tensor) -> list[Call]:
        return self.skeleton.calls(hidden, mask)

    def top(
        self, hidden: Tensor, mask: Tensor, depth: int, inserted: Insertions, question: Question, head: Reader
    ) -> Tensor:
        one = hidden.shape[1] == 1 < mask.shape[1]  # only the requested position was kept
        places = self.pooled(mask) if one else head.places(question, mask)
        return head.logits(self._blocks(hidden, mask, depth, inserted, places), mask, question)

    def _blocks(self, hidden: Tensor, mask: Tensor, depth: int, inserted: Insertions, places: Tensor | None) -> Tensor:
        """The blocks from ``depth`` on, without the positions that prompts take.

        The last block computes only the ``places``: positions [B, N] -> [B, N, D]; a mask [B, T] bool -> [n, D]; None:
        every token -> [B, T, D].
        """
        body, depths, real, width = self.body, range(depth, len(self.body.blocks)), mask, hidden.shape[1]
        few = None if places is None or places.dtype is torch.bool else places
        # Masks and positions cost a forward of the skeleton; with no block to run nobody reads them.
        calls = self.calls(hidden, mask) if depths else []
        for number in depths:
            for insertion in inserted.at(number):
                hidden, mask = insertion(hidden, mask)
                # A prompt goes before the text and shifts every position.
                few = few if few is None else few + insertion.tokens
                calls = self.calls(hidden, mask) if insertion.tokens else calls
            if number == depths[-1] and few is not None:
                hidden = body.run_block_at(number, hidden, calls[number], few)
            else:
                hidden = body.run_block(number, hidden, calls[number])
        if few is None:
            # Prompts come first, so the text is the last `width` positions.
            hidden = hidden[:, -width:]
        elif not depths:
            hidden = take(hidden, few)
        for insertion in inserted.at(len(body.blocks)):
            # Only adapters can be here, and they ignore the mask: only its shape has to fit.
            hidden, _ = insertion(hidden, real[:, : hidden.shape[1]])
        return hidden[places] if places is not None and places.dtype is torch.bool else hidden

    def install(self, inserted: Insertions) -> list[RemovableHandle]:
        last = len(self.body.blocks) - 1
        handles, _, prompt = install_in_encoder(self, inserted, self.body.base)
        # In the order in which hooks run: insertions at the model's own depth first, then the prompt is taken off.
        handles += [self.body.passes.after(last, Append(one)) for one in inserted.at(last + 1)]
        return [*handles, *([self.body.passes.after(last, Strip(prompt))] if prompt else [])]

    def own_head(self, hidden: Tensor, mask: Tensor, output: str) -> Tensor:
        return self.skeleton.logits(hidden, mask)

    def pooled(self, mask: Tensor) -> Tensor:
        """The first token."""
        return torch.zeros_like(mask[:, :1], dtype=torch.long)

    def embed(self, vectors: Tensor) -> Tensor:
        """Embed the vectors by calling ``forward``, not the module: its hooks serve callers of the whole model."""
        places = {"position_ids": self.positions(0, len(vectors))} if self._takes("position_ids") else {}
        hidden = self.body.embeddings.forward(input_ids=None, inputs_embeds=vectors[None], **places)
        return hidden if self.projection is None else self.projection(hidden)

    def positions(self, start: int, count: int) -> Tensor:
        """Numbers [1, T] of the position table for ``count`` positions from ``start``."""
        first = self.row.position_offset + start
        return torch.arange(first, first + count, device=next(self.body.embeddings.parameters()).device)[None]

    def shift(self, count: int) -> list[RemovableHandle]:
        if not self._takes("position_ids"):
            return []
        return [self.body.embeddings.register_forward_pre_hook(_Shift(self, count), with_kwargs=True)]

    def refuse_prompt(self) -> None:
        if not self._takes("inputs_embeds"):
            raise PlanError(
                f"no prompt at the input of {self.row.name}: its embeddings do not accept vectors",
                "use a late prompt: late_prompt(depth=0)",
            )

    def _takes(self, name: str) -> bool:
        """Whether the embeddings' ``forward`` takes this argument; without positions, the blocks number the tokens."""
        return name in inspect.signature(self.body.embeddings.forward).parameters


class _Shift:
    """Adds P to the positions that the embeddings are given, or would count themselves."""

    def __init__(self, family: Encoder, count: int) -> None:
        self.family, self.count = family, count

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        # Families pass positions by place or by name, so both are found by the signature.
        call = inspect.signature(module.forward).bind_partial(*args, **kwargs)
        given, texts = call.arguments.get("position_ids"), call.arguments.get("input_ids")
        offset = self.family.row.position_offset
        if given is not None:
            call.arguments["position_ids"] = given + self.count
        elif offset and texts is not None:
            # RoBERTa and its relatives count real tokens, wherever the padding is; padding has the row before them.
            real = texts.ne(self.family.body.model.config.pad_token_id).long()
            call.arguments["position_ids"] = (real.cumsum(dim=1) + self.count) * real + offset - 1
        else:
            texts = call.arguments["inputs_embeds"] if texts is None else texts
            call.arguments["position_ids"] = self.family.positions(self.count, texts.shape[1])
        return call.args, call.kwargs
