"""Losses over classes and what is chosen on dev, each against a reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.metrics import f1_score, log_loss
from sklearn.utils.class_weight import compute_class_weight

from stratatune.data.batching import Batch
from stratatune.data.encoded import LABEL
from stratatune.errors import ConfigError
from stratatune.objectives.calibration import best_temperature, best_threshold, calibration_error, tempered
from stratatune.objectives.class_loss import ClassLoss, ordinal_chances, weights_of
from stratatune.objectives.classes import Classes
from stratatune.objectives.labels import ClassLabels
from stratatune.objectives.objective import Objective
from stratatune.objectives.set_loss import SetLoss, set_weights

RANDOM = np.random.default_rng(0)
LOGITS = torch.tensor(RANDOM.normal(size=(50, 4)), dtype=torch.float32)
TARGETS = torch.tensor(RANDOM.integers(0, 4, 50))


def test_without_options_it_is_the_cross_entropy():
    torch.testing.assert_close(ClassLoss()(LOGITS, TARGETS), torch.nn.functional.cross_entropy(LOGITS, TARGETS))


def test_balanced_weights_are_scikit_learns():
    labels = np.array([0] * 7 + [1] * 2 + [2])
    found = weights_of("balanced", np.bincount(labels).tolist(), ("a", "b", "c"))
    np.testing.assert_allclose(found, compute_class_weight("balanced", classes=np.arange(3), y=labels))
    assert np.mean(np.array(found)[labels]) == pytest.approx(1)


def test_weights_count_as_torchs_do():
    weights = (0.5, 1.0, 2.0, 3.0)
    each = torch.nn.functional.cross_entropy(LOGITS, TARGETS, weight=torch.tensor(weights), reduction="none")
    torch.testing.assert_close(ClassLoss(weights)(LOGITS, TARGETS), each.mean())
    assert weights_of("0.5/1/2/3", [1] * 4, ("a", "b", "c", "d")) == weights


def test_the_focal_loss_is_equation_4():
    chances = softmax(LOGITS.numpy(), axis=1)[np.arange(50), TARGETS.numpy()]
    wanted = np.mean(-((1 - chances) ** 2.0) * np.log(chances))
    assert ClassLoss(focal=2.0)(LOGITS, TARGETS).item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_a_sure_answer_has_a_slope_under_the_focal_loss(strength):
    """Where a probability is rounded to 1, the slope of a root is infinite, and times a loss of 0 not a number."""
    sure = torch.tensor([[40.0, -40.0], [1.0, 2.0]], requires_grad=True)
    ClassLoss(focal=strength)(sure, torch.tensor([0, 1])).backward()
    assert torch.isfinite(sure.grad).all() and sure.grad[1].abs().min() > 0
    both = torch.tensor([[60.0, -60.0], [1.0, 2.0]], requires_grad=True)
    SetLoss(focal=strength)(both, torch.tensor([[True, False], [True, False]])).backward()
    assert torch.isfinite(both.grad).all() and both.grad[1].abs().min() > 0


# --- label sets ------------------------------------------------------------------------------------------------------

SETS = torch.tensor(RANDOM.random((50, 4)) < [0.5, 0.2, 0.1, 0.02])
SETS[:, 3] = False


def test_weights_of_labels_are_those_of_torch_and_scikit_learn():
    from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

    present, absent = set_weights("1/2.5/1/0", SETS.numpy(), tuple("abcd"))
    wanted = cross_entropy(LOGITS, SETS.float(), pos_weight=torch.tensor([1, 2.5, 1, 0]))
    torch.testing.assert_close(SetLoss(present, absent)(LOGITS, SETS), wanted)
    present, absent = set_weights("balanced", SETS.numpy(), tuple("abcd"))
    for at, labels in enumerate(SETS.numpy().T[:3]):
        found = compute_class_weight("balanced", classes=np.array([False, True]), y=labels)
        np.testing.assert_allclose([absent[at], present[at]], found)
    assert (absent[3], present[3]) == (1.0, 1.0)  # no text has it, so there is nothing to be balanced
    rows = torch.tensor(RANDOM.random(50))
    each = cross_entropy(LOGITS, SETS.float(), reduction="none")
    weights = torch.tensor(present).where(SETS, torch.tensor(absent))
    wanted = ((each * weights).mean(1) * rows).sum() / rows.sum()
    torch.testing.assert_close(SetLoss(present, absent)(LOGITS, SETS, rows), wanted.float(), check_dtype=False)
    with pytest.raises(ConfigError, match="weights=1/2: 4 numbers"):
        set_weights("1/2", SETS.numpy(), tuple("abcd"))


def test_the_focal_loss_of_labels_is_equation_4():
    chances = 1 / (1 + np.exp(-np.where(SETS.numpy(), 1, -1) * LOGITS.numpy()))
    wanted = np.mean(-((1 - chances) ** 2.0) * np.log(chances))
    assert SetLoss(focal=2.0)(LOGITS, SETS).item() == pytest.approx(wanted, rel=1e-5)
    assert SetLoss()(LOGITS, SETS).item() == pytest.approx(np.mean(-np.log(chances)), rel=1e-5)


def test_smoothing_is_torchs():
    wanted = torch.nn.functional.cross_entropy(LOGITS, TARGETS, label_smoothing=0.2)
    torch.testing.assert_close(ClassLoss(smoothing=0.2)(LOGITS, TARGETS), wanted)


def test_ordered_classes_are_corns():
    """Shi et al. 2021: output k on the examples that are k or more, and every pair of the two counts the same."""
    logits, terms = LOGITS[:, :3], []
    for k in range(3):
        asked = k <= TARGETS
        more = (TARGETS[asked] > k).float()
        terms.append(torch.nn.functional.binary_cross_entropy_with_logits(logits[asked, k], more, reduction="none"))
    whole, loss = torch.cat(terms), ClassLoss(ordinal=True)
    torch.testing.assert_close(loss(logits, TARGETS), whole.sum() / (3 * 50))
    # Two batches of other shares add up to the whole.
    parts = [loss(logits[rows], TARGETS[rows]) * len(rows) for rows in (TARGETS.argsort()[:35], TARGETS.argsort()[35:])]
    torch.testing.assert_close(sum(parts) / 50, loss(logits, TARGETS))
    chances = ordinal_chances(logits)
    torch.testing.assert_close(chances.sum(1), torch.ones(50))
    assert (chances >= 0).all()
    torch.testing.assert_close(chances[:, 3], logits.sigmoid().prod(1))


@pytest.mark.parametrize("written", ["1/2", "a/b/c/d", "1/2/3/-1", "nan/1/1/1"])
def test_odd_weights_are_one_line(written):
    with pytest.raises(ConfigError, match="4 numbers"):
        weights_of(written, [1] * 4, ("a", "b", "c", "d"))


def test_the_temperature_is_the_one_of_the_least_loss():
    truth = RANDOM.integers(0, 4, 2000)
    logits = RANDOM.normal(size=(2000, 4)) + 1.5 * np.eye(4)[truth]
    sure = softmax(3.0 * logits, axis=1)  # too sure of itself
    found = best_temperature(sure, truth)
    losses = {t: log_loss(truth, softmax(3.0 * logits / t, axis=1)) for t in np.linspace(0.5, 6, 111)}
    assert found == pytest.approx(min(losses, key=losses.get), abs=0.06)
    np.testing.assert_allclose(tempered(sure, found), softmax(3.0 * logits / found, axis=1), atol=1e-6)
    assert calibration_error(tempered(sure, found), truth) < calibration_error(sure, truth) / 2


def test_the_calibration_error_is_the_binned_one():
    output = np.array([[0.95, 0.05], [0.9, 0.1], [0.35, 0.65], [0.4, 0.6]])
    truth = np.array([0, 1, 1, 0])
    bins = np.ceil(output.max(1) * 15).astype(int)
    wanted = 0.0
    for one in set(bins.tolist()):
        at = bins == one
        wanted += at.mean() * abs((output.argmax(1) == truth)[at].mean() - output.max(1)[at].mean())
    assert calibration_error(output, truth) == pytest.approx(wanted)
    assert calibration_error(np.eye(2)[truth], truth) == 0


def test_the_threshold_is_the_best_one():
    truth = (RANDOM.random(400) < 0.1).astype(int)
    chances = np.clip(0.1 + 0.25 * truth + RANDOM.normal(scale=0.1, size=400), 0, 1)

    def f1(guess):
        return float(f1_score(truth, guess, zero_division=0.0))

    found = best_threshold(chances, f1)
    assert f1(chances >= found) == max(f1(chances >= cut) for cut in np.linspace(0, 1, 2001))
    assert f1(chances >= found) > f1(chances >= 0.5)


@pytest.mark.parametrize(
    "options",
    ["weights=balanced", "focal=2", "smoothing=0.1", "ordinal=true", "temperature=dev, threshold=dev"],
)
def test_a_run_with_each_is_read_back(options, run, settings, tmp_path):
    from stratatune.training.predict import Predictor

    result = run(plan="2: lora", objective=f"classification({options})")
    predictor = Predictor(tmp_path / "run")
    found = predictor.score(settings().eval)
    assert {name: found["metrics"][name] for name in result.best} == pytest.approx(result.best)
    assert 0 <= found["by_class"]["calibration_error"] <= 1
    if "threshold" in options:
        assert predictor.objective.threshold is not None and predictor.objective.temperature != 1.0


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("focal=-1", "focal=-1; a number between 0 and 10"),
        ("smoothing=1", "smoothing=1; a number from 0 to below 1"),
        ("ordinal=maybe", "true or false"),
        ("ordinal=true, focal=1", "ordinal goes with weights"),
        ("threshold=0.4", "threshold=0.4"),
        ("weights=heavy", "2 numbers"),
    ],
)
def test_a_mistake_is_one_line(options, line, settings, run):
    with pytest.raises(ConfigError, match=line.replace("(", r"\(")):
        run(plan="2: lora", objective=f"classification({options})")


def test_what_is_chosen_on_dev_needs_dev(run):
    with pytest.raises(ConfigError, match="is tuned on evaluation data"):
        run(plan="2: lora", objective="classification(temperature=dev)", eval=None)


def test_another_threshold_than_that_of_training():
    given = {"text": ("text",), "label": "label", "metric": "accuracy"}
    chances = np.array([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
    two = Classes(**given, label_kind=ClassLabels(("no", "yes")))
    assert two.decided_from(0.3).decided(chances).tolist() == [0, 1, 1] != two.decided(chances).tolist()
    with pytest.raises(ConfigError, match="for two classes, and this model learnt 3"):
        Classes(**given, label_kind=ClassLabels(("a", "b", "c"))).decided_from(0.3)
    with pytest.raises(ConfigError, match="no threshold decides what classification predicts"):
        Objective.decided_from(two, 0.3)  # that of all other objectives


def test_a_threshold_is_for_two_classes(run, files):
    data = {"train": str(files / "train3.csv"), "eval": str(files / "dev3.csv")}
    with pytest.raises(ConfigError, match="there are 3"):
        run(plan="2: lora", objective="classification(threshold=dev)", **data)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize(
    "learnt", [ClassLoss(focal=2.0, smoothing=0.1), ClassLoss(ordinal=True)], ids=["focal", "ordinal"]
)
def test_the_loss_of_an_evaluation_is_that_of_the_predicted_probabilities(learnt, temperature):
    logits = LOGITS[:, : 4 - learnt.ordinal]
    names = ClassLabels(("a", "b", "c", "d"))
    made = Classes(
        text=("text",), label="label", metric="accuracy", label_kind=names, learnt_by=learnt, temperature=temperature
    )
    number = torch.arange(50)
    batch = Batch(number, number[:, None], number[:, None] >= 0, None, number * 0, {LABEL: TARGETS})
    chances = made.predict(logits, batch).astype(np.float64)
    wanted = log_loss(TARGETS.numpy(), chances / chances.sum(axis=1, keepdims=True), labels=range(4))
    assert made.loss(logits, batch, training=False).item() == pytest.approx(wanted, rel=1e-4)
    assert made.loss(logits, batch).item() == pytest.approx(learnt(logits, TARGETS).item())


def test_a_temperature_changes_no_accuracy_of_several_evaluation_sets(tmp_path, tiny_folder):
    """The score of a run stays the mean over its evaluation sets once values are chosen on them."""
    from stratatune.progress import Reporter
    from stratatune.training.config import validate
    from stratatune.training.run import train

    names = ("entailment", "neutral", "contradiction")
    for split, count in (("train", 30), ("dev_matched", 24), ("dev_mismatched", 7)):
        lines = [f"a film {at}\tit was {at % 7}\t{names[(at * at) % 3]}" for at in range(count)]
        (tmp_path / f"{split}.tsv").write_text("\n".join(["sentence1\tsentence2\tgold_label", *lines]) + "\n")
    given = {
        "model": str(tiny_folder("bert")),
        "task": "mnli",
        "train": str(tmp_path),
        "plan": "1: full",
        "device": "cpu",
    }
    given |= {"epochs": 1, "precision": "fp32", "cache": "ram", "lr": 0.01}
    plain, tempered = (
        train(
            validate({**given, "objective": f"classification{option}", "out": str(tmp_path / f"run{number}")}),
            reporter=Reporter(quiet=True),
        )
        for number, option in enumerate(("", "(temperature=dev)"))
    )
    assert tempered.best["accuracy"] == plain.best["accuracy"]


def test_balanced_weights_leave_out_a_class_that_is_not_there():
    labels = np.array([0, 0, 0, 2])
    found = weights_of("balanced", np.bincount(labels, minlength=3).tolist(), ("a", "b", "c"))
    there = compute_class_weight("balanced", classes=np.array([0, 2]), y=labels)
    np.testing.assert_allclose([found[0], found[2]], there)
    assert np.mean([found[label] for label in labels]) == pytest.approx(1)
