"""Scores of answers against torchmetrics' SQuAD and by hand; spans and thresholds against every possibility."""

from __future__ import annotations

import random

import numpy as np
import pytest

from stratatune.objectives.squad_metrics import Window, best_spans, best_threshold, normalised, scores, word_f1

WORDS = ("the", "a", "an", "The", "cat", "cats", "1843,", "in", "U.S.", "don't", "-", "naïve", "ß", "I")


def test_scores_are_those_of_torchmetrics():
    squad = pytest.importorskip("torchmetrics.functional.text").squad
    chance = random.Random(0)
    for _ in range(200):
        answer = " ".join(chance.choices(WORDS, k=chance.randint(1, 5)))
        references = [" ".join(chance.choices(WORDS, k=chance.randint(1, 4))) for _ in range(chance.randint(1, 3))]
        if not all(map(normalised, [answer, *references])):
            continue  # there the scripts of SQuAD 1.1 and of 2.0 differ, and ours is that of 2.0
        theirs = squad(
            [{"prediction_text": answer, "id": "0"}],
            [{"answers": {"answer_start": [0] * len(references), "text": references}, "id": "0"}],
        )
        ours = scores(answer, references)
        assert [100 * one for one in ours] == pytest.approx([float(theirs["exact_match"]), float(theirs["f1"])])


@pytest.mark.parametrize(
    ("answer", "references", "exact", "f1"),
    [
        ("The Cat.", ["cat"], 1, 1),
        ("in  the\thouse", ["in a house"], 1, 1),
        ("big black cat", ["black cat", "cat"], 0, 0.8),
        ("theory", ["ory"], 0, 0),  # an article is a whole word
        ("", [], 1, 1),
        ("cat", [], 0, 0),
        ("", ["cat"], 0, 0),
        ("the", ["the"], 1, 1),  # references without words are left out, as in evaluate-v2.0.py
        ("cat cat", ["cat dog"], 0, 0.5),  # bags of words
    ],
)
def test_scores_by_hand(answer, references, exact, f1):
    assert scores(answer, references) == (exact, pytest.approx(f1))


def test_f1_is_symmetric():
    assert word_f1("black cat", "the cat sat") == word_f1("the cat sat", "black cat") == 0.5


def _windows(chance: np.random.Generator, tokens: int) -> list[Window]:
    found = []
    for cut in (slice(0, tokens), slice(tokens - 2, 2 * tokens - 2)):
        numbers = np.arange(2 * tokens)[cut]
        characters = np.stack([numbers * 2, numbers * 2 + (numbers != 3)], axis=1)  # token 3 is blank
        counts = np.append(True, (numbers < tokens - 1) if cut.start == 0 else numbers >= tokens - 1)
        logits = chance.normal(size=(len(numbers) + 1, 2)).astype(np.float32)
        found.append(Window(logits, np.concatenate([[[-1, -1]], characters]), counts))
    return found


@pytest.mark.parametrize("longest", [1, 3, 50])
def test_spans_are_the_best_of_all(longest):
    for seed in range(10):
        windows = _windows(np.random.default_rng(seed), 7)
        every = [
            (float(one.logits[i, 0]) + float(one.logits[j, 1]), int(one.characters[i, 0]), int(one.characters[j, 1]))
            for one in windows
            for i in range(1, len(one.logits))
            for j in range(i, min(len(one.logits), i + longest))
            if one.counts[i] and all(one.characters[k, 0] < one.characters[k, 1] for k in (i, j))
        ]
        found = best_spans(windows, longest, 5)
        wanted = sorted(every, key=lambda one: -one[0])[:5]
        assert [(one.start, one.end) for one in found.candidates] == [span for _, *span in map(list, wanted)] or [
            [one.start, one.end] for one in found.candidates
        ] == [[start, end] for _, start, end in wanted]
        assert found.null == pytest.approx(min(float(one.logits[0].sum()) for one in windows), abs=1e-6)
        total = sum(np.exp(logit) for logit, *_ in every)
        first = found.candidates[0].logit
        assert found.probability(first, with_null=False) == pytest.approx(np.exp(first) / total)
        both = np.exp(first) / (total + np.exp(found.null))
        assert found.probability(first, with_null=True) == pytest.approx(both)


def test_a_context_without_tokens_has_no_span():
    found = best_spans([Window(np.zeros((1, 2)), np.array([[-1, -1]]), np.ones(1, bool))], 30, 3)
    assert found.candidates == [] and found.lead == np.inf and found.probability(0.0, with_null=True) == 1.0


def test_the_threshold_is_the_best_of_all():
    for seed in range(20):
        chance = np.random.default_rng(seed)
        leads, answered = chance.normal(size=12).round(1), chance.random(12)
        left = chance.integers(0, 2, 12).astype(float)

        def total(threshold, leads=leads, answered=answered, left=left):
            return np.where(leads > threshold, left, answered).sum()

        found = best_threshold(leads, answered, left)
        tried = [*leads, *(leads + 0.05), leads.min() - 1, 0.0]
        assert total(found) == pytest.approx(max(map(total, tried)))
    assert best_threshold(np.array([1.0, 2.0]), np.ones(2), np.ones(2)) == 0.0  # nothing to gain: it stays
