"""Export a stock peft adapter, readable without this package. No torch on import."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from stratatune.exits.reading import quoted, read_tokenizer
from stratatune.shapes.composite import part_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from stratatune.model.attach import Tuned
    from stratatune.model.attached import Attached


class Peft:
    """One ``LoraConfig``; ``exits/lora_config.py`` describes what it can hold."""

    name: ClassVar[str] = "peft"
    summary: ClassVar[str] = "a stock peft adapter"
    extra: ClassVar[str | None] = "peft"
    whole: ClassVar[bool] = False
    reader: ClassVar[str] = "peft.PeftModel.from_pretrained(base, {out!r})"
    library: ClassVar[str] = "peft"

    def code(self, attached: Attached, base: str, place: str) -> list[str]:
        """Load the base by transformers and the adapter over it."""
        head = attached.backbone.head
        # Of a language model beside towers the adapter has the names of the whole model.
        auto = "AutoModelForImageTextToText" if part_of(attached.origin.config()) else head.auto
        own = head.settings(attached.backbone.model.config.num_labels or 2)
        # Also where it is transformers' default: the base's config may have another number.
        options = f", num_labels={own['num_labels']}" if "num_labels" in own else ""
        labels = list(attached.spec.get("labels") or ())
        named = bool(labels) and len(labels) == own.get("num_labels")
        options += ", id2label=dict(enumerate(labels))" if named else ""
        source = base or "BASE"
        # An adapter has no generation config, and that of the base need not know the token that ends a turn.
        stop = list(attached.spec.get("stop_tokens") or ())
        ends = [f"model.generation_config.eos_token_id = {stop}"] if stop else []
        # transformers finds the last token of a padded text by this field, which the base's own config may lack.
        pad = attached.backbone.model.config.pad_token_id
        differs = pad is not None and pad != attached.origin.config().get("pad_token_id")
        pads = ["base.config.pad_token_id = tokenizer.pad_token_id"] if "num_labels" in own and differs else []
        return [
            "from peft import PeftModel",
            f"from transformers import {auto}, AutoTokenizer",
            "",
            *([f"labels = {json.dumps(labels, ensure_ascii=False)}"] if named else []),
            f"base = {auto}.from_pretrained({quoted(source)}{options})",
            f"model = PeftModel.from_pretrained(base, {quoted(place)})",
            *ends,
            # Only a run has a tokenizer of its own, with its chat template.
            read_tokenizer(place if attached.spec.get("objective") else source),
            *pads,
        ]

    def refusals(self, attached: Attached) -> list[str]:
        """The parts of the plan that no ``LoraConfig`` can hold, and mixes that one cannot hold together."""
        from stratatune.exits.lora_config import refusals

        return refusals(attached)

    def write(self, model: Tuned, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
        """Write ``adapter_config.json``, ``adapter_model.safetensors`` and the tokenizer (a run has the base's)."""
        from stratatune.exits.lora_config import write
        from stratatune.exits.temperature import fold_temperature
        from stratatune.exits.tokenizers import tokenizer_of
        from stratatune.files import write_errors

        if tokenizer is None and model.attached.spec.get("objective"):  # the card reads it here
            tokenizer = tokenizer_of(model.attached)
        fold_temperature(model.attached)
        write(model, folder)
        if tokenizer is not None:
            with write_errors(folder):
                tokenizer.save_pretrained(folder)
