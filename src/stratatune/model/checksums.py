"""Checksums of an artefact: of its tensors, and of the parts of its record that its numbers depend on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stratatune.errors import ModelError
from stratatune.hashing import fast_digest
from stratatune.model.fingerprint import hash_of

_FIELDS = ("plan", "output", "num_labels", "also_train", "reading", "tokenizer")
_LATER = ("label_names", "problem_type")
"""Fields that older records do not have, and newer ones only where there is something to say."""
_BASE = ("model_type", "weights", "head", "attention", "dtype", "class")
_AGAIN = "restore the folder from a backup, or train again"


def checksums(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Checksums of the tensors, and of the record without the fields that only name places or people."""
    said = {key: record.get(key) for key in _FIELDS} | {f"base.{key}": record["base"].get(key) for key in _BASE}
    said |= {key: record[key] for key in _LATER if key in record}
    text = json.dumps(said, sort_keys=True)
    return {"tensors": hash_of(sorted(tensors.items())), "record": fast_digest([text])}


def verify(record: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: object) -> list[str]:
    """Refuse an artefact that is not as it was written; return a notice if it is older and has no checksums.

    Raises:
        ModelError: a checksum differs, or a tensor holds no finite floating-point numbers.
    """
    # Checked first and for every artefact: older ones have no checksum, and NaN would predict without an error.
    for name, tensor in tensors.items():
        if not tensor.dtype.is_floating_point:
            raise ModelError(f"{folder}: {name} holds {str(tensor.dtype)[6:]}, not floating-point numbers", _AGAIN)
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{folder}: {name} holds numbers that are not finite", _AGAIN)
    written = record.get("checksums")
    if not isinstance(written, dict):
        return [f"{folder} was written before adapters had checksums: damage to it would not be noticed"]
    found = checksums(record, tensors)
    for part, file in (("tensors", "adapter.safetensors"), ("record", "adapter.json")):
        if written.get(part) != found[part]:
            raise ModelError(f"{folder}/{file} is damaged or was changed: its checksum differs", _AGAIN)
    return []
