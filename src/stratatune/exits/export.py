"""The ways out: a tuned model as a stock peft adapter, or merged into a plain transformers folder."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stratatune.errors import PlanError, did_you_mean
from stratatune.exits.peft import export_peft
from stratatune.files import write_errors
from stratatune.model.attach import Tuned
from stratatune.model.merging import merge

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Form = Literal["peft", "merged"]
FORMS = ("peft", "merged")


def export(model: PreTrainedModel, folder: str | Path, to: Form = "peft") -> None:
    """Write a tuned model in a form that needs nothing of this package; the model itself stays as it is.

    Args:
        model: one that ``apply`` or ``load`` returned; a copy of it is taken.
        folder: made where it is not there.
        to: ``peft``: a stock adapter, for ``peft.PeftModel.from_pretrained(base, folder)``; ``merged``: the whole model
            with everything folded in, for ``from_pretrained(folder)``.

    Raises:
        PlanError: the plan has no such form, with the reason for each method that has none.
        ResourceError: peft is not installed.
        ResourceError: the folder cannot be written.
    """
    if not isinstance(model, Tuned):
        raise PlanError("this model has no plan", "give one that apply or load returned")
    write(copy.deepcopy(model), Path(folder), to)


def write(model: Tuned, folder: Path, to: str) -> None:
    """As :func:`export`, but the model is used up; its classes' names go with a merged one."""
    if to not in FORMS:
        raise PlanError(f"export to {to!r} is not known", did_you_mean(to, FORMS))
    if to == "peft":
        export_peft(model, folder)
        return
    labels = model.attached.reading.get("labels") or ()
    plain = merge(model)
    if labels and len(labels) == plain.config.num_labels:
        plain.config.id2label = dict(enumerate(labels))
        plain.config.label2id = {label: number for number, label in enumerate(labels)}
    with write_errors(folder):
        plain.save_pretrained(folder)
