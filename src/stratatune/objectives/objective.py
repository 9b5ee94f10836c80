"""What a logit means: the loss and the prediction of each objective."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stratatune.data.batching import Batch
from stratatune.objectives.spec import Reading

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Objective:
    """The loss over, and the prediction from, the logits at the position read.

    A decoder's logits for label words are the mean log-probabilities of what stands for each behind the text (LPT);
    for a completion they are its summed log-probability and its number of tokens.

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

    @property
    def training_words(self) -> Tensor | None:
        """Label words [C] whose logits the training loss reads; None: the classes, or the whole vocabulary."""
        whole_vocabulary = self.reading.loss == "vocab" and self.reading.value_range is None
        return None if whole_vocabulary else self.words

    def to(self, device: torch.device) -> Objective:
        """Move the label words to a device."""
        self.words = self.words if self.words is None else self.words.to(device)
        return self

    def ids(self, batch: Batch) -> Tensor | None:
        """The tokens that the top reads besides hidden states: those of free text, or what a second stack reads."""
        if self.reading.objective == "seq2seq":
            return batch.targets
        return batch.input_ids if self.reading.generates or self.reading.two_stacks else None

    def loss(self, logits: Tensor, labels: Tensor | Any) -> Tensor:
        """Mean training loss: ``logits`` as :attr:`training_words` asks for them, ``labels`` [B]."""
        if self.reading.generates:
            return -logits[:, 0].sum() / logits[:, 1].sum().clamp(min=1)
        if self.reading.objective == "causal" and self.reading.loss == "vocab" and self.reading.value_range is None:
            return -logits.gather(1, labels[:, None]).mean()
        if self.words is not None and self.training_words is None:
            return F.cross_entropy(logits.float(), self.words[labels])
        return self.word_loss(logits, labels)

    def weight(self, logits: Tensor) -> float:
        """What :meth:`loss` is a mean over: examples, or the words of free text."""
        return max(1.0, logits[:, 1].detach().sum().item()) if self.reading.generates else float(len(logits))

    def word_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean loss over classes, label words or values only: ``logits`` [B, C], ``labels`` [B]."""
        logits = logits.float()
        if self.reading.value_range is None:
            return F.cross_entropy(logits, labels)
        if not self.reading.by_words:
            return F.mse_loss(logits[:, 0], labels.float())
        low, high = self.reading.value_range
        share = (labels.float() - low) / (high - low)
        return F.cross_entropy(logits, torch.stack([1 - share, share], dim=1))

    def predict(self, logits: Tensor) -> Tensor:
        """``logits`` [B, C] of classes or label words -> probabilities [B, C], or values [B] for numbers."""
        logits = logits.float()
        if self.reading.generates:
            return logits
        if self.reading.value_range is None:
            return logits.softmax(dim=1)
        if not self.reading.by_words:
            return logits[:, 0]
        low, high = self.reading.value_range
        return low + (high - low) * logits.softmax(dim=1)[:, 1]

    def rounding(self, values: np.ndarray, precision: torch.dtype) -> float:
        """One unit of ``precision`` in the predicted ``values`` [N]: of the range that two label words span, else of
        the largest value."""
        low, high = self.reading.value_range or (0.0, 0.0)
        scale = high - low if self.reading.by_words else float(np.abs(values).max(initial=0.0))
        return torch.finfo(precision).eps * scale


def _by_label(reading: Reading) -> dict[str, str]:
    """Label (or end of the range) -> label word."""
    return dict(zip(reading.labels or ("low", "high"), reading.label_words, strict=True))
