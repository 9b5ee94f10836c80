"""Export a stock peft adapter, readable without this package. No torch on import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

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

    def refusals(self, attached: Attached) -> list[str]:
        """The parts of the plan that no ``LoraConfig`` can hold, and mixes that one cannot hold together."""
        from stratatune.exits.lora_config import refusals

        return refusals(attached)

    def write(self, model: Tuned, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
        """Write ``adapter_config.json``, ``adapter_model.safetensors`` and the tokenizer."""
        from stratatune.exits.lora_config import write
        from stratatune.exits.temperature import fold_temperature
        from stratatune.files import write_errors

        fold_temperature(model.attached)
        write(model, folder)
        if tokenizer is not None:
            with write_errors(folder):
                tokenizer.save_pretrained(folder)
