"""Numbers as a report writes them."""

from __future__ import annotations

from collections.abc import Sequence

from stratatune.studies.statistics import Comparison, Interval

MINUS = "−"


def number(value: float, digits: int = 1) -> str:
    """A number with a real minus sign."""
    return f"{value:,.{digits}f}".replace("-", MINUS)


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign, ± for one that rounds to nothing."""
    text = f"{abs(value):.{digits}f}"
    return f"±{text}" if float(text) == 0 else (f"+{text}" if value > 0 else f"{MINUS}{text}")


def spread(one: Interval, digits: int = 1) -> str:
    """``94.1 ± 0.7``; only the mean if there is one value."""
    return number(one.mean, digits) + ("" if one.deviation is None else f" ± {one.deviation:.{digits}f}")


def between(one: Interval, digits: int = 1) -> str:
    """``[93.4, 94.8]``; empty if there is one value."""
    return "" if one.low is None or one.high is None else f"[{number(one.low, digits)}, {number(one.high, digits)}]"


def difference(one: Interval, digits: int = 2) -> str:
    """``+1.25 [+0.10, +2.40]``."""
    ends = "" if one.low is None or one.high is None else f" [{signed(one.low, digits)}, {signed(one.high, digits)}]"
    return signed(one.mean, digits) + ends


def p_value(value: float | None) -> str:
    """``0.031``, ``< 0.001``; a dash if there is none."""
    return "–" if value is None else ("< 0.001" if value < 0.001 else f"{value:.3f}")


def tested(one: Comparison) -> str:
    """The pairs and the test's value in words."""
    if one.p_value is None or one.smallest_p is None:
        return "one pair"
    least = f" (no less than {p_value(one.smallest_p)} is possible)" if one.smallest_p > 0.05 else ""
    return f"{one.pairs} pairs, permutation p {_is(one.p_value)}{least}"


def _is(value: float) -> str:
    return p_value(value) if value < 0.001 else f"= {p_value(value)}"


def seconds(value: float) -> str:
    """``0.42 s``, ``17 s``, ``4 min 10 s``, ``2 h 5 min``."""
    if value < 99.5:
        return f"{value:.2f} s" if value < 1 else (f"{value:.1f} s" if value < 9.95 else f"{value:.0f} s")
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def size(value: float) -> str:
    """``1.2 GB``, ``640 MB``: powers of ten."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:  # what rounds to 1,000 is one of the next
            return f"{value:.0f} B" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB" if value < 999.5 else f"{value:,.0f} TB"


def listed(words: Sequence[object]) -> str:
    """``a, b and c``."""
    said = [str(word) for word in words]
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}" if said else ""
