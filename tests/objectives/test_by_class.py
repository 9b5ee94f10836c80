"""Scores of each class; and F1, whose meaning is the task's and not an epoch's."""

from __future__ import annotations

import numpy as np
import pytest

from stratatune.objectives.by_class import by_class, shown
from stratatune.objectives.metrics import class_scores

LABELS = ("x", "y", "z")


def output(guess, classes):
    return np.eye(classes)[np.asarray(guess)]


def test_f1_of_three_classes_is_always_their_mean():
    """Where all that is guessed and true is 0 or 1, it must not become that of class 1."""
    truth, guess = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    of_one, of_zero = 2 * 2 / (2 * 2 + 1), 2 * 1 / (2 * 1 + 1)
    assert class_scores(truth, guess, 2)["f1"] == pytest.approx(of_one)
    assert class_scores(truth, guess, 3)["f1"] == pytest.approx((of_one + of_zero) / 2)
    assert class_scores(truth, guess, 3)["acc_f1"] == pytest.approx((0.75 + (of_one + of_zero) / 2) / 2)


def test_a_class_that_is_guessed_and_not_there_changes_no_mean():
    truth = np.array([0, 0, 1, 1])
    right, wrong = class_scores(truth, truth, 3), class_scores(truth, np.array([0, 2, 1, 1]), 3)
    assert right["f1"] == 1.0
    assert wrong["f1"] == pytest.approx((2 / 3 + 1) / 2)


def test_the_scores_of_each_class():
    truth, guess = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 1, 0])
    found = by_class(LABELS, truth, output(guess, 3))
    assert found["f1"] == "mean over the classes (macro)"
    assert found["confusion"] == [[2, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert [one["n"] for one in found["classes"]] == [3, 2, 1]
    assert [one["recall"] for one in found["classes"]] == pytest.approx([2 / 3, 1, 0])
    assert [one["precision"] for one in found["classes"]] == pytest.approx([2 / 3, 2 / 3, 0])
    mean = np.mean([one["f1"] for one in found["classes"]])
    assert class_scores(truth, guess, 3)["f1"] == pytest.approx(mean)
    said = shown(found)
    assert "mean over the classes" in said and "rows by their class" in said and len(said.splitlines()) == 11
    assert "calibration error: 33.3 %" in said


def test_two_classes_name_the_one_that_f1_is_of():
    assert by_class(("no", "yes"), np.array([0, 1]), output([0, 1], 2))["f1"] == "of 'yes' (binary)"


def test_nothing_where_there_are_no_classes():
    assert by_class((), np.array([0.5]), np.array([0.5])) == {}
    assert by_class(LABELS, None, output([0], 3)) == {}
    assert by_class(LABELS, np.array([[0, 1, 1]]), output([0], 3)) == {}  # sets of labels
    assert shown({}) == ""


def test_a_matrix_of_many_classes_is_left_out():
    labels = tuple(map(str, range(101)))
    found = by_class(labels, np.arange(101), output(np.arange(101), 101))
    assert "confusion" not in found and len(found["classes"]) == 101
