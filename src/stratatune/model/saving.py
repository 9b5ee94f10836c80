"""The artefact on disk: trained tensors only, the plan, and what is needed to read text the same way again.

``adapter.safetensors`` holds every trained tensor under its name in the model (the head's included), ``adapter.json`` the
rest. Nothing is pickled, so nothing runs on load.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stratatune._compat import VERSION
from stratatune.errors import ModelError, ResourceError
from stratatune.model.strata import Strata

FORMAT = 1
TENSORS, RECORD, CARD = "adapter.safetensors", "adapter.json", "README.md"


def save_adapter(strata: Strata, folder: Path) -> None:
    """Write the trained tensors, the record and a card into ``folder``; each file appears whole or not at all.

    Raises:
        ResourceError: the folder cannot be written, or the disk is full.
    """
    record = describe(strata)
    tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in strata.trained().items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{TENSORS}.part"
        save_file(tensors, partial, metadata={"format": "pt"})
        partial.replace(folder / TENSORS)
        write_text(folder / CARD, _card(record))
        write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")
    except (OSError, SafetensorError) as error:
        raise ResourceError(
            f"cannot save the adapter in {folder}: {error}", "give a folder with room that you may write"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def describe(strata: Strata) -> dict[str, Any]:
    """The record of an artefact: plan, base model and its fingerprint, and how text becomes a label."""
    model, resolved = strata.backbone.model, strata.resolved
    return {
        "format": FORMAT,
        "stratatune": VERSION,
        "plan": str(resolved.plan),
        "frozen_depth": resolved.frozen_depth,
        "trainable": sum(parameter.numel() for parameter in strata.trained().values()),
        "base": {"name": model.config._name_or_path, "model_type": model.config.model_type, "hash": strata.base_hash},
        "output": strata.backbone.output,
        "num_labels": model.config.num_labels,
        "also_train": strata.also_train,
        "reading": strata.reading,
    }


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a saved artefact.

    Raises:
        ModelError: no artefact there, or one of another format.
    """
    path = folder / RECORD
    if not path.is_file():
        raise ModelError(
            f"{folder} holds no trained adapter ({RECORD} is missing)", "give the `adapter` folder of a finished run"
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ModelError(f"{path} is damaged: {error}", "train again, or take the folder from a backup") from error
    if record.get("format") != FORMAT:
        raise ModelError(
            f"{path} has format {record.get('format')}, this version reads {FORMAT}",
            "use the version it was written with",
        )
    return record


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The trained tensors of a saved artefact by name.

    Raises:
        ModelError: the file is missing or damaged.
    """
    path = folder / TENSORS
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read: {error}", "train again, or take the folder from a backup") from error


def _card(record: dict[str, Any]) -> str:
    reading = record["reading"]
    rows = {
        "Base model": f"`{record['base']['name']}` ({record['base']['model_type']}, weights {record['base']['hash'][:12]})",
        "Plan": f"`{record['plan']}`",
        "Frozen depth": record["frozen_depth"],
        "Trained parameters": f"{record['trainable']:,}",
        "Objective": reading.get("objective", record["output"]),
        "Labels": ", ".join(map(str, reading.get("labels") or [])) or "-",
        "Template": f"`{reading['template']}`" if reading.get("template") else "-",
        "Score": reading.get("score", "-"),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return (
        f"---\nlibrary_name: stratatune\nbase_model: {record['base']['name']}\ntags: [stratatune]\n---\n"
        f"# A tuned adapter\n\nTrained with stratatune {record['stratatune']}. It holds only what trained.\n\n"
        f"| | |\n|---|---|\n{table}\n\n"
        '```python\nimport stratatune as st\n\nmodel = st.load("this/folder")\n```\n'
    )
