"""LoRA from several depths of a real decoder, of its middle, over a packed top, on a cut model; and stock peft.

    python -m benchmarks.decoder_depths --model GEMMA3_270M --data FOLDER [--tasks trec,sst2,e2e] [--seeds 0,1,2]
        [--rows N] [--arms ARM,ARM] [--out FILE]
    python -m benchmarks.tables decoder_depths benchmarks/results/decoder_depths.jsonl docs/results/decoder-depths.md

FOLDER holds sentence/TREC, glue/SST-2 and e2e. TREC and SST-2 are classes, E2E is a sentence after its slots (trained
on the validation file, scored on 200 rows of the test file, evenly drawn), by its loss a token. LoRA of rank 8 on q and
v, bf16, one thread, the same rate, tokens, batch and epochs for all; peft's model is loaded in bf16, our trunk is
streamed; "nf4" is a top whose frozen linears are in 4 bits. Each run is a separate process and pays for its trunk. One
JSON line a run: finished ones are skipped, so the script can be stopped and started. ``--rows`` takes fewer training
rows than the task's own, ``--arms`` some arms.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.jobs import Record, alone, arguments, difference, ensure_all, read, row, show_rows, write_rows
from benchmarks.stock_decoders import BATCH, run_peft
from stratatune.plan import Plan, shape_of
from stratatune.studies.statistics import compare

MODULE = "benchmarks.decoder_depths"
DEPTHS = ("1/3", "1/2", "2/3", "5/6")
"""Frozen depths; of 18 blocks: 6, 9, 12, 15."""
CUT = "1/3: lora | cut(2/3)"
NF4 = " in nf4"
PACKED = f"2/3: lora{NF4}"
PLANS = (*(f"{depth}: lora" for depth in DEPTHS), "mid", PACKED, CUT)
ARMS = ("peft", *PLANS)
RATE, EPOCHS = 1e-3, 2
ROWS = {"trec": 2000, "sst2": 10_000, "e2e": 1000}
_EVALUATED = 200
PICTURE = "../pictures/decoder-depths.svg"
"""The picture's path relative to the page."""


def main() -> None:
    """Run the missing runs, then print the rows."""
    args = arguments(__doc__, "decoder_depths.jsonl", rows=0, arms=ARMS)
    if args.one:
        print(json.dumps(run_one(json.loads(args.one), args.model, args.data)))
        return
    done = read(args.out)
    seeds = [int(seed) for seed in args.seeds.split(",")] if args.seeds else (0, 1, 2)
    tasks = args.tasks.split(",") if args.tasks else tuple(ROWS)
    jobs = [
        {"arm": arm, "task": task, "rows": min(args.rows or ROWS[task], ROWS[task]), "seed": seed}
        for seed in seeds
        for task in tasks
        for arm in args.arms
        if not (arm == CUT and task == "e2e")  # a model that is cut has no LM head
    ]
    ensure_all(MODULE, jobs, done, args)
    for line in table(done):
        print(line)
    rows = summary(done)
    show_rows(rows)
    write_rows(rows, 1, args.out.parent)  # a try elsewhere leaves the tables of the repository alone
    draw(done, args.out.with_suffix(".svg"))


def run_one(job: Record, model: str, data: str) -> Record:
    """One run of one arm."""
    import torch

    torch.set_num_threads(1)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        settings = _settings(job, model, Path(data), Path(place))
        found = run_peft({**settings, "plan": "lora"}) if job["arm"] == "peft" else _ours(settings)
    plan = job["arm"].removesuffix(NF4)
    depth = 0 if plan == "peft" else Plan.parse(plan).resolve(shape_of(model)).frozen_depth
    return {**job, **found, "epochs": EPOCHS, "depth": depth, "wall": time.perf_counter() - started}


