"""Positions in a model: slices of blocks and depths, as text, resolved against a model of ``L`` blocks.

A position is a whole number or a fraction of the model's blocks. ``"1/2"`` of ``L`` blocks is ``L/2`` rounded half up
and at least 1, so that a preset written for 24 blocks (12/24, 18/24) scales to any model.
"""

from __future__ import annotations

import re
from math import gcd
from typing import Annotated

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from stratatune.errors import PlanError, shown

# Nine digits: int() of a very long text is slow, and no model has as many blocks.
_INTEGER = re.compile(r"-?\d{1,9}")
_FRACTION = re.compile(r"(\d{1,9})/(\d{1,9})")
_LAYERS_HINT = 'write a slice of blocks such as "5:10", "10:", "-1:", ":" or "1/2:", or one block such as "3"'


def refusal(message: str, hint: str = "") -> PydanticCustomError:
    """A refusal for a pydantic validator to raise; ``Options`` turns it into a PlanError that keeps the hint."""
    return PydanticCustomError("plan", "{message}", {"message": message, "hint": hint})


def _number(text: str) -> int | str | None:
    """An int, a fraction in lowest terms, or None when ``text`` is neither (a fraction lies above 0 and up to 1)."""
    if _INTEGER.fullmatch(text):
        return int(text)
    found = _FRACTION.fullmatch(text)
    if not found:
        return None
    over, under = int(found[1]), int(found[2])
    if not 0 < over <= under:
        return None
    # One spelling for equal fractions, so that equal plans print and compare the same.
    return f"{over // gcd(over, under)}/{under // gcd(over, under)}"


def _canonical_depth(value: object) -> int | str:
    """A depth in its canonical form: an int, or a fraction in lowest terms."""
    number = _number(str(value)) if isinstance(value, int | str) and not isinstance(value, bool) else None
    if number is None:
        raise refusal(
            f"{shown(value)} is not a depth", 'a number of blocks such as 12, or a fraction of them such as "3/4"'
        )
    return number


def cut_depth(value: object) -> int | str:
    """The depth at which a model is cut, in its canonical form: above 0.

    Raises:
        PlanError: no depth, or none above 0.
    """
    number = _number(str(value)) if isinstance(value, int | str) and not isinstance(value, bool) else None
    if number is None or (isinstance(number, int) and number < 1):
        raise PlanError(
            f"cut({value}): {shown(value)} is not a depth to cut at",
            "legal: a number of blocks from 1, such as 8, or a fraction of them such as 2/3",
        )
    return number


Depth = Annotated[int | str, BeforeValidator(_canonical_depth)]
"""The number of blocks below it: an int, or a fraction of the model's blocks such as ``"3/4"``."""


def _at(position: int | str, blocks: int) -> int:
    """Turn a position into a count of blocks; fractions round half up, at least 1."""
    if isinstance(position, int):
        return position
    over, under = (int(part) for part in position.split("/"))
    # In whole numbers, since round() rounds halves to even: 1/2 of 5 blocks must be 3 everywhere.
    return max(1, (2 * over * blocks + under) // (2 * under))


def depth_at(depth: int | str, blocks: int, last: int, where: str, why: str = "", *, first: int = 0) -> int:
    """Turn a depth into a count of blocks.

    Args:
        depth: an int or a fraction, as ``Depth`` keeps it.
        blocks: L, the model's blocks.
        last: the largest legal depth.
        where: the segment that names the depth, for the error.
        why: why ``last`` is the largest, when that is less than L.
        first: the smallest legal depth.

    Raises:
        PlanError: the depth lies outside ``first..last``.
    """
    found = _at(depth, blocks)
    if first <= found <= last:
        return found
    value = f"depth={depth}" if depth == found else f"depth={depth} (= {found})"
    reason = f"; {why}" if why else ""
    raise PlanError(f"{where}: {value} does not fit a model of {blocks} blocks", f"legal: {first}..{last}{reason}")


def canonical_layers(text: object) -> str:
    """Spell a slice of blocks in its canonical way: ``"3"`` is ``"3:4"``, ``":5"`` is ``"0:5"``, ``"0:"`` is ``":"``.

    Raises:
        PlanError: not a slice.
    """
    if not isinstance(text, str):
        raise PlanError(
            f"layers {shown(text)} are not text", f"{_LAYERS_HINT}; quote it: YAML reads 5:10 as the number 310"
        )
    parts = re.sub(r"\s*([:/])\s*", r"\1", text.strip()).split(":")
    ends = [_number(part) if part else "" for part in parts]
    if len(parts) > 2 or None in ends or not text.strip():
        raise PlanError(f"layers {shown(text)} are not a slice of blocks", _LAYERS_HINT)
    if len(ends) == 1:
        return _one_block(ends[0], text)
    start, stop = ends
    if start in ("", 0):
        return f"0:{stop}" if stop != "" else ":"
    return f"{start}:{stop}"


def _one_block(block: int | str | None, text: str) -> str:
    if not isinstance(block, int):
        raise PlanError(f"layers {shown(text)} do not name a single block", f'write a slice: "{text}:" or ":{text}"')
    # -1:0 would be an empty slice.
    return "-1:" if block == -1 else f"{block}:{block + 1}"


def span(layers: str, blocks: int, where: str, whole: int | None = None) -> range:
    """The blocks that a canonical slice names in a model of ``blocks`` blocks.

    ``whole``: how many it had before it was cut; fractions are of these.

    Raises:
        PlanError: an end lies outside ``0:blocks``, or the slice is empty.
    """
    first, _, second = layers.partition(":")
    start = _bound(first, blocks, whole or blocks) if first else 0
    stop = _bound(second, blocks, whole or blocks) if second else blocks
    legal = f"legal: 0:{blocks}" + (f"; the plan cuts {whole} blocks down to {blocks}" if whole else "")
    if not (0 <= start <= blocks and 0 <= stop <= blocks):
        raise PlanError(f"{where}: layers {layers} are outside a model of {blocks} blocks", legal)
    if start >= stop:
        raise PlanError(f"{where}: layers {layers} select no block of a model of {blocks} blocks", legal)
    return range(start, stop)


def _bound(text: str, blocks: int, whole: int) -> int:
    if "/" in text:
        return _at(text, whole)
    return int(text) if int(text) >= 0 else blocks + int(text)
