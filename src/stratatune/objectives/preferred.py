"""How rows of a chosen and a rejected text are laid out. Shared by the objectives that learn from preferences."""

from __future__ import annotations

from stratatune.data.readers import Table
from stratatune.data.roles import Layout, roles_in
from stratatune.objectives.grouped import equal_texts

QUERIES = ("query", "question", "prompt", "sentence1", "text1", "text_a", "anchor")
_CHOSEN = {"chosen": ("chosen", "preferred", "better")}
_REJECTED = {"rejected": ("rejected", "worse")}
PREFERRED = Layout({"query": QUERIES, **_CHOSEN, **_REJECTED}, _REJECTED, scored=False)
ALONE = Layout({**_CHOSEN, **_REJECTED}, _REJECTED, scored=False, by_order=False)


def equal_answers(table: Table, what: str) -> dict[int, str]:
    """The fault of each row in which a rejected text is the chosen one, by its position; ``what`` says it."""
    columns = list(zip(roles_in(table), table.texts, strict=True))
    chosen = next((texts for role, texts in columns if role == "chosen"), ())
    faults: dict[int, str] = {}
    for role, texts in columns:
        if role == "rejected":
            faults |= equal_texts(texts, chosen, what)
    return faults
