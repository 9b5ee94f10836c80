"""The table of heads. A new head is one file next to this and one line here."""

from __future__ import annotations

from stratatune.errors import ModelError, did_you_mean
from stratatune.model.body import Body
from stratatune.model.families.family import Family
from stratatune.model.heads.head import Head
from stratatune.model.heads.lm import Lm
from stratatune.model.heads.masked_lm import MaskedLm
from stratatune.model.heads.none import NoHead
from stratatune.model.heads.seq2seq_lm import Seq2SeqLm
from stratatune.model.heads.sequence import Sequence
from stratatune.model.heads.span import Span
from stratatune.model.heads.token import Token

HEADS: dict[str, type[Head]] = {one.name: one for one in (MaskedLm, Lm, Seq2SeqLm, Token, Span, Sequence, NoHead)}
"""Heads by name. A live model has the first one that recognises it, so the narrower ones come first."""

_BEFORE = {"mlm": "masked_lm", "causal": "lm", "seq2seq": "seq2seq_lm", "classification": "sequence"}
"""Names of heads in adapters saved by 0.1, and their names now."""


def head_named(name: str) -> type[Head]:
    """The head of this name.

    Raises:
        ModelError: no head has this name.
    """
    found = HEADS.get(_BEFORE.get(name, name))
    if found is None:
        raise ModelError(f"head {name!r} is not in the table of heads", did_you_mean(name, HEADS))
    return found


def lm_head_for(family: str) -> str:
    """The name of the language-model head that models of ``family`` have."""
    return next(one.name for one in HEADS.values() if one.parts == "lm" and family in one.families)


def head_of(body: Body, family: Family) -> Head:
    """The head of a live model; ``none`` where no other is found."""
    fitting = (one for one in HEADS.values() if body.row.family in one.families and one.is_worn(body))
    # A model with a head that the table does not know can still be tuned: its head trains whole (new_parts.py).
    return next(fitting, NoHead)(body, family)
