"""The options of generated text, named as in transformers' ``generate``, and their checks. No torch on import."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from stratatune.errors import ConfigError, DataError, did_you_mean, shown

_WHOLE = ("max_new_tokens", "num_beams", "top_k")
_DRAWN = ("temperature", "top_p", "top_k", "min_p")
"""Options of a draw, which imply one."""
_SHARES = ("top_p", "min_p")
_OFF_AT_0 = ("top_k", "min_p")
"""Options that leave all tokens in the draw at 0, as in transformers."""
OPTIONS = ("max_new_tokens", "num_beams", "do_sample", *_DRAWN, "repetition_penalty", "seed")
COLDEST = 1e-5
"""The lowest temperature: scores over a lower one are not finite numbers any more."""
_PROMPTS = "give a list of texts, or of lists of token ids; predict reads conversations"
_HINT = "the table in docs/decoders.md says what each is"


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given, not None; those of a draw turn ``do_sample`` on.

    A temperature of 0 asks for the likeliest text, as it does in other tools: nothing is drawn, whatever else is given.

    Raises:
        ConfigError: there is no such option, or a value is not legal.
    """
    if odd := [name for name in given if name not in OPTIONS]:
        raise ConfigError([f"{odd[0]}: no such option of generated text"], did_you_mean(odd[0], OPTIONS))
    found = {name: value for name, value in given.items() if value is not None}
    if errors := [line for name, value in found.items() if (line := _wrong(name, value))]:
        raise ConfigError(errors, _HINT)
    if found.get("temperature") == 0:
        return {name: value for name, value in found.items() if name not in (*_DRAWN, "do_sample", "seed")}
    if any(name in found for name in _DRAWN):
        found.setdefault("do_sample", True)
    return found


def prompts_in(given: Any) -> list[Any]:
    """The prompts of a list, an array, a tensor or a Series: texts, or lists of token ids.

    Raises:
        DataError: a text by itself, of which each letter would be a prompt, or a row that is neither.
    """
    if isinstance(given, str | bytes):
        raise DataError(f"one text was given, not a list of texts: {shown(given, 60)}", "put it into a list: [text]")
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        raise DataError(f"{shown(given, 60)} is not a list of prompts", _PROMPTS)
    rows = [one if isinstance(one, str) or not hasattr(one, "tolist") else one.tolist() for one in given]
    rows = [list(one) if isinstance(one, tuple) else one for one in rows]
    for number, one in enumerate(rows, start=1):
        ids = isinstance(one, list) and all(isinstance(token, int) for token in one) and one
        if not (ids or isinstance(one, str)):
            raise DataError(f"prompt {number} is {shown(one, 60)}", _PROMPTS)
    return rows


def _wrong(name: str, value: Any) -> str:
    """Why a value is not legal, as a line; empty where it is."""
    if name == "do_sample":
        return "" if isinstance(value, bool) else f"do_sample: {shown(value)}; legal: True, False"
    if isinstance(value, bool) or not isinstance(value, int if name in (*_WHOLE, "seed") else (int, float)):
        return f"{name}: {shown(value)}; must be a {'whole ' if name in (*_WHOLE, 'seed') else ''}number"
    if name == "seed":
        return "" if 0 <= value < 2**32 else f"seed: {value}; must be from 0 to 4294967295"
    if value >= 10**6:
        return f"{name}: {value}; must be less than 1000000"
    if value == 0 and name in ("temperature", *_OFF_AT_0):
        return ""
    if not value > 0:
        off = ", or 0 for all tokens" if name in _OFF_AT_0 else ""
        return f"{name}: {value}; must be more than 0{off}"
    if name == "temperature" and value < COLDEST:
        return f"temperature: {value}; must be at least {COLDEST:.5f}, or 0 for the likeliest text"
    return f"{name}: {value}; must be at most 1" if name in _SHARES and value > 1 else ""
