"""P9: the time until a plan scores what stock peft LoRA scores, on real weights and real data.

    python -m benchmarks.equal --model MODEL --data GLUE_AND_TREC_FOLDER [--tasks trec,rte,sst2] [--seeds 0,1,2]

For each task and seed the target is the best dev score (TREC: test) of peft LoRA's epochs, and its time that of the
first epoch which has it. A plan's time is that of its first epoch at or above the target; a run that never gets there
is told as such. A second row asks both for half a point less, about what peft's own score moves by from seed to seed
(0.4 on TREC and SST-2): the best of five epochs on one dev set is a target with that much luck in it. Times are of
training, the trunk pass included, evaluation left out; epochs of a run are equally long but for the trunk pass, which
belongs to the first. All learn for five epochs; the adapter, whose epochs are the shortest, for ten. Rates are those
that ``benchmarks.accuracy`` found; those of SPAFIT 2-3 and of the top LoRA are searched here in the same way. One JSON
line a run: what is done is skipped.
"""

from __future__ import annotations

import json
from statistics import mean

from benchmarks.accuracy import SEARCH_SEED, run_one, search
from benchmarks.jobs import Record, arguments, ensure, read, row, show_rows, write_rows

TOP = "3: lora(rank=16, alpha=32, on=q,k,v,o,up,down)"
RATES = {"peft": (3e-3,), "bft-adapter": (3e-3,), "spafit-1-2-II": (1e-3,)}
RATES |= dict.fromkeys(("spafit-2-3-II", TOP), (3e-4, 1e-3, 3e-3))
MODULE = "benchmarks.equal"
TASKS, SEEDS = ("trec", "rte", "sst2"), (0, 1, 2)
SLACK = 0.005
EPOCHS = dict.fromkeys(RATES, 5) | {"bft-adapter": 10}


def main() -> None:
    """Run what is missing, then say the row."""
    args = arguments(__doc__, "equal.jsonl")
    if args.one:
        print(json.dumps(run_one(json.loads(args.one), args.model, args.data)))
        return
    tasks = args.tasks.split(",") if args.tasks else TASKS
    seeds = [int(seed) for seed in args.seeds.split(",")] if args.seeds else SEEDS
    done = read(args.out)
    rates = {arm: search(arm, given, done, args, MODULE) if given[1:] else given[0] for arm, given in RATES.items()}
    for seed in seeds:
        for task in tasks:
            for arm, rate in rates.items():
                ensure(MODULE, {"arm": arm, "task": task, "lr": rate, "seed": seed, "epochs": EPOCHS[arm]}, done, args)
    rows = summary([run for run in done if run["seed"] != SEARCH_SEED and run["lr"] == rates[run["arm"]]])
    show_rows(rows)
    write_rows(rows, 1)


def time_to(run: Record, target: float) -> float | None:
    """Seconds until a run's first epoch at or above ``target``; None when there is none."""
    at = next((number for number, score in enumerate(run["history"], start=1) if score >= target), None)
    if at is None:
        return None
    trunk = run.get("trunk_seconds", 0.0)
    return trunk + (run["seconds"] - trunk) * at / len(run["history"])


def summary(done: list[Record]) -> list[Record]:
    """Two rows a task: at peft's score, and at half a point less."""
    return [*_rows(done, 0.0, ""), *_rows(done, SLACK, " within half a point")]


def _rows(done: list[Record], slack: float, name: str) -> list[Record]:
    """A row a task: first the plan that is there soonest and in most seeds, each with its mean ratio of times."""
    rows = []
    for task in dict.fromkeys(run["task"] for run in done):
        peft = {run["seed"]: run for run in done if (run["task"], run["arm"]) == (task, "peft")}
        told = {arm: _against(arm, task, peft, done, slack) for arm in RATES if arm != "peft"}
        told = {arm: found for arm, found in told.items() if found[1]}
        if not told:
            continue
        best = max(told, key=lambda arm: (len(told[arm][0]) / told[arm][1], mean(told[arm][0] or [0.0])))
        text = "; ".join(
            f"{arm}: {mean(ratios):.1f}x A ({len(ratios)} of {runs} seeds)"
            if ratios
            else f"{arm}: never ({runs} seeds)"
            for arm, (ratios, runs) in sorted(told.items(), key=lambda item: item[0] != best)
        )
        what = f"time to equal accuracy{name}, real weights"
        rows.append(row(f"P9 {task}{name}", what, ">= 5x A", "-", text, MODULE))
    return rows


def _against(arm: str, task: str, peft: dict[int, Record], done: list[Record], slack: float) -> tuple[list[float], int]:
    """Ratios of times in the seeds in which the plan gets there, and the number of seeds."""
    ratios, runs = [], 0
    for run in done:
        if (run["task"], run["arm"]) != (task, arm) or run["seed"] not in peft:
            continue
        other = peft[run["seed"]]
        target = max(other["history"]) - slack
        runs += 1
        mine, theirs = time_to(run, target), time_to(other, target)
        if mine is not None and theirs is not None:
            ratios.append(theirs / mine)
    return ratios, runs


if __name__ == "__main__":
    main()
