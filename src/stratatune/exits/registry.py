"""The table of exits; the choices of ``export --to``, its help and ``list exits`` are made from it. No torch."""

from __future__ import annotations

from stratatune.errors import PlanError, did_you_mean
from stratatune.exits.exit import Exit
from stratatune.exits.merged import Merged
from stratatune.exits.native import Native
from stratatune.exits.onnx import Onnx
from stratatune.exits.peft import Peft
from stratatune.exits.sentence_transformers import SentenceTransformers

EXITS: dict[str, Exit] = {one.name: one for one in (Native(), Peft(), Merged(), SentenceTransformers(), Onnx())}

_NAMES_OF_OTHERS = {
    **dict.fromkeys(("lora", "adapter"), "peft"),
    **dict.fromkeys(("transformers", "hf", "safetensors", "merged_16bit"), "merged"),
}
_GGUF = "write merged, and convert it with llama.cpp's `python convert_hf_to_gguf.py FOLDER --outfile model.gguf`"


def add_exit(one: Exit) -> None:
    """Make an exit known under its name."""
    EXITS[one.name] = one


def exit_of(name: str) -> Exit:
    """The exit of that name.

    Raises:
        PlanError: there is none.
    """
    if name not in EXITS:
        other = _NAMES_OF_OTHERS.get(name.lower())
        hint = f"did you mean {other!r}?" if other else did_you_mean(name, EXITS)
        raise PlanError(f"to: {name!r}", _GGUF if name.lower() == "gguf" else hint)
    return EXITS[name]
