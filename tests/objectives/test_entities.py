"""Schemes of tags and scores of entities, against corner cases made by hand, and seqeval where it is installed."""

from __future__ import annotations

import random

import pytest

from stratatune.errors import DataError
from stratatune.objectives.entities import entities, scheme_of, summary, to_iob2, type_scores

TEXTS = {
    "iob1": "I-P I-P O I-L B-L I-P",
    "iob2": "B-P I-P O B-L B-L B-P",
    "iobes": "B-P E-P O S-L S-L S-P",
    "bilou": "B-P L-P O U-L U-L U-P",
    "bmewo": "B-P E-P O W-L W-L W-P",
}


@pytest.mark.parametrize("scheme", TEXTS)
def test_each_scheme_is_recognised_and_means_the_same(scheme):
    row = TEXTS[scheme].split()
    assert scheme_of([row]) == scheme
    assert to_iob2(row, scheme, "x") == TEXTS["iob2"].split()


def test_tags_without_prefixes():
    row = "P P O L".split()
    assert scheme_of([row]) == "raw" and to_iob2(row, "raw", "x") == "B-P I-P O B-L".split()
    assert scheme_of([["NN", "DT"]]) == "plain" and to_iob2(["NN", "DT"], "plain", "x") == ["NN", "DT"]


def test_a_raw_type_may_look_like_a_tag_of_another_scheme():
    row = "B-cell B-cell O T-cell S-cell".split()
    found = to_iob2(row, "raw", "x")
    assert found == "B-B-cell I-B-cell O B-T-cell B-S-cell".split()
    assert list(entities(found)) == [(0, 2, "B-cell"), (3, 4, "T-cell"), (4, 5, "S-cell")]


@pytest.mark.parametrize(
    ("scheme", "row", "said"),
    [
        ("iob2", "B-P I-L", "'I-L' goes on with an entity that was not begun: it follows B-P"),
        ("iob2", "O I-P", "'I-P' goes on with an entity that was not begun"),
        ("iobes", "B-P O", "whose entity has no end"),
        ("iobes", "O B-P", "its last entity has no end"),
        ("bilou", "B-P L-P I-P", "'I-P' goes on"),
        ("iob2", "B-P PER", "'PER' is not a tag of IOB2"),
    ],
)
def test_a_tag_that_the_scheme_does_not_have_there_is_one_line(scheme, row, said):
    with pytest.raises(DataError) as caught:
        to_iob2(row.split(), scheme, "file, row 3")
    assert said in caught.value.message and "file, row 3" in caught.value.message and caught.value.hint


def test_what_is_no_iob2_is_read_as_conlleval_reads_it_where_that_is_asked():
    assert to_iob2("O I-P I-L B-L".split(), "conll", "x") == "O B-P B-L B-L".split()


CORNERS = [  # tags, entities as conlleval finds them, and in strict IOB2
    ("", [], []),
    ("O O", [], []),
    ("B-P", [(0, 1, "P")], [(0, 1, "P")]),
    ("B-P B-P", [(0, 1, "P"), (1, 2, "P")], [(0, 1, "P"), (1, 2, "P")]),
    ("I-P I-P", [(0, 2, "P")], []),
    ("B-P I-L", [(0, 1, "P"), (1, 2, "L")], [(0, 1, "P")]),
    ("B-P O I-P", [(0, 1, "P"), (2, 3, "P")], [(0, 1, "P")]),
    ("O B-P I-P", [(1, 3, "P")], [(1, 3, "P")]),
    ("B-a-b I-a-b", [(0, 2, "a-b")], [(0, 2, "a-b")]),
    ("B-P I-L I-P", [(0, 1, "P"), (1, 2, "L"), (2, 3, "P")], [(0, 1, "P")]),
]


@pytest.mark.parametrize(("tags", "found", "strict"), CORNERS)
def test_entities_by_hand(tags, found, strict):
    assert list(entities(tags.split())) == found
    assert list(entities(tags.split(), strict=True)) == strict


def test_scores_by_hand():
    truth, guess = [[(0, 2, "P"), (3, 4, "L")]], [[(0, 1, "P"), (3, 4, "L"), (5, 6, "L")]]
    exact = type_scores(truth, guess)
    assert exact["P"]["f1"] == 0.0 and exact["L"]["precision"] == 0.5 and exact["L"]["recall"] == 1.0
    found = summary(exact)
    assert found["precision"] == pytest.approx(1 / 3) and found["recall"] == 0.5 and found["f1"] == pytest.approx(0.4)
    assert found["macro_f1"] == pytest.approx((0 + 2 / 3) / 2)
    assert summary(type_scores(truth, guess, partial=True))["precision"] == pytest.approx(1.5 / 3)
    assert summary(type_scores([[]], [[]])) == dict.fromkeys(found, 0.0)


def test_a_part_counts_once():
    scored = type_scores([[(0, 4, "P")]], [[(0, 1, "P"), (2, 3, "P")]], partial=True)
    assert scored["P"]["precision"] == 0.25 and scored["P"]["recall"] == 0.5


@pytest.mark.parametrize("strict", [False, True])
def test_scores_are_those_of_seqeval(strict):
    seqeval = pytest.importorskip("seqeval.metrics")
    from seqeval.scheme import IOB2

    chance = random.Random(0)
    tags = ["O", "O", "B-P", "I-P", "B-L", "I-L", "B-M"]
    truth, guess = (
        [chance.choices(tags, k=length) for length in (chance.randint(1, 12) for _ in range(200))] for _ in range(2)
    )
    guess = [
        [a if chance.random() < 0.7 else b for a, b in zip(*rows, strict=False)]
        for rows in zip(truth, guess, strict=True)
    ]
    truth = [row[: len(other)] for row, other in zip(truth, guess, strict=True)]
    options = {"mode": "strict", "scheme": IOB2} if strict else {}
    ours = summary(type_scores(*([list(entities(row, strict=strict)) for row in rows] for rows in (truth, guess))))
    for name in ("f1", "precision", "recall"):
        theirs = getattr(seqeval, f"{name}_score")
        assert ours[name] == pytest.approx(theirs(truth, guess, **options), abs=1e-12)
        assert ours[f"macro_{name}"] == pytest.approx(theirs(truth, guess, average="macro", **options), abs=1e-12)
