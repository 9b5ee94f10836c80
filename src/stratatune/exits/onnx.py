"""Export one ONNX file, for running models without torch. No torch on import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from stratatune.exits.reading import quoted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from stratatune.model.attach import Tuned
    from stratatune.model.attached import Attached


class Onnx:
    """The model's own forward as a graph; ``exits/onnx_graph.py`` describes its inputs and outputs."""

    name: ClassVar[str] = "onnx"
    summary: ClassVar[str] = "one ONNX file with config and tokenizer, whatever the plan"
    extra: ClassVar[str | None] = "onnx"
    whole: ClassVar[bool] = True
    reader: ClassVar[str] = "onnxruntime.InferenceSession({out!r} + '/model.onnx')"
    library: ClassVar[str] = "onnx"

    def code(self, attached: Attached, base: str, place: str) -> list[str]:
        """Open the graph in onnxruntime."""
        return ["import onnxruntime", "", f"session = onnxruntime.InferenceSession({quoted(place + '/model.onnx')})"]

    def refusals(self, attached: Attached) -> list[str]:
        """Refuse a model that writes text: a file of one forward pass has no key-value cache."""
        family, head = attached.backbone.row.family, attached.backbone.head
        if family != "encoder" and head.speaks:
            return [f"a {family} with a language-model head writes token by token, and one forward pass does not"]
        if family == "encoder-decoder":
            return ["an encoder-decoder runs two stacks, which take two files"]
        return []

    def write(self, model: Tuned, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
        """Write ``model.onnx``, ``config.json`` with the names of the classes, the tokenizer, and how text is read."""
        from stratatune.exits.onnx_folder import write
        from stratatune.exits.temperature import fold_temperature
        from stratatune.exits.tokenizers import tokenizer_of

        fold_temperature(model.attached)
        write(model, tokenizer or tokenizer_of(model.attached), folder)
