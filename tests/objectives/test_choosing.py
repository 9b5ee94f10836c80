"""Which objective a run has: one of all suits, and one that is named must fit the model."""

from __future__ import annotations

import pytest

from stratatune.data.tasks import task
from stratatune.errors import ConfigError, ModelError
from stratatune.objectives.asked import Asked
from stratatune.objectives.multilabel import Multilabel
from stratatune.objectives.multitask import Multitask
from stratatune.objectives.registry import OBJECTIVES, choose, written
from stratatune.objectives.vectors import Vectors
from stratatune.objectives.written import parse
from stratatune.plan import Plan

PROMPTED, PLAIN = "bft-adapter", "lora"
SUITS = {
    ("encoder", PROMPTED, None): "mlm",
    ("encoder", PROMPTED, "sst2"): "mlm",
    ("encoder", PROMPTED, "stsb"): "mlm",
    ("encoder", PLAIN, None): "classification",
    ("encoder", PLAIN, "sst2"): "classification",
    ("encoder", PLAIN, "stsb"): "regression",
    ("decoder", PROMPTED, None): "causal",
    ("decoder", PROMPTED, "stsb"): "causal",
    ("decoder", PLAIN, "sst2"): "classification",
    ("decoder", PLAIN, "stsb"): "regression",
    ("encoder-decoder", PROMPTED, None): "seq2seq",
    ("encoder-decoder", PLAIN, None): "seq2seq",
    ("encoder-decoder", PROMPTED, "sst2"): "classification",
    ("encoder-decoder", PLAIN, "stsb"): "regression",
    ("encoder-decoder", PROMPTED, "stsb"): "regression",
}


def asked(family: str, plan: str, name: str | None, objective: str = "auto") -> Asked:
    known = task(name) if name else None
    return Asked(plan=Plan.parse(plan), family=family, longest=128, objective=objective, task=known)


@pytest.mark.parametrize("case", SUITS, ids=lambda case: " ".join(map(str, case)))
def test_exactly_one_suits(case):
    found = asked(*case)
    assert [one.name for one in OBJECTIVES.values() if one.suits(found)] == [SUITS[case]]
    assert choose(found).name == SUITS[case]


@pytest.mark.parametrize("family", ["encoder", "decoder", "encoder-decoder"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_one_that_is_named_must_fit_the_model(family, name):
    wanted = asked(family, PLAIN, None, name)
    if family in OBJECTIVES[name].families:
        assert choose(wanted) is OBJECTIVES[name]
        return
    with pytest.raises(ModelError) as caught:
        choose(wanted)
    assert name in caught.value.message and f" {family}" in caught.value.message
    legal = [one.name for one in OBJECTIVES.values() if family in one.families]
    assert all(other in caught.value.hint for other in legal) and name not in caught.value.hint.split()


@pytest.mark.parametrize("text", ["mlmm", "", "auto(x=1)", "mlm(", "mlm()x"])
def test_what_is_no_objective(text):
    with pytest.raises(ConfigError, match="objective: "):
        written(text)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("ner", "tags"),
        ("token-classification", "tags"),
        ("sft", "chat"),
        ("embeddings", "vectors"),
        ("reranker", "rank"),
        ("QA", "span"),
        ("multi_label", "multilabel"),
        ("text-classification", "classification"),
    ],
)
def test_what_others_call_an_objective_leads_to_it(theirs, ours):
    with pytest.raises(ConfigError, match=f"did you mean '{ours}'\\? {ours} predicts"):
        written(theirs)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (
            "vectors(query_prompt='Given a question, find (all) answers:', scale=30)",
            "Given a question, find (all) answers:",
        ),
        ('vectors(query_prompt="what it\'s about, ", scale=30)', "what it's about, "),
        ("vectors(query_prompt=don't guess, scale=30)", "don't guess"),
        ("vectors(query_prompt='', scale=30)", ""),
    ],
)
def test_quotes_enclose_a_value(text, value):
    assert parse(text, {"vectors": Vectors.options}) == ("vectors", {"query_prompt": value, "scale": 30.0})


def test_quotes_in_an_objective_of_a_column_and_a_quote_that_stays_open():
    inner = parse('multitask(mood=multilabel(separator=","), topic=classification)', {"multitask": Multitask.options})[
        1
    ]
    assert inner == {"mood": 'multilabel(separator=",")', "topic": "classification"}
    assert parse(inner["mood"], {"multilabel": Multilabel.options}) == ("multilabel", {"separator": ","})
    with pytest.raises(ConfigError, match="a quote is opened and not closed"):
        parse("vectors(query_prompt='find it, scale=30)", {"vectors": Vectors.options})
