"""``causal``: a label is read as the word that a decoder would write after the text (LPT's protocol)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from stratatune.data.causal import Suffixes, encode_candidates, suffixes_of
from stratatune.data.encoded import IGNORED, Encoded
from stratatune.data.readers import Table
from stratatune.data.templates import Template
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
from stratatune.objectives.tensors import at_least_fp32, numbers_on
from stratatune.objectives.words import PRETENDED_WORDS, template_before_word, words_from, words_of_any_length

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase
    from typing_extensions import Self

    from stratatune.data.batching import Batch
    from stratatune.model.question import Question


@dataclass(frozen=True, kw_only=True)
class Candidates(Objective):
    """Label words of any number of tokens after a text; a number has two of them, one for each end of its range.

    Attributes:
        label_kind: the classes, or the range of the numbers.
        template: the hard prompt, with nothing to read after its label word.
        words: one for each class or end.
        suffixes: the token ids of every candidate after a text.
        by_likelihood: whether the training loss is minus the log-probability of the right word (LPT's choice), or the
            cross-entropy between the candidates.
    """

    name: ClassVar[str] = "causal"
    summary: ClassVar[str] = "label words after a text, with a decoder's LM head"
    head: ClassVar[str] = "lm"
    families: ClassVar[frozenset[str]] = frozenset({"decoder"})
    reads: ClassVar[Literal["one", "few", "all"]] = "few"
    metrics: ClassVar[tuple[str, ...]] = (*CLASS_METRICS, *VALUE_METRICS)
    smaller_is_better: ClassVar[frozenset[str]] = frozenset({"mse"})
    bounded: ClassVar[frozenset[str]] = frozenset({*CLASS_METRICS, *CORRELATIONS})
    settings: ClassVar[frozenset[str]] = frozenset({"template", "label_words", "loss"})
    place: ClassVar[str] = "the last token"
    side_by_side: ClassVar[bool] = True
    stratified: ClassVar[bool] = True

    label_kind: Labels
    suffixes: Suffixes
    template: str = ""
    words: tuple[str, ...] = ()
    by_likelihood: bool = True

    @classmethod
    def suits(cls, asked: Asked) -> bool:
        return asked.prompted and asked.family in cls.families

    @classmethod
    def settle(cls, asked: Asked) -> tuple[Self, list[str]]:
        labels = labels_of(asked)
        common = common_of(asked, chosen_metric(asked, labels))
        template, notices = template_before_word(asked)
        words = words_of_any_length(asked, labels)
        made = cls(
            **common,
            label_kind=labels,
            suffixes=suffixes_of(asked.tokens, Template.parse(template), words),
            template=template,
            words=words,
            by_likelihood=asked.loss == "vocab",
        )
        return made, notices

    @classmethod
    def from_data(cls, data: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Self:
        labels = labels_from(data)
        saved = words_from(data, labels)
        return cls(
            **common_from(data),
            label_kind=labels,
            suffixes=saved.suffixes,
            template=saved.template,
            words=saved.label_words,
            by_likelihood=saved.loss == "vocab",
        )

    def to_data(self) -> dict[str, Any]:
        return {
            **self.common(),
            **labels_data(self.label_kind),
            "template": self.template,
            "label_words": list(self.words),
            "loss": "vocab" if self.by_likelihood else "words",
            "suffixes": [list(suffix) for suffix in self.suffixes],
        }

    @property
    def labels(self) -> tuple[str, ...]:
        return self.label_kind.names

    @property
    def prompt(self) -> str:
        return f"{self.template}{list(self.branches)}"

    @property
    def branches(self) -> tuple[int, ...]:
        """The number of tokens of each candidate that follow a text; a candidate's last token predicts nothing."""
        return tuple(len(suffix) - 1 for suffix in self.suffixes)

    @property
    def positions(self) -> Literal["one", "few", "all"]:
        """``one`` if every word is a single token at the end of the template."""
        return "few" if sum(self.branches) else "one"

    def encode(self, table: Table, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        encoded = encode_candidates(table, Template.parse(self.template), tokenizer, self.max_length, self.suffixes)
        return with_targets(encoded, self.label_kind, table)

    @classmethod
    def pretended(cls, texts: Encoded, family: str, random: np.random.Generator) -> tuple[Self, Encoded]:
        suffixes = tuple((word,) for word in PRETENDED_WORDS)
        made = cls(**pretended_common(texts, family, "accuracy"), label_kind=TWO_CLASSES, suffixes=suffixes)
        return made, texts.with_labels(random.integers(0, 2, len(texts)))

    def question(self, batch: Batch, *, training: bool) -> Question:
        """The question for the places at which a candidate's tokens are predicted.

        The text's last token predicts the first token of every candidate, and each token of a candidate the next.
        """
        from stratatune.model.question import Question

        behind = numbers_on(tuple(range(sum(self.branches) + 1)), batch.read.device)
        return Question(places=batch.read[:, None] + behind, branches=self.branches)

    def loss(self, logits: Tensor, batch: Batch, *, training: bool = True) -> Tensor:
        """``logits`` [B, N, V] at the places of the question."""
        assert batch.labels is not None
        scores = self.likelihoods(logits)
        if training and self.by_likelihood and self.label_kind.value_range is None:
            return -scores.gather(1, batch.labels[:, None]).mean()
        return self.label_kind.loss(scores, batch.labels)

    def loss_of_today(self, logits: Tensor, batch: Batch) -> Tensor:
        """A language model's usual loss: the label's word is the one target, and every token's logits are computed."""
        import torch
        from torch.nn.functional import cross_entropy

        if sum(self.branches) or self.label_kind.value_range is not None:
            return super().loss_of_today(logits, batch)
        words = numbers_on(tuple(suffix[0] for suffix in self.suffixes), logits.device)
        targets = torch.full_like(batch.input_ids, IGNORED)
        targets[torch.arange(len(targets), device=targets.device), batch.read] = words[batch.labels]
        return cross_entropy(at_least_fp32(logits).flatten(0, 1), targets.flatten(), ignore_index=IGNORED)

    def predict(self, logits: Tensor, batch: Batch) -> np.ndarray:
        """``logits`` [B, N, V] -> probabilities [B, C], or values [B] for numbers."""
        return self.label_kind.predict(self.likelihoods(logits))

    def likelihoods(self, logits: Tensor) -> Tensor:
        """The mean log-probability of each candidate's tokens (minus LPT's loss): [B, N, V] -> [B, C]."""
        import torch

        # A mean of each candidate's tokens, not their sum: a longer word would lose by its length alone.
        source, start = list[int](), 1
        for branch in self.branches:
            source += [0, *range(start, start + branch)]
            start += branch
        tokens = numbers_on(tuple(token for suffix in self.suffixes for token in suffix), logits.device)
        spoken = at_least_fp32(logits).log_softmax(dim=-1)
        chosen = spoken[:, numbers_on(tuple(source), logits.device), tokens]  # [B, sum of lengths]
        parts = chosen.split([len(suffix) for suffix in self.suffixes], dim=1)
        return torch.stack([part.mean(dim=1) for part in parts], dim=1)

    def score(self, output: np.ndarray, data: Encoded, unit: float) -> tuple[dict[str, float], list[str]]:
        return self.label_kind.score(output, data, unit)

    def answer(self, table: Table, using: Using) -> Answers:
        return self.label_kind.answers(using.output(table))
