"""How rows of a chosen and a rejected text are laid out. Shared by the objectives that learn from preferences."""

from __future__ import annotations

from stratatune.data.roles import Layout

QUERIES = ("query", "question", "prompt", "sentence1", "text1", "text_a", "anchor")
_CHOSEN = {"chosen": ("chosen", "preferred", "better")}
_REJECTED = {"rejected": ("rejected", "worse")}
PREFERRED = Layout({"query": QUERIES, **_CHOSEN, **_REJECTED}, _REJECTED, scored=False)
ALONE = Layout({**_CHOSEN, **_REJECTED}, _REJECTED, scored=False, by_order=False)
