"""Text with hidden parts, which encoder-decoders are pretrained to restore.

T5 predicts spans after sentinels (Raffel et al. 2020, section 3.1.4: 15 % of the tokens, spans of 3 on average); BART
writes the whole text and reads it with each hidden span, perhaps an empty one, as a single mask (Lewis et al. 2020,
section 2.2: 30 % of the tokens, spans of a Poisson distribution with mean 3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stratatune.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = list[int]
Corrupt = Callable[[Ids, Sequence[int], np.random.Generator], tuple[Ids, Ids]]
"""Turns (tokens, which are special, random numbers) into source and target; both empty if too little can be hidden."""

SPAN_SHARE, SPAN_LENGTH = 0.15, 3
INFILL_SHARE, INFILL_LENGTH = 0.30, 3.0
_MOST_SENTINELS = 100


def corruption_of(tokenizer: PreTrainedTokenizerBase) -> tuple[str, Corrupt]:
    """The way text is corrupted for the model of this tokenizer: by sentinels where it has them, else by its mask.

    Raises:
        ModelError: it has neither.
    """
    special: Any = tokenizer
    sentinels = [special.convert_tokens_to_ids(f"<extra_id_{number}>") for number in range(_MOST_SENTINELS)]
    known = [number for number in sentinels if number not in (None, special.unk_token_id)]
    if known:
        return "span corruption", lambda ids, special, random: span_corrupted(ids, special, known, random)
    if special.mask_token_id is not None:
        mask = int(special.mask_token_id)
        return "text infilling", lambda ids, special, random: infilled(ids, special, mask, random)
    raise ModelError(
        "this tokenizer has neither sentinels (<extra_id_0>) nor a mask, so nothing can be hidden in plain text",
        "use eval --data with pairs, and compare the losses",
    )


def span_corrupted(
    ids: Ids, special: Sequence[int], sentinels: Sequence[int], random: np.random.Generator
) -> tuple[Ids, Ids]:
    """Corrupt as T5: ``the <0> on the <1>`` and ``<0> cat sat <1> mat <2>``, each with its closing tokens."""
    lead, words, tail = _parts(ids, special)
    if len(words) < 2:
        return [], []
    hidden = min(max(round(SPAN_SHARE * len(words)), 1), len(words) - 1)
    spans = min(max(round(hidden / SPAN_LENGTH), 1), len(words) - hidden, len(sentinels))
    source, target, at = Ids(), Ids(), 0
    for sentinel, before, length in zip(
        sentinels, _cut(len(words) - hidden, spans, random), _cut(hidden, spans, random), strict=False
    ):
        source += [*words[at : at + before], sentinel]
        target += [sentinel, *words[at + before : at + before + length]]
        at += before + length
    return [*lead, *source, *tail], [*target, *sentinels[spans : spans + 1], *tail]


def infilled(ids: Ids, special: Sequence[int], mask: int, random: np.random.Generator) -> tuple[Ids, Ids]:
    """Corrupt as BART: ``the <mask> on the <mask>`` and the text itself."""
    lead, words, tail = _parts(ids, special)
    if not words:
        return [], []
    hidden, lengths = max(round(INFILL_SHARE * len(words)), 1), list[int]()
    while sum(lengths) < hidden:
        lengths.append(min(int(random.poisson(INFILL_LENGTH)), hidden - sum(lengths)))
    slots = len(words) - hidden + 1  # before each word that stays, and after the last: no two masks meet
    chosen = random.choice(slots, min(len(lengths), slots), replace=False)
    length_at = dict(zip(sorted(chosen.tolist()), lengths, strict=False))
    source, at = Ids(), 0
    for slot in range(slots):
        if slot in length_at:
            source.append(mask)
            at += length_at[slot]
        source += words[at : at + 1]
        at += 1
    return [*lead, *source, *words[at:], *tail], list(ids)


def _parts(ids: Ids, special: Sequence[int]) -> tuple[Ids, Ids, Ids]:
    """The special tokens that open a text, its own, and the special ones that close it."""
    own = [number for number, one in enumerate(special) if not one]
    if not own:
        return ids, [], []
    return ids[: own[0]], ids[own[0] : own[-1] + 1], ids[own[-1] + 1 :]


def _cut(total: int, parts: int, random: np.random.Generator) -> list[int]:
    """Split ``total`` into ``parts`` numbers above 0, each such sum with equal probability."""
    ends = np.sort(random.choice(np.arange(1, total), parts - 1, replace=False))
    return np.diff([0, *ends, total]).tolist()
