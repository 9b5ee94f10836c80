"""Artefacts on disk: trained tensors only, the plan, and all that is needed to read text the same way again.

``adapter.safetensors`` holds every trained tensor under its name in the model (the head's included), ``adapter.json``
the rest. Nothing is pickled, so nothing runs on load.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from stratatune._compat import VERSION
from stratatune.errors import ModelError, shown
from stratatune.files import make_folder, replacing, write_errors, write_text
from stratatune.markup import code, text
from stratatune.model.attached import Attached
from stratatune.model.checksums import checksums
from stratatune.model.fingerprint import head_fingerprint
from stratatune.model.other_plan import PLAN, plan_as_tensor
from stratatune.model.record import PROBLEM_TYPES, AdapterRecord
from stratatune.model.tops import refuse_tops
from stratatune.outside import Unreadable, first_mistake, path_exists, read_json, regular_file

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FORMAT = 1
_AGAIN = "train again, or restore the folder from a backup"
_WHOLE = (
    "it holds a whole model, as `stratatune export --to merged` writes one: read it with transformers' own classes, or "
    "give the run that it was made from"
)
_UNFINISHED = "the run in it is not finished: finish it with the same command and --resume"
_FINISHED = "give the `adapter` folder of a finished run"
TENSORS, RECORD, CARD = "adapter.safetensors", "adapter.json", "README.md"


def save_adapter(
    attached: Attached, folder: Path, *, for_trainer: bool = False, values: Mapping[str, Tensor] | None = None
) -> None:
    """Write the trained tensors, the record and a card into ``folder``; each file appears whole or not at all.

    In the folder of the base itself, that one's weights and its card stay.

    Args:
        attached: the tuned model's.
        folder: made where it is not there.
        for_trainer: the tensors also under the name by which transformers' ``Trainer`` looks for them, and the plan as
            one of them, since it reads no other file.
        values: what is saved of those that are among them, in place of the model's own.

    Raises:
        ResourceError: the folder cannot be written, or the disk is full.
    """
    make_folder(folder)
    tensors: dict[str, Tensor] = {name: (values or {}).get(name, own) for name, own in attached.trained().items()}
    record = describe(attached, folder, tensors)
    # Computed over the record without its own checksums, so they are added last.
    record["checksums"] = checksums(record, tensors)
    also = {PLAN: plan_as_tensor(attached)} if for_trainer else {}
    write_tensors(folder / TENSORS, {**tensors, **also}, {"format": "pt"})
    # Without its base the adapter is nothing, so an output_dir that is the base's own folder loses no file of that.
    beside = str(folder.resolve()) == attached.origin.path
    if for_trainer and not beside:
        _link(folder / TENSORS, folder / SAFE_WEIGHTS_NAME)
    if not (beside and path_exists(folder / CARD)):
        write_text(folder / CARD, _card(record))
    # Last: a folder without its record is not an adapter, and an older record's checksums do not fit newer tensors. So
    # a save that was cut short is never read as a whole one.
    write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")


def _link(path: Path, name: Path) -> None:
    """Give a file a second name; a copy where the file system knows no links."""
    with write_errors(name), replacing(name) as partial:
        # A hard link needs a name that is free.
        partial.unlink(missing_ok=True)
        try:
            partial.hardlink_to(path)
        except OSError:
            shutil.copyfile(path, partial)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file either whole or not at all.

    Raises:
        ResourceError: the disk is full, or the path cannot be written.
    """
    # safetensors refuses tensors that share memory or are not contiguous.
    held = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with write_errors(path), replacing(path) as partial:
        save_file(held, partial, metadata=metadata)


