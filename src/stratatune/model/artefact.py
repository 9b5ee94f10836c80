"""Reading a saved adapter back onto its base model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratatune.errors import ModelError, PlanError
from stratatune.model import origin
from stratatune.model.attach import Tuned, apply
from stratatune.model.backbone import Backbone
from stratatune.model.base import Base, class_for, load_base, load_class
from stratatune.model.checksums import verify
from stratatune.model.fingerprint import Fingerprint, first_edition
from stratatune.model.saving import read_record, read_tensors
from stratatune.model.tokenizers import check_reading
from stratatune.outside import path_exists

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_THAT_BASE = "give the base model it was trained on: --base FOLDER, or load(..., base=FOLDER)"

_BY_HAND = (
    "a model that was changed by hand before the plan was applied is given as load(..., base=MODEL); "
    "else the folder is damaged"
)


@dataclass(frozen=True)
class Artefact:
    """A tuned model as it was saved, its tokenizer, and its record (``adapter.json``).

    ``tokenizer`` is None where the base was given as a live model, or has no tokenizer files and needed none.
    """

    model: Tuned
    tokenizer: PreTrainedTokenizerBase
    record: dict[str, Any]
    notices: list[str] = field(default_factory=list)


def load_artefact(folder: str | Path, base: str | Path | PreTrainedModel | None = None) -> Artefact:
    """Load the base model, attach the plan and put the trained tensors in.

    The base is looked for where it was, at the hub revision and in the dtype that it was trained with.

    Args:
        folder: the ``adapter`` folder of a run, or the run's own folder.
        base: where the base model is now, when it has moved; or a model that is loaded already.

    Raises:
        ModelError: no artefact there, it is damaged, the base is missing, or something of the base that the numbers
            depend on (its weights, its settings, its tokenizer) is not as it was.
    """
    folder = Path(folder)
    folder = folder / "adapter" if path_exists(folder / "adapter") else folder
    record, tensors = read_record(folder), read_tensors(folder)
    notices = verify(record, tensors, folder)
    loaded = _base(record, folder, base)
    check_encoder(Backbone(loaded.model), record)
    _check_new(loaded.model, record)
    try:
        revision = record["base"].get("revision")
        model = apply(loaded.model, record["plan"], also_train=record["also_train"], revision=revision)
    except PlanError as error:
        raise ModelError(f"the plan of {folder} does not fit its base model: {error.message}", error.hint) from error
    attached, saved = model.attached, record["base"]
    _same("a pretrained head", saved["head"], attached.head_hash, saved, attached.backbone)
    _fill(model, tensors)
    attached.reading, attached.tokenizer = record["reading"], record.get("tokenizer") or {}
    return Artefact(model.eval(), loaded.tokenizer, record, notices)


def load(folder: str | Path, base: str | Path | PreTrainedModel | None = None) -> Tuned:
    """The tuned model saved in ``folder``, in eval mode; see :func:`load_artefact` for arguments and errors."""
    return load_artefact(folder, base).model


def place_of_base(record: dict[str, Any], folder: Path, base: str | Path | None) -> tuple[str, str | None]:
    """Where the base model of an artefact is, and at which hub revision; ``base`` says where it is now.

    Raises:
        ModelError: it was a folder that is no longer there.
    """
    saved = record["base"]
    if base is None:
        return origin.find(saved, folder)
    return str(base), saved.get("revision") if str(base) == saved["name"] else None


def load_base_of(record: dict[str, Any], folder: Path, base: str | Path | None, head: Any) -> Base:
    """The base model of an artefact with this head; None: of the class that it was trained in.

    Raises:
        ModelError: it is not found, or its tokenizer reads otherwise than it did.
    """
    saved = record["base"]
    name, revision = place_of_base(record, folder, base)
    # The attention it was trained with gives the same digits again; other kinds may not be on this machine.
    attention = saved.get("attention")
    options: dict[str, Any] = {
        "num_labels": record["num_labels"],
        "revision": revision,
        "attention": attention if attention in ("eager", "sdpa") else None,
        "dtype": saved.get("dtype", "float32"),
    }
    texts = bool(record["reading"])
    if head is None:
        loaded = load_class(name, saved["class"], **options)
    else:
        loaded = load_base(name, head, texts=texts, problem_type=record["reading"].get("problem_type"), **options)
    if record.get("tokenizer"):
        check_reading(record["tokenizer"], loaded.tokenizer, name)
    return loaded


def _base(record: dict[str, Any], folder: Path, base: str | Path | PreTrainedModel | None) -> Base:
    if base is not None and not isinstance(base, str | Path):
        return Base(base, None)  # pyright: ignore[reportArgumentType]
    saved, head = record["base"], record["output"]
    usual = saved.get("class", "") in ("", class_for(head, saved["model_type"]))
    return load_base_of(record, folder, base, head if record["reading"] or usual else None)


def check_encoder(backbone: Backbone, record: dict[str, Any]) -> None:
    """Refuses a base, with nothing attached, whose encoder is not the one that the adapter was trained on.

    Raises:
        ModelError: its weights or a setting of its config differ.
    """
    saved = record["base"]
    if "weights" not in saved:  # written before weights and settings were told apart
        _same("weights", saved["hash"], first_edition(backbone), saved, backbone)
        return
    found = Fingerprint.of(backbone)
    odd = found.differing(saved.get("settings") or {})
    if odd:
        was, now, name = saved["settings"][odd[0]], found.settings[odd[0]], backbone.model.config._name_or_path
        raise ModelError(f"the config of {name!r} has changed since training: {odd[0]} was {was}, is {now}", _THAT_BASE)
    _same("weights", saved["weights"], found.weights, saved, backbone)


def _same(part: str, was: str, given: str, saved: dict[str, Any], backbone: Backbone) -> None:
    if was != given:
        raise ModelError(
            f"this adapter was trained on {saved['name']!r} with {part} {was[:12]}, "
            f"but {backbone.model.config._name_or_path!r} has {part} {given[:12]}",
            _THAT_BASE,
        )


def _check_new(model: PreTrainedModel, record: dict[str, Any]) -> None:
    """What was new and trained must be there, too, in what is filled."""
    named = dict(model.named_parameters())
    for name in record["also_train"]:
        if name not in named:
            raise ModelError(f"{name!r} trained, and a {type(model).__name__} has none", _BY_HAND)


def _fill(model: Tuned, tensors: dict[str, Any]) -> None:
    parameters = model.attached.trained()
    if parameters.keys() != tensors.keys():
        odd = sorted(parameters.keys() ^ tensors.keys())[0]
        where = "what was saved" if odd in tensors else "this model"
        raise ModelError(f"the saved tensors are not those the plan trains: {odd!r} is in {where} alone", _BY_HAND)
    for name, parameter in parameters.items():
        if parameter.shape != tensors[name].shape:
            raise ModelError(
                f"{name} is {tuple(tensors[name].shape)}, the model wants {tuple(parameter.shape)}",
                "the folder is damaged",
            )
        parameter.data.copy_(tensors[name])
