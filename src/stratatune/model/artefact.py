"""Reading a saved adapter back onto its base model."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratatune.errors import ModelError, PlanError
from stratatune.hashing import digest_of_json
from stratatune.hub import fetched
from stratatune.methods.wrapping import as_unwrapped
from stratatune.model import origin
from stratatune.model.attach import Tuned, apply_to, refuse_tuned
from stratatune.model.backbone import Backbone
from stratatune.model.base import Base, class_for, load_base, load_class
from stratatune.model.checksums import verify
from stratatune.model.cutting import cut_to, whole_shape
from stratatune.model.fingerprint import Fingerprint, first_edition
from stratatune.model.heads.none import NoHead
from stratatune.model.heads.registry import HEADS
from stratatune.model.packing import pack_top
from stratatune.model.peft_folder import PeftFolder, is_peft, read_peft
from stratatune.model.peft_plan import adapted
from stratatune.model.saving import describe, read_record, read_tensors
from stratatune.model.shared_bases import SharedBases, VerifiedBase
from stratatune.model.tokenizers import check_reading
from stratatune.model.twins import part, twin
from stratatune.model.untouched import untouched_on_failure
from stratatune.model.wrapped import check_unwrapped
from stratatune.outside import path_exists
from stratatune.plan import Plan, shape_of
from stratatune.shapes.configs import config_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_THAT_BASE = "give the base model it was trained on: --base FOLDER"

_BY_HAND = (
    "if the model was changed by hand before the plan was applied, pass it as load(..., base=MODEL); "
    "otherwise the folder is damaged"
)


@dataclass(frozen=True)
class Artefact:
    """A tuned model as it was saved, its tokenizer, and its record (``adapter.json``).

    ``tokenizer`` is None where the base was given as a live model, or has no tokenizer files and needed none.
    ``shared`` is the base that others are loaded onto too, where there is one.
    """

    model: Tuned
    tokenizer: PreTrainedTokenizerBase
    record: dict[str, Any]
    notices: list[str] = field(default_factory=list)
    shared: VerifiedBase | None = field(default=None, repr=False)


def load_artefact(
    folder: str | Path,
    base: str | Path | PreTrainedModel | None = None,
    *,
    pack: bool = True,
    unread: bool = False,
    room_above: int | None = None,
    apart: bool = False,
    bases: SharedBases | None = None,
) -> Artefact:
    """Load the base model, attach the plan and put the trained tensors in.

    The base is looked for where it was, at the hub revision and in the dtype that it was trained with.

    Args:
        folder: the ``adapter`` folder of a run, or the run's own folder; a LoRA folder of peft, which becomes a plan
            (``model/peft_plan.py``); or the name of one of these on the hub: ``user/name``, ``user/name@revision``.
        base: where the base model is now, when it has moved; or a model that is loaded already.
        apart: the base's tensors are others' too, so those that the adapter trained get their own memory.
        pack: hold the frozen part of the top packed where it was in training; False: as stored.
        unread: leave the weights of the trunk in the checkpoint (:class:`stratatune.model.unread.Unread`).
        room_above: bytes that the blocks above it may take, before they stay there too; None: as many as they need.
        bases: the bases that are loaded already: one of them is neither read nor verified again, and its tensors
            and its tokenizer are shared. None: the artefact has its own base.

    Raises:
        ModelError: no artefact there, it is damaged, the base is missing, or something of the base that the numbers
            depend on (its weights, its settings, its tokenizer) is not as it was.
    """
    if base is not None and not isinstance(base, str | Path):
        refuse_tuned(base)
        check_unwrapped(base, "st.load")
    folder = adapter_in(fetched(folder))
    if is_peft(folder):
        with contextlib.nullcontext() if base is None or isinstance(base, str | Path) else untouched_on_failure(base):
            return _from_peft(folder, base, apart=apart)
    record, tensors = read_record(folder), read_tensors(folder)
    # Before the base is loaded, which may take minutes: a damaged folder is refused at once.
    notices = verify(record, tensors, folder)
    shared = None
    # A model that the user brings stays as it was if the adapter does not fit it.
    with contextlib.nullcontext() if base is None or isinstance(base, str | Path) else untouched_on_failure(base):
        if bases is not None and not unread and (base is None or isinstance(base, str | Path)):
            shared = bases.get(_key(record, folder, base), lambda: _verified(record, folder, base, unread, room_above))
            loaded, apart = replace(shared.base, model=twin(shared.base.model)), True
            backbone, fingerprint = cut_as_saved(loaded.backbone, record), shared.fingerprint
        else:
            found = _verified(record, folder, base, unread, room_above)
            loaded, backbone, fingerprint = found.base, found.backbone, found.fingerprint
        model = _with_adapter(loaded, backbone, fingerprint, record, tensors, folder, apart=apart)
    _name_outputs(model.config, record)
    attached = model.attached
    attached.spec, attached.tokenizer = record["reading"], record.get("tokenizer") or {}
    attached.started_from = record.get("started_from") or {}
    if loaded.tokenizer is not None and (template := record["reading"].get("chat_template")):
        loaded.tokenizer.chat_template = template  # it was trained with this template, and is exported with it
    if pack and (kind := record["reading"].get("pack")):
        pack_top(attached, kind)
    return Artefact(model.eval(), loaded.tokenizer, record, notices, shared)


def adapter_in(folder: Path) -> Path:
    """The folder of the adapter, where ``folder`` is that of its run."""
    return folder / "adapter" if path_exists(folder / "adapter") else folder


def _with_adapter(
    loaded: Base,
    backbone: Backbone,
    fingerprint: Fingerprint,
    record: dict[str, Any],
    tensors: dict[str, Tensor],
    folder: Path,
    *,
    apart: bool,
) -> Tuned:
    """The base under the plan of an artefact, with its tensors."""
    _check_new(loaded.model, record)
    try:
        # The record names what was new: a base given as a live model may carry no marks to find it by (new_parts.py).
        revision = record["base"].get("revision")
        plan = Plan.from_data(record["plan"])
        model = apply_to(backbone, plan, also_train=record["also_train"], revision=revision, fingerprint=fingerprint)
    except PlanError as error:
        raise ModelError(f"the plan of {folder} does not fit its base model: {error.message}", error.hint) from error
    attached, saved = model.attached, record["base"]
    # Only now: what counts as the frozen head depends on what the plan trains of it.
    _same("a pretrained head", saved["head"], attached.head_hash, saved, attached.backbone)
    if apart:
        part(attached)
    _fill(model, tensors)
    return model


def _name_outputs(config: PretrainedConfig, record: dict[str, Any]) -> None:
    """Let the config say what the outputs mean, as it did in training: a pipeline answers with these names."""
    names = record.get("label_names") or record["reading"].get("labels") or []
    if names and len(names) == config.num_labels:
        config.id2label = dict(enumerate(names))
        config.label2id = {name: number for number, name in enumerate(names)}
    if record.get("problem_type"):
        config.problem_type = record["problem_type"]


def _verified(
    record: dict[str, Any],
    folder: Path,
    base: str | Path | PreTrainedModel | None,
    unread: bool,
    room_above: int | None,
) -> VerifiedBase:
    """Load the base of an artefact and check it before anything is attached, against the recorded fingerprint."""
    loaded = _base(record, folder, base, unread, room_above)
    backbone = cut_as_saved(loaded.backbone, record)
    return VerifiedBase(loaded, backbone, check_encoder(backbone, record))


def _key(record: dict[str, Any], folder: Path, base: str | Path | None) -> str:
    """A digest of all that a base depends on: artefacts with one key have the same base."""
    reading = record["reading"]
    return digest_of_json(
        {
            "place": place_of_base(record, folder, base),
            "base": {name: one for name, one in record["base"].items() if name not in ("name", "path", "beside")},
            "head": [record["output"], record["num_labels"], bool(record["also_train"])],
            "tokenizer": record.get("tokenizer"),
            "texts": [bool(reading), reading.get("problem_type"), reading.get("chat_template")],
            "cut": record["plan"] if Plan.from_data(record["plan"]).cut is not None else None,
        },
        size=16,
    )


def _from_peft(folder: Path, base: str | Path | PreTrainedModel | None, *, apart: bool) -> Artefact:
    """A LoRA folder of peft as an artefact, with the record that saving it would write."""
    found = read_peft(folder)
    loaded = _base_of_peft(found, folder, base)
    model = adapted(loaded.model, found, apart=apart)
    trained = model.attached.trained()
    notices = [*loaded.about_new(model.attached.also_train), *loaded.notices]
    return Artefact(model, loaded.tokenizer, describe(model.attached, folder, trained), notices)


def _base_of_peft(found: PeftFolder, folder: Path, base: str | Path | PreTrainedModel | None) -> Base:
    config = found.config
    if base is not None and not isinstance(base, str | Path):
        return Base(base, None)  # pyright: ignore[reportArgumentType]
    name = str(base or config.base_model_name_or_path or "")
    if not name:
        raise ModelError(f"{folder} does not say which base model it belongs to", _THAT_BASE)
    revision = config.revision if base is None else None
    head = next((one.name for one in HEADS.values() if one.peft_task and one.peft_task == config.task_type), None)
    if head is not None:
        known: Any = config_of(name, revision).get("id2label") or ()
        labels = found.outputs or len(known) or 2
        return load_base(name, head, num_labels=labels, revision=revision, texts=False)
    options: dict[str, Any] = {"num_labels": found.outputs or 2, "revision": revision, "attention": None}
    return load_class(name, config.model_class or "AutoModel", dtype="float32", **options)


def load(folder: str | Path, base: str | Path | PreTrainedModel | None = None, *, pack: bool = True) -> Tuned:
    """Load the tuned model saved in ``folder``; it is in eval mode.

    Args:
        folder: the ``adapter`` folder of a run, or the run's own folder; a LoRA folder of peft, which becomes a plan;
            or the name of one of these on the hub: ``user/name``, ``user/name@revision``.
        base: where the base model is now, if it has moved; or a model that is already loaded.
        pack: hold the frozen part of the top packed if it was packed in training; False: as stored.

    Raises:
        ModelError: there is no adapter, it is damaged, the base is missing, or something of the base that the results
            depend on (its weights, its configuration, its tokenizer) has changed.
    """
    return load_artefact(folder, base, pack=pack).model


def place_of_base(record: dict[str, Any], folder: Path, base: str | Path | None) -> tuple[str, str | None]:
    """The path or id of an artefact's base model, and its hub revision; ``base``: where it is now.

    Raises:
        ModelError: it was a folder that is no longer there.
    """
    saved = record["base"]
    if base is None:
        return origin.find(saved, folder)
    return str(base), saved.get("revision") if str(base) == saved["name"] else None


def load_base_of(
    record: dict[str, Any],
    folder: Path,
    base: str | Path | None,
    head: Any,
    *,
    unread: bool = False,
    room_above: int | None = None,
) -> Base:
    """Load the base model of an artefact with this head; None: as the class that it was trained in.

    Raises:
        ModelError: it is not found, or its tokenizer reads texts differently now.
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
    plan = Plan.from_data(record["plan"])
    if head is None or (head == NoHead.name and record["also_train"]):
        # A pooler that the checkpoint lacks has trained: load_base would leave it out, as nothing of ours reads it.
        loaded = load_class(name, saved["class"], **options)
    else:
        if unread or plan.cut is not None:
            resolved = plan.resolve(shape_of(name, revision))
            options |= {"cut": resolved.cut_to, "unread_below": resolved.frozen_depth if unread else 0}
            # Packing reads every weight of the top, once.
            options["room_above"] = None if record["reading"].get("pack") else room_above
        loaded = load_base(name, head, texts=texts, problem_type=record["reading"].get("problem_type"), **options)
    if record.get("tokenizer"):
        check_reading(record["tokenizer"], loaded.tokenizer, name)
    return loaded


