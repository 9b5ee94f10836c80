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


def add_exit(one: Exit) -> None:
    """Make an exit known under its name."""
    EXITS[one.name] = one


def exit_of(name: str) -> Exit:
    """The exit of that name.

    Raises:
        PlanError: there is none.
    """
    if name not in EXITS:
        raise PlanError(f"to: {name!r}", did_you_mean(name, EXITS))
    return EXITS[name]
