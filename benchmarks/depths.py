"""P8's second half: accuracy at every frozen depth on real weights; and whether batches cut by length cost accuracy.

    python -m benchmarks.depths --model MODEL --data GLUE_AND_TREC_FOLDER [--seeds 0,1,2]

BFT's adapter at each depth of the model (a cache for each) on TREC; and at two thirds of it the same run in batches of
a random order, from the same kind of cache. One JSON line a run: finished ones are skipped.
"""

from __future__ import annotations

import json
from statistics import mean, stdev
from typing import Any

from benchmarks.accuracy import run_one
from benchmarks.jobs import Record, arguments, ensure, read, row, show_rows, write_rows
from stratatune.costs.cost import random_batches
from stratatune.plan import shape_of

RATE, EPOCHS, SEEDS = 3e-3, 3, (0, 1, 2)
MODULE = "benchmarks.depths"


def main() -> None:
    """Run the missing runs, then print the rows."""
    args = arguments(__doc__, "depths.jsonl")
    if args.one:
        print(json.dumps(_run(json.loads(args.one), args.model, args.data)))
        return
    done, blocks = read(args.out), shape_of(args.model).blocks
    seeds = [int(seed) for seed in args.seeds.split(",")] if args.seeds else SEEDS
    tasks = args.tasks.split(",") if args.tasks else ("trec",)
    middle = round(2 * blocks / 3)
    for seed in seeds:
        for task in tasks:
            for depth in range(1, blocks):
                ensure(MODULE, _job(depth, task, seed, "length"), done, args)
            ensure(MODULE, _job(middle, task, seed, "random"), done, args)
    rows = [line for task in tasks for line in summary([run for run in done if run["task"] == task], middle)]
    show_rows(rows)
    write_rows(rows, 1)


def _job(depth: int, task: str, seed: int, order: str) -> Record:
    plan = f"bft-adapter@{depth}"
    return {"arm": plan, "task": task, "lr": RATE, "seed": seed, "epochs": EPOCHS, "order": order}


def _run(job: Record, model: str, data: str) -> Record:
    if job["order"] == "random":
        from stratatune.training.session import Session

        def drawn(self: Any, epoch: int) -> list[Any]:
            return random_batches(len(self.train), self.config.batch_size, 1000 * self.config.seed + epoch)

        Session.batches = drawn  # in this process alone
    return run_one(job, model, data)


def summary(done: list[Record], middle: int) -> list[Record]:
    """Scores by depth, and by the order of batches at one depth."""
    cut = [run for run in done if run["order"] == "length"]
    by_depth = {depth: _scores(cut, depth) for depth in sorted({int(run["arm"].split("@")[1]) for run in cut})}
    task = done[0]["task"]
    measured = ", ".join(f"@{depth} {_told(scores)}" for depth, scores in by_depth.items())
    rows = [row("P8 depths", f"accuracy on {task} by frozen depth, real weights", "-", "-", measured, MODULE)]
    random = _scores([run for run in done if run["order"] == "random"], middle)
    if random:
        both = f"by length {_told(by_depth[middle])}, random {_told(random)}"
        rows.append(
            row(
                "batches", f"accuracy on {task} @{middle}: batches by length or at random", "no loss", "-", both, MODULE
            )
        )
    return rows


def _scores(runs: list[Record], depth: int) -> list[float]:
    return [100 * run["score"] for run in runs if run["arm"].endswith(f"@{depth}")]


def _told(scores: list[float]) -> str:
    return f"{mean(scores):.1f}" + (f" ± {stdev(scores):.1f}" if len(scores) > 1 else "")


if __name__ == "__main__":
    main()
