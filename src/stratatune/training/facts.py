"""Facts besides its settings that a run's numbers depend on: data as read, tokenizer, the base model's weights.

A checkpoint remembers them, so that a run is not resumed with something else under the same name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stratatune.errors import ConfigError
from stratatune.hashing import Part, fast_digest
from stratatune.training.caching import tokenizer_hash

if TYPE_CHECKING:
    from stratatune.data.encoded import Encoded
    from stratatune.training.prepare import Prepared

_SHOWN = 6
_NAMES = {"labels": "classes"}


def facts_of(prepared: Prepared, base_hash: str, start_hash: str | None = None) -> dict[str, Any]:
    """The facts as plain data, by the names in reports of a difference.

    Args:
        prepared: the settled run.
        base_hash: hash of the base model's weights.
        start_hash: hash of the adapter that it starts from, where there is one.
    """
    found: dict[str, Any] = {"weights of the base model": base_hash, "tokenizer": tokenizer_hash(prepared.tokenizer)}
    if start_hash is not None:
        found["weights that it started from"] = start_hash
    for name, value in prepared.objective.to_data().items():
        # Through JSON, as the checkpoint will have it: tuples come back as lists.
        found[_NAMES.get(name, name)] = json.loads(json.dumps(value))
    for name, data in (("training", prepared.train), ("evaluation", prepared.eval)):
        if data is not None:
            found |= {
                f"{name} rows": len(data),
                f"{name} texts": data.fingerprint,
                f"{name} labels": _labels_hash(data),
            }
    return found


def _labels_hash(data: Encoded) -> str:
    def parts() -> Iterator[Part]:
        for name, targets in sorted(data.targets.items()):
            for array in (targets.values, targets.offsets):
                # Names, dtypes and shapes go in, too: two arrays in a row must not hash like one.
                yield f"{name}:{'none' if array is None else f'{array.dtype}{array.shape}'};"
                if array is not None:
                    yield np.ascontiguousarray(array).tobytes()

    return fast_digest(parts())


def same_facts(saved: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Refuse to resume with other data, another tokenizer or another base model.

    Raises:
        ConfigError: names everything that differs.
    """
    if lines := list(_differences(saved, now)):
        raise ConfigError(
            lines, f"--resume continues with what the run in {folder} began with; choose another --out for other data"
        )


def _differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in dict.fromkeys((*saved, *now)):
        was, found = saved.get(name), now.get(name)
        if was == found:
            continue
        if _is_hash(was) and _is_hash(found):  # a hash means nothing to a reader
            yield f"{name}: changed since the run began"
        else:
            yield f"{name}: {_shown(was)} when the run began, {_shown(found)} now"


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 32 and all(digit in "0123456789abcdef" for digit in value)


def _shown(value: Any) -> str:
    if not isinstance(value, list):
        return "none" if value is None else str(value)
    return ", ".join(map(str, value[:_SHOWN])) + (f", ... ({len(value)})" if len(value) > _SHOWN else "") or "none"
