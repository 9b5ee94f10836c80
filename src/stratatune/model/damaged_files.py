"""Name the file of a base that a library could not read; asked only once loading has failed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stratatune.errors import shown
from stratatune.outside import Unreadable, read_json, regular_file

_SAVED = "it should be the JSON that transformers saves"
_AGAIN = "copy it again from where the model comes from"


def damaged_file(model: str, revision: str | None = None) -> tuple[str, str]:
    """Which file of a folder or a cached hub id is at fault and why, and the fix; both empty where none is found."""
    for file, check in _CHECKS.items():
        path = _located(model, revision, file)
        if path is None:
            continue
        try:
            check(path)
        except Unreadable as error:
            fix = _FIXES.get(file, _AGAIN)
            return f"{path} cannot be read: {error}", fix
    return "", ""


def _located(model: str, revision: str | None, file: str) -> Path | None:
    if Path(model).is_dir():
        return Path(model) / file if (Path(model) / file).exists() else None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, file, revision=revision)
    except HFValidationError:  # not an id that a hub could have
        return None
    return Path(found) if isinstance(found, str) else None


def _object(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise Unreadable(f"it holds {shown(value, 40)} and not a JSON object")
    return value


def _config(path: Path) -> None:
    """A config that transformers takes: each field has a type of its own."""
    from transformers import AutoConfig
    from transformers.activations import ACT2FN

    value = _object(path)
    if "auto_map" in value:  # of a class that the model brings itself
        return
    for key in ("hidden_act", "hidden_activation", "activation_function", "activation", "feed_forward_proj"):
        named = str(value.get(key) or "gelu").removeprefix("gated-")
        if named not in ACT2FN:
            raise Unreadable(f"its {key} is {shown(value[key], 40)}, which transformers does not have")
    if not isinstance(value.get("id2label") or {}, dict):
        raise Unreadable(f"its id2label is {shown(value['id2label'], 40)}")
    try:
        AutoConfig.from_pretrained(path.parent)
    except Exception as error:  # of whatever kind: it is about this file
        field = re.search(r"[Ff]ield '(\w+)'", str(error))
        said = f"its {field[1]} is {shown(value.get(field[1]), 40)}" if field else "one of its fields has a wrong type"
        raise Unreadable(said) from error


def _tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer

    missing = {"model", "added_tokens"} - _object(path).keys()
    if missing:
        raise Unreadable(f"it has no {' and no '.join(sorted(missing))}")
    try:
        Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises Exception itself
        raise Unreadable("its content is not that of a tokenizer") from error


def _settings(path: Path) -> None:
    """``tokenizer_config.json``: the class is a name, and the longest text a number."""
    value = _object(path)
    for key, legal in (("tokenizer_class", str), ("model_max_length", int | float), ("added_tokens_decoder", dict)):
        if value.get(key) is not None and not isinstance(value[key], legal):
            raise Unreadable(f"its {key} is {shown(value[key], 40)}")
    _special(path)


def _special(path: Path) -> None:
    """Special tokens are texts, or objects with a text as ``content``."""
    for key, value in _object(path).items():
        content = value.get("content") if isinstance(value, Mapping) else value
        if key.endswith("_token") and not key.startswith("add_") and not isinstance(content, str | bool | None):
            raise Unreadable(f"its {key} is {shown(value, 40)}")


def _numbers(path: Path) -> None:
    """Words and their numbers."""
    for word, number in _object(path).items():
        if not isinstance(number, int) or isinstance(number, bool):
            raise Unreadable(f"the number of {shown(word, 40)} is {shown(number, 40)}")


def _text(path: Path) -> None:
    if wrong := regular_file(path):
        raise Unreadable(wrong)
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable("it is not UTF-8") from error


_CHECKS: dict[str, Callable[[Path], object]] = {
    "config.json": _config,
    "generation_config.json": _object,
    "tokenizer.json": _tokenizer,
    "tokenizer_config.json": _settings,
    "special_tokens_map.json": _special,
    "added_tokens.json": _numbers,
    "vocab.json": _numbers,
    **dict.fromkeys(("vocab.txt", "merges.txt", "chat_template.jinja"), _text),
}
_FIXES = {
    "config.json": _SAVED,
    "generation_config.json": f"{_SAVED}; without the file the usual settings hold",
    "tokenizer.json": f"{_AGAIN}, or save it anew: tokenizer.save_pretrained(FOLDER)",
}
