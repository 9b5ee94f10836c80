"""Tags as entities: the schemes in which they are written, the spans that they mean, and their scores.

A tag is a prefix and a type (``B-person``) or ``O``, which is outside of every entity. Inside, IOB2 is used: ``B``
begins an entity and ``I`` goes on with it. An entity is ``(first word, word after the last, type)``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from stratatune.errors import DataError, shown

OUTSIDE = "O"
PLAIN = "plain"
"""The scheme of tags that are classes of words."""
Entity = tuple[int, int, str]

_TAG = re.compile(r"([BIESLUMW])[-_](.+)", re.DOTALL)
_AS = {**dict.fromkeys("BSUW", "B"), **dict.fromkeys("IEML", "I")}
_ENDS = ("iobes", "bilou", "bmewo")
"""The schemes in which an entity's last word is marked."""

SCHEMES = ("auto", "iob1", "iob2", "iobes", "bilou", "bmewo", "conll", "raw", "plain")
"""``conll``: IOB as conlleval reads it, in which any tag may begin an entity.

``raw``: types without prefixes; equal neighbours are one entity. ``plain``: a class for each word, and no entities
(parts of speech).
"""


# --- schemes -------------------------------------------------------------------------------------------------------


def parts(tag: str) -> tuple[str, str]:
    """The prefix and the type of a tag; both are empty outside entities, and a tag without a prefix is all type."""
    if tag == OUTSIDE:
        return "", ""
    found = _TAG.fullmatch(tag)
    return (found[1], found[2]) if found else ("", tag)


def scheme_of(rows: Sequence[Sequence[str]]) -> str:
    """The scheme of a whole table; ``iob2`` if its tags do not show one, or have faults."""
    prefixes = {parts(tag)[0] for tag in {tag for row in rows for tag in row} if tag != OUTSIDE}
    if prefixes and "" in prefixes:
        return "raw" if prefixes == {""} and any(OUTSIDE in row for row in rows) else _mixed(prefixes)
    if prefixes & set("LU"):
        return "bilou"
    if prefixes & set("WM"):
        return "bmewo"
    if prefixes & set("ES"):
        return "iobes"
    if prefixes and all(_is_iob1(row) for row in rows):
        return "iob1"
    return "iob2"


def _mixed(prefixes: set[str]) -> str:
    return PLAIN if prefixes == {""} else "iob2"


def _is_iob1(row: Sequence[str]) -> bool:
    """Whether ``B`` occurs only between two adjacent entities of one type."""
    before = ""
    for prefix, kind in map(parts, row):
        if prefix == "B" and kind != before:
            return False
        before = kind
    return True


def to_iob2(row: Sequence[str], scheme: str, place: str) -> list[str]:
    """Convert the tags of a text to IOB2; ``plain`` ones stay as they are.

    Raises:
        DataError: a tag that the scheme does not have there; it names ``place``.
    """
    if scheme == PLAIN:
        return list(row)
    found, before = [], ("", "")
    for word, tag in enumerate(row, start=1):
        # A raw type may look like a tag of another scheme: `B-cell`.
        prefix, kind = parts(tag) if scheme != "raw" or tag == OUTSIDE else ("I", tag)
        if kind and not prefix:
            raise DataError(f"{place}, word {word}: {shown(tag)} is not a tag of {scheme.upper()}", _fix(tag))
        if scheme not in ("raw", "iob1", "conll"):
            _check(scheme, before, (prefix, kind), f"{place}, word {word}: {shown(tag)}")
        begins = _AS.get(prefix) == "B" or (bool(kind) and kind != before[1])
        found.append(OUTSIDE if not kind else f"{'B' if begins else 'I'}-{kind}")
        before = prefix, kind
    if scheme in _ENDS and before[0] in ("B", "I", "M"):
        raise DataError(f"{place}: its last entity has no end, as {scheme.upper()} writes one", _CONLL)
    return found


_CONLL = "mend the tags, or have them read as conlleval does: --objective 'tags(scheme=conll)'"


