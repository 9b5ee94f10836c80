"""Pages of docs/results from what the benchmarks wrote.

python -m benchmarks.tables accuracy benchmarks/results/accuracy.jsonl docs/results/accuracy.md
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.accuracy import EPOCHS, PLANS, SAMPLES, SEARCH_SEED, TASKS, best_rate

Records = list[dict[str, Any]]


def accuracy(records: Records) -> str:
    """The table of plans beside peft on six tasks."""
    lines = [
        "# Accuracy: plans beside peft on real data",
        "",
        "Written by `python -m benchmarks.tables`; measured by `python -m benchmarks.accuracy`, whose text says how.",
        "MiniLM with an MLM head (6 blocks, d = 384; its pre-training saw film reviews, which flatters SST-2), one CPU",
        "thread, bf16, batch 32, at most 256 tokens. Score: mean and standard deviation over seeds of the best epoch",
        "on dev (TREC: test), as in the papers. Seconds: training with the trunk pass included, without evaluation;",
        "each run pays for a cache of its own. Memory: peak of the process. `peft` is stock LoRA (r = 8, q and v,",
        "pooler and classifier trained) under a stock `transformers.Trainer`.",
        "",
        f"Rates, from a small search on TREC and CoLA: {_rates(records)}.",
        *_unmeasured(records),
    ]
    for task in TASKS:
        rows = [r for r in records if r["task"] == task and r["seed"] != SEARCH_SEED]
        if rows:
            lines += ["", f"## {task}", "", _setting(task, rows), "", *_table(rows)]
    return "\n".join(lines) + "\n"


def _unmeasured(records: Records) -> list[str]:
    """Names what the table still lacks."""
    measured = {r["task"] for r in records if r["seed"] != SEARCH_SEED}
    missing = [task for task in TASKS if task not in measured]
    return ["", f"Not measured yet: {', '.join(missing)}; the script goes on where it stopped."] if missing else []


def _rates(records: Records) -> str:
    return ", ".join(f"{arm} {best_rate(arm, records):g}" for arm in (*PLANS, "peft"))


def _setting(task: str, rows: Records) -> str:
    rows_used = f", {SAMPLES[task]:,} training rows" if task in SAMPLES else ""
    return f"{rows[0]['metric']}, {EPOCHS} epochs{rows_used}"


def _table(rows: Records) -> list[str]:
    lines = ["| plan | trained | score | seeds | seconds | against peft | peak MB |", "|---|---|---|---|---|---|---|"]
    peft = [r["seconds"] for r in rows if r["arm"] == "peft"]
    for arm in (*PLANS, "peft"):
        mine = [r for r in rows if r["arm"] == arm]
        if not mine:
            continue
        scores, seconds = [100 * r["score"] for r in mine], min(r["seconds"] for r in mine)
        spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
        ratio = f"{min(peft) / seconds:.1f}x" if peft else "-"
        memory = min(r["memory"] for r in mine) / 1e6
        score = f"{statistics.mean(scores):.1f}{spread}"
        cells = (arm, f"{mine[0]['trainable']:,}", score, len(mine), f"{seconds:.0f}", ratio, f"{memory:.0f}")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def speed(rows: Records) -> str:
    """The table of time and memory, with goals and limits."""
    lines = [
        "# Speed and memory beside what people use today",
        "",
        "Written by `python -m benchmarks.tables`; measured by `python -m benchmarks.run`, whose text says how. F:",
        "full tuning. A: stock peft LoRA on all layers, random batches, dynamic padding. B: A, batches cut by length.",
        "The shape is RoBERTa-large with random weights, frozen depth 18, batch 32, SST-2-like lengths (mean 13;",
        "random batches padded to 3.0 times the tokens, batches cut by length to 1.03), bf16 by autocast on both",
        "sides, one CPU thread. An epoch is some of its batches, chosen so that their padded tokens are the epoch's",
        "mean; minimum over the rounds.",
        "The limit is what counting operations allows; a ratio can pass it where the other side's step has costs that",
        "do not grow with tokens (autocast converts every fp32 weight at each step). Goals that are missed stand here",
        "as they are.",
        "",
        "| | what | goal | limit | measured | command |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {' | '.join(str(row[k]) for k in ('id', 'what', 'goal', 'limit', 'measured'))} | `{row['command']}` |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write one page."""
    _, page, source, target = sys.argv
    text = Path(source).read_text()
    if page == "accuracy":
        Path(target).write_text(accuracy([json.loads(line) for line in text.splitlines()]))
    else:
        Path(target).write_text(speed(json.loads(text)))


if __name__ == "__main__":
    main()
