"""Malformed input by hypothesis: what is asked with it, for every kind of input that the product reads."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from stratatune.training.settings import load_config

WORDS = (
    "frozen bitfit lora full adapter late_prompt prompt idpg head embeddings houlsby prefix ia3 dora parallel enc dec "
    "rank alpha on depth tokens bottleneck mlm pooler untie q k v o up down norm_ffn attn ffn all dense bias "
    "r lora_alpha query value yes no true 1/2 3/4 0 1 -1 5 12 24 99 999999 1e9 1e999 0.5 5:10 10: :5 : , = + | ( )"
).split()
SETTINGS = (
    "model plan train eval test text label out epochs batch_size token_budget lr seed task template label_words cache "
    "cache_limit cache_dtype max_length eval_split train_samples precision device metric objective loss resume loggers"
).split()

nasty = st.sampled_from(
    [
        None,
        True,
        False,
        0,
        -1,
        1,
        10**17,
        1.5,
        -0.0,
        1e308,
        "",
        " ",
        "x",
        "x" * 400,
        "0",
        "off",
        "null",
        "../x",
        "/dev/null",
    ]
    + [
        "a\0b",
        "\ud800",
        "é語🙂",
        "1e3",
        "5:10",
        "{a}",
        "[MASK]",
        "a,b",
        "~",
        "*",
        "&a",
        "!!x",
        "- x",
        "x: y",
        "\t",
        "\n",
    ]
)
values = st.recursive(
    nasty | st.text(max_size=12) | st.integers(-(2**70), 2**70) | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
texts = st.text(max_size=60)


@dataclass(frozen=True)
class Bench:
    """What the malformed inputs are made from: a base model, data, a finished run and a finished grid, and a folder.

    ``work`` is written over by each input.
    """

    base: Path
    data: Path
    run: Path
    grid: Path
    recipe: Path
    work: Path

    def copy(self, what: Path, name: str) -> Path:
        """A fresh copy of a folder in ``work``."""
        place = self.work / name
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(what, place)
        return place

    def write(self, name: str, content: bytes) -> Path:
        """A file in ``work``."""
        (self.work / name).write_bytes(content)
        return self.work / name


Case = tuple[str, Sequence[object]]
"""What the input was, for a report, and the command that reads it."""
Maker = Callable[[Any, Bench], Case]
"""From hypothesis' data to a case."""


def _mutated(draw: Any, text: bytes) -> bytes:
    """``text`` with some of it cut out, doubled, or written over."""
    content = bytearray(text)
    for _ in range(draw.draw(st.integers(1, 4))):
        at = draw.draw(st.integers(0, max(0, len(content) - 1)))
        length = draw.draw(st.integers(0, 20))
        kind = draw.draw(st.sampled_from(("cut", "double", "write", "insert")))
        new = draw.draw(
            st.binary(max_size=6) | st.sampled_from([b'"', b"\n", b"\t", b"[", b"{", b":", b"\x00", b"9" * 300])
        )
        if kind == "cut":
            del content[at : at + length]
        elif kind == "double":
            content[at:at] = content[at : at + length] * 3
        elif kind == "write":
            content[at : at + len(new)] = new
        else:
            content[at:at] = new
    return bytes(content)


def _replaced(draw: Any, data: Any) -> Any:
    """Plain data with one place in them replaced by a nasty value, taken out, or given a neighbour."""
    if isinstance(data, dict) and data and draw.draw(st.integers(0, 5)):
        key = draw.draw(st.sampled_from(sorted(data)))
        what = draw.draw(st.integers(0, 9))
        if what == 0:
            return {name: value for name, value in data.items() if name != key}
        if what == 1:
            return {**data, draw.draw(texts): draw.draw(values)}
        return {**data, key: _replaced(draw, data[key])}
    if isinstance(data, list) and data and draw.draw(st.integers(0, 3)):
        at = draw.draw(st.integers(0, len(data) - 1))
        return [*data[:at], _replaced(draw, data[at]), *data[at + 1 :]]
    return draw.draw(values)


def _json(data: Any) -> bytes:
    return json.dumps(data).encode("utf-8", "surrogatepass")


def plan_text(draw: Any, bench: Bench) -> Case:
    words = st.lists(st.sampled_from(WORDS) | st.text(max_size=4), max_size=14).map(" ".join)
    joined = st.lists(st.sampled_from(WORDS), max_size=14).map("".join)
    valid = st.sampled_from(
        ["0:5 frozen | 5:10 bitfit | 10: lora(rank=64, on=q,k)", "bft-adapter+ln@18", "adapter(depth=12)"]
    )
    text = draw.draw(
        words | joined | texts | valid.map(lambda one: _mutated(draw, one.encode()).decode("utf-8", "replace"))
    )
    return text, ("plan", "--model", "roberta-base", "--", text.replace("\0", " "))