def _fix(tag: str) -> str:
    ways = "types without prefixes: --objective 'tags(scheme=raw)'; classes without entities: 'tags(scheme=plain)'"
    return f"write O, B-{tag} or I-{tag}; {ways}"


def _check(scheme: str, before: tuple[str, str], now: tuple[str, str], said: str) -> None:
    """Refuse a tag that does not follow the one before it."""
    goes_on = _AS.get(now[0]) == "I"
    is_open = before[0] in (("B", "I", "M") if scheme in _ENDS else ("B", "I"))
    behind = f"{before[0]}-{before[1]}" if before[1] else "O or the beginning"
    if goes_on and (before[1] != now[1] or not is_open):
        raise DataError(f"{said} goes on with an entity that was not begun: it follows {behind}", _CONLL)
    if scheme in _ENDS and is_open and not goes_on:
        raise DataError(f"{said} follows {behind}, whose entity has no end", _CONLL)


# --- spans ---------------------------------------------------------------------------------------------------------


def entities(tags: Iterable[str], *, strict: bool = False) -> Iterator[Entity]:
    """The entities of a text in IOB2.

    An ``I`` that goes on with nothing begins an entity, as in conlleval (Tjong Kim Sang and Buchholz 2000); under
    ``strict`` it is not an entity at all.
    """
    start, kind, at = 0, "", -1
    for at, tag in enumerate(tags):
        prefix, now = parts(tag)
        if prefix == "I" and now == kind and kind:
            continue
        if kind:
            yield start, at, kind
        start, kind = at, "" if prefix == "I" and strict else now
    if kind:
        yield start, at + 1, kind


# --- scores --------------------------------------------------------------------------------------------------------


def type_scores(
    truth: Sequence[Sequence[Entity]], guess: Sequence[Sequence[Entity]], *, partial: bool = False
) -> dict[str, dict[str, float]]:
    """``precision``, ``recall``, ``f1`` and ``n`` (entities there are) of each type in sorted order.

    Args:
        truth, guess: the entities of each text.
        partial: an entity of the right type that meets another in part counts by half (MUC-5's partial match), each one
            once.
    """
    right: Counter[str] = Counter()
    there = Counter(kind for row in truth for *_, kind in row)
    found = Counter(kind for row in guess for *_, kind in row)
    for wanted, given in zip(truth, guess, strict=True):
        for kind, share in _matches(wanted, given, partial):
            right[kind] += share  # pyright: ignore[reportArgumentType]  halves
    return {kind: _scores(right[kind], found[kind], there[kind]) for kind in sorted({*there, *found})}


def _matches(truth: Sequence[Entity], guess: Sequence[Entity], partial: bool) -> Iterator[tuple[str, float]]:
    exact = set(truth) & set(guess)
    yield from ((kind, 1.0) for *_, kind in exact)
    left = [one for one in truth if one not in exact] if partial else []
    for start, end, kind in guess:
        met = next((one for one in left if one[2] == kind and one[0] < end and start < one[1]), None)
        if met is not None and (start, end, kind) not in exact:
            left.remove(met)
            yield kind, 0.5


def _scores(right: float, found: int, there: int) -> dict[str, float]:
    """Precision, recall and their harmonic mean; a division by 0 gives 0."""
    precision, recall = right / found if found else 0.0, right / there if there else 0.0
    both = precision + recall
    f1 = 2 * precision * recall / both if both else 0.0
    return {"precision": precision, "recall": recall, "f1": f1, "n": there, "right": right, "found": found}


def summary(by_type: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Micro precision, recall and F1 over all entities, and the plain means over the types (macro)."""
    right, found, there = (sum(one[name] for one in by_type.values()) for name in ("right", "found", "n"))
    micro = _scores(right, int(found), int(there))
    names = ("f1", "precision", "recall")
    count = max(1, len(by_type))
    macro = {f"macro_{name}": sum(one[name] for one in by_type.values()) / count for name in names}
    return {**{name: micro[name] for name in names}, **macro}
