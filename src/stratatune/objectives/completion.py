"""``completion``: any text that a decoder writes after a prompt, or plain text itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from stratatune.data.causal import encode_completion
from stratatune.data.conversations import MORE, PAIRS, PROMPTED
from stratatune.data.encoded import IGNORED, Encoded
from stratatune.data.read_options import ReadOptions
from stratatune.data.readers import Table
from stratatune.errors import DataError
from stratatune.objectives.answers import Answers, Using, written_after
from stratatune.objectives.asked import Asked, common_of, pretended_common
from stratatune.objectives.metrics import TEXT_METRICS, check_metric
from stratatune.objectives.objective import Objective
from stratatune.objectives.text_loss import (
    bearing_loss,
    likelihoods,
    mean_loss,
    next_tokens,
    second_halves,
    text_scores,
    weight_of,
)

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase
    from typing_extensions import Self

    from stratatune.data.batching import Batch
    from stratatune.model.question import Question


@dataclass(frozen=True, kw_only=True)
class Completion(Objective):
    """The tokens of the label column after the text, closed by the end of text; without labels every token."""

    name: ClassVar[str] = "completion"
    summary: ClassVar[str] = "any text after a prompt, or plain text, with a decoder's LM head"
    head: ClassVar[str] = "lm"
    families: ClassVar[frozenset[str]] = frozenset({"decoder"})
    longest: ClassVar[int] = 512
    reads: ClassVar[Literal["one", "few", "all"]] = "all"
    metrics: ClassVar[tuple[str, ...]] = TEXT_METRICS
    smaller_is_better: ClassVar[frozenset[str]] = frozenset(TEXT_METRICS)
    writes: ClassVar[bool] = True

    @classmethod
    def settle(cls, asked: Asked) -> tuple[Self, list[str]]:
        metric = check_metric(asked.metric or TEXT_METRICS[0], cls.metrics, "text")
        return cls(**common_of(asked, metric)), []

    @classmethod
    def read(cls, source: Any, options: ReadOptions) -> Table:
        """Read prompts and completions if a label column is named, else plain text; a task has no text to write."""
        needed = options.need_labels and options.label is not None
        guessed = options.need_labels and not options.text and not needed
        own = replace(options, pairs=PROMPTED if guessed else (), need_labels=needed)
        table = super().read(source, replace(own, task=None, keep_whole=True, verbatim=True))
        if guessed and (table.columns[0], table.label_column) in PROMPTED:
            return table if options.keep_whole else replace(table, whole=None)
        names = table.whole.names if table.whole else ()
        answer = next((one for text, one in PAIRS if guessed and text in table.columns and one in names), None)
        if answer is not None:
            text = table.columns[0]
            raise DataError(
                f"{table.source}: is {text!r} the whole text, or is {answer!r} to be written after it?",
                f"--text {text} learns the text alone, --text {text} --label {answer} the text after it",
            )
        unread = [name for name in MORE.get(table.columns[0], ()) if needed and name in names and name != options.label]
        if unread and len(table.columns) == 1:
            said = f"{table.source}: column {unread[0]!r} is not read; --objective chat puts it after the instruction"
            table = replace(table, notices=(*table.notices, said))
        whole = table.whole if options.keep_whole else None
        return replace(table, whole=whole) if needed else replace(table, labels=None, label_column=None, whole=whole)

    def encode(self, table: Table, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        encoded = encode_completion(table, tokenizer, self.max_length)
        # The prompt is given, so only what follows it counts in the loss.
        behind = np.concatenate([np.arange(length) for length in encoded.lengths]) > np.repeat(
            encoded.read, encoded.lengths
        )
        return encoded.with_targets(np.where(behind, encoded.ids, IGNORED), encoded.offsets)

    @classmethod
    def pretended(cls, texts: Encoded, family: str, random: np.random.Generator) -> tuple[Self, Encoded]:
        return cls(**pretended_common(texts, family, TEXT_METRICS[0])), second_halves(texts)

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

    def predict(self, logits: Tensor, batch: Batch) -> np.ndarray:
        """The summed log-probability of each completion, and how many tokens it has [B, 2]."""
        return likelihoods(logits, next_tokens(batch)).float().cpu().numpy()

    def score(self, output: np.ndarray, data: Encoded, unit: float) -> tuple[dict[str, float], list[str]]:
        return text_scores(output), []

    def answer(self, table: Table, using: Using) -> Answers:
        return written_after(table.texts[0], using, self.max_length)
