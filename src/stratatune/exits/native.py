"""Export the adapter in this package's own format: trained tensors, plan, and how text is read. No torch on import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from stratatune.exits.reading import quoted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from stratatune.model.attach import Tuned
    from stratatune.model.attached import Attached


class Native:
    """The adapter of this package, possible for every plan."""

    name: ClassVar[str] = "native"
    summary: ClassVar[str] = "an adapter of stratatune: only the trained tensors"
    extra: ClassVar[str | None] = None
    whole: ClassVar[bool] = False
    reader: ClassVar[str] = "stratatune.load({out!r})"
    library: ClassVar[str] = "stratatune"

    def code(self, attached: Attached, base: str, place: str) -> list[str]:
        """Load it with its base."""
        return ["import stratatune as st", "", f"model = st.load({quoted(place)})"]

    def refusals(self, attached: Attached) -> list[str]:
        """Always empty."""
        return []

    def write(self, model: Tuned, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
        """Write ``adapter.safetensors``, ``adapter.json`` and a card; the tokenizer is the base model's own."""
        from stratatune.model.saving import save_adapter

        save_adapter(model.attached, folder)
