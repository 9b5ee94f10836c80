"""Predictions as rows, for printing, text files and the server. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Columns = dict[str, Sequence[Any]]

_DIGITS = 6  # of a number as text; parquet keeps every bit


def rows_of(given: Mapping[str, Sequence[Any]], predicted: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Turn columns of N values into N rows, with rounded numbers; a predicted NaN is None."""
    names = [*given, *predicted]
    for values in zip(*given.values(), *predicted.values(), strict=True):
        row = dict(zip(names, values, strict=True))
        yield {**row, **{name: _shown(row[name]) for name in predicted}}


def _shown(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return None if math.isnan(value) else round(value, _DIGITS)


def plain(value: Any) -> Any:
    """Replace NaN by None, as JSON has no NaN."""
    if isinstance(value, dict):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
