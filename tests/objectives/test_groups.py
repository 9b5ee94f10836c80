"""Rows that share a query, a prompt, a context or an anchor are held out together, whatever the objective."""

from __future__ import annotations

import json

import pytest

import tiny
from stratatune.data.read_options import ReadOptions
from stratatune.objectives.registry import OBJECTIVES
from stratatune.training.config import validate
from stratatune.training.prepare import Outline, read_tables

ROWS = 40


def talk(text, role="user"):
    return [{"role": role, "content": text}]


def asked(row):
    return f"what is number {row // 4}?"


DATA = {
    "rank of scored candidates": ("rank", lambda row: {"query": asked(row), "text": f"{row}", "score": row % 2}),
    "rank of preferences": ("rank", lambda row: {"prompt": asked(row), "chosen": f"{row}", "rejected": f"no {row}"}),
    "dpo": ("dpo", lambda row: {"prompt": asked(row), "chosen": f"{row}", "rejected": f"no {row}"}),
    "dpo of messages": (
        "dpo",
        lambda row: {
            "prompt": talk(asked(row)),
            "chosen": talk(f"{row}", "assistant"),
            "rejected": talk(f"no {row}", "assistant"),
        },
    ),
    "dpo of whole conversations": (
        "dpo",
        lambda row: {
            "chosen": talk(asked(row)) + talk(f"{row}", "assistant"),
            "rejected": talk(asked(row)) + talk(f"no {row}", "assistant"),
        },
    ),
    "span": (
        "span",
        lambda row: {
            "question": f"who is {row}?",
            "context": f"it is Ada {row // 4}",
            "answer": "Ada",
            "answer_start": 6,
        },
    ),
    "vectors of triplets": (
        "vectors",
        lambda row: {"anchor": asked(row), "positive": f"{row}", "negative": f"no {row}"},
    ),
}


@pytest.fixture
def tables(tmp_path, tiny_folder):
    def read(case, **settings):
        objective, row = DATA[case]
        path = tmp_path / "train.jsonl"
        path.write_text("".join(json.dumps(row(number)) + "\n" for number in range(ROWS)))
        model = str(tiny.save_tiny_decoder(tmp_path / "llama", "llama") if objective == "dpo" else tiny_folder("bert"))
        config = validate({"model": model, "objective": objective, "plan": "1: lora", "train": str(path), **settings})
        return read_tables(config, {}, Outline(config).kind)

    return read


@pytest.mark.parametrize("case", DATA)
def test_a_part_that_is_held_out_shares_nothing_with_the_rest(case, tables):
    found = tables(case, eval_split=0.2)
    (held,) = found.eval
    groups = [{(row - 1) // 4 for row in part.rows} for part in (found.train, held)]
    assert not groups[0] & groups[1] and len(held) == 8 and len(found.train) == 32


def test_scored_candidates_are_drawn_with_their_query(tables):
    rows = tables("rank of scored candidates", train_samples=8).train.rows
    assert len({(row - 1) // 4 for row in rows}) == 2
    others = [tables(case, train_samples=8).train.rows for case in ("span", "vectors of triplets")]
    assert all(len({(row - 1) // 4 for row in rows}) > 2 for rows in others)  # more contexts teach more


def test_columns_of_any_names_are_named_in_order(tmp_path):
    path = tmp_path / "named.jsonl"
    path.write_text(json.dumps({"bad": "no", "good": "yes", "ask": "well?", "worst": "never"}) + "\n")
    for objective, text, roles in (
        ("dpo", "ask,good,bad", ("query", "chosen", "rejected")),
        ("rank", "ask,good,bad,worst", ("query", "chosen", "rejected", "rejected")),
        ("vectors", "ask,good,bad,worst", ("anchor", "positive", "negative", "negative")),
    ):
        table = OBJECTIVES[objective].read(str(path), ReadOptions(text=tuple(text.split(","))))
        assert [column[0] for column in table.texts][:3] == ["well?", "yes", "no"]
        assert table.further["roles"] == [roles]


def test_preferences_ignore_a_score_that_nothing_reads(tmp_path):
    path = tmp_path / "scored.jsonl"
    path.write_text(json.dumps({"prompt": "well?", "chosen": "yes", "rejected": "no", "score": 9}) + "\n")
    assert OBJECTIVES["dpo"].read(str(path), ReadOptions()).columns == ("prompt", "chosen", "rejected")
