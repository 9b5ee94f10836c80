"""What a run's numbers depend on besides its settings: the data as read, the tokenizer, the base model's weights.

A checkpoint remembers them, so that a run does not go on with something else under the same name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stratatune.errors import ConfigError
from stratatune.hashing import fast_digest
from stratatune.training.caching import tokenizer_hash

if TYPE_CHECKING:
    from stratatune.data.encode import Encoded
    from stratatune.training.session import Session

_SHOWN = 6


def facts_of(session: Session) -> dict[str, Any]:
    """As plain data, by the names by which a difference is told."""
    reading = session.objective.reading
    found: dict[str, Any] = {
        "weights of the base model": session.top.attached.base_hash,
        "tokenizer": tokenizer_hash(session.objective.tokenizer),
        "classes": list(reading.labels),
        "ends of the label's range": list(reading.value_range or ()),
        "template": reading.template or "",
        "label words": list(reading.label_words),
    }
    for name, data in (("training", session.train), ("evaluation", session.eval)):
        if data is not None:
            found[f"{name} rows"] = len(data)
            found[f"{name} texts"] = data.fingerprint
            found[f"{name} labels"] = _labels_hash(data)
    return found


def _labels_hash(data: Encoded) -> str:
    answers = data.targets.fingerprint if data.targets is not None else ""
    labels = b"" if data.labels is None else np.ascontiguousarray(data.labels).tobytes()
    return fast_digest([answers, labels])


def same_facts(saved: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Refuse to go on with other data, another tokenizer or another base model.

    Raises:
        ConfigError: names everything that differs.
    """
    if lines := list(_differences(saved, now)):
        raise ConfigError(
            lines, f"--resume goes on with what the run in {folder} began with; give another --out for other data"
        )


def _differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in dict.fromkeys((*saved, *now)):
        was, found = saved.get(name), now.get(name)
        if was == found:
            continue
        if isinstance(was, str) and isinstance(found, str) and name != "template":  # hashes say nothing
            yield f"{name}: changed since the run began"
        else:
            yield f"{name}: {_shown(was)} when the run began, {_shown(found)} now"


def _shown(value: Any) -> str:
    if not isinstance(value, list):
        return "none" if value is None else str(value)
    return ", ".join(map(str, value[:_SHOWN])) + (f", ... ({len(value)})" if len(value) > _SHOWN else "") or "none"
