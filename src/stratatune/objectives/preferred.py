"""How rows of a chosen and a rejected text are laid out. Shared by the objectives that learn from preferences."""

from __future__ import annotations

import json
from collections.abc import Sequence

from stratatune.data.preferences import ANSWERS
from stratatune.data.readers import Table
from stratatune.data.roles import Layout, roles_in
from stratatune.data.splitting import RowGroups
from stratatune.objectives.grouped import equal_texts

QUERIES = ("query", "question", "prompt", "sentence1", "text1", "text_a", "anchor")
_CHOSEN = {"chosen": ("chosen", "preferred", "better", "positive")}
_REJECTED = {"rejected": ("rejected", "worse", "negative")}
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


def queries_in(table: Table) -> RowGroups | None:
    """The rows of each query, prompt or conversation before the last answer; None where rows have none."""
    scored, spoken = table.labels is not None, table.further.get(ANSWERS)
    if spoken:
        asked: Sequence[str] = [json.dumps(next(iter(row.values())).asked().messages, default=str) for row in spoken]
    else:
        columns = zip(roles_in(table), table.texts, strict=True)
        asked = next((texts for role, texts in columns if role == "query"), ())
    return RowGroups("query" if scored else "prompt", asked, compared=scored) if asked else None
