"""What a logit means: the loss and the prediction of each objective."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stratatune.data.batching import Batch
from stratatune.model.attached import Attached
from stratatune.model.question import Question
from stratatune.objectives.spec import Reading

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_IGNORED = -100
"""A target that is not to be told."""


class Objective:
    """What is asked of a batch, the loss over its logits, and the prediction from them.

    A decoder's scores of label words are the mean log-probabilities of what stands for each behind the text (LPT); of a
    completion they are its summed log-probability and its number of tokens.

    Four readings of a label exist: a class by a classifier; a class by its label word at the mask; a number by a linear
    output; a number by two label words, whose probabilities say how far it lies between the ends of its range.

    Args:
        reading: how text becomes a label.
        tokenizer: gives the numbers of the label words.
    """

    def __init__(self, reading: Reading, tokenizer: PreTrainedTokenizerBase) -> None:
        from stratatune.data.templates import label_word_ids

        self.reading = reading
        self.tokenizer = tokenizer
        self.words: Tensor | None = None
        if reading.objective == "mlm":
            self.words = torch.tensor(label_word_ids(tokenizer, _by_label(reading)))
        self.offsets, self.sources = candidate_places(reading.suffixes)

    @property
    def reads(self) -> Literal["one", "few", "all"]:
        """How many positions of a text are asked."""
        if self.reading.generates:
            return "all"
        return "few" if sum(self.reading.branches) else "one"

    def one_position(self, attached: Attached) -> bool:
        """Whether only one position matters of the hidden state at the frozen depth."""
        return self.reads == "one" and attached.all_in_trunk

    @property
    def training_words(self) -> Tensor | None:
        """Label words [C] whose logits the training loss reads; None: the classes, or the whole vocabulary."""
        whole_vocabulary = self.reading.loss == "vocab" and self.reading.value_range is None
        return None if whole_vocabulary else self.words

    def to(self, device: torch.device) -> Objective:
        """Move the label words to a device."""
        self.words = self.words if self.words is None else self.words.to(device)
        return self

    def question(self, batch: Batch, *, training: bool) -> Question:
        """What is asked of the model for a batch; ``training``: for the loss that it learns from."""
        kind = self.reading.objective
        if kind == "seq2seq":
            return Question(targets=batch.targets)
        if kind == "completion":
            return Question(places=_predicting(batch))
        if kind == "causal":
            offsets = torch.tensor(self.offsets, device=batch.read.device)
            return Question(places=batch.read[:, None] + offsets, branches=self.reading.branches)
        if kind == "mlm":
            return Question(places=batch.read[:, None], rows=self.training_words if training else self.words)
        return Question(targets=batch.input_ids) if self.reading.two_stacks else Question()

    def scores(self, logits: Tensor, batch: Batch) -> Tensor:
        """The logits of a question -> of classes, label words or values [B, C]; of free text what stands above."""
        kind = self.reading.objective
        if kind == "seq2seq":
            assert batch.targets is not None
            return target_scores(logits, batch.targets)
        if kind == "completion":
            return completion_scores(logits, batch)
        if kind == "causal":
            return candidate_scores(logits, self.sources, self.reading.suffixes)
        return logits[:, 0] if kind == "mlm" else logits

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Mean training loss: ``logits`` as :meth:`question` asks for them in training."""
        scores = self.scores(logits, batch)
        if self.reading.generates:
            return -scores[:, 0].sum() / scores[:, 1].sum().clamp(min=1)
        assert batch.labels is not None
        if self.reading.value_range is None and self.reading.loss == "vocab":
            if self.reading.objective == "causal":
                return -scores.gather(1, batch.labels[:, None]).mean()
            if self.words is not None:
                return F.cross_entropy(scores.float(), self.words[batch.labels])
        return self._loss_of(scores, batch.labels)

    def weight(self, batch: Batch) -> float:
        """What :meth:`loss` is a mean over: examples, or the tokens of free text."""
        if not self.reading.generates:
            return float(len(batch))
        told = _predicting(batch) if batch.targets is None else batch.targets != _IGNORED
        return max(1.0, float(told.sum()))

    def word_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Mean loss over classes, label words or values only: ``logits`` as :meth:`question` asks for them."""
        assert batch.labels is not None
        return self._loss_of(self.scores(logits, batch), batch.labels)

    def _loss_of(self, scores: Tensor, labels: Tensor) -> Tensor:
        """``scores`` [B, C], ``labels`` [B]."""
        scores = scores.float()
        if self.reading.value_range is None:
            return F.cross_entropy(scores, labels)
        if not self.reading.by_words:
            return F.mse_loss(scores[:, 0], labels.float())
        low, high = self.reading.value_range
        share = (labels.float() - low) / (high - low)
        return F.cross_entropy(scores, torch.stack([1 - share, share], dim=1))

    def predict(self, logits: Tensor, batch: Batch) -> Tensor:
        """``logits`` as :meth:`question` asks for them -> probabilities [B, C], or values [B] for numbers.

        Of free text: its summed log-probability, and how many tokens it has [B, 2].
        """
        scores = self.scores(logits, batch).float()
        if self.reading.generates:
            return scores
        if self.reading.value_range is None:
            return scores.softmax(dim=1)
        if not self.reading.by_words:
            return scores[:, 0]
        low, high = self.reading.value_range
        return low + (high - low) * scores.softmax(dim=1)[:, 1]

    def rounding(self, values: np.ndarray, precision: torch.dtype) -> float:
        """One unit of ``precision`` in the predicted ``values`` [N]: of the range that two label words span, else of
        the largest value."""
        low, high = self.reading.value_range or (0.0, 0.0)
        scale = high - low if self.reading.by_words else float(np.abs(values).max(initial=0.0))
        return torch.finfo(precision).eps * scale


def candidate_places(suffixes: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """Where the candidates' tokens are predicted.

    The first token of every candidate is predicted by the text's last token, each later one by the token before it.

    Args:
        suffixes: the C candidates' token ids.

    Returns:
        The N places, as tokens behind the text's last one, and which of the N predicts each token of the candidates,
        one candidate after the other.
    """
    offsets, start = [0], 1
    source: list[int] = []
    for suffix in suffixes:
        later = range(start, start + len(suffix) - 1)
        source += [0, *range(len(offsets), len(offsets) + len(later))]
        offsets += later
        start += len(later)
    return offsets, source


def candidate_scores(logits: Tensor, source: Sequence[int], suffixes: Sequence[Sequence[int]]) -> Tensor:
    """How likely each candidate is behind the text: the mean log-probability of its tokens (minus LPT's loss).

    Args:
        logits: [B, N, V] at the places of :func:`candidate_places`.
        source: which of the N predicts each token.
        suffixes: the C candidates' token ids.

    Returns:
        [B, C].
    """
    spoken = _at_least_fp32(logits).log_softmax(dim=-1)  # [B, N, V]
    target = torch.tensor([token for suffix in suffixes for token in suffix], device=logits.device)
    chosen = spoken[:, torch.tensor(source, device=logits.device), target]  # [B, sum of lengths]
    return torch.stack([part.mean(dim=1) for part in chosen.split([len(s) for s in suffixes], dim=1)], dim=1)


def completion_scores(logits: Tensor, batch: Batch) -> Tensor:
    """The summed log-probability of the tokens behind ``batch.read``, and how many they are.

    ``logits`` [n, V] at the tokens that predict them -> [B, 2].
    """
    places = _predicting(batch)
    loss = F.cross_entropy(_at_least_fp32(logits), batch.input_ids.roll(-1, dims=1)[places], reduction="none")
    total = loss.new_zeros(len(places)).index_add(0, places.nonzero()[:, 0], -loss)
    return torch.stack([total, places.sum(dim=1).to(loss.dtype)], dim=1)


def target_scores(logits: Tensor, targets: Tensor) -> Tensor:
    """The summed log-probability of the targets, and how many they are: [B, U, V], [B, U] -> [B, 2]."""
    loss = F.cross_entropy(_at_least_fp32(logits).mT, targets, ignore_index=_IGNORED, reduction="none")  # [B, U]
    return torch.stack([-loss.sum(dim=1), (targets != _IGNORED).sum(dim=1).to(loss.dtype)], dim=1)


def _predicting(batch: Batch) -> Tensor:
    """The tokens that predict one behind ``batch.read`` [B, T] bool."""
    column = torch.arange(batch.mask.shape[1], device=batch.mask.device)
    told = (batch.mask & (column > batch.read[:, None]))[:, 1:]
    return F.pad(told, (0, 1))


def _at_least_fp32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _by_label(reading: Reading) -> dict[str, str]:
    """Label (or end of the range) -> label word."""
    return dict(zip(reading.labels or ("low", "high"), reading.label_words, strict=True))
