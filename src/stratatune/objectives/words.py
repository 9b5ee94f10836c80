"""Templates and label words of a run. Shared by the objectives that read a label as a word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from stratatune.data.causal import TEMPLATES, check_order
from stratatune.data.labels import listed
from stratatune.data.templates import Template, auto_label_words
from stratatune.errors import ConfigError, DataError, did_you_mean, shown
from stratatune.objectives.asked import Asked
from stratatune.objectives.labels import Labels
from stratatune.objectives.saved import checked
from stratatune.outside import Written

_OWN_TEMPLATES = {1: "{a} It was <mask>.", 2: "{a}<mask>, {b}"}
"""Templates for a user's own data, from BFT table 5."""
PRETENDED_WORDS = (10, 11)
"""The tokens of the label words of made-up data."""


def template_of(asked: Asked) -> str:
    """The hard prompt: the settings' text, a named template of the task, or the default.

    Raises:
        ConfigError: it is neither a name nor a template.
        DataError: it does not fit the text columns.
    """
    task, table = asked.task, asked.data
    templates = dict(task.templates) if task else {"bft": _OWN_TEMPLATES[len(table.texts)]}
    written = asked.template or "bft"
    text = templates.get(written, written)
    if text == written and "<mask>" not in written:
        raise ConfigError(
            [f"template: {written!r} is neither a template's name nor a text with <mask>"],
            did_you_mean(written, templates),
        )
    Template.parse(text).check(table.columns)
    return text


def template_before_word(asked: Asked) -> tuple[str, list[str]]:
    """Choose a template as :func:`template_of` does, but with nothing to read after the label word.

    It is ours, with a notice, where the task's template has text after its word and the user named no other.
    """
    text = template_of(asked)
    try:
        check_order(Template.parse(text))
    except DataError:
        if asked.template:
            raise
        ours = TEMPLATES[len(asked.data.texts)]
        return ours, [f"template {text!r} has text after its label word; a decoder reads {ours!r} instead"]
    return text, []


def words_of_tokens(asked: Asked, labels: Labels) -> tuple[tuple[str, ...], list[str]]:
    """A word of one token for each class or end of the range, with notices if they were made up."""
    task = asked.task
    if asked.label_words:
        return _chosen(asked.label_words, labels.names or tuple(task.words if task else ())), []
    if task:
        return tuple(task.words[label] for label in labels.names) or tuple(task.words.values()), []
    words, notices = auto_label_words(asked.tokens, labels.worded)
    return tuple(words.values()), notices


def words_of_any_length(asked: Asked, labels: Labels) -> tuple[str, ...]:
    """A word of any number of tokens for each: the settings', the task's, or the labels themselves."""
    ends = tuple(asked.task.words) if asked.task else labels.worded
    if asked.label_words:
        return _chosen(asked.label_words, labels.names or ends)
    words = dict(asked.task.words) if asked.task else {}
    return tuple(words.get(label, label) for label in (labels.names or ends))


def _chosen(words: Mapping[str, str], labels: Sequence[str]) -> tuple[str, ...]:
    odd = sorted(words.keys() ^ set(labels))
    if odd:
        kind = "has no word" if odd[0] in labels else "is not a label of the data"
        raise ConfigError([f"label_words: {shown(odd[0])} {kind}"], "labels: " + listed(labels))
    return tuple(words[label] for label in labels)


class SavedWords(Written):
    """Label words as they are saved.

    Attributes:
        template: the hard prompt.
        label_words: one for each class, or for the low and the high end of a range.
        loss: ``vocab`` over the whole vocabulary, or ``words``.
        suffixes: the token ids of each candidate after a text, where a decoder reads them.
    """

    template: str
    label_words: tuple[str, ...]
    loss: Literal["vocab", "words"] = "vocab"
    suffixes: tuple[Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)], ...] = ()


def words_from(data: Mapping[str, Any], labels: Labels) -> SavedWords:
    """Label words from saved data.

    Raises:
        ValidationError: pydantic's: a value of another type.
        ValueError: not one word, or not one suffix, for each label.
    """
    found = checked(SavedWords, data)
    if len(found.label_words) != len(labels.worded):
        raise ValueError(f"label_words: {len(found.label_words)} words for {len(labels.worded)} labels")
    if found.suffixes and len(found.suffixes) != len(found.label_words):
        raise ValueError(f"suffixes: {len(found.suffixes)} for {len(found.label_words)} words")
    return found
