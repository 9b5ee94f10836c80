"""A plan that begins with a dash, as an argument of the command line."""

from __future__ import annotations

import json

import pytest

from stratatune.app.cli import plans_behind, run


@pytest.mark.parametrize(
    "words",
    [
        ["-1: full", "--model", "bert-base-uncased"],
        ["--model", "bert-base-uncased", "-1: full"],
        ["--json", "-1: full", "--model", "bert-base-uncased"],
        ["--model", "bert-base-uncased", "--", "-1: full"],
        ["--model=bert-base-uncased", "-1:full"],
        ["--model=bert-base-uncased", "-1 lora"],
    ],
)
def test_it_is_read_as_a_plan(words, capsys):
    flags = [] if "--json" in words else ["--json"]
    assert run(["plan", *flags, *words]) == 0
    assert json.loads(capsys.readouterr().out)["frozen_depth"] == 11


def test_the_value_of_an_option_stays_where_it_is():
    words = ["train", "--plan", "-1: full", "--set", "-1: full", "-h"]
    assert plans_behind(words) == words


def test_an_option_that_does_not_exist_is_still_refused(capsys):
    assert run(["plan", "-9", "--model", "bert-base-uncased"]) == 2
