"""Parse an objective as the user writes it: ``name`` or ``name(option=value, ...)``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stratatune.errors import ConfigError, did_you_mean, shown

_ELSEWHERE = {
    "tags": ("a label for each token", "token-classification ner named-entities tagging tagger tag pos chunking"),
    "span": ("the answer to a question, in its context", "question-answering extractive-qa qa squad spans"),
    "multilabel": (
        "any number of labels for a text",
        "multi-label multi-label-classification multilabel-classification",
    ),
    "multitask": ("several label columns", "multi-task multi-task-learning mtl"),
    "vectors": (
        "a vector for each text",
        "feature-extraction sentence-similarity embedding embeddings sentence-embeddings sentence-transformers "
        "bi-encoder retrieval contrastive simcse sts vector",
    ),
    "dpo": ("a preferred answer to a prompt", "preference preferences rlhf ipo preference-optimization"),
    "rank": (
        "a score for a text and its query",
        "text-ranking ranking reranker reranking rerank cross-encoder reward reward-model reward-modeling listwise",
    ),
    "chat": (
        "an assistant's answers",
        "sft instruct instruction instruction-tuning chatbot conversation conversational",
    ),
    "classification": (
        "a class for each text",
        "text-classification sequence-classification sentiment sentiment-analysis classify classifier nli",
    ),
    "regression": ("a number for each text", "text-regression numbers scoring"),
    "mlm": ("the word of a label in a template", "masked-lm masked-language-modeling fill-mask prompt"),
    "causal": ("the word of a label after a text", "causal-lm clm"),
}
"""What objectives predict, and the words that other tools have for them."""
_NAMES_ELSEWHERE = {word: own for own, (_, words) in _ELSEWHERE.items() for word in words.replace("-", "").split()}


def _instead(name: str, names: Mapping[str, Any]) -> str:
    """The hint for a word that is not an objective: the one that it means elsewhere, else the nearest.

    The nearest in spelling may answer another question, so it is asked last.
    """
    own = _NAMES_ELSEWHERE.get(name.casefold().replace("-", "").replace("_", "").replace(" ", ""))
    if own is None:
        return did_you_mean(name, names)
    legal = f"legal: {', '.join(names)}"
    if own in names:
        return f"did you mean {own!r}? {own} predicts {_ELSEWHERE[own][0]}; {legal}"
    return f"no objective here predicts {_ELSEWHERE[own][0]}; {legal}"


def parse(text: str, legal: Mapping[str, Mapping[str, type]]) -> tuple[str, dict[str, Any]]:
    """Parse the name and the options of an objective; ``legal`` has the objectives with their options' types.

    A value may be in quotes, single or double, which enclose commas, brackets and blanks at its ends.

    Raises:
        ConfigError: no such objective, no such option, a value that is none of its type, or a quote that is not closed.
    """
    name, opening, rest = text.strip().partition("(")
    name = name.strip()
    if name not in legal or (opening and not rest.rstrip().endswith(")")):
        raise ConfigError([f"objective: {shown(text)}"], _instead(name, legal))
    known, options = legal[name], dict[str, Any]()
    parts, is_open = _parts(rest.rstrip().removesuffix(")"))
    if is_open:
        raise ConfigError([f"objective: {shown(text)}: a quote is opened and not closed"], "close it, or leave it out")
    for part in parts:
        option, _, value = (piece.strip() for piece in part.partition("="))
        value = value[1:-1] if len(value) > 1 and value[0] in _QUOTES and value[0] == value[-1] else value
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


_QUOTES = "\"'"


def _parts(text: str) -> tuple[list[str], bool]:
    """The parts of ``text`` between commas, and whether a quote in it stays open.

    Commas inside brackets or quotes do not separate. A quote begins a value; elsewhere it is an apostrophe.
    """
    parts, depth, quote, before = [""], 0, "", ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif before == "=" and character in _QUOTES:
            quote = character
        else:
            depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += character
        before = before if character.isspace() else character
    return [part.strip() for part in parts if part.strip()], bool(quote)


# --- the values of options --------------------------------------------------------------------------------------------


def chosen(objective: str, option: str, value: str, legal: Sequence[str]) -> Any:
    """Return ``value`` if it is one of ``legal``.

    Raises:
        ConfigError: it is none of them; the hint names the nearest.
    """
    if value not in legal:
        raise ConfigError([f"objective: {objective} has no {option} {value!r}"], did_you_mean(value, legal))
    return value


LARGEST_FACTOR = 1e6
"""The largest factor of a loss or its logits: far beyond it, bf16 and fp32 hold nothing but infinities."""


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
