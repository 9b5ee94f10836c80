"""The interface of a head: how the last hidden state becomes logits."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from stratatune.errors import ModelError
from stratatune.model.body import Body
from stratatune.model.families.family import Family
from stratatune.model.question import Question
from stratatune.shapes.architectures import Architecture

Weights = list[nn.Module | nn.Parameter | Tensor]
ALL_FAMILIES = frozenset({"encoder", "decoder", "encoder-decoder"})


class Head(abc.ABC):
    """The head of a live model. Abstract; a subclass is final.

    Class attributes:
        name: its name in the table of heads, and in objectives.
        auto: the class of transformers that loads a model with it.
        pipeline: the task of a pipeline with it, by the hub's name.
        peft_task: peft's name for the task of such a model; None: it has none.
        families: the families of models that have it.
        parts: which pretrained parts it has: those of a language-model head (``lm``), a ``pooler`` or ``none``.

    Args:
        body: the model and its parts.
        family: how the model is walked.
    """

    name: ClassVar[str]
    auto: ClassVar[str]
    pipeline: ClassVar[str]
    peft_task: ClassVar[str | None] = None
    families: ClassVar[frozenset[str]] = ALL_FAMILIES
    parts: ClassVar[Literal["lm", "pooler", "none"]] = "none"

    def __init__(self, body: Body, family: Family) -> None:
        self.body, self.family = body, family

    @classmethod
    @abc.abstractmethod
    def is_worn(cls, body: Body) -> bool:
        """Whether the live model has this head."""

    @abc.abstractmethod
    def logits(self, hidden: Tensor, mask: Tensor, question: Question) -> Tensor:
        """Turn the last hidden state into logits.

        Args:
            hidden: the hidden state at :meth:`places` [B, N, D] or [n, D], or of every token [B, T, D].
            mask: real tokens [B, T], which a head that pools all of them reads.
            question: which logits are wanted.
        """

    def places(self, question: Question, mask: Tensor) -> Tensor | None:
        """The positions at which the last hidden state is needed; None: every token."""
        return question.places

    @property
    def speaks(self) -> bool:
        """Whether it is a language-model head."""
        return self.parts == "lm"

    @property
    def pools_all(self) -> bool:
        """Whether it reads every token, for any question (mean pooling)."""
        return False

    def for_targets(self, targets: Tensor) -> dict[str, Tensor]:
        """The arguments of a model with a second stack for its targets [B, U]."""
        name = type(self.body.model).__name__
        raise ModelError(f"head {self.name}: {name} has a second stack", "use sequence or seq2seq_lm")

    # --- its parameters --------------------------------------------------------------------------------------------

    @property
    def paths(self) -> Mapping[str, str]:
        """The paths, from the whole model, of the pretrained parts that a plan can train."""
        return {}

    @property
    def new_layers(self) -> tuple[str, ...]:
        """The task's own output layer, which no pretrained model brings: the paths of its modules."""
        return ()

    def weights(self) -> Weights:
        """The weights that it computes with; a decoder held in a lower precision replaces the original."""
        modules = (self.body.part(path) for path in dict.fromkeys((*self.paths.values(), *self.new_layers)))
        return [*self.body.final_norms(), *modules]

    def untie(self) -> str:
        """Give the decoder a copy of the embeddings that it shares, so that it can train apart; returns a notice."""
        decoder: Any = self.body.part(self.paths["decoder"])
        # A copy of the values, so training starts from the model as it was.
        decoder.weight = nn.Parameter(decoder.weight.detach().clone(), requires_grad=False)
        # Or tie_weights and from_pretrained would tie them again, and lose the trained values.
        self.body.model.config.tie_word_embeddings = False
        count = decoder.weight.numel()
        return f"head(untie): the decoder is a copy of its own now, {count:,} parameters more than the base model has"

    def part_bias(self) -> None:
        """Give an untied decoder a bias of its own.

        Where nothing is tied, transformers saves it under its own name, and of one tensor with two names it keeps one.
        """
        decoder: Any = self.body.part(self.paths["decoder"])
        if decoder.bias is not None:
            decoder.bias = nn.Parameter(decoder.bias.detach().clone())

    def hold_decoder(self, cast: Callable[[Tensor], Tensor]) -> None:
        """Use ``cast`` of a frozen decoder's weight, where the head can; the tied embeddings stay as they are."""
        return

    def widen_output(self) -> None:
        """Compute the scores of a text in fp32 under autocast, where the head gives any."""
        return

    def hold_rows(self, rows: Tensor | None) -> None:
        """Keep only ``rows`` [C] of a frozen decoder, if the head can and needs no others; None: undo this."""
        return

    @classmethod
    def of_output(cls, output: Any) -> Tensor:
        """The logits in the output of transformers' own model with this head; without one, the last hidden state."""
        return output[0]

    # --- loading ---------------------------------------------------------------------------------------------------

    @classmethod
    def settings(cls, num_labels: int) -> dict[str, Any]:
        """The settings with which transformers loads a model with this head."""
        return {}

    @classmethod
    def own_setting(cls, row: Architecture, unused: Iterable[str]) -> dict[str, bool]:
        """The config field that makes room for the head in the checkpoint; empty without one.

        ``unused`` are the names of the weights that found no place.
        """
        return {}

    @torch.no_grad()
    def build(self, missing: Iterable[str]) -> str:
        """Build a head that the checkpoint does not bring, where possible, and return a line about it; else empty.

        ``missing`` are the names of the parameters that it lacks.
        """
        return ""
