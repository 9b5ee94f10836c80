"""Decoders: a token sees only what precedes it.

A tuned decoder's top is computed at one position (classification), at those that predict the candidates of a label, or
for those that predict a completion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from stratatune.errors import PlanError
from stratatune.model.body import Body
from stratatune.model.families.carried import SHARED, Given, Shared, empty, parts_of, with_shared, without_shared
from stratatune.model.families.decoder_calls import behind, block_arguments, decoder_calls, model_arguments
from stratatune.model.families.decoder_hooks import install_insertions
from stratatune.model.families.decoder_layout import Layout, branched
from stratatune.model.families.family import Family, Reader, in_eval
from stratatune.model.families.fitting import check_alike, check_calls, entering, some_tokens
from stratatune.model.families.last_block import take
from stratatune.model.families.stopping import recorded, run_up_to
from stratatune.model.fused import join, roles_now, separate
from stratatune.model.insertions import Insertions
from stratatune.model.question import Question, last_of, text_end
from stratatune.model.skeleton import Call, Skeleton
from stratatune.model.stored import computes_in
from stratatune.shapes.architectures import DecoderArchitecture

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_HINT = (
    "a block is called with attention_mask, position_ids and, where rotary= is named, position_embeddings; "
    "a decoder of another kind needs code of its own"
)


class Decoder(Family):
    """A live decoder.

    Args:
        body: the model and its parts.
    """

    silent_fields: ClassVar[tuple[str, ...]] = ("pad_token_id", "bos_token_id", "eos_token_id", "tie_word_embeddings")
    """Config fields without effect here: padding is masked, and shifts no position."""

    def __init__(self, body: Body) -> None:
        super().__init__(body)
        self.row = cast("DecoderArchitecture", body.row)

    @property
    def causal(self) -> bool:
        """Whether a token sees only what precedes it; a config may say otherwise."""
        return self.body.shape.causal

    @property
    def depth_readings(self) -> tuple[str, ...]:
        """Only the position read, where no other token has seen the whole text."""
        return ("read",) if self.causal else super().depth_readings

    def roles(self, number: int) -> Mapping[str, str]:
        return roles_now(self.body.blocks[number], self.body.row_at(number))

    def take_apart(self, number: int, roles: tuple[str, ...]) -> None:
        separate(self.body.blocks[number], self.body.row_at(number), roles, self.body.shape.of_block(number))

    def put_together(self) -> None:
        for number, block in enumerate(self.body.blocks):
            join(block, self.body.row_at(number))

    def calls(self, hidden: Tensor, mask: Tensor) -> list[Call]:
        return decoder_calls(self.body, hidden, mask)

    def trunk(self, ids: Tensor, mask: Tensor, types: Tensor | None, depth: int, question: Question) -> Tensor:
        return with_shared(self.body, depth, *self._reached(ids, mask, depth, question))

    def _reached(self, ids: Tensor, mask: Tensor, depth: int, question: Question) -> tuple[Tensor, Shared | None]:
        """The hidden state with which the model's own forward reaches ``depth``, and what its blocks shared by then."""
        shared, given = empty(self.body), model_arguments(self.body, mask, question)
        given |= {} if shared is None else {SHARED: shared}
        return run_up_to(self.body, depth, lambda: self.body.base(input_ids=ids, **given)), shared

    def begin(
        self, ids: Tensor, mask: Tensor, types: Tensor | None, depth: int, question: Question
    ) -> tuple[Tensor, list[Call]]:
        with recorded(self.body, depth) as calls:
            return self._reached(ids, mask, depth, question)[0], calls

    def behind_trunk(self, hidden: Tensor, depth: int, calls: Sequence[Call]) -> Tensor:
        return with_shared(self.body, depth, hidden, calls[0].kwargs.get(SHARED))

    def offloadable(self, depth: int) -> list[nn.Module]:
        """Without the embeddings where the blocks above read a part of each token, which is made of them."""
        if not self.body.shape.token_part:
            return super().offloadable(depth)
        above = depth < len(self.body.blocks)
        return [*([] if above else self.body.embedding_modules()), *self.body.blocks[:depth]]

    def top(
        self, hidden: Tensor, mask: Tensor, depth: int, inserted: Insertions, question: Question, head: Reader
    ) -> Tensor:
        one = hidden.shape[1] == 1 < mask.shape[1]  # only the requested position was kept
        places = torch.zeros_like(mask[:, :1], dtype=torch.long) if one else head.places(question, mask)
        # Where nothing is to be said behind the text, a prompt is made from all of it, whichever places are asked.
        end = text_end(question, mask) if head.speaks else last_of(mask)[:, 0]
        layout = branched(mask, end, question.branches, both=not self.causal)
        hidden, shared = without_shared(self.body, depth, hidden)
        # Where only the head runs, a hidden state may be of one position.
        parts = parts_of(self.body, question.ids, hidden) if depth < len(self.body.blocks) else None
        found = self._blocks(hidden, layout, depth, inserted, places, Given(shared, parts))
        return head.logits(found, mask, question)

    def _blocks(
        self, hidden: Tensor, layout: Layout, depth: int, inserted: Insertions, places: Tensor | None, given: Given
    ) -> Tensor:
        """Run the blocks from ``depth`` on, with the insertions before, between and after them.

        The last block computes only the ``places``: positions [B, N] -> [B, N, D]; a mask [B, T] bool -> [n, D]; None:
        every token -> [B, T, D].
        """
        body, depths, prompt = self.body, range(depth, len(self.body.blocks)), 0
        # A bool mask has a different number of places in each row, so the last block runs in full and is picked
        # from after.
        few = None if places is None or places.dtype is torch.bool else places
        for number in depths:
            for insertion in inserted.at(number):
                hidden, _ = insertion(hidden, layout.prefix)
                # Each prompt goes before everything and shifts every position.
                layout, prompt = behind(layout, insertion), prompt + insertion.tokens
            call = Call(kwargs=block_arguments(body, number, hidden, layout, given))
            if number == depths[-1] and few is not None:
                hidden = body.run_block_at(number, hidden, call, few + prompt)
            else:
                hidden = body.run_block(number, hidden, call)
        if few is None:
            hidden = hidden[:, prompt:]
        elif not depths:
            # No block has run, so none has picked the places.
            hidden = take(hidden, few)
        for insertion in inserted.at(len(body.blocks)):  # none there makes prompts, so no mask is read
            hidden, _ = insertion(hidden, hidden.new_ones(hidden.shape[:2]).bool())
        return hidden[places] if places is not None and places.dtype is torch.bool else hidden

    def install(self, inserted: Insertions) -> list[RemovableHandle]:
        return install_insertions(self.body, inserted)

    def own_head(self, hidden: Tensor, mask: Tensor, output: str) -> Tensor:
        """The final norm, dropout where the model's own class has it, and the output layer."""
        hidden, dropout = self.body.normed(hidden), getattr(self.body.model, "dropout", None)
        # Asked with getattr: transformers' token classification of decoders has dropout, sequence classification has
        # none.
        return self.body.part(output)(dropout(hidden) if isinstance(dropout, nn.Dropout) else hidden)

    def pooled(self, mask: Tensor) -> Tensor:
        """The last token, the only one that has seen the whole text."""
        return last_of(mask)

    def refuse_generation(self, inserted: Insertions, use_cache: bool | None) -> None:
        """Refuse ``use_cache=False``: each step would compute a late prompt again, from a longer text."""
        if use_cache is False and any(one.tokens and not one.positions for _, one in inserted.modules):
            raise PlanError(
                "a late prompt is made once from the text and then lives in the key-value cache",
                "generate without use_cache=False",
            )

    def prepare(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Give the tokenizer a padding token where it has none (the end of text; padding is masked everywhere)."""
        config = self.body.model.config
        if tokenizer.pad_token_id is None:
            # Llama and GPT-2 have no padding token, and a batch cannot be padded without one.
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.bos_token
        # transformers' classification models read the last token that is not this one. Where the config names another
        # than the tokenizer pads with, they would read padding.
        config.pad_token_id = tokenizer.pad_token_id

    @torch.no_grad()
    def check_calls(self) -> None:
        """Compare masks and angles for two short texts of different lengths; no weights are read.

        A field of the config that this row does not know may change them, and then a cached trunk and a trained top
        would belong to two models.
        """
        body, row = self.body, self.row
        held = body.base.parameters() if row.rotary is None else body.base.get_submodule(row.rotary).buffers()
        device = next((one.device for one in held), torch.device("meta"))
        # A model that accelerate wraps runs itself, not the skeleton.
        if device.type == "meta" or "forward" in vars(body.base):
            return
        mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2], device=device)
        hidden = torch.zeros(2, 5, body.shape.hidden, device=device, dtype=computes_in(body.model))
        skeleton = Skeleton(
            body.model,
            body.prefix,
            list(row.inputs),
            row.blocks,
            depth=len(body.blocks),
            returns_tuple=row.tuple_blocks,
            settings=row.without_ids,
        )
        with in_eval(body.base):  # so that no dropout draws numbers
            theirs = skeleton.calls(hidden, mask)
        check_calls(body, theirs, self.calls(hidden, mask), mask)

    def check_forward(self, head: Reader) -> None:
        """Refuse a row by which the blocks give other numbers than the model's own forward does, on a few tokens."""

        def both_ways() -> tuple[Tensor, Tensor]:
            ids, speaks = some_tokens(self.body), head.speaks
            with entering(self.body.blocks[0]) as seen:
                # Without a key-value cache, as the blocks are called in training.
                wanted = (self.body.model if speaks else self.body.base)(input_ids=ids, use_cache=False)[0]
            mask = torch.ones_like(ids).bool()
            hidden = self._run_plain(seen[0], mask)
            return wanted, head.logits(hidden, mask, Question()) if speaks else self.body.normed(hidden)

        check_alike(self.body, both_ways, _HINT)

    def embed(self, vectors: Tensor) -> Tensor:
        if self.row.embeddings_times is not None:
            vectors = vectors * getattr(self.body.model.config, self.row.embeddings_times)
        if self.row.position_table is None:
            return vectors[None]
        places = torch.arange(len(vectors), device=vectors.device)[None]
        return vectors[None] + self.body.base.get_submodule(self.row.position_table).forward(places)

    def said_of(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Read the last token: its last hidden state, normed. The first token has seen nothing of the text."""
        return self.body.normed(take(self._run_plain(hidden, mask), last_of(mask))[:, 0])

    def _run_plain(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Run every block over [B, T, D] at depth 0 without insertions; ``mask`` [B, T] is False at padding."""
        for number, call in enumerate(self.calls(hidden, mask)):
            hidden = self.body.run_block(number, hidden, call)
        return hidden

    def shift(self, count: int) -> list[RemovableHandle]:
        if self.row.position_table is None:
            return []
        table = self.body.base.get_submodule(self.row.position_table)
        return [table.register_forward_pre_hook(_Further(count))]


class _Further:
    """Adds P to the position numbers [B, T] that the table of positions is given."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Any, ...]:
        return (args[0] + self.count, *args[1:])
