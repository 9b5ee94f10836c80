"""The fenced blocks of a page, and what the pages name: models, files and Python objects, all made on the spot."""

from __future__ import annotations

import csv
import functools
import io
import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chats
import tiny

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """Its lines without prompts and remarks, those that go on joined."""
        joined = self.text.replace("\\\n", " ").splitlines()
        lines = [re.sub(r"\s+#.*$", "", line.removeprefix("$ ")).strip() for line in joined]
        return [line for line in lines if line and not line.startswith("#")]


@functools.cache
def blocks_of(page: str) -> tuple[Block, ...]:
    """The blocks of ``README.md`` or of a page of ``docs``, from the top."""
    path = ROOT / page if page == "README.md" else ROOT / "docs" / page
    return tuple(Block(*found) for found in _BLOCK.findall(path.read_text(encoding="utf-8")))


def data_of(page: str, language: str, number: int = 0) -> str:
    """The text of a page's block of this language that is neither a command nor code: its example of data."""
    return [block.text for block in blocks_of(page) if block.language == language][number]


# Models: the id on the pages, and a tiny one of its family that has as many blocks.


def _encoder(family: Any, blocks: int) -> Callable[[Path], object]:
    return lambda folder: tiny.save_tiny(folder, family, blocks=blocks, labels=2)


def _decoder(family: str, blocks: int) -> Callable[[Path], object]:
    return lambda folder: tiny.save_tiny_decoder(folder, family, blocks=blocks)


def _chat(folder: Path) -> None:
    chats.save_chat_model(folder, family="qwen2", blocks=24, max_position_embeddings=1024)
    tokenizer = chats.chat_tokenizer(chats.CHATML)
    tokenizer.model_max_length = 1024
    tokenizer.save_pretrained(folder)


MODELS: dict[str, Callable[[Path], object]] = {
    "two-blocks": _encoder("roberta", 2),  # where a page takes a trained run as given, of any model
    "roberta-base": _encoder("roberta", 12),
    "roberta-large": _encoder("roberta", 24),
    "bert-base-cased": _encoder("bert", 12),
    "bert-base-uncased": _encoder("bert", 12),
    "sentence-transformers/all-MiniLM-L6-v2": _encoder("bert", 6),
    "openai-community/gpt2-large": _decoder("gpt2", 36),
    "meta-llama/Llama-3.1-8B": _decoder("llama", 32),
    "Qwen/Qwen3-30B-A3B": _decoder("qwen3_moe", 48),
    "Qwen/Qwen2.5-0.5B-Instruct": _chat,
}

# Files: those that a page names beside ``train.csv``, ``dev.csv`` and ``new.csv``, from the page's own example.

GOOD, BAD = "a very good film and a great story", "a very poor film and a sad story"
TEXTS, LABELS = [GOOD, BAD] * 12, ["positive", "negative"] * 12


def table(columns: str, *rows: tuple[object, ...]) -> str:
    """A csv file."""
    file = io.StringIO()
    csv.writer(file).writerows([columns.split(","), *rows])
    return file.getvalue()


def labelled(columns: str = "sentence,label", labels: tuple[str, str] = ("positive", "negative")) -> str:
    """Texts with one of two labels."""
    return table(columns, *zip([GOOD, BAD] * 12, labels * 12, strict=True))


def _repeated(text: str, *, header: bool = False, times: int = 8) -> str:
    first, rest = text.split("\n", 1) if header else ("", text)
    return (first + "\n" if header else "") + rest * times


def _csv_of(page: str) -> str:
    return _repeated(data_of(page, "text"), header=True)


def _chat_lines() -> str:
    return (json.dumps(json.loads(data_of("chat.md", "json"))) + "\n") * 8


def _films_files() -> dict[str, str]:
    """The recipe of ``grid.md`` for the smallest model and two seeds, and its data."""
    recipe = data_of("grid.md", "yaml").replace("roberta-base", "two-blocks")
    recipe = recipe.replace("epochs: 5", "epochs: 1").replace("seeds: [0, 1, 2]", "seeds: [0, 1]")
    made = labelled("text,label")
    return {"films.yaml": recipe, "films/train.csv": made, "films/dev.csv": made}


_RUN = """
model: roberta-base
plan: "6: lora"
train: train.csv
text: sentence
label: label
epochs: 2
out: runs/built
"""

