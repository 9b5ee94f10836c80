"""A step of gradient caching from the cut and of sentence-transformers' cached ranking loss, in turns.

    python -m benchmarks.vectors --model MODEL --data FOLDER [--blocks 12] [--rounds 3] [--batch 256]

The model's shape with ``--blocks`` blocks and random weights; questions and the sentences that answer them (QNLI);
fp32 on one CPU thread, dropout on both sides, both in pieces of 32 texts. Ours trains the upper quarter in full, from a
filled trunk cache. The peer trains in full, as its users do, and in a second arm the same upper quarter as ours.
A ratio is the median over the rounds; each round runs every arm once, on the same examples.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from benchmarks.jobs import Record, row, show_rows, write_rows
from stratatune.data.batching import pad_id
from stratatune.data.readers import Table
from stratatune.data.roles import ROLES
from stratatune.model.attach import apply
from stratatune.model.base import load_base
from stratatune.objectives.asked import Asked
from stratatune.objectives.vectors import Vectors
from stratatune.plan import Plan
from stratatune.training.forward import Forward

PIECE, LONGEST = 32, 128
Step = Callable[[int], float]


def pairs(data: str, count: int) -> list[tuple[str, str]]:
    """Questions of QNLI with the sentences that answer them."""
    with (Path(data) / "glue" / "QNLI" / "train.tsv").open(encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        found = [(one["question"], one["sentence"]) for one in rows if one["label"] == "entailment"]
    return found[:count]


def ours(folder: str, texts: list[tuple[str, str]], plan: str, batch: int) -> Step:
    """A training step from the trunk cache, which is filled here; returns its seconds."""
    base = load_base(folder, "none")
    table = Table(tuple(map(list, zip(*texts, strict=True))), columns=("anchor", "positive"))
    table = Table(table.texts, columns=table.columns, further={ROLES: [("anchor", "positive")] * len(texts)})
    asked = Asked(
        plan=Plan.parse(plan),
        family="encoder",
        longest=LONGEST,
        max_length=LONGEST,
        table=table,
        tokenizer=base.tokenizer,
        options={"mini_batch": PIECE},
    )
    objective = Vectors.settle(asked)[0]
    data = objective.encode(table, base.tokenizer)
    model = apply(base.model, plan)
    forward = Forward.of(model.attached, objective, pad_id(base.tokenizer), torch.device("cpu"), None)
    feed = forward.feed(_cache(model, data))
    for start in range(0, len(texts), batch):
        feed.hidden(forward.batch(data, np.arange(start, start + batch)))
    trained = list(model.attached.trained().values())
    optimiser = torch.optim.AdamW(trained, lr=2e-5)
    forward.top.train()

    def step(start: int) -> float:
        began = time.perf_counter()
        forward.loss(forward.batch(data, np.arange(start, start + batch)), feed).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        return time.perf_counter() - began

    return step


def _cache(model: Any, data: Any) -> Any:
    from stratatune.cache.keys import CacheKey
    from stratatune.cache.store import TrunkCache

    depth = model.attached.resolved.frozen_depth
    names = {"weights": "", "tokenizer": "", "template": "", "data": "", "versions": (), "model": ""}
    key = CacheKey(**names, max_length=LONGEST, depth=depth, positions="all", dtype="fp32")
    return TrunkCache.open(None, key, data.lengths, model.attached.resolved.shape.hidden)


def peer(folder: str, texts: list[tuple[str, str]], frozen: int, batch: int) -> Step:
    """The step by sentence-transformers; the lowest ``frozen`` blocks and the embeddings do not train."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import losses
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    transformer = Transformer(folder, max_seq_length=LONGEST)
    model = SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension())], device="cpu")
    body: Any = transformer.model
    if frozen:
        body.embeddings.requires_grad_(False)
        for block in body.encoder.layer[:frozen]:
            block.requires_grad_(False)
    loss = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=PIECE)
    trained = [one for one in model.parameters() if one.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=2e-5)
    model.train()

    def step(start: int) -> float:
        part = texts[start : start + batch]
        columns: list[Any] = [dict(model.tokenize([row[at] for row in part])) for at in (0, 1)]
        began = time.perf_counter()
        loss(columns, torch.empty(0)).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        return time.perf_counter() - began

    return step


def measured(args: argparse.Namespace) -> list[Record]:
    """The seconds of every arm by rounds, and their ratios."""
    depth = 3 * args.blocks // 4
    texts = pairs(args.data, 2 * args.batch)
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        config = AutoConfig.from_pretrained(args.model, num_hidden_layers=args.blocks)
        AutoModel.from_config(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(args.model).save_pretrained(folder)
        arms: dict[str, Step] = {
            "ours": ours(folder, texts, f"{depth}: full", args.batch),
            "full": peer(folder, texts, 0, args.batch),
            "same": peer(folder, texts, depth, args.batch),
        }
        seconds: dict[str, list[float]] = {name: [] for name in arms}
        for number in range(args.rounds):
            for name, step in arms.items():
                seconds[name].append(step(number % 2 * args.batch))
    ratios = {
        name: [one / our for one, our in zip(seconds[name], seconds["ours"], strict=True)] for name in ("full", "same")
    }
    shown = {
        name: f"{statistics.median(found):.1f}x ({min(found):.1f} to {max(found):.1f})"
        for name, found in ratios.items()
    }
    figures = f"{shown['full']} its full tuning, {shown['same']} the same blocks"
    figures += f"; ours {statistics.median(seconds['ours']):.1f} s"
    what = f"a gradient-cached step, batch {args.batch}, {args.blocks} blocks, the upper quarter trains"
    return [row("V1", what, ">= 3x", "4x and the padding", figures, "benchmarks.vectors")]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="the folder with glue/QNLI")
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=256)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = measured(args)
    write_rows(rows, 1)
    show_rows(rows)


if __name__ == "__main__":
    main()
