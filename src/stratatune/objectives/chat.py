"""``chat``: an assistant's answers in conversations, by a decoder's LM head and the tokenizer's chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

import numpy as np
from pydantic import Field

from stratatune.data.chat_tokens import ChatTemplate, encode_chat
from stratatune.data.conversations import CONVERSATIONS, read_conversations
from stratatune.data.encoded import Encoded
from stratatune.data.read_options import ReadOptions
from stratatune.data.readers import Table
from stratatune.objectives.answers import Answers, Using
from stratatune.objectives.asked import Asked, common_of, pretended_common
from stratatune.objectives.chat_templates import template_of
from stratatune.objectives.metrics import TEXT_METRICS, check_metric
from stratatune.objectives.objective import Objective
from stratatune.objectives.rouge import rouge_of
from stratatune.objectives.spoken import example, first_learnt, shared_system, stop_tokens, unwritten, written_by
from stratatune.objectives.text_loss import (
    bearing_loss,
    likelihoods,
    mean_loss,
    next_tokens,
    right_tokens,
    second_halves,
    text_scores,
    weight_of,
)
from stratatune.objectives.written import chosen

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase
    from typing_extensions import Self

    from stratatune.data.batching import Batch
    from stratatune.model.question import Question

_ACCURACY = "token_accuracy"
Turns = Literal["all", "last"]


@dataclass(frozen=True, kw_only=True)
class Chat(Objective):
    """The assistant's turns of conversations, each with the token that closes it.

    Attributes:
        chat_template: the template, in Jinja.
        turns: whether ``all`` of the assistant's turns count in the loss, or only the ``last`` of each conversation.
        stop_tokens: those that end an answer.
        system: the system prompt that all training conversations share; a plain text follows it.
    """

    name: ClassVar[str] = "chat"
    summary: ClassVar[str] = "an assistant's turns in conversations, with a decoder's LM head and a chat template"
    settings: ClassVar[frozenset[str]] = frozenset({"template"})
    head: ClassVar[str] = "lm"
    finds_columns: ClassVar[bool] = True
    families: ClassVar[frozenset[str]] = frozenset({"decoder"})
    longest: ClassVar[int] = 1024
    reads: ClassVar[Literal["one", "few", "all"]] = "all"
    metrics: ClassVar[tuple[str, ...]] = (*TEXT_METRICS, _ACCURACY)
    smaller_is_better: ClassVar[frozenset[str]] = frozenset(TEXT_METRICS)
    bounded: ClassVar[frozenset[str]] = frozenset({_ACCURACY})
    options: ClassVar[Mapping[str, type]] = {"turns": str}
    writes: ClassVar[bool] = True

    chat_template: str
    turns: Turns = "all"
    stop_tokens: tuple[Annotated[int, Field(ge=0)], ...] = ()
    system: str = ""

    # --- how it is chosen and made ---------------------------------------------------------------------------------

    @classmethod
    def settle(cls, asked: Asked) -> tuple[Self, list[str]]:
        metric = check_metric(asked.metric or TEXT_METRICS[0], cls.metrics, "chat")
        turns = chosen("chat", "turns", asked.options.get("turns", "all"), get_args(Turns))
        asked.check_fast("chat")
        text, table = template_of(asked), asked.data
        template = ChatTemplate(text, asked.tokens, last=turns == "last")
        row, tokens = first_learnt(template, table.source, zip(table.rows, table.further[CONVERSATIONS], strict=True))
        stop, unclosed = stop_tokens(template, tokens)
        notices = [example(template, tokens, row), *unclosed]
        notices += unwritten(template, table, [[one] for one in table.further[CONVERSATIONS]])
        system = shared_system(table.further[CONVERSATIONS])
        own = {"chat_template": text, "turns": turns, "stop_tokens": stop, "system": system}
        return cls(**common_of(asked, metric), **own), notices

    @property
    def converses(self) -> bool:
        return True

    # --- data ------------------------------------------------------------------------------------------------------

    @classmethod
    def read(cls, source: Any, options: ReadOptions) -> Table:
        """Read conversations; see :func:`stratatune.data.conversations.read_conversations`."""
        return read_conversations(source, options)

    def encode(self, table: Table, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        return encode_chat(table, self._template(tokenizer), self.max_length)

    def _template(self, tokenizer: PreTrainedTokenizerBase) -> ChatTemplate:
        return ChatTemplate(self.chat_template, tokenizer, last=self.turns == "last")

    # --- learning --------------------------------------------------------------------------------------------------

    @classmethod
    def pretended(cls, texts: Encoded, family: str, random: np.random.Generator) -> tuple[Self, Encoded]:
        return cls(**pretended_common(texts, family, TEXT_METRICS[0]), chat_template=""), second_halves(texts)

    def question(self, batch: Batch, *, training: bool) -> Question:
        """The question for the tokens that predict one that counts in the loss."""
        return bearing_loss(batch)

    def loss(self, logits: Tensor, batch: Batch, *, training: bool = True) -> Tensor:
        """The mean over the tokens that count: ``logits`` are their scores [n, 2]."""
        return mean_loss(likelihoods(logits, next_tokens(batch)))

    def loss_of_today(self, logits: Tensor, batch: Batch) -> Tensor:
        """The loss as transformers computes it: over every token, including those that do not count."""
        return self.loss(logits, batch)

    def weight(self, batch: Batch) -> float:
        return weight_of(next_tokens(batch))

    # --- using -----------------------------------------------------------------------------------------------------

    def predict(self, logits: Tensor, batch: Batch) -> np.ndarray:
        """The summed log-probability of each conversation's answers, their tokens, and how many are right [B, 3]."""
        from torch import cat

        targets = next_tokens(batch)
        found = cat([likelihoods(logits, targets), right_tokens(logits, targets)[:, None]], dim=1)
        return found.float().cpu().numpy()

    def score(self, output: np.ndarray, data: Encoded, unit: float) -> tuple[dict[str, float], list[str]]:
        right = float(output[:, 2].sum() / max(1.0, output[:, 1].sum()))
        return {**text_scores(output), _ACCURACY: right}, []

    def answer(self, table: Table, using: Using) -> Answers:
        """The assistant's next message in each conversation."""
        return Answers.of_texts(*self._written(table, using))

    def further_scores(self, parts: Sequence[Table], using: Using) -> dict[str, float]:
        """ROUGE of the generated text in place of each last answer, if its package is installed."""
        return rouge_of(parts, lambda part: self._written(part, using)[0])

    def _written(self, table: Table, using: Using) -> tuple[list[str], tuple[str, ...]]:
        template = self._template(using.tokenizer)
        return written_by(template, table, using, self.system, self.stop_tokens, self.max_length)
