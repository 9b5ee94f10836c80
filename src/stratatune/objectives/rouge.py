"""ROUGE of generated texts, if its package is installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stratatune._compat import installed
from stratatune.data.readers import Table


def rouge_of(parts: Sequence[Table], write: Callable[[Table], list[str]]) -> dict[str, float]:
    """:func:`rouge` of the texts from ``write`` for each table, against its labels; empty without the package."""
    # Imported first: writing takes a forward pass a token, which would be wasted without it.
    if not installed("rouge-score"):
        return {}
    wanted = [str(label) for part in parts for label in part.labels or ()]
    return rouge([text for part in parts for text in write(part)], wanted)


def rouge(written: list[str], wanted: list[str]) -> dict[str, float]:
    """Mean F-measures ROUGE-1, ROUGE-2, ROUGE-L (Lin 2004) by the rouge-score package, which must be installed."""
    from rouge_score.rouge_scorer import RougeScorer  # pyright: ignore[reportMissingImports] - an extra

    kinds = ("rouge1", "rouge2", "rougeL")
    scorer = RougeScorer(kinds, use_stemmer=True)
    found = [scorer.score(target, text) for text, target in zip(written, wanted, strict=True)]
    return {kind: sum(one[kind].fmeasure for one in found) / max(1, len(found)) for kind in kinds}
