"""Several adapters over one base model: loaded, chosen, switched off, or a different one for each row of a batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stratatune.errors import ModelError, counted, did_you_mean
from stratatune.model.artefact import load_artefact
from stratatune.model.attach import Tuned, refuse_tuned
from stratatune.model.backbone import Backbone
from stratatune.model.insertions import Insertions
from stratatune.model.question import Question
from stratatune.model.twins import twin
from stratatune.model.wrapped import check_unwrapped

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NOTHING = Insertions()


class Adapters:
    """A base model and any number of adapters that share its weights in memory; each adds only its trained tensors.

    As with peft's ``PeftModel``: one adapter is active, all can be switched off, and a batch can name one for each row.
    A call runs the active model as it is called itself. With ``adapters=[...]`` the part of the model that no adapter
    of the batch changes runs once for all rows.

    ::

        many = st.Adapters(AutoModelForSequenceClassification.from_pretrained("roberta-base"))
        many.load("runs/films", "films")
        many.load("a-peft-folder", "books")
        many.set("films")
        many(**inputs).logits
        many(**inputs, adapters=["films", "books", None])   # None: the base

    Args:
        base: a model without a plan; all adapters are loaded onto it, so it has the head that they were trained with.

    Attributes:
        active: the name of the adapter that answers; None: the base.
    """

    def __init__(self, base: PreTrainedModel) -> None:
        refuse_tuned(base)
        check_unwrapped(base, "st.Adapters")
        self.base = base.eval().requires_grad_(False)
        self.active: str | None = None
        self._loaded: dict[str, Tuned] = {}

    def __repr__(self) -> str:
        return f"Adapters({type(self.base).__name__}, names={self.names!r}, active={self.active!r})"

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters that are loaded, in that order."""
        return tuple(self._loaded)

    def load(self, folder: str | Path, name: str | None = None) -> str:
        """Load an adapter of ours, or a LoRA folder of peft, and make the first one active.

        Args:
            folder: as for :func:`stratatune.load`.
            name: its name; default: the name of the folder.

        Returns:
            Its name.

        Raises:
            ModelError: the name is taken, or the adapter does not belong to this base or its head.
        """
        called = name or Path(folder).resolve().name
        if called in self._loaded:
            raise ModelError(f"an adapter {called!r} is loaded already", "give another name, or delete it first")
        # A twin: separate modules, so that one adapter's wrappers are in no other's way, over the same tensors.
        self._loaded[called] = load_artefact(folder, twin(self.base), apart=True).model
        if len(self._loaded) == 1:
            self.active = called
        return called

    def delete(self, name: str) -> None:
        """Unload an adapter; if it was active, the base becomes active."""
        self.model(name)
        del self._loaded[name]
        self.active = None if self.active == name else self.active

    def set(self, name: str | None) -> None:
        """Make an adapter the active one; None: the base."""
        self.model(name)
        self.active = name

    @contextlib.contextmanager
    def off(self) -> Iterator[PreTrainedModel]:
        """A context in which the plain base model runs, without any adapter."""
        was, self.active = self.active, None
        try:
            yield self.base
        finally:
            self.active = was

    def model(self, name: str | None) -> PreTrainedModel:
        """The model with an adapter, or the base.

        Raises:
            ModelError: no adapter of this name is loaded.
        """
        if name is None:
            return self.base
        if name not in self._loaded:
            raise ModelError(f"no adapter {name!r} is loaded", did_you_mean(str(name), self._loaded))
        return self._loaded[name]

    def __call__(self, *args: Any, adapters: Sequence[str | None] | None = None, **inputs: Any) -> Any:
        """The output of the active model; with ``adapters``, of each row's own model, as ``logits`` [B, ...].

        Raises:
            ModelError: an adapter that is not loaded, or other than one for each row.
        """
        if adapters is None:
            return self.model(self.active)(*args, **inputs)
        return self._by_row(list(adapters), *args, **inputs)

    def generate(self, *args: Any, **options: Any) -> Any:
        """The token ids that the active model generates."""
        model: Any = self.model(self.active)
        return model.generate(*args, **options)

    @torch.no_grad()
    def _by_row(
        self,
        names: list[str | None],
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Any:
        from transformers.utils.generic import ModelOutput

        if len(names) != len(input_ids):
            raise ModelError(
                f"{counted(len(names), 'adapter')} for {counted(len(input_ids), 'row')}",
                "name one for each row, or None",
            )
        mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        backbones = {name: self._backbone(name) for name in dict.fromkeys(names)}
        plain = backbones.get(None) or Backbone(self.base)
        if len(plain.row.stacks) > 1:
            raise ModelError(
                f"{type(self.base).__name__} has two stacks, and rows of several adapters are run in one",
                "call it once for each adapter, after set(name)",
            )
        # Behind a prompt a decoder's own forward counts real tokens; its top, made for texts padded on the right,
        # counts columns.
        gaps = bool((mask[:, 1:] & ~mask[:, :-1]).any())
        alone = {
            name
            for name in backbones
            if name is not None and (self._begins_otherwise(name) or (gaps and self._puts_tokens(name)))
        }
        found: list[Tensor | None] = [None] * len(names)
        shared = [name for name in backbones if name not in alone]
        # Up to the lowest frozen depth among them all models compute what the base does.
        depth = min((self._depth(name, plain) for name in shared), default=0)
        among = torch.tensor([number for number, name in enumerate(names) if name not in alone], dtype=torch.long)
        types = None if token_type_ids is None else token_type_ids[among]
        hidden = plain.family.trunk(input_ids[among], mask[among], types, depth, Question()) if shared else None
        for name, backbone in backbones.items():
            rows = torch.tensor([number for number, one in enumerate(names) if one == name])
            if hidden is None or name in alone:
                given = {} if token_type_ids is None else {"token_type_ids": token_type_ids[rows]}
                output = self.model(name)(input_ids=input_ids[rows], attention_mask=mask[rows].long(), **given)
                logits = backbone.head.of_output(output)
            else:
                inserted = _NOTHING if name is None else self._loaded[name].attached.insertions
                states = hidden[torch.searchsorted(among, rows)]
                question = Question(ids=input_ids[rows])
                logits = backbone.family.top(states, mask[rows], depth, inserted, question, backbone.head)
            for row, one in zip(rows.tolist(), logits, strict=True):
                found[row] = one
        return ModelOutput(logits=torch.stack(found))  # pyright: ignore[reportArgumentType]

    def _begins_otherwise(self, name: str) -> bool:
        """Whether an adapter changes the hidden state at depth 0: it shifts the text, or trained the embeddings."""
        resolved = self._loaded[name].attached.resolved
        return bool(resolved.trains_embeddings or resolved.moved)

    def _puts_tokens(self, name: str) -> bool:
        """Whether an adapter puts a prompt before the text, at any depth."""
        return any(one.tokens for _, one in self._loaded[name].attached.insertions.modules)

    def _backbone(self, name: str | None) -> Backbone:
        return Backbone(self.base) if name is None else self.model(name).attached.backbone  # pyright: ignore

    def _depth(self, name: str | None, plain: Backbone) -> int:
        """The depth below which an adapter computes as the base does."""
        if name is None:
            return plain.shape.blocks
        return self._loaded[name].attached.resolved.frozen_depth