def describe(attached: Attached, folder: Path, tensors: Collection[str]) -> dict[str, Any]:
    """The record of an artefact in ``folder``: plan, base model and its fingerprint, and how text becomes a label."""
    model, resolved = attached.backbone.model, attached.resolved
    also_train, head = attached.also_trained(), attached.head_hash
    if also_train != attached.also_train:  # unfrozen by hand since: no part of the frozen head any more
        head = head_fingerprint(attached.backbone, tensors)
    return {
        "format": FORMAT,
        "stratatune": VERSION,
        "plan": str(resolved.plan),
        "frozen_depth": resolved.frozen_depth,
        "trainable": attached.trained_count(),
        "base": {
            **attached.origin.named(model.config._name_or_path).to_data(folder),
            "model_type": model.config.model_type,
            "hash": attached.base_hash,
            "weights": attached.base.weights,
            "settings": attached.base.settings,
            "head": head,
            "attention": model.config._attn_implementation,
        },
        "output": attached.backbone.head.name,
        "num_labels": model.config.num_labels,
        # The outputs of a model that an objective trained are described in its own data.
        **({} if attached.spec else _outputs(model.config)),
        "also_train": also_train,
        **({"started_from": attached.started_from} if attached.started_from else {}),
        "tokenizer": attached.tokenizer,
        "reading": attached.spec,
    }


def _outputs(config: PretrainedConfig) -> dict[str, Any]:
    """What a model's config says of its outputs, where that is not what transformers says of every new head."""
    found: dict[str, Any] = {}
    named = dict[Any, Any](config.id2label or {})
    names = [named.get(number) for number in range(len(named))]
    if all(isinstance(name, str) for name in names) and names != [f"LABEL_{number}" for number in range(len(names))]:
        found["label_names"] = names
    if config.problem_type in PROBLEM_TYPES:
        found["problem_type"] = config.problem_type
    return found


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a saved artefact.

    Raises:
        ModelError: no artefact there, several tops, or one of another format.
    """
    path = folder / RECORD
    if not path_exists(path):
        refuse_tops(folder)
        whole = any(path_exists(folder / name) for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME))
        raise ModelError(
            f"{shown(str(folder))[1:-1]} holds no trained adapter ({RECORD} is missing)",
            _WHOLE if whole else _UNFINISHED if path_exists(folder / "config.yaml") else _FINISHED,
        )
    try:
        record = read_json(path)
        if not isinstance(record, dict):
            raise Unreadable("it is not a record")
        # In Python True == 1, so a format of `true` would pass.
        if record.get("format") != FORMAT or record["format"] is True:
            raise ModelError(
                f"{path} has format {shown(record.get('format'))}, this version reads {FORMAT}",
                "use the version it was written with",
            )
        AdapterRecord.check(record)
    except ValidationError as error:
        raise ModelError(f"{path} is damaged: {first_mistake(error)}", _AGAIN) from error
    except Unreadable as error:
        raise ModelError(f"{path} is damaged: {error}", _AGAIN) from error
    return record


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The trained tensors of a saved artefact by name.

    Raises:
        ModelError: the file is missing or damaged.
    """
    path = folder / TENSORS
    if wrong := regular_file(path):
        raise ModelError(f"{path} cannot be read: {wrong}", _AGAIN)
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read: {error}", _AGAIN) from error
    tensors.pop(PLAN, None)
    return tensors


def _card(record: dict[str, Any]) -> str:
    spec, base, started = record["reading"], record["base"], record.get("started_from")
    rows = {
        "Base model": f"{code(base['name'])} ({text(base['model_type'])}, weights {base['hash'][:12]})",
        "Plan": code(record["plan"]),
        **({"Started from": f"{code(started['run'])} (tensors {started['tensors'][:12]})"} if started else {}),
        "Frozen depth": record["frozen_depth"],
        "Trained parameters": f"{record['trainable']:,}",
        "Objective": text(spec.get("objective", record["output"])),
        "Labels": text(", ".join(map(str, spec.get("labels") or []))) or "-",
        "Template": code(spec.get("template") or "") or "-",
        "Score": text(spec.get("score", "")) or "-",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return (
        f"---\nlibrary_name: stratatune\nbase_model: {json.dumps(base['name'])}\ntags: [stratatune]\n---\n"
        f"# A tuned adapter\n\nTrained with stratatune {record['stratatune']}. It holds only what trained.\n\n"
        f"| | |\n|---|---|\n{table}\n\n"
        '```python\nimport stratatune as st\n\nmodel = st.load("this/folder")\n```\n'
    )
