"""``mlm``: a label is read as a word, at the mask of a hard prompt, by the masked-LM head (BFT, LPT)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from stratatune.data.encode import encode_template
from stratatune.data.encoded import Encoded
from stratatune.data.readers import Table
from stratatune.data.templates import Template, label_word_ids
from stratatune.objectives.answers import Answers, Using
from stratatune.objectives.asked import Asked, common_of, pretended_common
from stratatune.objectives.labels import (
    TWO_CLASSES,
    Labels,
    chosen_metric,
    labels_data,
    labels_from,
    labels_of,
    with_targets,
)
from stratatune.objectives.metrics import CLASS_METRICS, CORRELATIONS, VALUE_METRICS
from stratatune.objectives.objective import Objective
from stratatune.objectives.saved import common_from
from stratatune.objectives.tensors import mean, numbers_on
from stratatune.objectives.weights import WEIGHT
from stratatune.objectives.words import PRETENDED_WORDS, template_of, words_from, words_of_tokens

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase
    from typing_extensions import Self

    from stratatune.data.batching import Batch
    from stratatune.model.question import Question


@dataclass(frozen=True, kw_only=True)
class LabelWords(Objective):
    """Label words at the mask; a number has two of them, one for each end of its range.

    Attributes:
        label_kind: the classes, or the range of the numbers.
        template: the hard prompt.
        words: one word a class (or for the low and the high end), in the order of the logits.
        word_ids: their tokens.
        whole_vocabulary: whether the training loss is over the whole vocabulary (LPT's choice) or the words alone.
    """

    name: ClassVar[str] = "mlm"
    summary: ClassVar[str] = "label words at the mask of a hard prompt, with the masked-LM head"
    head: ClassVar[str] = "masked_lm"
    families: ClassVar[frozenset[str]] = frozenset({"encoder"})
    reads: ClassVar[Literal["one", "few", "all"]] = "one"
    weighted: ClassVar[bool] = True
    today: ClassVar[str] = "classification"
    stratified: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = (*CLASS_METRICS, *VALUE_METRICS)
    smaller_is_better: ClassVar[frozenset[str]] = frozenset({"mse"})
    bounded: ClassVar[frozenset[str]] = frozenset({*CLASS_METRICS, *CORRELATIONS})
    settings: ClassVar[frozenset[str]] = frozenset({"template", "label_words", "loss"})
    place: ClassVar[str] = "[MASK]"

    label_kind: Labels
    template: str
    words: tuple[str, ...]
    word_ids: tuple[int, ...]
    whole_vocabulary: bool = True

    @classmethod
    def suits(cls, asked: Asked) -> bool:
        return asked.prompted and asked.family in cls.families

    @classmethod
    def settle(cls, asked: Asked) -> tuple[Self, list[str]]:
        labels = labels_of(asked)
        common = common_of(asked, chosen_metric(asked, labels))
        template = template_of(asked)
        words, notices = words_of_tokens(asked, labels)
        made = cls(
            **common,
            label_kind=labels,
            template=template,
            words=words,
            word_ids=_ids(asked.tokens, labels, words),
            whole_vocabulary=asked.loss == "vocab",
        )
        return made, notices

    @classmethod
    def from_data(cls, data: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Self:
        labels = labels_from(data)
        saved = words_from(data, labels)
        return cls(
            **common_from(data),
            label_kind=labels,
            template=saved.template,
            words=saved.label_words,
            word_ids=_ids(tokenizer, labels, saved.label_words),
            whole_vocabulary=saved.loss == "vocab",
        )

    def to_data(self) -> dict[str, Any]:
        return {
            **self.common(),
            **labels_data(self.label_kind),
            "template": self.template,
            "label_words": list(self.words),
            "loss": "vocab" if self.whole_vocabulary else "words",
        }

    @property
    def labels(self) -> tuple[str, ...]:
        return self.label_kind.names

    @property
    def only_rows(self) -> tuple[int, ...] | None:
        return None if self._over_vocabulary else self.word_ids

    @property
    def prompt(self) -> str:
        return self.template

    def encode(self, table: Table, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        encoded = encode_template(table, Template.parse(self.template), tokenizer, self.max_length)
        return with_targets(encoded, self.label_kind, table)

    @classmethod
    def pretended(cls, texts: Encoded, family: str, random: np.random.Generator) -> tuple[Self, Encoded]:
        own: dict[str, Any] = {"label_kind": TWO_CLASSES, "template": "", "words": TWO_CLASSES.names}
        made = cls(**pretended_common(texts, family, "accuracy"), **own, word_ids=PRETENDED_WORDS)
        return made, texts.with_labels(random.integers(0, 2, len(texts)))

    def question(self, batch: Batch, *, training: bool) -> Question:
        from stratatune.model.question import Question

        # In use only the words are compared, so a few of the LM head's tens of thousands of rows are enough.
        rows = None if training and self._over_vocabulary else numbers_on(self.word_ids, batch.read.device)
        return Question(places=batch.read[:, None], rows=rows)

    @property
    def _over_vocabulary(self) -> bool:
        """Whether the loss is over the whole vocabulary; a number's soft target is over its two words only."""
        return self.whole_vocabulary and self.label_kind.value_range is None

    def loss(self, logits: Tensor, batch: Batch, *, training: bool = True) -> Tensor:
        """Cross-entropy over the vocabulary or the words: ``logits`` [B, 1, V] or [B, 1, C]."""
        from torch.nn.functional import cross_entropy

        assert batch.labels is not None
        if training and self._over_vocabulary:
            words = numbers_on(self.word_ids, logits.device)[batch.labels]
            return mean(cross_entropy(logits[:, 0].float(), words, reduction="none"), batch.targets.get(WEIGHT))
        return self.label_kind.loss(logits[:, 0], batch.labels, batch.targets.get(WEIGHT))

    def predict(self, logits: Tensor, batch: Batch) -> np.ndarray:
        """``logits`` [B, 1, C] -> probabilities [B, C], or values [B] for numbers."""
        return self.label_kind.predict(logits[:, 0])

    def score(self, output: np.ndarray, data: Encoded, unit: float) -> tuple[dict[str, float], list[str]]:
        return self.label_kind.score(output, data, unit)

    def answer(self, table: Table, using: Using) -> Answers:
        return self.label_kind.answers(using.output(table))


def _ids(tokenizer: PreTrainedTokenizerBase, labels: Labels, words: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(label_word_ids(tokenizer, dict(zip(labels.worded, words, strict=True))))
