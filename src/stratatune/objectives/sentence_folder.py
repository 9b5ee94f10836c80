"""Settings in the folder of a sentence-transformers model besides the weights: pooling, normalisation, prompts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
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

_PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus")}
"""The sides of a search, and their names for the prompt of each, of which they take the first that is there."""


@dataclass(frozen=True)
class SentenceFolder:
    """The modules after a base model.

    Attributes:
        pooling: one of :data:`POOLING_NAMES`, or one of their names that has no equal here.
        normalise: whether vectors have length 1.
        further: other modules, by their types.
        prompts: the text that is written before a ``query`` and before a ``document``; without those that are empty.
    """

    pooling: str
    normalise: bool
    further: tuple[str, ...]
    prompts: Mapping[str, str] = field(default_factory=dict)


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
    further = tuple(kind for kind in kinds if kind not in known)
    return SentenceFolder(
        ours, "Normalize" in kinds, further, _prompts(_json(name, "config_sentence_transformers.json"))
    )


def _prompts(config: Any) -> dict[str, str]:
    """The prompts that ``encode_query`` and ``encode_document`` write."""
    named = config.get("prompts") if isinstance(config, dict) else None
    if not isinstance(named, dict):
        return {}
    found = {side: next((named[one] for one in names if one in named), "") for side, names in _PROMPTS.items()}
    return {side: text for side, text in found.items() if isinstance(text, str) and text}


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