def _settings(job: Record, model: str, data: Path, place: Path) -> dict[str, Any]:
    own = {"model": model, "plan": job["arm"].removesuffix(NF4), "seed": job["seed"], "out": str(place / "run")}
    own |= {"pack": "nf4"} if job["arm"].endswith(NF4) else {}
    own |= {"epochs": EPOCHS, "lr": RATE, "batch_size": BATCH, "precision": "bf16", "weight_decay": 0.01}
    own |= {"train_samples": job["rows"], "cache": str(place / "cache")}
    if job["task"] == "e2e":
        for name, file, count in (("train", "valid", None), ("eval", "test", _EVALUATED)):
            _write_pairs(data / "e2e" / f"{file}.txt", place / f"{name}.csv", count)
            own[name] = str(place / f"{name}.csv")
        return own | {"objective": "completion", "text": ["slots"], "label": "sentence"}
    folder = {"trec": "sentence/TREC", "sst2": "glue/SST-2"}[job["task"]]
    own |= {"objective": "classification", "task": job["task"], "train": str(data / folder)}
    return own | ({"eval_split": "test"} if job["task"] == "trec" else {})


def _write_pairs(source: Path, target: Path, count: int | None) -> None:
    """Write lines of ``slots||sentence`` as a table, with as many as requested, evenly drawn."""
    lines = [line for line in source.read_text().splitlines() if "||" in line]
    step = max(1, len(lines) // count) if count else 1
    with target.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("slots", "sentence"))
        writer.writerows([part.strip() for part in line.split("||")] for line in lines[::step][:count])


def _ours(settings: dict[str, Any]) -> Record:
    from stratatune.progress import Reporter
    from stratatune.training.config import validate
    from stratatune.training.run import train

    result = train(validate(settings | {"trunk": "streamed"}), reporter=Reporter(quiet=True))
    run = Path(settings["out"])
    metric = "loss" if settings["objective"] == "completion" else "accuracy"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    memory = result.peak_memory_bytes  # before anything is loaded once more
    return {
        "metric": metric,
        "score": result.best[metric],
        "history": [line[f"eval_{metric}"] for line in lines],
        "trainable": result.trainable,
        "seconds": result.seconds["cache"] + result.seconds["train"],
        "trunk_seconds": result.seconds["cache"],
        "predict_seconds": _scoring(run, settings),
        "memory": memory,
    }


def _scoring(run: Path, settings: dict[str, Any]) -> float:
    """The seconds of scoring the evaluation data by the saved model."""
    from stratatune.training.predict import Predictor

    source = settings.get("eval") or settings["train"]
    predictor = Predictor(run)
    started = time.perf_counter()
    predictor.score(source, split=None if "eval" in settings else settings.get("eval_split") or "dev")
    return time.perf_counter() - started


def page(records: list[Record]) -> str:
    """Make docs/results/decoder-depths.md."""
    lines = [
        "# LoRA by depth on a decoder",
        "",
        "Written by `python -m benchmarks.tables`; measured by `python -m benchmarks.decoder_depths` (see its",
        f"docstring). All runs take {EPOCHS} epochs at rate {RATE:g} in batches of {BATCH}, on one CPU thread in bf16.",
        "Score is that of the better epoch, accuracy in percent, or the loss per token for E2E (less is better): mean",
        "and standard deviation over seeds. `Less peft` is the mean difference over the same seeds, with its 95 %",
        "interval. `An epoch` is the speed-up over peft without the trunk pass, and `the whole` with it. Memory is the",
        "peak of the process. `Predicting` is the time for the evaluation data. [Chat and completion](chat.md) has E2E",
        "with the same depths, compared with TRL's trainer, with a rate searched for each arm.",
        "",
        f"![Scores by the frozen depth, one picture per task, compared with peft's]({PICTURE})",
        "",
        *table(records),
    ]
    return "\n".join(lines) + "\n"


def table(records: list[Record]) -> list[str]:
    """The runs as a Markdown table."""
    heads = ("task", "rows", "plan", "depth", "score", "less peft", "seeds")
    heads += ("an epoch", "the whole", "peak MB", "of peft's", "predicting")
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for rows in _tasks(records):
        for arm in ARMS:
            if mine := [run for run in rows if run["arm"] == arm]:
                lines.append(f"| {' | '.join(_cells(mine, [run for run in rows if run['arm'] == 'peft']))} |")
    return lines


def _tasks(records: list[Record]) -> list[list[Record]]:
    """The runs of each task and number of rows."""
    keys = dict.fromkeys((run["task"], run["rows"]) for run in records)
    return [[run for run in records if (run["task"], run["rows"]) == key] for key in keys]


