"""The run, the grid and the files that malformed and damaged inputs are made from: tiny, made on the spot."""

from __future__ import annotations

import csv
from pathlib import Path

import tiny
from faults.asking import ask
from faults.malformed import Bench

RECIPE = """title: films
data: .
base:
  {{model: {base}, train: "{{data}}/films.csv", eval: "{{data}}/films.csv", text: text, label: label, epochs: 1}}
settings: {{cache: ['off']}}
plans: [bitfit]
seeds: [0, 1]
report: {{rows: plan, columns: seed}}
published: [{{plan: bitfit, seed: 0, value: 76.2}}]
claims: [{{text: as good, better: {{seed: 0}}, worse: {{seed: 1}}, on: plan}}]
"""


def make_bench(folder: Path) -> Bench:
    """A base model of four blocks, 24 rows, one finished run and one finished grid of two in ``folder``."""
    base, data = folder / "base", folder / "films.csv"
    tiny.save_tiny(base, "bert", "mlm")
    with data.open("w", newline="") as file:
        rows = [(f"a very {('good', 'poor')[n % 2]} film", ("positive", "negative")[n % 2]) for n in range(24)]
        csv.writer(file).writerows([("text", "label"), *rows])
    recipe = folder / "films.yaml"
    recipe.write_text(RECIPE.format(base=base))
    settings = ("--model", base, "--train", data, "--eval", data, "--text", "text", "--label", "label", "--epochs", 1)
    done = ask("train", *settings, "--plan", "bft-adapter@2", "--out", folder / "run", "--cache", "ram")
    assert done.code == 0, done.err
    done = ask("grid", "run", recipe, "--out", folder / "grid")
    assert done.code == 0, done.err
    (folder / "work").mkdir()
    return Bench(base, data, folder / "run", folder / "grid", recipe, folder / "work")
