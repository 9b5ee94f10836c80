"""Settings in the folder of a sentence-transformers model besides the weights: its pooling and normalisation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POOLING_NAMES = {"mean": "mean", "first": "cls", "last": "lasttoken"}
"""Our names for a pooling, and theirs."""
_LEGACY = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}


@dataclass(frozen=True)
class SentenceFolder:
    """The modules after a base model.

    Attributes:
        pooling: one of :data:`POOLING_NAMES`, or one of their names that has no equal here.
        normalise: whether vectors have length 1.
        further: other modules, by their types.
    """

    pooling: str
    normalise: bool
    further: tuple[str, ...]


def of_base(name: str) -> SentenceFolder | None:
    """The settings of the folder or the hub id ``name``; None where it is no such folder, or cannot be read."""
    modules = _json(name, "modules.json")
    if not isinstance(modules, list):
        return None
    kinds = [str(one.get("type", "")).rpartition(".")[2] for one in modules]
    pooling: Any = {}
    for kind, one in zip(kinds, modules, strict=True):
        if kind == "Pooling":
            pooling = _json(name, f"{one['path']}/config.json") or {}
    active = pooling.get("pooling_mode") or [theirs for key, theirs in _LEGACY.items() if pooling.get(key)]
    theirs = active if isinstance(active, str) else "+".join(active)
    ours = next((ours for ours, named in POOLING_NAMES.items() if named == theirs), theirs)
    known = ("Transformer", "Pooling", "Normalize", "Dropout")
    return SentenceFolder(ours, "Normalize" in kinds, tuple(kind for kind in kinds if kind not in known))


def _json(name: str, file: str) -> Any:
    path = Path(name) / file
    if not Path(name).is_dir():
        from transformers.utils.hub import cached_file

        quiet: dict[str, Any] = {"_raise_exceptions_for_missing_entries": False, "local_files_only": True}
        try:
            found = cached_file(name, file, **quiet)
        except OSError:
            return None
        if found is None:
            return None
        path = Path(found)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
