"""Exact match and F1 of answers as SQuAD's official scripts define them, and the spans that a model's logits choose.

Rajpurkar et al. 2016 (arXiv 1606.05250) and 2018 (arXiv 1806.03822); ``evaluate-v1.1.py`` and ``evaluate-v2.0.py``.

Shapes: C tokens of the context in a window; with the null token C + 1 are read.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


# --- scores --------------------------------------------------------------------------------------------------------


def normalised(text: str) -> str:
    """Lower case, without ASCII punctuation and English articles, single blanks between words."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, reference: str) -> float:
    """1 if the two are equal once normalised, else 0."""
    return float(normalised(answer) == normalised(reference))


def word_f1(answer: str, reference: str) -> float:
    """F1 over the words of the two, as bags; without words, whether both have none."""
    found, there = normalised(answer).split(), normalised(reference).split()
    if not found or not there:
        return float(found == there)
    common = sum((Counter(found) & Counter(there)).values())
    return 2 * common / (len(found) + len(there)) if common else 0.0


def scores(answer: str, references: Sequence[str]) -> tuple[float, float]:
    """Exact match and F1 with the nearest of the references; an empty answer is right if there are none.

    References without words, such as ``the``, are left out, as ``evaluate-v2.0.py`` does.
    """
    given = [one for one in references if normalised(one)] or [""]
    return max(exact_match(answer, one) for one in given), max(word_f1(answer, one) for one in given)


# --- spans ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """A span of characters ``start`` to ``end`` of a context; its logit is that of its start and its end together."""

    start: int
    end: int
    logit: float


@dataclass(frozen=True)
class Window:
    """What is known of the tokens of one window that are read.

    Attributes:
        logits: float [C + 1, 2], of a beginning and of an end.
        characters: int64 [C + 1, 2], of each token; -1 for the null token.
        counts: bool [C + 1], whether an answer may begin there: where windows overlap a token counts in one.
    """

    logits: np.ndarray
    characters: np.ndarray
    counts: np.ndarray

    @cached_property
    def body(self) -> np.ndarray:
        """The tokens that are not the null token, int64 [C]."""
        return np.flatnonzero(self.characters[:, 0] >= 0)

    @property
    def null(self) -> float:
        """The logit of "no answer here"."""
        at = int(np.flatnonzero(self.characters[:, 0] < 0)[0])
        return float(self.logits[at].astype(np.float64).sum())

    def totals(self, longest: int) -> np.ndarray:
        """The logit of each legal span, float64 [C, M]: from token i over j + 1 tokens; -inf for others.

        A span begins at a token that counts here, has at most M = ``longest`` tokens and does not begin or end with a
        token that is blank.
        """
        body = self.body
        logits, places = self.logits[body].astype(np.float64), self.characters[body]
        blank = places[:, 0] >= places[:, 1]
        starts = np.where(self.counts[body] & ~blank, logits[:, 0], -np.inf)
        ends = np.where(blank, -np.inf, logits[:, 1])
        width = max(1, min(longest, len(body)))
        padded = np.concatenate([ends, np.full(width - 1, -np.inf)])
        return starts[:, None] + np.lib.stride_tricks.sliding_window_view(padded, width)


@dataclass(frozen=True)
class Found:
    """What the windows of one row say.

    Attributes:
        candidates: the best spans, the best first; empty if there is no span at all.
        null: the logit of "no answer": the least of the windows', as in BERT's recipe.
        mass: the logarithm of the sum of all legal spans' exponentials, by which logits become probabilities.
    """

    candidates: list[Candidate]
    null: float
    mass: float

    @property
    def lead(self) -> float:
        """How far the null lies above the best span: the odds of "no answer" against it, as a logarithm."""
        return self.null - self.candidates[0].logit if self.candidates else np.inf

    def probability(self, logit: float, *, with_null: bool) -> float:
        """The probability of an answer among all legal ones, and "no answer" where that is one."""
        total = np.logaddexp(self.mass, self.null) if with_null else self.mass
        return float(np.exp(logit - total)) if np.isfinite(total) else 0.0


def best_spans(windows: Sequence[Window], longest: int, count: int) -> Found:
    """The ``count`` best spans of all windows of a row, of at most ``longest`` tokens.

    Of spans with the same characters the first is taken.
    """
    found: list[Candidate] = []
    masses = []
    for window in windows:
        totals = window.totals(longest) if len(window.body) else np.empty((0, 1))
        flat = totals.ravel()
        top = np.argpartition(-flat, count)[:count] if len(flat) > count else np.arange(len(flat))
        places = window.characters[window.body]
        for at in top[np.lexsort((top, -flat[top]))].tolist():
            if np.isfinite(flat[at]):
                first, more = divmod(at, totals.shape[1])
                found.append(Candidate(int(places[first, 0]), int(places[first + more, 1]), float(flat[at])))
        masses.append(_logsumexp(flat))
    found.sort(key=lambda one: (-one.logit, one.start, one.end))
    distinct: dict[tuple[int, int], Candidate] = {}
    for one in found:
        distinct.setdefault((one.start, one.end), one)
    kept = list(distinct.values())[:count]
    return Found(kept, min(window.null for window in windows), _logsumexp(np.array(masses)))


def _logsumexp(values: np.ndarray) -> float:
    highest = values.max(initial=-np.inf)
    return float(highest + np.log(np.exp(values - highest).sum())) if np.isfinite(highest) else -np.inf


def best_threshold(leads: np.ndarray, answered: np.ndarray, left: np.ndarray) -> float:
    """The lead of the null above which "no answer" is predicted, with the best mean score; the nearest to 0 of several.

    Args:
        leads: [N], of each row.
        answered: [N], the score of each row if its best span is predicted.
        left: [N], that if "no answer" is.
    """
    known = np.isfinite(leads)
    order = np.argsort(leads[known], kind="stable")
    values = leads[known][order]
    # Rows up to a cut are answered: the sum of their scores, and of the others' as "no answer".
    gains = np.concatenate([[0.0], np.cumsum((answered - left)[known][order])])
    cuts = np.concatenate([values[:1] - 1, (values[1:] + values[:-1]) / 2, values[-1:] + 1]) if len(values) else [0.0]
    legal = np.concatenate([[True], values[1:] > values[:-1], [True]]) if len(values) else np.array([True])
    cuts, gains = np.asarray(cuts)[legal], gains[legal]
    # 0 itself is one of the cuts, so that a threshold that gains nothing is not moved.
    cuts, gains = np.append(cuts, 0.0), np.append(gains, float((answered - left)[known][leads[known] <= 0].sum()))
    good = cuts[gains >= gains.max() - 1e-9]
    return float(good[np.argmin(np.abs(good))])
