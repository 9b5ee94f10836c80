"""Make the pages of docs/results from the benchmarks' results.

python -m benchmarks.tables accuracy benchmarks/results/accuracy.jsonl docs/results/accuracy.md
python -m benchmarks.tables suggest benchmarks/results/suggest.jsonl docs/results/suggest.md
python -m benchmarks.tables tags benchmarks/results/tags.jsonl docs/results/tags.md
python -m benchmarks.tables decoder_depths benchmarks/results/decoder_depths.jsonl docs/results/decoder-depths.md
python -m benchmarks.tables search benchmarks/results/search.jsonl docs/results/search.md
python -m benchmarks.tables labels benchmarks/results/labels.jsonl docs/results/labels.md
python -m benchmarks.tables starts benchmarks/results/starts.jsonl docs/results/starts.md
python -m benchmarks.tables chat benchmarks/results/chat.jsonl docs/results/chat.md
python -m benchmarks.tables preferences benchmarks/results/preferences.jsonl docs/results/preferences.md
python -m benchmarks.tables sweeps benchmarks/results/sweeps.jsonl docs/results/sweeps.md
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks import decoder_depths
from benchmarks.accuracy import EPOCHS, PLANS, RATES, SAMPLES, SEARCH_SEED, SEEDS, TASKS, best_rate
from benchmarks.chat import page as chat
from benchmarks.jobs import difference
from benchmarks.labels import page as labels
from benchmarks.preferences import page as preferences
from benchmarks.search import page as search
from benchmarks.starts import page as starts
from benchmarks.suggest import EPOCHS as SUGGEST_EPOCHS
from benchmarks.suggest import RATE
from benchmarks.suggest import ROWS as SUGGEST_ROWS
from benchmarks.suggest import SEEDS as SUGGEST_SEEDS
from benchmarks.sweeps import page as sweeps
from benchmarks.tags import page as tags
from stratatune.studies.statistics import compare
from stratatune.studies.suggest.probing import FOLDS

Records = list[dict[str, Any]]


def accuracy(records: Records) -> str:
    """The table of plans and peft on six tasks."""
    lines = [
        "# Accuracy: plans compared with peft on real data",
        "",
        "Written by `python -m benchmarks.tables`; measured by `python -m benchmarks.accuracy` (see its docstring).",
        "The model is MiniLM with an MLM head (6 blocks, d = 384; its pre-training saw film reviews, so scores on",
        "SST-2 are too good), on one CPU thread in bf16, with batches of 32 and at most 256 tokens. `peft` is stock",
        "LoRA (r = 8 on q and v; pooler and classifier train) with a stock `transformers.Trainer`.",
        "",
        "* Score: mean and standard deviation over seeds of the best epoch on dev (TREC: test), as in the papers.",
        "* Seconds: training, including the trunk pass and excluding evaluation. Each run builds its own cache, and",
        "  the fastest seed counts. Two runs went at a time, each on its own core, which slows down most the runs that",
        "  move most memory: peft on RTE, whose ratios are too high. `upper-half` ran next to a heavier job than the",
        "  others, and is faster than shown.",
        "* Peak MB: peak memory of the process.",
        "* Less peft: the mean difference in points over the same seeds, with its 95 % interval. Over the tasks, each",
        f"  with the mean of its seeds: {_overall(records)}.",
        "",
        f"Learning rates, from a small search on TREC and CoLA: {_rates(records)}.",
        *_unmeasured(records),
    ]
    for task in TASKS:
        rows = _of(records, task)
        if rows:
            lines += ["", f"## {task}", "", _setting(task, rows), "", *_table(rows)]
    return "\n".join(lines) + "\n"


def _unmeasured(records: Records) -> list[str]:
    """The names of runs that the table still lacks."""
    lacking = []
    for task in TASKS:
        counts = [len({r["seed"] for r in _of(records, task) if r["arm"] == arm}) for arm in (*PLANS, "peft")]
        if min(counts) < len(SEEDS):
            lacking.append(f"{task} ({min(counts)} of {len(SEEDS)} seeds)")
    return ["", f"Not yet measured completely: {', '.join(lacking)}; the script continues where it stopped."] * bool(
        lacking
    )


def _overall(records: Records) -> str:
    """Each plan less peft, a pair for each task: seeds of one task are no independent witnesses for all tasks."""

    def by_task(arm: str) -> dict[tuple, float]:
        own = {task: [100 * r["score"] for r in _of(records, task) if r["arm"] == arm] for task in TASKS}
        return {(task,): statistics.mean(scores) for task, scores in own.items() if scores}

    return "; ".join(f"{arm} {difference(compare(by_task(arm), by_task('peft')))}" for arm in PLANS)


def _of(records: Records, task: str) -> Records:
    """The table's runs of a task."""
    return [r for r in records if r["task"] == task and r["seed"] != SEARCH_SEED]


