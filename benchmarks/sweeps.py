"""A sweep of 16 rates on real data: ``st.train_many`` over one trunk cache beside 16 runs of a stock Trainer.

    python -m benchmarks.sweeps --model MODEL --data FOLDER [--tasks labels,tags] [--rows 1000] [--arms ARM,ARM]
    python -m benchmarks.tables sweeps benchmarks/results/sweeps.jsonl docs/results/sweeps.md

The tasks are GoEmotions (``labels``) and WNUT-17 (``tags``), with the settings and the peer of the benchmarks of these
names: the same rows, epochs, batch size and weight decay, one thread. Each arm has 16 rates, evenly apart on a
logarithmic scale, and one seed. Ours is one call, which builds a cache of its own; the peer, ``peft`` LoRA under a
stock Trainer, is 16 processes. Seconds are those of training and of the trunk; evaluations after each epoch are left
out on both sides. The score is the best one of the sweep. Finished runs are skipped.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks import labels, tags
from benchmarks.jobs import Record, alone, arguments, by_depth, ensure_all, read

MODULE = "benchmarks.sweeps"
TASKS: dict[str, tuple[ModuleType, str]] = {"labels": (labels, labels.METRIC), "tags": (tags, "f1")}
SHOWN = {"labels": "GoEmotions, micro F1", "tags": "WNUT-17, F1 of entities"}
PEER = "peft lora"
RANGES = {
    "5/6: full": (5e-5, 2e-3),
    "2/3: full": (5e-5, 2e-3),
    "1/2: full": (5e-5, 2e-3),
    "1/2: lora(rank=8)": (3e-4, 3e-2),
    PEER: (3e-4, 3e-2),
}
TRIALS, ROWS = 16, 1000


def main() -> None:
    """Run what is missing."""
    args = arguments(__doc__, "sweeps.jsonl", ROWS, tuple(RANGES), precision=True)
    if args.one:
        print(json.dumps(run_one(json.loads(args.one), args.model, args.data)))
        return
    done = read(args.out)
    for task in args.tasks.split(",") if args.tasks else TASKS:
        job = {"base": Path(args.model).name, "task": task, "rows": args.rows, "precision": args.precision, "seed": 0}
        for arm in args.arms:
            rates = rates_of(arm)
            own = [{"rates": rates}] if arm != PEER else [{"lr": rate} for rate in rates]
            ensure_all(MODULE, [{**job, "arm": arm, **one} for one in own], done, args)


def rates_of(arm: str) -> list[float]:
    """The rates of an arm, evenly apart on a logarithmic scale."""
    low, high = RANGES[arm]
    return [float(f"{low * (high / low) ** (at / (TRIALS - 1)):.3g}") for at in range(TRIALS)]


def run_one(job: Record, model: str, data: str) -> Record:
    """A whole sweep of ours, or one run of the peer."""
    import torch

    torch.set_num_threads(1)
    module, metric = TASKS[job["task"]]
    with tempfile.TemporaryDirectory() as out:
        if job["arm"] == PEER:
            return {**job, **module.run_peer(job, module.settings_of(job, model, data, out))}
        settings = module.settings_of({**job, "lr": job["rates"][0]}, model, data, out)
        return {**job, **_swept(settings, job["rates"], metric)}


def _swept(settings: dict[str, Any], rates: list[float], metric: str) -> Record:
    import stratatune as st
    from benchmarks.jobs import device
    from benchmarks.records import WEIGHT_DECAY
    from stratatune.progress import Reporter

    given = {**settings, "device": device().type, "weight_decay": WEIGHT_DECAY, "rates": rates}
    given |= {"plans": given.pop("plan")}
    given.pop("lr")
    results = st.train_many(**given, reporter=Reporter(quiet=True))
    scores = [result.best[metric] for result in results]
    return {
        "score": max(scores),
        "scores": scores,
        "trainable": results[0].trainable,
        "seconds": sum(result.seconds["cache"] + result.seconds["train"] for result in results),
        "memory": max(result.peak_memory_bytes for result in results),
    }


def page(records: list[Record]) -> str:
    """docs/results/sweeps.md."""
    lines = [
        "# Sweeps: 16 rates on one cache compared with 16 runs",
        "",
        "Written by `python -m benchmarks.tables`; measured by `python -m benchmarks.sweeps` (see its docstring).",
        f"Each arm tries {TRIALS} rates with one seed on one CPU thread. Score is the best of the sweep, in points.",
        "Seconds are processor time of training and the trunk, without evaluations; for the peer, the sum over its",
        "runs. Memory is the peak of a process. `By depth` is the speed-up that depth alone allows: the operations of",
        "LoRA on every block divided by those of the plan, for all epochs of all rates, including the single trunk",
        "pass and excluding padding. The goal is a tenth of the peer's seconds.",
    ]
    for base, task, rows in dict.fromkeys((run["base"], run["task"], run["rows"]) for run in records):
        here = [run for run in records if (run["base"], run["task"], run["rows"]) == (base, task, rows)]
        lines += ["", f"## {base}: {SHOWN[task]}", "", f"{here[0]['precision']}, {rows:,} training rows.", ""]
        lines += [
            "| arm | trained | best rate | score | seconds | against peft | by depth | peak MB |",
            "|---" * 8 + "|",
        ]
        peer = [run for run in here if run["arm"] == PEER]
        whole = len(peer) == TRIALS and len(alone(peer)) == TRIALS
        theirs = sum(run["seconds"] * run.get("share", 1.0) for run in peer) if whole else None
        for arm in RANGES:
            if own := [run for run in here if run["arm"] == arm]:
                lines.append(_line(arm, own, theirs))
    return "\n".join(lines) + "\n"


def _line(arm: str, own: list[Record], theirs: float | None) -> str:
    best = max(own, key=lambda run: run["score"])
    rate = best["lr"] if arm == PEER else best["rates"][best["scores"].index(best["score"])]
    seconds = sum(run["seconds"] * run.get("share", 1.0) for run in own)
    ratio = f"{theirs / seconds:.1f}x" if theirs else "-"
    name = arm if arm == PEER else f"`{arm}`"
    memory = max(run["memory"] for run in own) / 1e6
    shown = (name, f"{best['trainable']:,}", f"{rate:g}", f"{100 * best['score']:.1f}", f"{seconds:.0f}", ratio)
    depth = by_depth(best["base"], arm, TRIALS * TASKS[best["task"]][0].EPOCHS)
    return f"| {' | '.join(shown)} | {depth} | {memory:.0f} |"


if __name__ == "__main__":
    main()
