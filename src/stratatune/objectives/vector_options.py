"""Check the options of ``vectors``, and settle the pooling of texts, which may come from the base model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from stratatune.errors import ConfigError
from stratatune.objectives.asked import Asked
from stratatune.objectives.sentence_folder import of_base
from stratatune.objectives.written import LARGEST_FACTOR, check_number, check_pieces, chosen

Pooling = Literal["mean", "first", "last"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
_USUAL_POOLING = {"encoder": "mean", "decoder": "last", "encoder-decoder": "mean"}


def widths_in(text: str, hidden: int) -> tuple[int, ...]:
    """The widths of ``matryoshka``, the largest first, each within the width of a vector.

    Raises:
        ConfigError: one is not.
    """
    parts = text.split()
    if not all(part.isdecimal() and 0 < int(part) <= (hidden or 10**9) for part in parts):
        raise ConfigError(
            [f"objective: vectors: matryoshka {text!r}"], f"widths from 1 to {hidden}, with blanks between them"
        )
    return tuple(sorted({int(part) for part in parts}, reverse=True))


def check_numbers(options: Mapping[str, Any], *, scored: bool) -> None:
    """Refuse numbers that are out of range.

    Raises:
        ConfigError: one is.
    """
    scale, mine, margin = options["scale"], options["mine"], options["margin"]
    check_number("vectors", "scale", scale, 0 < scale <= LARGEST_FACTOR, f"above 0, up to {LARGEST_FACTOR:g}")
    check_number("vectors", "mine", mine, 0 <= mine <= 100, "0 to 100")
    check_number("vectors", "margin", margin, 0 <= margin < 1, "0 to below 1")
    check_pieces("vectors", options["mini_batch"])
    if scored and mine:
        raise ConfigError(
            ["objective: vectors: mine, and the data are pairs with scores"], "it finds negatives for anchors"
        )


def with_blank(text: str) -> str:
    """Add a blank to ``text``, unless it is empty or ends in one."""
    return f"{text} " if text and not text[-1].isspace() else text


def _usual_pooling(asked: Asked) -> str:
    """A decoder that sees both ways pools as encoders do: its first tokens know the last ones."""
    return _USUAL_POOLING["encoder" if asked.sees_ahead else asked.family]


def settled_pooling(asked: Asked, pooling: str | None, normalise: bool | None) -> tuple[str, bool, list[str]]:
    """The pooling and normalisation that the user names, else those of the base's folder, else the family's.

    Notices say so, and what else the folder has that is not used.
    """
    if pooling is not None:
        chosen("vectors", "pooling", pooling, POOLINGS)
    own = of_base(str(asked.tokens.name_or_path))
    found = pooling or (own.pooling if own else _usual_pooling(asked))
    if found not in POOLINGS:
        raise ConfigError([f"objective: vectors: the base pools by {found!r}"], f"choose one: {', '.join(POOLINGS)}")
    notices = [f"texts are pooled by {found}{', as the base model does' if own else ''}"] if pooling is None else []
    if own and own.further:
        notices.append(f"modules of the base are left out: {', '.join(own.further)}")
    lost = {side: text for side, text in (own.prompts if own else {}).items() if f"{side}_prompt" not in asked.options}
    if lost:
        said = ", ".join(f"{text!r} before each {side}" for side, text in lost.items())
        how = " and ".join(f"{side}_prompt" for side in lost)
        notices.append(f"the base model's folder writes {said}, and this run does not, unless {how} of vectors say so")
    return found, normalise if normalise is not None else own is None or own.normalise, notices