def _cells(mine: list[Record], peft: list[Record]) -> list[str]:
    first, own = mine[0], mine[0]["arm"] == "peft"
    scores, less = _points(mine), difference(compare(_by_seed(mine), _by_seed(peft))) if peft and not own else ""
    return [
        first["task"], f"{first['rows']:,}", first["arm"].replace("|", "\\|"), str(first["depth"]), _spread(scores),
        less, str(len(mine)), _times(peft, mine, _epoch), _times(peft, mine, _whole),
        f"{_mean(mine, 'memory') / 1e6:.0f}", f"{_mean(mine, 'memory') / _mean(peft, 'memory'):.2f}" if peft else "-",
        f"{_mean(alone(mine), 'predict_seconds'):.1f} s" if alone(mine) else "-",
    ]  # fmt: skip


def _points(runs: list[Record]) -> list[float]:
    return [run["score"] if run["metric"] == "loss" else 100 * run["score"] for run in runs]


def _by_seed(runs: list[Record]) -> dict[tuple, float]:
    return {(run["seed"],): score for run, score in zip(runs, _points(runs), strict=True)}


def _mean(runs: list[Record], name: str) -> float:
    return mean(run[name] for run in runs)


def _epoch(run: Record) -> float:
    return (run["seconds"] - run.get("trunk_seconds", 0.0)) / run["epochs"]


def _whole(run: Record) -> float:
    return run["seconds"]


def _times(peft: list[Record], mine: list[Record], seconds: Callable[[Record], float]) -> str:
    """The speed as a multiple of peft's, of the runs that had the machine for themselves."""
    theirs, own = alone(peft), alone(mine)
    return f"{mean(map(seconds, theirs)) / mean(map(seconds, own)):.1f}x" if theirs and own else "-"


def _spread(scores: list[float]) -> str:
    digits = 3 if max(scores) < 20 else 1
    return f"{mean(scores):.{digits}f}" + (f" ± {stdev(scores):.{digits}f}" if len(scores) > 1 else "")


def summary(done: list[Record]) -> list[Record]:
    """One row a task: each plan's score, epoch and memory."""
    rows = []
    for runs in _tasks(done):
        peft = [run for run in runs if run["arm"] == "peft"]
        said = []
        for arm in ARMS:
            if mine := [run for run in runs if run["arm"] == arm]:
                words = f"{arm} {_spread(_points(mine))}"
                if peft and arm != "peft":
                    share = _mean(mine, "memory") / _mean(peft, "memory")
                    words += f" (an epoch {_times(peft, mine, _epoch)}, {share:.2f} of its memory)"
                said.append(words)
        what = f"LoRA by depth on a decoder, {runs[0]['rows']:,} rows"
        goal = "peft's noise, epoch >= 4x, memory <= 1/3"
        rows.append(row(f"H {runs[0]['task']}", what, goal, "-", "; ".join(said), MODULE))
    return rows


def draw(done: list[Record], path: Path) -> None:
    """Draw scores by frozen depth, a picture a task, with peft's as a dashed line."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    tasks = _tasks(done)
    figure, axes = pyplot.subplots(1, max(1, len(tasks)), figsize=(4 * max(1, len(tasks)), 3.5), squeeze=False)
    for place, runs in zip(axes[0], tasks, strict=False):
        by_depth: dict[int, list[Record]] = {}
        for run in runs:
            if run["arm"] in PLANS[: len(DEPTHS)]:
                by_depth.setdefault(run["depth"], []).append(run)
        scores = {depth: _points(by_depth[depth]) for depth in sorted(by_depth)}
        errors = [stdev(one) if len(one) > 1 else 0.0 for one in scores.values()]
        place.errorbar(list(scores), [mean(one) for one in scores.values()], errors, marker="o", label="LoRA above")
        for marker, arm in (("s", "mid"), ("x", PACKED), ("^", CUT)):
            if other := [run for run in runs if run["arm"] == arm]:
                place.plot(other[0]["depth"], mean(_points(other)), marker, label=arm)
        if peft := [run for run in runs if run["arm"] == "peft"]:
            place.axhline(mean(_points(peft)), linestyle="--", color="grey", label="peft LoRA on all blocks")
        place.set(xlabel="frozen depth", ylabel=runs[0]["metric"], title=f"{runs[0]['task']}, {runs[0]['rows']:,} rows")
        place.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path)
    print(path, file=sys.stderr)


if __name__ == "__main__":
    main()