FILES: dict[str, Callable[[], dict[str, str]]] = {
    "cache.md": lambda: {"RUN.yaml": _RUN},
    "chat.md": lambda: dict.fromkeys(("chat.jsonl", "dev.jsonl"), _chat_lines()),
    "dpo.md": lambda: dict.fromkeys(
        ("preferences.jsonl", "dev.jsonl"), (json.dumps(json.loads(data_of("dpo.md", "json"))) + "\n") * 8
    ),
    "decoders.md": lambda: {
        **{f"glue/sst2/{part}.tsv": labelled(labels=("1", "0")).replace(",", "\t") for part in ("train", "dev")},
        "train.jsonl": f"{json.dumps({'prompt': GOOD, 'answer': BAD})}\n" * 8,
    },
    "grid.md": _films_files,
    "large.md": lambda: {"lengths.txt": "200\n256\n" * 20},
    "plans.md": lambda: {"more.csv": labelled()},
    "multilabel.md": lambda: dict.fromkeys(("train.csv", "dev.csv", "test.csv"), _csv_of("multilabel.md")),
    "multitask.md": lambda: dict.fromkeys(("train.csv", "dev.csv"), _csv_of("multitask.md")),
    "rank.md": lambda: {
        **dict.fromkeys(
            ("pairs.jsonl", "dev.jsonl", "test.jsonl", "candidates.jsonl"), _repeated(data_of("rank.md", "json"))
        ),
        "preferences.jsonl": _repeated(data_of("rank.md", "json", 1)),
    },
    "report.md": _films_files,
    "serve.md": lambda: {"topics.csv": labelled(labels=("film", "food"))},
    "span.md": lambda: dict.fromkeys(("train.jsonl", "dev.jsonl", "test.jsonl"), _repeated(data_of("span.md", "json"))),
    "suggest.md": lambda: {"train.csv": _repeated(labelled(), header=True, times=2)},
    "tags.md": lambda: dict.fromkeys(
        ("train.conll", "dev.conll", "test.conll"), _repeated(data_of("tags.md", "text") + "\n")
    ),
    "vectors.md": lambda: {
        **dict.fromkeys(("pairs.jsonl", "dev.jsonl", "test.jsonl"), _repeated(data_of("vectors.md", "json"))),
        "texts.txt": f"{GOOD}\n{BAD}\n",
        "docs.jsonl": data_of("vectors.md", "json", 1),
    },
}


def write_files(page: str, models: Callable[[str], str]) -> None:
    """Writes them into the current folder, with tiny models in settings files."""
    common = {"train.csv": labelled(), "dev.csv": labelled(), "new.csv": table("sentence", *((one,) for one in TEXTS))}
    for name, text in {**common, **FILES.get(page, dict)()}.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        named = re.search(r"^\s*model: (\S+)$", text, re.MULTILINE) if name.lower().endswith(".yaml") else None
        text = text.replace(named[1], models(named[1])) if named else text
        Path(name).write_text(text, encoding="utf-8")


# What a page takes as given, as commands that are run before it (or after it, for examples that no command uses).

_LORA = "stratatune train --model roberta-base --train train.csv --text sentence --label label --plan '6: lora'"
_SMALL = f"{_LORA} --eval dev.csv".replace("roberta-base", "two-blocks").replace("6:", "1:")
BEFORE: dict[str, tuple[str, ...]] = {
    "apply.md": (f"{_LORA} --objective classification --out runs/films",),
    "export.md": (f"{_SMALL} --objective classification --out runs/mine",),
    "report.md": (
        f"{_SMALL} --out runs/first",
        f"{_SMALL} --out runs/second",
        "stratatune grid films.yaml --out runs/table2",
    ),
    "serve.md": (
        f"{_LORA} --objective classification --out runs/films",
        f"{_LORA} --objective classification --out runs/topics --train topics.csv",
        f"{_LORA} --objective mlm --out runs/2026-11-urgent",
    ),
}
AFTER: dict[str, tuple[str, ...]] = {
    "rank.md": (
        "stratatune train --model bert-base-uncased --train preferences.jsonl --objective rank --plan '6: full'",
    ),
}

# What is made smaller, and the words that stand for something: on a page, this by that.

SMALLER: dict[str, tuple[tuple[str, str], ...]] = {
    "README.md": (
        ("Classifier()", 'Classifier(model="roberta-base", epochs=1)'),
        ('dev.csv"', 'dev.csv", epochs=1'),
    ),
    "cache.md": (("rm DIGEST", "rm {digest}"),),
    "chat.md": (
        ("--max-new-tokens 200", "--max-new-tokens 4"),
        ('--text "What is a trunk?"', '--text "What is a trunk?" --max-new-tokens 4'),
        ('out="runs/chat"', 'out="runs/python", epochs=1'),
    ),
    "dpo.md": (
        ("--epochs 3", "--epochs 1"),
        ('--text "What is a trunk?"', '--text "What is a trunk?" --max-new-tokens 4'),
        ("lr=5e-5", "lr=5e-5, epochs=1"),
    ),
    "from.md": (("epochs=20", "epochs=1"),),
    "grid.md": (
        ("recipes/bft-table2-small.yaml", "films.yaml"),
        ("rates=[2e-4, 1e-3]", "rates=[2e-4, 1e-3], epochs=1"),
        ("lr=lr, out", "lr=lr, epochs=1, out"),
        ("n_trials=20", "n_trials=2"),
    ),
    "large.md": (("--lengths FILE", "--lengths lengths.txt"),),
    "multilabel.md": (("epochs=3", "epochs=1"),),
    "multitask.md": (
        ("train ...", "train --model roberta-base --train train.csv --eval dev.csv --plan '6: lora' --out runs/named"),
        # The page's three rows, repeated, hold three numbers, which could as well be classes.
        ('--plan "6: lora" --out', "--objective 'multitask(urgency=regression)' --plan '6: lora' --out"),
    ),
    "plans.md": (('out="runs/third"', 'out="runs/third", epochs=1'),),
    "sklearn.md": (("epochs=3", "epochs=1"), ("cv=5, n_jobs=4", "cv=2, n_jobs=1")),
    "suggest.md": (("--epochs 10", "--epochs 1"),),
    "tags.md": (("epochs=3", "epochs=1"),),
}


def command_words(line: str, models: Callable[[str], str]) -> list[str]:
    """The words behind ``stratatune``, with tiny models; training is for one epoch."""
    words = [models(word) if word in MODELS else word for word in shlex.split(line)[1:]]
    return [*words, "--epochs", "1"] if words[0] == "train" and "--epochs" not in words else words
