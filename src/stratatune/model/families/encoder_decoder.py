"""Encoder-decoders.

The trunk is the encoder's frozen part, whose output the cache holds: where all of the encoder is frozen, its final
output. The top runs the encoder's other blocks and then the model's own forward from there. The decoder's frozen blocks
run again in each step, since they read the encoder.

Depths run through both stacks. Up to the encoder's length an insertion is in the encoder; at that very depth it
changes the encoder's output, after its last norm. A prompt stays before that output: the decoder reads it too
(``encoder_decoder_hooks.py``). Above it, an adapter is in the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput

from stratatune.errors import ModelError, PlanError, StratatuneError
from stratatune.model.body import Body
from stratatune.model.families.encoder_decoder_hooks import install_behind_encoder
from stratatune.model.families.encoder_hooks import Append, install_in_encoder
from stratatune.model.families.family import Family, Reader, in_eval
from stratatune.model.families.fitting import check_alike, entering, some_tokens
from stratatune.model.families.stopping import run_up_to
from stratatune.model.fused import join, roles_now, separate
from stratatune.model.insertions import Insertions
from stratatune.model.question import Question
from stratatune.model.skeleton import Call
from stratatune.shapes.architectures import EncoderDecoderArchitecture

_HINT = (
    "a block of the encoder is called with the hidden state, the mask and, where position_bias= is named, that bias; "
    "its last one's output goes through behind_encoder=; other kinds need code of their own"
)
_FEW_WORDS = 8  # room for the tokens that have a meaning


class EncoderDecoder(Family):
    """A live encoder-decoder.

    Args:
        body: the model and its parts.
    """

    def __init__(self, body: Body) -> None:
        super().__init__(body)
        self.row = cast("EncoderDecoderArchitecture", body.row)
        self.base: Any = body.base

    @classmethod
    def without_values(cls, head: str, labels: int) -> tuple[str, dict[str, int]]:
        """Use a small LM head, which keeps about as much: a pooling head finds the end of a text by its token ids."""
        few = {} if head == "seq2seq_lm" else {"vocab_size": max(labels, _FEW_WORDS), "pad_token_id": 0}
        return "seq2seq_lm", {**few, "decoder_start_token_id": 0}  # which configs of a class alone may lack

    def roles(self, number: int) -> Mapping[str, str]:
        if number >= self.body.border:
            return self.row.decoder_roles
        return roles_now(self.body.blocks[number], self.row)

    def take_apart(self, number: int, roles: tuple[str, ...]) -> None:
        separate(self.body.blocks[number], self.row, roles, self.body.shape.at(number))

    def put_together(self) -> None:
        for block in dict.fromkeys(self.body.blocks):
            join(block, self.row)

    def calls(self, hidden: Tensor, mask: Tensor) -> list[Call]:
        seen = create_bidirectional_mask(config=self.base.encoder.config, inputs_embeds=hidden, attention_mask=mask)
        # One call for all: T5's later blocks reuse the first one's bias.
        return [Call((seen, *self._position_bias(hidden.shape[1])))] * self.body.border

    def _position_bias(self, length: int) -> list[Tensor]:
        """T5's relative position bias [1, heads, T, T], which its first block holds for all; empty for other models."""
        if self.row.relative_bias is None:
            return []
        first: Any = self.body.blocks[0].get_submodule(self.row.relative_bias)
        return [first.compute_bias(length, length)]

    def stacks(self, depth: int) -> list[nn.Module]:
        return [self.base.encoder, self.base.decoder] if depth > self.body.border else [self.base.encoder]

    def offloadable(self, depth: int) -> list[nn.Module]:
        """Always empty: the decoder uses the encoder's embeddings, and T5's first block has all position biases."""
        return []

    def leaves_the_head(self, depth: int) -> bool:
        """Always false: the decoder runs in each step, and reads every position of the encoder."""
        return False

    def trunk(self, ids: Tensor, mask: Tensor, types: Tensor | None, depth: int, question: Question) -> Tensor:
        """The encoder's hidden state at ``depth``, or its output where all of it is below."""
        if depth >= self.body.border:
            return self._encode(ids, mask)
        return run_up_to(self.body, depth, lambda: self.base.encoder(input_ids=ids, attention_mask=mask.long()))

    def begin(
        self, ids: Tensor, mask: Tensor, types: Tensor | None, depth: int, question: Question
    ) -> tuple[Tensor, list[Call]]:
        """Compute the blocks' arguments here: T5's blocks pass the position bias on, so no block may be left out."""
        hidden = run_up_to(self.body, 0, lambda: self.base.encoder(input_ids=ids, attention_mask=mask.long()))
        return hidden, self.calls(hidden, mask)

    def behind_trunk(self, hidden: Tensor, depth: int, calls: Sequence[Call]) -> Tensor:
        return self._behind(hidden) if depth >= self.body.border else hidden

    def streamable(self, depth: int) -> list[nn.Module]:
        """The encoder's linears, without the word table, which the decoder reads too, and the position biases."""
        blocks = self.body.blocks[: min(depth, self.body.border)]
        return [module for block in blocks for module in block.modules() if isinstance(module, nn.Linear)]

    def _encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The encoder's output [B, T, D], without the insertions after it (its ``forward``, not the module)."""
        return self.base.encoder.forward(input_ids=ids, attention_mask=mask.long()).last_hidden_state

    def top(
        self, hidden: Tensor, mask: Tensor, depth: int, inserted: Insertions, question: Question, head: Reader
    ) -> Tensor:
        """Run the model's own decoder and head.

        ``question.targets`` are the tokens that the decoder is to produce, teacher-forced, or where the head pools, the
        source's own tokens, which the decoder reads again.
        """
        if question.targets is None:
            raise StratatuneError("the question to an encoder-decoder has no targets")
        hidden, mask = self._rest_of_encoder(hidden, mask, depth, inserted)
        # The whole model and not its decoder: it scales T5's output, adds BART's logits bias, and finds the pooled
        # token.
        model: Any = self.body.model
        encoded = BaseModelOutput(last_hidden_state=hidden)  # pyright: ignore[reportArgumentType]
        given = head.for_targets(question.targets)
        return model(encoder_outputs=encoded, attention_mask=mask.long(), use_cache=False, **given).logits

    def _rest_of_encoder(self, hidden: Tensor, mask: Tensor, depth: int, inserted: Insertions) -> tuple[Tensor, Tensor]:
        """Run the encoder from ``depth`` on with its insertions: [B, T, D], [B, T] -> [B, P + T, D], [B, P + T]."""
        border, calls = self.body.border, self.calls(hidden, mask)
        for number in range(depth, border):
            for insertion in inserted.at(number):
                hidden, mask = insertion(hidden, mask)
                calls = self.calls(hidden, mask) if insertion.tokens else calls
            hidden = self.body.run_block(number, hidden, calls[number])
        # From the border on the cache holds the encoder's output, which has been through this already.
        if depth < border:
            hidden = self._behind(hidden)
        for insertion in inserted.at(border):
            hidden, mask = insertion(hidden, mask)
        return hidden, mask

    def _behind(self, hidden: Tensor) -> Tensor:
        """The output [B, T, D] of the modules after the encoder's last block: T5 norms there."""
        for path in self.row.behind_blocks:
            hidden = self.base.get_submodule(path)(hidden)
        return hidden

    def _run_encoder(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Run every encoder block over [B, T, D] at depth 0 without insertions, and the modules after the last."""
        for number, call in enumerate(self.calls(hidden, mask)):
            hidden = self.body.run_block(number, hidden, call)
        return self._behind(hidden)

    def install(self, inserted: Insertions) -> list[RemovableHandle]:
        border = self.body.border
        # The prompt stays before the encoder's output, so its length is not needed to strip it.
        handles, flow, _ = install_in_encoder(self, inserted, self.base.encoder)
        above = [(depth, one) for depth, one in inserted if depth > border]
        handles += [self.body.passes.after(depth - 1, Append(one)) for depth, one in above]
        return [*handles, *install_behind_encoder(self.body, inserted, flow.seen)]

    def own_head(self, hidden: Tensor, mask: Tensor, output: str) -> Tensor:
        raise StratatuneError("an encoder-decoder's head is run by the model's own forward")

    def pooled(self, mask: Tensor) -> Tensor:
        raise StratatuneError("an encoder-decoder's head finds its own token")

    def check_forward(self, head: Reader) -> None:
        """Refuse a row by which the blocks give other numbers than the encoder's own forward, on two texts, one padded.

        Every weight must have a name, too.
        """

        def both_ways() -> tuple[Tensor, Tensor]:
            ids = some_tokens(self.body).expand(2, -1)
            mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2], device=ids.device)
            # A model that cannot shift its targets is refused here, and not in the first step.
            head.for_targets(ids)
            with entering(self.body.blocks[0]) as seen:
                wanted = self._encode(ids, mask)
            return wanted[mask], self._run_encoder(seen[0], mask)[mask]

        check_alike(self.body, both_ways, _HINT)
        self._check_all_named()

    def _check_all_named(self) -> None:
        """Refuse weights that are neither in the embeddings nor in a block or the head: they would not be counted."""
        body, heads = self.body, (self.row.lm_head, self.row.classifier)
        tops = [module for name, module in body.model.named_modules() if name in heads]
        modules = (*body.embedding_modules(), body.blocks, *body.final_norms(), *tops)
        named = {id(parameter) for module in modules for parameter in module.parameters()}
        left = [name for name, parameter in body.model.named_parameters() if id(parameter) not in named]
        if left:
            raise ModelError(
                f"{type(body.model).__name__} has weights that no name covers: {', '.join(left[:6])}",
                "name their modules in beside=, or behind_encoder=",
            )

    def embed(self, vectors: Tensor) -> Tensor:
        """Embed vectors that take the place of the encoder's first words."""
        row, hidden = self.row, vectors[None]
        # Each module's forward is called and not the module: `shift` hooks these for callers of the whole model.
        if row.position_table is not None:
            places = torch.arange(len(vectors), device=vectors.device)
            hidden = hidden + self.base.get_submodule(row.position_table).forward(hidden, position_ids=places)
        return hidden if row.position_norm is None else self.base.get_submodule(row.position_norm).forward(hidden)

    def shift(self, count: int) -> list[RemovableHandle]:
        if self.row.position_table is None:
            return []
        table = self.base.get_submodule(self.row.position_table)
        return [table.register_forward_pre_hook(_Behind(count), with_kwargs=True)]

    def refuse_prompt(self) -> None:
        # Only for rows that a user added: those of the table are tested.
        if self.row.measured and not self._embeds_as_named():
            raise PlanError(
                f"no prompt at the input of {self.row.name}: its encoder does more with vectors in place of words than "
                "its row says",
                "name position_table= and position_norm= where it has them, or use a late prompt: late_prompt(depth=0)",
            )

    @torch.no_grad()
    def _embeds_as_named(self) -> bool:
        """Whether :meth:`embed` turns vectors into the hidden state that the model's own encoder would."""
        vectors = self.base.get_input_embeddings().weight[1:4]
        try:
            with in_eval(self.base.encoder), entering(self.body.blocks[0]) as seen:
                self.base.encoder.forward(inputs_embeds=vectors[None])
            return torch.allclose(seen[0], self.embed(vectors), atol=1e-4)
        except (TypeError, RuntimeError):
            return False


class _Behind:
    """Makes BART's table of positions, which counts them itself, count P prompt tokens first."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (args[0], self.count, *args[2:]), kwargs  # transformers 5.24 gave the argument another name