def yaml_file(draw: Any, bench: Bench) -> Case:
    good = {
        "model": str(bench.base),
        "train": str(bench.data),
        "label": "no such column",
        "out": str(bench.work / "none"),
    }
    asked = {name: draw.draw(values) for name in draw.draw(st.lists(st.sampled_from(SETTINGS), max_size=3))}
    content = draw.draw(
        st.sampled_from(
            [
                _json({**good, **asked}),
                _mutated(draw, "".join(f"{name}: {value}\n" for name, value in good.items()).encode()),
                draw.draw(st.binary(max_size=80)),
                draw.draw(texts).encode("utf-8", "replace"),
            ]
        )
    )
    return repr(content), ("train", bench.write("run.yaml", content), "--epochs", 1, "--train-samples", 4)


def adapter_json(draw: Any, bench: Bench) -> Case:
    folder = bench.copy(bench.run / "adapter", "adapter")
    raw = (folder / "adapter.json").read_bytes()
    content = _json(_replaced(draw, json.loads(raw))) if draw.draw(st.integers(0, 3)) else _mutated(draw, raw)
    (folder / "adapter.json").write_bytes(content)
    return repr(content), ("predict", folder, "--text", "a good film")


def base_config(draw: Any, bench: Bench) -> Case:
    folder = bench.copy(bench.base, "base")
    raw = (folder / "config.json").read_bytes()
    content = _json(_replaced(draw, json.loads(raw))) if draw.draw(st.integers(0, 3)) else _mutated(draw, raw)
    (folder / "config.json").write_bytes(content)
    return repr(content), ("plan", "lora", "--model", folder)


def table(draw: Any, bench: Bench) -> Case:
    ending = draw.draw(st.sampled_from(("csv", "tsv", "jsonl", "json", "txt", "parquet", "all")))
    rows = draw.draw(st.lists(st.fixed_dictionaries({"text": values, "label": values}), max_size=5))
    lines = {"csv": ",", "tsv": "\t"}
    good = "".join(json.dumps(row) + "\n" for row in rows).encode("utf-8", "surrogatepass")
    if ending in lines:
        good = ("text" + lines[ending] + "label\n").encode()
        good += "".join(f"{row['text']}{lines[ending]}{row['label']}\n" for row in rows).encode("utf-8", "replace")
    elif ending == "json":
        good = _json(rows)
    content = draw.draw(st.sampled_from([good, _mutated(draw, good), draw.draw(st.binary(max_size=80))]))
    path = bench.write(f"table.{ending}", content)
    verb = draw.draw(st.sampled_from(("predict", "eval")))
    return repr((ending, content)), (verb, bench.run, "--data", path)


def recipe(draw: Any, bench: Bench) -> Case:
    raw = bench.recipe.read_bytes()
    good = load_config(bench.recipe)
    content = _json(_replaced(draw, good)) if draw.draw(st.integers(0, 3)) else _mutated(draw, raw)
    if draw.draw(st.booleans()):
        bench.write("parent.yaml", content)
        content = _json(
            {"extends": "parent.yaml", **({"title": draw.draw(values)} if draw.draw(st.booleans()) else {})}
        )
    return repr(content), ("grid", "run", bench.write("recipe.yaml", content), "--dry-run")


def book(draw: Any, bench: Bench) -> Case:
    folder = bench.work / "grid"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(bench.grid, folder, ignore=shutil.ignore_patterns("adapter", "log.txt", "report.html"))
    column = draw.draw(
        st.sampled_from(("id", "number", "status", "coordinates", "config", "result", "error", "starts"))
    )
    with sqlite3.connect(folder / "grid.sqlite") as connection:
        old = connection.execute(f"SELECT {column} FROM runs LIMIT 1").fetchone()[0]
        if column in ("coordinates", "config", "result") and draw.draw(st.integers(0, 3)):
            value: Any = json.dumps(_replaced(draw, json.loads(old)))
        else:
            value = draw.draw(
                st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.binary(max_size=20) | texts
            )
        if isinstance(value, str):
            value = value.encode("utf-8", "replace").decode()
        try:
            connection.execute(f"UPDATE runs SET {column} = ? WHERE number = 0", (value,))
        except sqlite3.IntegrityError:
            value = old
    connection.close()
    verb = draw.draw(st.sampled_from((("grid", "ls"), ("report", "--format", "md"))))
    return repr((column, value)), (*verb, folder)


KINDS: dict[str, Maker] = {
    "plan text": plan_text,
    "YAML": yaml_file,
    "adapter.json": adapter_json,
    "config.json": base_config,
    "table": table,
    "recipe": recipe,
    "book": book,
}
