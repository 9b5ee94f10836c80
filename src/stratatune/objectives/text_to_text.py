"""``seq2seq``: any text that an encoder-decoder writes for another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from stratatune.data.causal import encode_pairs
from stratatune.data.conversations import PROMPTED
from stratatune.data.encode import cut_notice
from stratatune.data.encoded import Encoded
from stratatune.data.read_options import ReadOptions
from stratatune.data.readers import Table
from stratatune.objectives.answers import Answers, Using
from stratatune.objectives.asked import Asked, common_of
from stratatune.objectives.metrics import TEXT_METRICS, check_metric
from stratatune.objectives.objective import Objective
from stratatune.objectives.rouge import rouge_of
from stratatune.objectives.text_loss import likelihoods, mean_loss, text_scores, weight_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase
    from typing_extensions import Self

    from stratatune.data.batching import Batch
    from stratatune.model.question import Question


PAIRS = (*PROMPTED, ("source", "target"), ("question", "answer"), ("document", "summary"), ("article", "highlights"))
"""The usual names of the columns of two texts, of which the second is written for the first."""


@dataclass(frozen=True, kw_only=True)
class TextToText(Objective):
    """The label column is the text to be written."""

    name: ClassVar[str] = "seq2seq"
    summary: ClassVar[str] = "one text from another, with an encoder-decoder"
    head: ClassVar[str] = "seq2seq_lm"
    families: ClassVar[frozenset[str]] = frozenset({"encoder-decoder"})
    reads: ClassVar[Literal["one", "few", "all"]] = "all"
    metrics: ClassVar[tuple[str, ...]] = TEXT_METRICS
    smaller_is_better: ClassVar[frozenset[str]] = frozenset(TEXT_METRICS)
    writes: ClassVar[bool] = True

    @classmethod
    def suits(cls, asked: Asked) -> bool:
        """Whether the model is an encoder-decoder, and no task says that its labels are classes or numbers."""
        return asked.family in cls.families and asked.task is None

    @classmethod
    def settle(cls, asked: Asked) -> tuple[Self, list[str]]:
        metric = check_metric(asked.metric or TEXT_METRICS[0], cls.metrics, "text")
        return cls(**common_of(asked, metric)), []

    @classmethod
    def read(cls, source: Any, options: ReadOptions) -> Table:
        """Read pairs of texts; a task has no text to write."""
        return super().read(
            source, replace(options, task=None, verbatim=True, pairs=PAIRS if options.need_labels else ())
        )

    def encode(self, table: Table, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        return encode_pairs(table, tokenizer, self.max_length)

    def question(self, batch: Batch, *, training: bool) -> Question:
        from stratatune.model.question import Question

        return Question(targets=batch.labels)

    def loss(self, logits: Tensor, batch: Batch, *, training: bool = True) -> Tensor:
        """The mean over the targets' tokens, teacher-forced: ``logits`` [B, U, V]."""
        return mean_loss(likelihoods(logits, _targets(batch)))

    def weight(self, batch: Batch) -> float:
        return weight_of(_targets(batch))

    def predict(self, logits: Tensor, batch: Batch) -> np.ndarray:
        """The summed log-probability of each target, and how many tokens it has [B, 2]."""
        return likelihoods(logits, _targets(batch)).float().cpu().numpy()

    def score(self, output: np.ndarray, data: Encoded, unit: float) -> tuple[dict[str, float], list[str]]:
        return text_scores(output), []

    def answer(self, table: Table, using: Using) -> Answers:
        call: Any = using.tokenizer
        rows = call(list(table.texts[0]), truncation=False, verbose=False)["input_ids"]
        cut = sum(len(row) > self.max_length for row in rows)
        return Answers.of_texts(using.generate(table.texts[0]), cut_notice(cut, table, self.max_length))

    def further_scores(self, parts: Sequence[Table], using: Using) -> dict[str, float]:
        """ROUGE of the generated text for each row, if its package is installed."""
        return rouge_of(parts, lambda part: using.generate(part.texts[0]))


def _targets(batch: Batch) -> Tensor:
    assert batch.labels is not None
    return batch.labels
