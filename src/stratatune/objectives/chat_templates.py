"""The chat template of a run: what turns messages into text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stratatune.data.chat_tokens import PLAIN, ChatTemplate
from stratatune.data.loading import line_of
from stratatune.errors import ConfigError, ModelError
from stratatune.objectives.asked import Asked

NAMED = {"plain": PLAIN}
"""Templates that have a name."""


def template_of(asked: Asked) -> str:
    """The chat template of a run: the tokenizer's own, a named one, or that of a file.

    Raises:
        ModelError: the tokenizer has none, and none was given.
        ConfigError: what was given is neither a template's name nor a file, or is no Jinja.
    """
    own: Any = asked.tokens
    if asked.template is None:
        try:
            return own.get_chat_template()
        except ValueError as error:
            raise ModelError(
                f"the tokenizer of {own.name_or_path or 'this model'!r} has no chat template",
                "give one: --template plain, which needs no tokens of its own, or --template FILE with one in Jinja",
            ) from error
    if asked.template in NAMED:
        return NAMED[asked.template]
    path = Path(asked.template).expanduser()
    if "{%" in asked.template or "{{" in asked.template:
        text = asked.template
    elif path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError([f"template: {asked.template}: {line_of(error)}"], "give a text file in UTF-8") from error
    else:
        raise ConfigError(
            [f"template: no file {asked.template!r}"],
            "a file with a chat template in Jinja, or plain",
        )
    if wrong := ChatTemplate(text, own).mistake():
        raise ConfigError([f"template: {asked.template}: {wrong}"], "mend its Jinja")
    return text
