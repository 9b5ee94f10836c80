"""LoRA from several depths of a real decoder, of its middle alone, and of one that is cut, beside stock peft.

    python -m benchmarks.decoder_depths --model GEMMA3_270M --data GLUE_AND_TREC_FOLDER [--tasks trec] [--seeds 0,1,2]
        [--samples 2000]

LoRA of rank 8 on q and v, bf16, one thread, the same rate, rows and epochs for all; the baseline is stock peft on every
block under a stock Trainer. Each run is a process of its own and pays for its trunk. One JSON line a run: what is done
is skipped.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean, stdev

from benchmarks.accuracy import run_one
from benchmarks.jobs import Record, arguments, ensure, read, row, show_rows, write_rows
from stratatune.plan import Plan, shape_of

MODULE = "benchmarks.decoder_depths"
DEPTHS = ("1/3", "1/2", "2/3", "5/6")
PLANS = (*(f"{depth}: lora" for depth in DEPTHS), "mid", "1/3: lora | cut(2/3)")
RATE, EPOCHS, SAMPLES = 1e-3, 2, 2000


def main() -> None:
    """Run what is missing, then say the rows."""
    args = arguments(__doc__, "decoder_depths.jsonl")
    if args.one:
        print(json.dumps(run_one(json.loads(args.one), args.model, args.data)))
        return
    done, blocks = read(args.out), shape_of(args.model).blocks
    print(f"{blocks} blocks", file=sys.stderr)
    seeds = [int(seed) for seed in args.seeds.split(",")] if args.seeds else (0, 1, 2)
    tasks = args.tasks.split(",") if args.tasks else ("trec", "sst2")
    for seed in seeds:
        for task in tasks:
            for arm in (*PLANS, "peft"):
                job = {"arm": arm, "task": task, "lr": RATE, "seed": seed, "epochs": EPOCHS, "samples": SAMPLES}
                ensure(MODULE, job | ({} if arm == "peft" else {"predict": True}), done, args)
    rows = [line for task in tasks for line in summary([run for run in done if run["task"] == task], args.model)]
    show_rows(rows)
    write_rows(rows, 1)
    draw(done, args.model, args.out.with_suffix(".svg"))


def draw(done: list[Record], model: str, path: Path) -> None:
    """Scores by frozen depth, a line a task, with peft's as a dashed one."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for number, task in enumerate(dict.fromkeys(run["task"] for run in done)):
        colour, own = f"C{number}", [run for run in done if run["task"] == task]
        places = {arm: Plan.parse(arm).resolve(shape_of(model)).frozen_depth for arm in PLANS[: len(DEPTHS)]}
        found = {depth: [100 * run["score"] for run in own if run["arm"] == arm] for arm, depth in places.items()}
        found = {depth: scores for depth, scores in found.items() if scores}
        spread = [stdev(scores) if len(scores) > 1 else 0.0 for scores in found.values()]
        axes.errorbar(list(found), [mean(s) for s in found.values()], spread, color=colour, marker="o", label=task)
        if stock := [100 * run["score"] for run in own if run["arm"] == "peft"]:
            axes.axhline(mean(stock), color=colour, linestyle="--", label=f"{task}, peft LoRA on all blocks")
    axes.set(xlabel="frozen depth", ylabel="score")
    axes.legend()
    figure.savefig(path)


def summary(done: list[Record], model: str) -> list[Record]:
    """One row a plan: its scores, and time and memory beside peft's."""
    theirs = [run for run in done if run["arm"] == "peft"]
    rows = []
    for arm in dict.fromkeys(run["arm"] for run in done):
        runs = [run for run in done if run["arm"] == arm]
        said = f"{_scores(runs)} {runs[0]['metric']}, {mean(run['memory'] for run in runs) / 1e9:.2f} GB"
        if arm == "peft" or not theirs:
            said += f", {mean(run['seconds'] for run in runs):.0f} s"
        else:
            depth = Plan.parse(arm).resolve(shape_of(model)).frozen_depth
            tops = mean((run["seconds"] - run["trunk_seconds"]) / run["epochs"] for run in runs)
            stock = mean(run["seconds"] / run["epochs"] for run in theirs)
            whole = mean(run["seconds"] for run in theirs) / mean(run["seconds"] for run in runs)
            said += f", frozen depth {depth}, an epoch {stock / tops:.1f}x peft's speed, the whole run {whole:.1f}x, "
            said += f"predicting {mean(run['predict_seconds'] for run in runs):.1f} s"
        rows.append(
            row(f"H {done[0]['task']} {arm}", "LoRA by depth on a decoder", "peft - 0.5 points", "-", said, MODULE)
        )
    return rows


def _scores(runs: list[Record]) -> str:
    scores = [100 * run["score"] for run in runs]
    return f"{mean(scores):.1f}" + (f" ± {stdev(scores):.1f}" if len(scores) > 1 else "")


if __name__ == "__main__":
    main()
