"""Parse an objective as the user writes it: ``name`` or ``name(option=value, ...)``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stratatune.errors import ConfigError, did_you_mean, shown

_ELSEWHERE = {
    **dict.fromkeys(("token-classification", "ner", "tagging"), ("a label for each token", "tags")),
    **dict.fromkeys(("question-answering", "qa", "squad"), ("the answer to a question, in its context", "span")),
    **dict.fromkeys(("multi-label", "multi_label_classification"), ("any number of labels for a text", "multilabel")),
    **dict.fromkeys(("feature-extraction", "sentence-similarity", "embedding"), ("a vector for each text", "vectors")),
    **dict.fromkeys(("preference", "preferences", "rlhf", "ipo"), ("a preferred answer to a prompt", "dpo")),
    **dict.fromkeys(("text-ranking", "reranker", "reward"), ("a score for a text and its query", "rank")),
}
"""Tasks by the names that other tools use, what they need, and the objective that predicts it."""


def _instead(name: str, names: Mapping[str, Any]) -> str:
    """The hint for a word that is not an objective: the nearest, but never one that answers another question."""
    if name not in _ELSEWHERE:
        return did_you_mean(name, names)
    what, own = _ELSEWHERE[name]
    if own in names:
        return f"{own} predicts {what}"
    return f"no objective here predicts {what}; legal: {', '.join(names)}"


def parse(text: str, legal: Mapping[str, Mapping[str, type]]) -> tuple[str, dict[str, Any]]:
    """Parse the name and the options of an objective; ``legal`` has the objectives with their options' types.

    Raises:
        ConfigError: no such objective, no such option, or a value that is none of its type.
    """
    name, opening, rest = text.strip().partition("(")
    name = name.strip()
    if name not in legal or (opening and not rest.rstrip().endswith(")")):
        raise ConfigError([f"objective: {shown(text)}"], _instead(name, legal))
    known, options = legal[name], dict[str, Any]()
    for part in _parts(rest.rstrip().removesuffix(")")):
        option, _, value = (piece.strip() for piece in part.partition("="))
        if option not in known:
            raise ConfigError([f"objective: {text!r}; {name} has no option {option!r}"], did_you_mean(option, known))
        try:
            options[option] = _switch(value) if known[option] is bool else known[option](value)
        except ValueError as error:
            kind = known[option].__name__
            legal_values = "true or false" if known[option] is bool else f"a value of type {kind}"
            raise ConfigError([f"objective: {text!r}; {option} takes {legal_values}"]) from error
    return name, options


def _switch(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


def _parts(text: str) -> Iterator[str]:
    """The parts of ``text`` between commas; commas inside brackets do not separate."""
    depth, part = 0, ""
    for character in f"{text},":
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            if part.strip():
                yield part.strip()
            part = ""
        else:
            part += character


# --- the values of options --------------------------------------------------------------------------------------------


def chosen(objective: str, option: str, value: str, legal: Sequence[str]) -> Any:
    """Return ``value`` if it is one of ``legal``.

    Raises:
        ConfigError: it is none of them; the hint names the nearest.
    """
    if value not in legal:
        raise ConfigError([f"objective: {objective} has no {option} {value!r}"], did_you_mean(value, legal))
    return value


def check_number(objective: str, option: str, value: float, fits: bool, legal: str) -> None:
    """Refuse a number that is not legal; ``legal`` describes those that are.

    Raises:
        ConfigError: it does not.
    """
    if not fits:
        raise ConfigError([f"objective: {objective}: {option} {value}"], f"legal: {legal}")


def check_pieces(objective: str, size: int) -> int:
    """Check ``mini_batch``, the number of texts that go through the top at once.

    Raises:
        ConfigError: it is below 0.
    """
    check_number(objective, "mini_batch", size, size >= 0, "0 (all at once) or more")
    return size