def cut_as_saved(backbone: Backbone, record: dict[str, Any]) -> Backbone:
    """The backbone of a base, with the blocks that the adapter's plan leaves."""
    plan = Plan.from_data(record["plan"])
    return backbone if plan.cut is None else cut_to(backbone, plan.resolve(whole_shape(backbone)))


def _base(
    record: dict[str, Any],
    folder: Path,
    base: str | Path | PreTrainedModel | None,
    unread: bool,
    room_above: int | None,
) -> Base:
    if base is not None and not isinstance(base, str | Path):
        return Base(base, None)  # pyright: ignore[reportArgumentType]
    saved, head = record["base"], record["output"]
    # A model that met its plan through st.apply may be of a class that no head of the table loads: then by its class.
    usual = saved.get("class", "") in ("", class_for(head, saved["model_type"]))
    worn = head if record["reading"] or usual else None
    return load_base_of(record, folder, base, worn, unread=unread, room_above=room_above)


def check_encoder(backbone: Backbone, record: dict[str, Any]) -> Fingerprint:
    """Refuses a base, with nothing attached, whose encoder is not the one that the adapter was trained on.

    Gives the fingerprint of the encoder.

    Raises:
        ModelError: its weights or a setting of its config differ.
    """
    saved = record["base"]
    if "weights" not in saved:  # written before weights and settings had hashes of their own
        _same("weights", saved["hash"], first_edition(backbone), saved, backbone)
        return Fingerprint.of(backbone)
    found = Fingerprint.of(backbone)
    odd = found.differing(saved.get("settings") or {})
    if odd:
        was, now, name = saved["settings"][odd[0]], found.settings[odd[0]], backbone.model.config._name_or_path
        raise ModelError(f"the config of {name!r} has changed since training: {odd[0]} was {was}, is {now}", _THAT_BASE)
    _same("weights", saved["weights"], found.weights, saved, backbone)
    return found


