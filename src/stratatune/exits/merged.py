"""Export a plain transformers model with everything folded into the base weights. No torch on import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from stratatune.exits.reading import quoted, read_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from stratatune.model.attach import Tuned
    from stratatune.model.attached import Attached


class Merged:
    """The whole model, readable by transformers alone."""

    name: ClassVar[str] = "merged"
    summary: ClassVar[str] = "a plain transformers model, everything folded into its weights"
    extra: ClassVar[str | None] = None
    whole: ClassVar[bool] = False
    reader: ClassVar[str] = "transformers' from_pretrained({out!r})"
    library: ClassVar[str] = "transformers"

    def code(self, attached: Attached, base: str, place: str) -> list[str]:
        """Load the model and the tokenizer by transformers' classes."""
        auto = attached.backbone.head.auto
        lines = [f"from transformers import {auto}, AutoTokenizer", ""]
        return [*lines, f"model = {auto}.from_pretrained({quoted(place)})", read_tokenizer(place)]

    def refusals(self, attached: Attached) -> list[str]:
        """The methods that cannot be folded into a weight of the base."""
        from stratatune.model.merging import refusals

        return refusals(attached)

    def write(self, model: Tuned, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
        """Write the model with its config (names of the classes, end of an answer) and the tokenizer.

        Numbers are in the units of the data; where the output layer cannot give these, ``config.json`` says by which
        ``mean`` and ``deviation`` they come, under ``units``.

        Its weights have the dtype of the base's checkpoint: folded in fp32, each is rounded once. Of a model whose
        trunk is not in memory, shards are written one at a time.
        """
        from stratatune.exits.temperature import fold_temperature
        from stratatune.exits.tokenizers import cut_as_trained, tokenizer_of
        from stratatune.exits.units import KEY, fold_units
        from stratatune.files import write_errors
        from stratatune.model.merging import merge
        from stratatune.model.sharding import write_model
        from stratatune.model.unread import Unread

        tokenizer = tokenizer or tokenizer_of(model.attached)
        if tokenizer is not None:
            tokenizer = cut_as_trained(tokenizer, model.attached)
        dtype = model.attached.origin.checkpoint_dtype()
        labels = model.attached.spec.get("labels") or ()
        stop = model.attached.spec.get("stop_tokens") or ()
        fold_temperature(model.attached)
        units = fold_units(model.attached)
        plain, unread = merge(model), Unread.of(model)
        if units:
            setattr(plain.config, KEY, units)
        if labels and len(labels) == plain.config.num_labels:
            plain.config.id2label = dict(enumerate(labels))
            plain.config.label2id = {label: number for number, label in enumerate(labels)}
        if stop:
            plain.generation_config.eos_token_id = list(stop)
        with write_errors(folder):
            write_model(plain, unread, folder, dtype)
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)
