"""The interface of a family: how a model of it is run, from its tokens to its logits."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from stratatune.model.body import Body
from stratatune.model.families.stopping import recorded, run_up_to
from stratatune.model.insertions import Insertions
from stratatune.model.question import Question
from stratatune.model.skeleton import Call
from stratatune.model.stored import StoredTable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Reader(Protocol):
    """The interface of a head, as a family uses it."""

    @property
    def speaks(self) -> bool:
        """Whether it is a language-model head."""
        ...

    def places(self, question: Question, mask: Tensor) -> Tensor | None:
        """The positions at which the last hidden state is needed; None: every token."""
        ...

    def logits(self, hidden: Tensor, mask: Tensor, question: Question) -> Tensor:
        """Turn the last hidden state at those places into the requested logits."""
        ...

    def for_targets(self, targets: Tensor) -> dict[str, Tensor]:
        """The arguments of a model with a second stack that depend on its targets."""
        ...


class Family(abc.ABC):
    """A live model of one family. Abstract; a subclass is final.

    Class attributes:
        silent_fields: fields of a config that do not affect the blocks' arithmetic.

    Args:
        body: the model and its parts.
    """

    silent_fields: ClassVar[tuple[str, ...]] = ()

    def __init__(self, body: Body) -> None:
        self.body = body

    @property
    def causal(self) -> bool:
        """Whether a token sees only what precedes it."""
        return False

    @property
    def depth_readings(self) -> tuple[str, ...]:
        """The readings of a depth that know the whole text (``model/depths.py``)."""
        return ("read", "mean")

    @classmethod
    def without_values(cls, head: str, labels: int) -> tuple[str, dict[str, int]]:
        """The head to use in place of ``head`` for a model of fake tensors, whose ids have no values, and its settings.

        ``labels``: the number of a classifier's outputs.
        """
        return head, {}

    # --- its blocks ------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def roles(self, number: int) -> Mapping[str, str]:
        """The path of each role in block ``number``, as the block is now."""

    @abc.abstractmethod
    def take_apart(self, number: int, roles: tuple[str, ...]) -> None:
        """Give each of ``roles`` a separate linear in block ``number``, where one linear plays several."""

    @abc.abstractmethod
    def put_together(self) -> None:
        """Undo :meth:`take_apart`, once the methods are merged: the blocks are as the model defines them."""

    @abc.abstractmethod
    def calls(self, hidden: Tensor, mask: Tensor) -> list[Call]:
        """The arguments of each block besides the hidden state [B, T, D]; with two stacks, of the first's blocks.

        ``mask`` [B, T] bool, which tokens are real.
        """

    def stacks(self, depth: int) -> list[nn.Module]:
        """The modules that hold everything below ``depth``: the model without its head."""
        return [self.body.base]

    def offloadable(self, depth: int) -> list[nn.Module]:
        """The modules that nothing above ``depth`` runs."""
        return [self.body.embeddings, *self.body.blocks[:depth]]

    def leaves_the_head(self, depth: int) -> bool:
        """Whether only the head runs above ``depth``, so that positions outside the question do not matter."""
        return depth == len(self.body.blocks)

    # --- two halves ------------------------------------------------------------------------------------------------

    def trunk(self, ids: Tensor, mask: Tensor, types: Tensor | None, depth: int, question: Question) -> Tensor:
        """Run the model's own forward up to ``depth``: [B, T, D].

        Args:
            ids: tokens [B, T].
            mask: which of them are real [B, T] bool.
            types: token types [B, T], where the tokenizer gives them.
            depth: where to stop.
            question: says which candidates follow a decoder's text; nothing else of it matters here.
        """
        # A tokenizer may give token types to a model that has no use for them.
        known = types is not None and self.body.row.token_types
        given = {"attention_mask": mask.long(), **({"token_type_ids": types} if known else {})}
        return run_up_to(self.body, depth, lambda: self.body.base(input_ids=ids, **given))

    def begin(
        self, ids: Tensor, mask: Tensor, types: Tensor | None, depth: int, question: Question
    ) -> tuple[Tensor, list[Call]]:
        """The hidden state at depth 0 [B, T, D], and the other arguments of each block below ``depth``.

        Running the blocks by it, and :meth:`behind_trunk`, is :meth:`trunk`.
        """
        with recorded(self.body, depth) as calls:
            return self.trunk(ids, mask, types, depth, question), calls

    def behind_trunk(self, hidden: Tensor, depth: int, calls: Sequence[Call]) -> Tensor:
        """The part of :meth:`trunk` after the last block below ``depth``; ``calls`` are those of :meth:`begin`."""
        return hidden

    def streamable(self, depth: int) -> list[nn.Module]:
        """The modules below ``depth`` that a trunk may read while it runs, since nothing above needs them."""
        body = self.body
        above = set(body.blocks[depth:])  # blocks that share weights run there too
        inputs = body.embedding_modules()
        tables = [module for part in inputs for module in part.modules() if isinstance(module, StoredTable)]
        return [*(block for block in body.blocks[:depth] if block not in above), *tables]

    @abc.abstractmethod
    def top(
        self, hidden: Tensor, mask: Tensor, depth: int, inserted: Insertions, question: Question, head: Reader
    ) -> Tensor:
        """Run from ``depth`` to the logits.

        Args:
            hidden: [B, T, D] at ``depth``; [B, 1, D], where only the requested position was kept.
            mask: which tokens are real [B, T] bool.
            depth: where to begin.
            inserted: the insertions between the blocks.
            question: which logits are wanted; it says in which shape.
            head: turns the last hidden state into logits.
        """

    # --- the model's own forward -----------------------------------------------------------------------------------

    @abc.abstractmethod
    def install(self, inserted: Insertions) -> list[RemovableHandle]:
        """Register the hooks by which the model's own ``forward`` and ``generate`` run the insertions."""

    @abc.abstractmethod
    def own_head(self, hidden: Tensor, mask: Tensor, output: str) -> Tensor:
        """Run the model's own head on a last hidden state [B, T, D]; ``output`` is the path of its output layer."""

    @abc.abstractmethod
    def pooled(self, mask: Tensor) -> Tensor:
        """The position [B, 1] of the token that a pooling head reads."""

    def refuse_generation(self, inserted: Insertions, use_cache: bool | None) -> None:
        """Refuse a ``generate`` that cannot run the insertions (PlanError)."""
        return

    def prepare(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Settle settings that model and tokenizer must share, such as a padding token."""
        return

    def check_calls(self) -> None:
        """Refuse a model that gives its blocks other arguments than :meth:`calls` does (ModelError)."""
        return

    def check_forward(self, head: Reader) -> None:
        """Refuse a user's row, where the model does more around its blocks than the row says (ModelError)."""
        return

    # --- its input -------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def embed(self, vectors: Tensor) -> Tensor:
        """Embed vectors in place of the first words: [P, E] -> the hidden state at depth 0 [1, P, D]."""

    def read_text(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """The model's output for a text in eval mode, without autograd: [B, T, D] at depth 0, [B, T] -> [B, D]."""
        with torch.no_grad(), in_eval(self.body.blocks):
            return self.said_of(hidden, mask)

    def said_of(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """The last hidden state of the first token; with two stacks, the first stack's: [B, T, D] -> [B, D]."""
        for number, call in enumerate(self.calls(hidden, mask)):
            hidden = self.body.run_block(number, hidden, call)
        return hidden[:, 0]

    @abc.abstractmethod
    def shift(self, count: int) -> list[RemovableHandle]:
        """Shift every text by ``count`` positions, where the embeddings use positions."""

    def refuse_prompt(self) -> None:
        """Refuse a prompt if the embeddings take no vectors, or do more with them than the row names (PlanError)."""
        return


@contextlib.contextmanager
def in_eval(part: nn.Module) -> Iterator[None]:
    """Put ``part`` into eval mode while this is open, then restore the modes of its modules."""
    # Module by module: the trunk of a tuned model is in eval mode already while its top trains.
    training: dict[Any, bool] = {module: module.training for module in part.modules()}
    try:
        part.eval()
        yield
    finally:
        for module, was in training.items():
            module.training = was
