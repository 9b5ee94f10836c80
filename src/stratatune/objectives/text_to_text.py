"""``seq2seq``: any text that an encoder-decoder writes for another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from stratatune._compat import installed
from stratatune.data.causal import encode_pairs
from stratatune.data.encode import Encoded
from stratatune.data.readers import Table
from stratatune.data.readers import read as read_table
from stratatune.data.written import AS_USUAL, Written
from stratatune.objectives.metrics import TEXT_METRICS, check_metric
from stratatune.objectives.objective import Answers, Asked, Objective, Using, common_from, common_of
from stratatune.objectives.text_loss import likelihoods, mean_loss, text_scores, weight_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase
    from typing_extensions import Self

    from stratatune.data.batching import Batch
    from stratatune.data.tasks import Task
    from stratatune.model.question import Question


@dataclass(frozen=True, kw_only=True)
class TextToText(Objective):
    """The label column is the text to be written."""

    name: ClassVar[str] = "seq2seq"
    summary: ClassVar[str] = "any text for another, by an encoder-decoder"
    head: ClassVar[str] = "seq2seq_lm"
    families: ClassVar[frozenset[str]] = frozenset({"encoder-decoder"})
    reads: ClassVar[Literal["one", "few", "all"]] = "all"
    metrics: ClassVar[tuple[str, ...]] = TEXT_METRICS
    smaller_is_better: ClassVar[frozenset[str]] = frozenset(TEXT_METRICS)
    writes: ClassVar[bool] = True

    @classmethod
    def suits(cls, asked: Asked) -> bool:
        """On an encoder-decoder, unless a task says that its labels are classes or numbers."""
        return asked.family in cls.families and asked.task is None

    @classmethod
    def settle(cls, asked: Asked) -> tuple[Self, list[str]]:
        metric = check_metric(asked.metric or TEXT_METRICS[0], cls.metrics, "text")
        return cls(**common_of(asked, metric)), []

    @classmethod
    def from_data(cls, data: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Self:
        return cls(**common_from(data))

    def to_data(self) -> dict[str, Any]:
        return self.common()

    @classmethod
    def read(
        cls,
        source: Any,
        *,
        text: Sequence[str] | None,
        label: str | None,
        task: str | Task | None,
        split: str | None,
        need_labels: bool = True,
        written: Written = AS_USUAL,
        keep_whole: bool = False,
    ) -> Table:
        """Pairs of texts; no task says what is written."""
        asked = {"text": text, "label": label, "split": split, "need_labels": need_labels}
        return read_table(source, written=written, keep_whole=keep_whole, **asked)

    @classmethod
    def classes_of(cls, table: Table) -> None:
        return None

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
        written = using.generate(table.texts[0])
        return Answers({"generated": written}, labels=written)

    def further_scores(self, parts: Sequence[Table], using: Using) -> dict[str, float]:
        """ROUGE of what is written for each text, where its package is installed."""
        wanted = [str(label) for part in parts for label in part.labels or ()]
        return rouge_where_installed(lambda: using.generate([text for part in parts for text in part.texts[0]]), wanted)


def _targets(batch: Batch) -> Tensor:
    assert batch.labels is not None
    return batch.labels


def rouge_where_installed(write: Callable[[], list[str]], wanted: list[str]) -> dict[str, float]:
    """:func:`rouge` of what is written; nothing is written where its package is missing."""
    return rouge(write(), wanted) if installed("rouge-score") else {}


def rouge(written: list[str], wanted: list[str]) -> dict[str, float]:
    """Mean F-measures ROUGE-1, ROUGE-2, ROUGE-L (Lin 2004) by the rouge-score package, which must be installed."""
    from rouge_score.rouge_scorer import RougeScorer  # pyright: ignore[reportMissingImports] - an extra

    kinds = ("rouge1", "rouge2", "rougeL")
    scorer = RougeScorer(kinds, use_stemmer=True)
    found = [scorer.score(target, text) for text, target in zip(written, wanted, strict=True)]
    return {kind: sum(one[kind].fmeasure for one in found) / max(1, len(found)) for kind in kinds}
