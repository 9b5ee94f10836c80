"""Scores of hand-made predictions; what has no correlation has 0, on every machine."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stratatune.objectives.metrics import class_scores, no_correlation, value_scores
from stratatune.objectives.registry import OBJECTIVES, is_bounded, metric_names, smaller_is_better
from stratatune.training.predict import Predictor

TRUTH = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], np.float32)
NOISE = np.array([0, 1, -1, 2, 0, 1])  # units in the last place
UNIT = float(np.finfo(np.float32).eps)
BF16 = 2.0**-7


def off_by(units, about=2.5, unit=UNIT, dtype=np.float32):
    """Values about ``about`` that differ by ``units`` of rounding."""
    return (about * (1 + unit * np.asarray(units))).astype(dtype)


@pytest.mark.parametrize(
    "guess",
    [
        off_by(np.zeros(6)),
        off_by(NOISE),
        off_by(-NOISE),  # the same noise on another machine, whose correlation would have the other sign
        off_by(NOISE, about=-1e-6),
        off_by(NOISE, about=3e9),
        off_by(20 * NOISE),  # rounded in every one of many blocks
        off_by(NOISE, dtype=np.float64),  # computed in single precision, whatever holds it
        (UNIT * NOISE).astype(np.float32),  # about 0, where only the labels say how large a value is
        (TRUTH * UNIT).astype(np.float32),  # in the very order of the labels
    ],
    ids="constant one-bit other-sign tiny large many-blocks double about-0 ordered".split(),
)
def test_rounding_has_no_correlation(guess):
    assert no_correlation(TRUTH, guess) == "all predictions are the same number but for rounding"
    found = value_scores(TRUTH, guess)
    assert (found["pearson"], found["spearman"]) == (0.0, 0.0)
    assert found["mse"] == pytest.approx(float(np.mean((TRUTH.astype(float) - guess) ** 2)))
    assert not smaller_is_better("pearson")


@pytest.mark.parametrize(
    "guess",
    [
        2.5 + 1e-3 * TRUTH,
        2.5 + 1e-4 * TRUTH,
        -1e-3 * TRUTH,
        1e6 + 100 * TRUTH,
        np.array([2, 2, 2, 2, 2, 2.001]),
    ],
    ids="small smaller falling large one-differs".split(),
)
def test_small_differences_have_one(guess):
    assert no_correlation(TRUTH, guess) == ""
    found = value_scores(TRUTH, guess.astype(np.float32))
    for name, reference in (("pearson", TRUTH), ("spearman", TRUTH.argsort().argsort())):
        other = guess if name == "pearson" else _ranks(guess)
        assert found[name] == pytest.approx(np.corrcoef(reference, other)[0, 1], abs=1e-2), name


def _ranks(values):
    """Ranks, equal values sharing their mean rank."""
    return np.array([(values < one).sum() + (values == one).sum() / 2 for one in values])


def test_rounding_of_a_coarser_precision():
    """Values of a range of 5 that were computed in bf16: a unit is 5 / 128."""
    unit = 5 * BF16
    near, apart = 2.5 + unit / 2 * NOISE, 2.5 + 3 * unit * NOISE
    assert no_correlation(TRUTH, near) == ""  # in single precision these are different numbers
    assert no_correlation(TRUTH, near, unit) and value_scores(TRUTH, near, unit)["pearson"] == 0
    assert not no_correlation(TRUTH, apart, unit) and value_scores(TRUTH, apart, unit)["pearson"] != 0


@pytest.mark.parametrize(
    ("truth", "reason"),
    [
        (np.full(6, 3.0), "all labels are the same number"),
        (off_by(NOISE), "all labels are the same number"),
        (np.zeros(6), "all labels are the same number"),
    ],
    ids=["constant", "one-bit", "zero"],
)
def test_labels_without_a_spread(truth, reason):
    assert no_correlation(truth, TRUTH) == reason
    assert value_scores(truth, TRUTH)["pearson"] == 0


def test_labels_far_from_zero_have_a_spread():
    years = np.array([2019.0, 2020, 2021, 2022, 2023, 2024], np.float32)
    assert value_scores(years, (years - 2000) / 1000)["pearson"] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_rows(rows):
    assert no_correlation(TRUTH[:rows], TRUTH[:rows]) == "there are fewer than two rows"


def test_a_run_says_that_its_predictions_are_one_number(run, tmp_path):
    rows = [{"text": "the film", "score": n % 5} for n in range(12)]  # one text: its predictions differ by rounding
    source = tmp_path / "same.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run(plan="bft", objective="regression", label="score", train=str(source), eval=str(source))
    said = "pearson and spearman are 0: all predictions are the same number but for rounding"
    assert (result.best["pearson"], result.best["spearman"]) == (0, 0) and result.notices.count(said) == 1
    assert Predictor(result.out, device="cpu").score(str(source))["notices"] == [said]


@pytest.mark.parametrize(("truth", "guess"), [([1] * 4, [1] * 4), ([0] * 4, [0] * 4), ([0, 1], [1, 1]), ([1], [1])])
@pytest.mark.parametrize("classes", [2, 3])
def test_data_of_one_class_have_a_correlation_of_0_and_no_warning(truth, guess, classes):
    found = class_scores(np.array(truth), np.array(guess), classes)
    assert found["matthews"] == 0.0 and found["accuracy"] == np.mean(np.equal(truth, guess))


@pytest.mark.parametrize("factor", [1.0, 1e4, 1e6, 1e9])
def test_a_correlation_has_no_unit(factor):
    """Early predictions of prices are far smaller than the prices."""
    guess = 6.7 + 1e-2 * TRUTH
    assert no_correlation(factor * TRUTH, guess) == ""
    assert value_scores(factor * TRUTH, guess)["pearson"] == pytest.approx(value_scores(TRUTH, guess)["pearson"])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_numbers_with_a_large_mean_have_a_correlation_in_bf16(run, tmp_path, precision):
    """Years: their mean is added in fp32, so bf16 rounds only what differs."""
    from scipy.stats import pearsonr

    from stratatune.training.predict import Predictor

    rows = [{"text": f"a {'good ' * (n % 7)}film", "year": 1950 + 7 * (n % 7), "topic": "ab"[n % 2]} for n in range(42)]
    source = tmp_path / "years.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {
        "train": str(source),
        "eval": str(source),
        "objective": "multitask(year=regression)",
        "label": "year,topic",
        "text": "text",
    }
    result = run(plan="2: full", precision=precision, epochs=4, lr=3e-3, out=str(tmp_path / "years"), **given)
    values = Predictor(result.out, device="cpu").predict(str(source)).columns["year"]
    assert result.best["year.pearson"] != 0
    assert result.best["year.pearson"] == pytest.approx(pearsonr(values, [row["year"] for row in rows])[0], abs=0.02)


def test_cosines_close_to_each_other_have_a_correlation_in_bf16():
    from stratatune.objectives.vectors import _correlations

    random = np.random.default_rng(0)
    base = random.normal(size=384)  # a base whose vectors all point into one direction, as many do
    apart = np.repeat(np.linspace(0.02, 0.12, 40), 2)[:, None]
    vectors = base + apart * random.normal(size=(80, 384))  # cosines from 0.986 to 0.9996
    scores = -apart[::2, 0]
    found, said = _correlations(vectors.astype(np.float32), scores, BF16)
    assert found["spearman"] > 0.9 and not said
    same = np.tile(base, (80, 1)).astype(np.float32)
    assert _correlations(same, scores, BF16)[0]["spearman"] == 0


def test_every_metric_says_whether_it_is_a_share():
    free = {"mse", "loss", "perplexity", "reward_margin", "chosen_reward", "rejected_reward"}
    assert {name for name in metric_names() if not is_bounded(name)} == free
    assert all(one.bounded <= {*one.metrics} for one in OBJECTIVES.values())
    assert is_bounded("topic.f1") and not is_bounded("stars.mse")
