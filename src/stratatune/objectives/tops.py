"""Groups of ``multitask``'s label columns that share a top, each group with its own trained weights."""

from __future__ import annotations

from collections.abc import Sequence

from stratatune.errors import ConfigError, did_you_mean

TOPS, EACH = "tops", "each"
"""The option, and its value for a top of every column."""
_HINT = "write each column once: tops=topic+mood|urgency is two tops, tops=each one for every column"


def groups_in(text: str, columns: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The groups that ``"a+b|c"`` names, or ``each``.

    Raises:
        ConfigError: a name that is not a label column, or a column that is in several groups or in none.
    """
    if text.strip() == EACH:
        return tuple((column,) for column in columns)
    groups = tuple(tuple(name.strip() for name in group.split("+")) for group in text.split("|"))
    named = [name for group in groups for name in group]
    if odd := next((name for name in named if name not in columns), None):
        raise ConfigError([f"objective: multitask: tops: {odd!r} is not a label column"], did_you_mean(odd, columns))
    if not all(named) or sorted(named) != sorted(columns):
        wrong = next((name for name in columns if named.count(name) != 1), "")
        said = f"{wrong!r} is in {named.count(wrong)} groups" if wrong else "a group is empty"
        raise ConfigError([f"objective: multitask: tops={text}: {said}"], _HINT)
    return groups
