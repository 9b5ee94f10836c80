"""``st.export``: write a tuned model in a form that other tools read, with its card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from stratatune.model.attached import Attached


def export(
    model: PreTrainedModel,
    folder: str | Path,
    to: str = "peft",
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> None:
    """Write a tuned model in a format that other tools read; the model itself is not changed.

    Args:
        model: one that ``apply`` or ``load`` returned; a copy of it is taken.
        folder: the folder to write, which is new or empty.
        to: a name that ``stratatune list exits`` shows. ``native``: an adapter for ``stratatune.load(folder)``;
            ``peft``: a stock adapter, for ``peft.PeftModel.from_pretrained(base, folder)``; ``merged``: the whole model
            with everything folded in, for ``from_pretrained(folder)``.
        tokenizer: written with the model, if the format includes one; None: the base's own, for a whole model.

    Raises:
        PlanError: the format cannot hold the plan, with the reason for each method.
        ConfigError: there is something in the folder already.
        ResourceError: the folder cannot be written, or a library that the form needs is not installed.
    """
    from stratatune.app.card import card
    from stratatune.exits.export import write
    from stratatune.exits.registry import exit_of

    place, form = Path(folder), exit_of(to)

    def said(attached: Attached) -> str:
        base = attached.origin.named(attached.backbone.model.config._name_or_path).name
        return card(None, attached, base, form, place.resolve().name)

    write(model, place, to, tokenizer, said)
