"""P9: the time until a plan reaches the score of stock peft LoRA, on real weights and real data.

    python -m benchmarks.equal --model MODEL --data GLUE_AND_TREC_FOLDER [--tasks trec,rte,sst2] [--seeds 0,1,2]

Peft LoRA's time is that of its best epoch, whose score is the target; a plan's that of its first epoch at or above it.
Scores are means over the seeds, epoch by epoch: one run's best of five on one dev set is a target with luck in it. A
second row does the same for each seed alone. A plan that never reaches it is shown with the points by which it falls
short.

Times are of training, the trunk pass included, evaluation left out; epochs of a run are equally long but for the trunk
pass, which belongs to the first. All learn for five epochs; the adapter, whose epochs are the shortest, for ten. Rates
are those of ``benchmarks.accuracy``; those of the other plans are searched here in the same way. One JSON line a run:
finished ones are skipped.
"""

from __future__ import annotations

import json
from statistics import mean

from benchmarks.accuracy import SEARCH_SEED, run_one, search
from benchmarks.jobs import Record, arguments, ensure, read, row, show_rows, write_rows

TOP = "3: lora(rank=16, alpha=32, on=q,k,v,o,up,down)"
RATES = {"peft": (3e-3,), "bft-adapter": (3e-3,), "spafit-1-2-II": (1e-3,), "upper-half": (3e-4,)}
RATES |= dict.fromkeys(("spafit-2-3-II", TOP), (3e-4, 1e-3, 3e-3))
MODULE = "benchmarks.equal"
TASKS, SEEDS = ("trec", "rte", "sst2"), (0, 1, 2)
EPOCHS = dict.fromkeys(RATES, 5) | {"bft-adapter": 10}


def main() -> None:
    """Run the missing runs, then print the row."""
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
    """The seconds until a run's first epoch at or above ``target``; None when there is none."""
    at = next((number for number, score in enumerate(run["history"], start=1) if score >= target), None)
    if at is None:
        return None
    trunk = run.get("trunk_seconds", 0.0)
    return trunk + (run["seconds"] - trunk) * at / len(run["history"])


def averaged(runs: list[Record]) -> Record:
    """Average some seeds' runs: the mean score at each epoch, and the mean seconds."""
    history = [mean(scores) for scores in zip(*(run["history"] for run in runs), strict=True)]
    timed = {name: mean(run.get(name, 0.0) for run in runs) for name in ("seconds", "trunk_seconds")}
    return {"history": history, **timed}


def summary(done: list[Record]) -> list[Record]:
    """Two rows a task: of the seeds' means, and of each seed."""
    rows = []
    for task in dict.fromkeys(run["task"] for run in done):
        runs = {arm: [run for run in done if (run["task"], run["arm"]) == (task, arm)] for arm in RATES}
        peft = {run["seed"]: run for run in runs.pop("peft")}
        shared = {arm: [run for run in found if run["seed"] in peft] for arm, found in runs.items()}
        shared = {arm: found for arm, found in shared.items() if found}
        together = {arm: _ratio(averaged(found), averaged(list(peft.values()))) for arm, found in shared.items()}
        alone = {arm: [_ratio(run, peft[run["seed"]]) for run in found] for arm, found in shared.items()}
        what = "time to equal accuracy, real weights"
        means = "; ".join(f"{arm}: {_told(ratio)}" for arm, ratio in _sorted(together))
        each = "; ".join(f"{arm}: {', '.join(map(_told, alone[arm]))}" for arm, _ in _sorted(together))
        rows.append(row(f"P9 {task}", f"{what}, mean of {len(peft)} seeds", ">= 5x A", "-", means, MODULE))
        rows.append(row(f"P9 {task} by seed", f"{what}, each seed", "-", "-", each, MODULE))
    return rows


def _ratio(run: Record, peft: Record) -> float:
    """Peft's time to its best score as a multiple of the run's; below 0: the points that the run is short of it."""
    target = max(peft["history"])
    mine, theirs = time_to(run, target), time_to(peft, target)
    return 100 * (max(run["history"]) - target) if mine is None or theirs is None else theirs / mine


def _sorted(ratios: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(ratios.items(), key=lambda item: -item[1])


def _told(ratio: float) -> str:
    return f"{ratio:.1f}x A" if ratio > 0 else f"never ({-ratio:.1f} points short)"


if __name__ == "__main__":
    main()