def _rates(records: Records) -> str:
    return ", ".join(f"{arm} {best_rate(arm, RATES[arm], records):g}" for arm in (*PLANS, "peft"))


def _setting(task: str, rows: Records) -> str:
    rows_used = f", {SAMPLES[task]:,} training rows" if task in SAMPLES else ""
    return f"{rows[0]['metric']}, {EPOCHS} epochs{rows_used}"


def _table(rows: Records) -> list[str]:
    heads = ("plan", "trained", "score", "less peft", "seeds", "seconds", "against peft", "peak MB")
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
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
        less = "" if arm == "peft" else _less_peft(rows, arm)
        cells = (arm, f"{mine[0]['trainable']:,}", score, less, len(mine), f"{seconds:.0f}", ratio, f"{memory:.0f}")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def _less_peft(rows: Records, arm: str) -> str:
    """The points above peft on one task, over the same seeds."""
    mine, peft = ({(r["seed"],): 100 * r["score"] for r in rows if r["arm"] == name} for name in (arm, "peft"))
    return difference(compare(mine, peft))


def speed(rows: Records) -> str:
    """The table of time and memory, with goals and limits."""
    lines = [
        "# Speed and memory compared with common baselines",
        "",
        "Written by `python -m benchmarks.tables`; measured by the commands in the last column. Baselines:",
        "",
        "* F: full tuning.",
        "* A: stock peft LoRA on all layers, with random batches and dynamic padding.",
        "* B: A with batches of similar length.",
        "",
        "The model has RoBERTa-large's shape with random weights, frozen depth 18, batches of 32 and lengths like",
        "those of SST-2 (mean 13; random batches are padded to 3.0 times the tokens, batches of similar length to",
        "1.03). Both sides run in bf16 by autocast on one CPU thread. An epoch is estimated from some of its batches,",
        "chosen so that their mean of padded tokens is that of the epoch; the fastest round counts.",
        "The limit is what counting operations allows. A ratio can exceed it if the other side's step has costs that",
        "do not grow with tokens (autocast converts every fp32 weight at each step). Goals that are missed are shown",
        "as they are.",
        "",
        "**Rows.** P3 runs all its trials. P4's limit is for a processor whose bf16 is four times as fast as its fp32;",
        "on the AMD EPYC here it is 1.9 times as fast, which makes the limit 27x. All rows of P1 to P6 and P8 were",
        "measured while the other core trained small models. A row without a machine is older, from this or another",
        "x86-64 processor. Rows called rte have lengths like RTE's (mean 72) and leave out F, whose batches do not fit",
        "into 24 GB. P8 depths, batches and P9 use a six-block MiniLM on real data. P10 memory: the memory that still",
        "grows is that of kernels which oneDNN compiles for each shape and keeps; in the bare row, it keeps none.",
        "",
        "**P9** is reached on SST-2 by training the upper three of six blocks (`upper-half`), on average over the",
        "seeds and for each seed. It is missed on TREC: the same plan takes 14 s per epoch and peft 45 s, but it needs",
        "three epochs where peft needs five. A deeper trunk would be faster, but the plans tried with fewer blocks",
        "above it stay more than a point short (bft-adapter; P8 depths). Its step has little left to save (P9",
        "profile): three fifths are matrix products, at 85 % of the rate of a large one, and the rest is spread over",
        "casts, dropout, AdamW and small operations of the model's own modules. On RTE, every method, full tuning",
        "included, stays at chance with this model ([accuracy](accuracy.md)), so there is no score to reach.",
        "",
        "**Versions.** Between 0.1.0 (commit 9aeb934) and 0.2.0, the modules moved. Both versions were run in turns on",
        "a quiet machine by `python -m benchmarks.run --only P1,P2,P6 --rounds 1 --batches 3 --threads 1`, two or",
        "three rounds each. The fastest rounds before and after: an epoch from the cache 2.21 s and 2.18 s, the build",
        "of the cache 5.56 s and 5.72 s, ten epochs 25.5 s and 25.3 s, P6 36.2x below F and 29.4x below A in both.",
        "",
        "| | what | goal | limit | measured | machine | command |",
        "|---|---|---|---|---|---|---|",
    ]
    columns = ("id", "what", "goal", "limit", "measured", "machine")
    lines += [
        f"| {' | '.join(str(row.get(name, '')) for name in columns)} | `{row['command']}` |"
        for row in sorted(rows, key=_order)
    ]
    return "\n".join(lines) + "\n"


def _order(row: dict[str, Any]) -> tuple[bool, int]:
    """P1 to P10, then the rows without a goal, and a GPU's rows last."""
    number = re.match(r"P(\d+)", str(row["id"]))
    return row["id"].startswith(("cuda", "cpu")), int(number[1]) if number else 99


