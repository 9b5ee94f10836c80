"""Where a new output layer starts from: ``head_start: drawn`` and ``fitted``, on real weights and data.

    python -m benchmarks.starts --model MODEL --data FOLDER [--tasks trec-500,sst2] [--seeds 0,1,2]
    python -m benchmarks.tables starts benchmarks/results/starts.jsonl docs/results/starts.md

``d: full`` of the topmost blocks at the rate that ``auto`` gives it, batches of 32, bf16 where the processor has it,
the same rows, epochs and order of batches for both. Score is that of dev (TREC: test) after each epoch, the task's own
metric, micro F1 for emotions, F1 of entities for tags. Each run is a process of its own; finished runs are skipped.
"""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.accuracy import FOLDERS, SPLITS
from benchmarks.jobs import Record, arguments, difference, ensure, read
from benchmarks.labels import evenly, read_rows, write_rows
from stratatune.data.tasks import TASKS
from stratatune.studies.statistics import compare

MODULE = "benchmarks.starts"
STARTS = ("drawn", "fitted")
ROWS = {
    "trec-500": 500, "trec": 4952, "sst2": 2000, "mrpc": 2000, "cola": 2000, "rte": 2000, "stsb": 2000,
    "emotions": 3000, "tags": 1000,
}  # fmt: skip
EPOCHS, EVALUATED = 3, 1000
METRICS = {"emotions": "micro_f1", "tags": "f1"}
WNUT = {"train": "wnut17train.conll", "eval": "emerging.dev.conll"}


def main() -> None:
    """Run what is missing."""
    args = arguments(__doc__, "starts.jsonl", arms=STARTS)
    if args.one:
        print(json.dumps(run_one(json.loads(args.one), args.model, args.data)))
        return
    done = read(args.out)
    for seed in [int(seed) for seed in args.seeds.split(",")] if args.seeds else (0, 1, 2):
        for task in args.tasks.split(",") if args.tasks else ROWS:
            for start in args.arms:
                job = {"base": Path(args.model).name, "task": task, "rows": ROWS[task], "seed": seed, "start": start}
                ensure(MODULE, job, done, args)


def run_one(job: Record, model: str, data: str) -> Record:
    """One run from one start."""
    import torch

    from stratatune.plan import shape_of
    from stratatune.progress import Reporter
    from stratatune.studies.suggest.candidates import proposals
    from stratatune.training.config import validate
    from stratatune.training.run import train

    torch.set_num_threads(1)
    shape = shape_of(model)
    first = proposals(shape, 2, words=False, deeper=False)[0]
    with tempfile.TemporaryDirectory() as out:
        given = {"model": model, "plan": first.plan, "lr": first.lr, "seed": job["seed"], "epochs": EPOCHS}
        given |= {"head_start": job["start"], "out": f"{out}/run", "cache": f"{out}/cache"}
        config = validate({**given, **_data(job, Path(data), Path(out))})
        result = train(config, reporter=Reporter(quiet=True))
        lines = [json.loads(line) for line in (Path(config.out) / "metrics.jsonl").read_text().splitlines()]
    history = [line[f"eval_{_metric(job['task'])}"] for line in lines]
    losses = [line["train_loss"] for line in lines]
    seconds = result.seconds["cache"] + result.seconds["train"]
    return {**job, "plan": first.plan, "history": history, "losses": losses, "seconds": seconds}


def _metric(task: str) -> str:
    name = task.partition("-")[0]
    return METRICS.get(name) or TASKS[name].metric


def _data(job: Record, data: Path, out: Path) -> dict[str, Any]:
    """The settings that say what is learnt."""
    name, rows, seed = job["task"].partition("-")[0], job["rows"], job["seed"]
    if name == "tags":
        files = {part: str(data / "wnut17" / file) for part, file in WNUT.items()}
        return {**files, "objective": "tags", "train_samples": rows, "max_length": 128}
    if name == "emotions":
        train, dev = (read_rows(data, part) for part in ("train", "dev"))
        drawn = random.Random(seed).sample(train, rows)
        files = {
            "train": write_rows(out / "train.jsonl", drawn),
            "eval": write_rows(out / "dev.jsonl", evenly(dev, EVALUATED)),
        }
        return {**files, "objective": "multilabel(threshold=tuned)", "metric": "micro_f1", "max_length": 40}
    given = {"task": name, "train": str(data / FOLDERS[name]), "train_samples": rows}
    given |= {"eval_split": SPLITS[name]} if name in SPLITS else {}
    return {**given, "objective": "regression" if name == "stsb" else "classification"}


def page(records: list[Record]) -> str:
    """docs/results/starts.md: after each epoch the score of both starts, and the difference over the same seeds."""
    lines = [
        "# How a new output layer is initialised",
        "",
        "Written by `python -m benchmarks.tables`; measured by `python -m benchmarks.starts` (see its docstring).",
        "Scores are means over the seeds, in points. The difference is `fitted` minus `drawn`, with its 95 % interval.",
        "",
        "| model | task | rows | seeds | epoch | drawn | fitted | difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for base, task in dict.fromkeys((run["base"], run["task"]) for run in records):
        here = [run for run in records if (run["base"], run["task"]) == (base, task)]
        by = {start: {run["seed"]: run for run in here if run["start"] == start} for start in STARTS}
        seeds = sorted(by["drawn"].keys() & by["fitted"].keys())
        for epoch in range(EPOCHS if seeds else 0):
            scores = [{(seed,): 100 * by[start][seed]["history"][epoch] for seed in seeds} for start in STARTS]
            means = [f"{sum(one.values()) / len(seeds):.1f}" for one in scores]
            cells = [base, task.partition("-")[0], f"{here[0]['rows']:,}", f"{len(seeds)}", f"{epoch + 1}", *means]
            lines.append(f"| {' | '.join([*cells, difference(compare(scores[1], scores[0]))])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
