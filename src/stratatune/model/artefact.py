"""Reading a saved adapter back onto its base model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratatune.errors import ModelError, PlanError
from stratatune.model.attach import Tuned, apply
from stratatune.model.base import load_base
from stratatune.model.saving import read_record, read_tensors
from stratatune.outside import path_exists

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Artefact:
    """A tuned model as it was saved, its tokenizer, and its record (``adapter.json``)."""

    model: Tuned
    tokenizer: PreTrainedTokenizerBase
    record: dict[str, Any]


def load_artefact(folder: str | Path, base: str | None = None) -> Artefact:
    """Load the base model, attach the plan and put the trained tensors in.

    Args:
        folder: the ``adapter`` folder of a run, or the run's own folder.
        base: where the base model is now, when it has moved.

    Raises:
        ModelError: no artefact there, the base is missing, or its weights are not those the adapter was trained on.
    """
    folder = Path(folder)
    folder = folder / "adapter" if path_exists(folder / "adapter") else folder
    record, tensors = read_record(folder), read_tensors(folder)
    # The attention it was trained with gives the same digits again; other kinds may not be on this machine.
    attention = record["base"].get("attention")
    loaded = load_base(
        base or record["base"]["name"],
        record["output"],
        num_labels=record["num_labels"],
        attention=attention if attention in ("eager", "sdpa") else None,
    )
    try:
        model = apply(loaded.model, record["plan"], also_train=record["also_train"])
    except PlanError as error:
        raise ModelError(f"the plan of {folder} does not fit its base model: {error.message}", error.hint) from error
    _same_base(model, record)
    _fill(model, tensors)
    model.attached.reading = record["reading"]
    return Artefact(model.eval(), loaded.tokenizer, record)


def load(folder: str | Path, base: str | None = None) -> Tuned:
    """The tuned model saved in ``folder``, in eval mode; see :func:`load_artefact` for arguments and errors."""
    return load_artefact(folder, base).model


def _same_base(model: Tuned, record: dict[str, Any]) -> None:
    saved, attached = record["base"], model.attached
    for part, was, given in (
        ("weights", saved["hash"], attached.base_hash),
        ("a pretrained head", saved["head"], attached.head_hash),
    ):
        if was != given:
            raise ModelError(
                f"this adapter was trained on {saved['name']!r} with {part} {was[:12]}, "
                f"but {model.config._name_or_path!r} has {part} {given[:12]}",
                "give the base model it was trained on",
            )


def _fill(model: Tuned, tensors: dict[str, Any]) -> None:
    parameters = model.attached.trained()
    if parameters.keys() != tensors.keys():
        odd = sorted(parameters.keys() ^ tensors.keys())[0]
        raise ModelError(
            f"the saved tensors are not those the plan trains: {odd!r} is on one side only", "the folder is damaged"
        )
    for name, parameter in parameters.items():
        if parameter.shape != tensors[name].shape:
            raise ModelError(
                f"{name} is {tuple(tensors[name].shape)}, the model wants {tuple(parameter.shape)}",
                "the folder is damaged",
            )
        parameter.data.copy_(tensors[name])
