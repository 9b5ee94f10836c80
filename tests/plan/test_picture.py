"""Pictures: what they show and that they fit."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from stratatune.plan import Plan, shape_of
from stratatune.plan.picture import column, terminal
from stratatune.plan.svg import svg

PLANS = (
    "full",
    "bft-adapter+ln",
    "spafit-4-9-II",
    "head",
    "frozen",
    "lpt@0",
    "lpt-adapter@24",
    "bitfit+embeddings",
    ": lora(rank=64, alpha=128.5, dropout=0.25, on=q,k,o,up, lr=0.00012345) + bitfit(on=v,down,norm_ffn, lr=0.001)",
)


@pytest.mark.parametrize("text", PLANS)
def test_the_terminal_picture_fits_80_columns(text):
    resolved = Plan.parse(text).resolve(shape_of("bert-large-cased"))
    plain, coloured = terminal(resolved, colour=False), terminal(resolved, colour=True)
    assert max(map(len, plain.splitlines())) <= 80
    assert re.sub("\x1b\\[[0-9]*m", "", coloured).split() == plain.split()
    assert ("backward stops here" in plain) == (not resolved.trains_embeddings)
    assert f"{resolved.trainable(resolved.plan.objective):,}" in plain


def test_the_terminal_picture_reads_from_the_output_down():
    resolved = Plan.parse("bft-adapter+ln").resolve(shape_of("roberta-large"))
    lines = terminal(resolved, colour=False).splitlines()
    wanted = (
        "masked LM",
        "full(on=ffn,norms)",
        "passes through",
        "adapter(depth=3/4)",
        "backward stops",
        "runs once, cached",
    )
    places = [next(n for n, line in enumerate(lines) if word in line) for word in wanted]
    assert places == sorted(places)
    assert "35,856" in lines[places[3]] and "8,397,824" in lines[places[1]]


@pytest.mark.parametrize("text", PLANS)
def test_the_svg_stands_alone_and_is_told_to_who_cannot_see_it(text):
    resolved = Plan.parse(text).resolve(shape_of("bert-large-cased"))
    drawn = svg(resolved)
    root = ElementTree.fromstring(drawn)
    space = "{http://www.w3.org/2000/svg}"
    assert root.get("role") == "img"
    told = [root.find(f"{space}{name}") for name in ("title", "desc")]
    assert root.get("aria-labelledby", "").split() == [one.get("id") for one in told]
    assert "prefers-color-scheme" in drawn and "currentColor" in drawn
    assert "http" not in drawn.replace("http://www.w3.org/2000/svg", "")
    assert sum(1 for _ in root.iter(f"{space}rect")) >= 24


def rows(text, model, objective=None):
    """The rows of the picture's bands by their labels."""
    resolved = Plan.parse(text).resolve(shape_of(model))
    return {band.label: band.rows for band in column(resolved, objective or resolved.plan.objective)}


@pytest.mark.parametrize("text", ["lora", ": full", ": delta_bias", ": full(on=norm_attn)"])
@pytest.mark.parametrize("model", ["albert-base-v2", "ModernBERT-base", "roberta-base", "t5-base"])
def test_the_counts_of_the_strata_add_up(text, model):
    """Also where blocks share their weights, or one lacks a part."""
    if model == "albert-base-v2" and "norm_attn" in text:
        pytest.skip("the plan for it is all of them at once")
    resolved = Plan.parse(text).resolve(shape_of(model))
    shown = [count or 0 for rows in rows(text, model, "none").values() for _, count in rows]
    assert sum(shown) == resolved.trainable("none")


def test_the_head_is_named_by_what_trains_of_it():
    assert rows(": lora | head(final_norm)", "gpt2", "causal")["head"] == (("LM: final norm", 1536),)
    ((said, count),) = rows(": lora | head(final_norm)", "gpt2", "sequence")["head"]
    assert (said, count) == ("final norm, new output layer (not counted)", 1536)
    ((said, count),) = rows("lora", "roberta-base", "none")["head"]
    assert "new output layer" not in said and not count


def test_a_decoder_below_the_frozen_depth_runs_in_every_step():
    found = rows("dec 3: lora | adapter(depth=1, stack=dec)", "t5-base")
    assert found["enc 0..11"] == (("frozen: runs once, cached", None),)
    assert found["dec 0"] == (("frozen; runs in every step", None),)
    assert "dec at 1" in found and "depth 13" not in found