def suggest(records: Records) -> str:
    """The depth that `suggest` names, next to a sweep of all depths."""
    lines = [
        "# Suggest compared with a full sweep",
        "",
        "Written by `python -m benchmarks.tables`; measured by `python -m benchmarks.suggest` (see its docstring).",
        "The model is MiniLM with an MLM head (6 blocks, d = 384; it has seen film reviews), with bft-adapter at every",
        f"depth, {SUGGEST_EPOCHS} epochs at rate {RATE:g}, seeds {', '.join(map(str, SUGGEST_SEEDS))}, on one CPU",
        "thread in bf16.",
        "",
        "* Scores: mean over the seeds of the better epoch on dev (TREC: test).",
        "* Noise: the standard error of a difference between two such means, from the deviations over seeds of all",
        "  depths together. A choice is within noise if it is below the sweep's best by at most twice the noise. (The",
        "  best of six is itself too high because of this noise.)",
        "* Work: the operations of the pass and the probes of the suggestion divided by those of the sweep's training,",
        "  without its evaluation.",
        "* Time: the same ratio in processor seconds, including evaluation and loading the model, on a machine that",
        "  had other work to do, more of it while the suggestions were made.",
        "",
        "| task | rows | metric | 1 | 2 | 3 | 4 | 5 | 6 | suggested | below best | noise | within | work | time |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_suggested(task, records) for task in SUGGEST_ROWS if any(r["task"] == task for r in records)]
    lines += [
        "",
        "*: no probe predicted the labels better than its control by two standard errors, so the paper's depth is",
        "kept.",
        "",
        "If all depths score alike (MRPC and CoLA with so few rows), any choice is within noise, and the table says",
        "little. TREC and SST-2 have a turning point, after depth 4 and after depth 5. The rule was written down after",
        "seeing the probes of all four tasks and the first sweeps of TREC (one seed) and SST-2, but before the sweeps",
        "of MRPC and CoLA; it has not been changed since. The default of 500 examples was chosen for its time: 1,000",
        "examples choose the same depths on TREC, SST-2 and MRPC. SPAFIT's borders and decoders were not swept.",
    ]
    return "\n".join(lines) + "\n"


def _suggested(task: str, records: Records) -> str:
    mine = [r for r in records if r["task"] == task]
    found = next(r for r in mine if r["kind"] == "suggest")
    view, sweep = found["suggestion"]["views"][0], [r for r in mine if r["kind"] == "sweep"]
    depths = sorted({r["depth"] for r in sweep})
    scores = {d: [100 * r["scores"][view["metric"]] for r in sweep if r["depth"] == d] for d in depths}
    means = {depth: statistics.mean(values) for depth, values in scores.items()}
    variance = statistics.mean(statistics.variance(values) for values in scores.values())
    noise = (2 * variance / len(SUGGEST_SEEDS)) ** 0.5
    chosen = found["suggestion"]["depth"]
    below = max(means.values()) - means[chosen]
    work = (view["spent"]["flops"] + _probe_flops(view, found["suggestion"]["samples"])) / sum(
        len(scores[one["depth"]]) * one["flops"] for one in view["candidates"]
    )
    time = found["cpu"] / sum(r["cpu"] for r in sweep)
    figures = [f"{'**' * (d == chosen)}{means[d]:.1f}{'**' * (d == chosen)}" for d in depths]
    cells = [
        task,
        f"{SUGGEST_ROWS[task]:,}",
        view["metric"],
        *figures,
        f"{chosen}{'' if view['found']['informative'] else '*'}",
        f"{below:.1f}",
        f"{noise:.1f}",
    ]
    cells += ["yes" if below <= 2 * noise else "**no**", f"{100 * work:.0f} %", f"{100 * time:.0f} %"]
    return f"| {' | '.join(map(str, cells))} |"


def _probe_flops(view: dict[str, Any], samples: int) -> float:
    """The FLOPs of the decompositions of all probes.

    Each takes 6 n D^2 + 20 D^3 for singular values and both sets of vectors (Golub and Van Loan 2013, figure 8.6.1),
    with n rows of a training fold.
    """
    rows, hidden = samples * (FOLDS - 1) / FOLDS, view["hidden"]
    return len(view["probes"]) * FOLDS * (6 * rows * hidden**2 + 20 * hidden**3)


def main() -> None:
    """Write one page."""
    _, page, source, target = sys.argv
    text = Path(source).read_text()
    pages = {
        "accuracy": accuracy,
        "suggest": suggest,
        "tags": tags,
        "search": search,
        "labels": labels,
        "starts": starts,
        "chat": chat,
        "preferences": preferences,
        "sweeps": sweeps,
    }
    if page == "decoder_depths":
        records = [json.loads(line) for line in text.splitlines()]
        Path(target).write_text(decoder_depths.page(records))
        decoder_depths.draw(records, Path(target).parent / decoder_depths.PICTURE)
    elif write := pages.get(page):
        Path(target).write_text(write([json.loads(line) for line in text.splitlines()]))
    else:
        Path(target).write_text(speed(json.loads(text)))


if __name__ == "__main__":
    main()