def _same(what: str, was: str, given: str, saved: dict[str, Any], backbone: Backbone) -> None:
    if was != given:
        raise ModelError(
            f"this adapter was trained on {saved['name']!r} with {what} {was[:12]}, "
            f"but {backbone.model.config._name_or_path!r} has {what} {given[:12]}",
            f"{_THAT_BASE}; one that was merged or changed before st.apply is in no folder until it is saved whole",
        )


def _check_new(model: PreTrainedModel, record: dict[str, Any]) -> None:
    """Refuse a base without the parameters that were new in training: they are part of the saved tensors."""
    named = {as_unwrapped(name) for name, _ in model.named_parameters()}
    for name in record["also_train"]:
        if as_unwrapped(name) not in named:
            raise ModelError(f"the adapter trained {name!r}, which a {type(model).__name__} does not have", _BY_HAND)


def _shape_hint(saved: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """A hint where only the number of rows differs: the base was loaded with another number of labels."""
    if len(saved) == len(wanted) > 0 and saved[0] != wanted[0] and saved[1:] == wanted[1:]:
        return f"if this is the output layer, load the base with that number of labels: num_labels={saved[0]}"
    return _THAT_BASE


def _fill(model: Tuned, tensors: dict[str, Any]) -> None:
    parameters = model.attached.trained()
    if parameters.keys() != tensors.keys():
        odd = sorted(parameters.keys() ^ tensors.keys())[0]
        where = "what was saved" if odd in tensors else "this model"
        raise ModelError(f"the saved tensors are not those the plan trains: {odd!r} is only in {where}", _BY_HAND)
    for name, parameter in parameters.items():
        if parameter.shape != tensors[name].shape:
            raise ModelError(
                f"{name} is {tuple(tensors[name].shape)}, the model wants {tuple(parameter.shape)}",
                _shape_hint(tuple(tensors[name].shape), tuple(parameter.shape)),
            )
    for name, parameter in parameters.items():
        # In place: the optimiser groups, the hooks and tied modules all hold this very parameter.
        parameter.data.copy_(tensors[name])
