"""Pieces of the Python by which a model card reads an export back. No torch."""

from __future__ import annotations

import json


def quoted(place: str) -> str:
    """A folder or hub id as a string of Python, its letters as they are."""
    return json.dumps(place, ensure_ascii=False)


def read_tokenizer(place: str) -> str:
    """The line that loads the tokenizer kept at ``place``."""
    return f"tokenizer = AutoTokenizer.from_pretrained({quoted(place)})"
