"""``st.export``: write a tuned model in one of the forms of ``registry.py``."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

from stratatune.errors import PlanError
from stratatune.exits.registry import EXITS, exit_of
from stratatune.files import check_empty, new_folder
from stratatune.model.attach import Tuned

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
    """Write a tuned model in a form that other tools read; the model itself stays as it is.

    Args:
        model: one that ``apply`` or ``load`` returned; a copy of it is taken.
        folder: the folder to write, which is new or empty.
        to: a name that ``stratatune list exits`` shows. ``native``: an adapter for ``stratatune.load(folder)``;
            ``peft``: a stock adapter, for ``peft.PeftModel.from_pretrained(base, folder)``; ``merged``: the whole model
            with everything folded in, for ``from_pretrained(folder)``.
        tokenizer: written with the model, if the form includes one; None: the base's own, for a form of a whole model.

    Raises:
        PlanError: the plan has no such form, with the reason for each method that has none.
        ConfigError: there is something in the folder already.
        ResourceError: the folder cannot be written, or a library that the form needs is not installed.
    """
    if not isinstance(model, Tuned):
        if hasattr(model, "fit"):
            fix = "save it, and export what it saved: save(FOLDER), then st.export(st.load(FOLDER), ...)"
            raise PlanError(f"a {type(model).__name__} is an estimator, and a model is needed", fix)
        raise PlanError("this model has no plan", "give one that apply or load returned")
    check(model.attached, to)
    check_empty("folder", Path(folder))
    with new_folder(Path(folder)) as made:
        exit_of(to).write(copy.deepcopy(model), tokenizer, made)


def check(attached: Attached, to: str) -> None:
    """Refuse a plan that has no such form.

    Raises:
        PlanError: names each reason, and the forms that the plan has.
    """
    reasons = exit_of(to).refusals(attached)
    if reasons:
        others = ", ".join(name for name, one in EXITS.items() if not one.refusals(attached))
        raise PlanError(
            f"this plan cannot be exported to {to}: {'; '.join(reasons)}", f"it can be exported to: {others}"
        )
