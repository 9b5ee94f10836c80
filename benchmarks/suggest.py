"""Does `stratatune suggest` choose a depth that a full sweep would have chosen, and at what share of its cost?

    python -m benchmarks.suggest --model MODEL --data GLUE_AND_TREC_FOLDER --out results.jsonl
    python -m benchmarks.tables suggest results.jsonl docs/results/suggest.md

The sweep: bft-adapter at every depth 1..L, 2 epochs, two seeds, bf16, trunk caches on. The suggestion: the same
settings, from raw text to the plan, its default sample. Both are measured in processor seconds of one thread, which a
busy machine changes less than the clock's, with every import made before; and counted in FLOPs. Finished records are
skipped, so the script can be stopped and started.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.accuracy import FOLDERS, SPLITS

ROWS = {"trec": 1000, "sst2": 1000, "mrpc": 600, "cola": 1000}
EPOCHS, SEEDS, RATE = 2, (0, 1), 3e-3


def settings(task: str, seed: int, model: str, data: str, out: Path) -> dict[str, Any]:
    """The settings that the sweep and the suggestion share."""
    given = {"model": model, "task": task, "train": str(Path(data) / FOLDERS[task]), "eval_split": SPLITS.get(task)}
    given |= {"train_samples": ROWS[task], "epochs": EPOCHS, "lr": RATE, "seed": seed, "precision": "bf16"}
    return {key: value for key, value in given.items() if value is not None} | {"out": str(out)}


def sweep_one(task: str, depth: int, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """One trained plan of the sweep. Its caches stay: both seeds share the evaluation data's."""
    from stratatune.progress import Reporter
    from stratatune.training.config import validate
    from stratatune.training.run import train

    with tempfile.TemporaryDirectory() as out:
        given = settings(task, seed, args.model, args.data, Path(out) / "run")
        given |= {"plan": f"bft-adapter@{depth}", "cache": str(args.out.with_suffix(".cache"))}
        wall, busy = time.perf_counter(), time.process_time()
        result = train(validate(given), reporter=Reporter(quiet=True))
    spent = {"cpu": time.process_time() - busy, "wall": time.perf_counter() - wall}
    return {"scores": result.best, "trainable": result.trainable, **spent}


def suggest_one(task: str, args: argparse.Namespace) -> dict[str, Any]:
    """The suggestion for the same settings, from raw text to the plan."""
    from stratatune.progress import Reporter
    from stratatune.studies.suggest.suggest import Asked, suggest
    from stratatune.training.config import validate

    with tempfile.TemporaryDirectory() as out:
        config = validate(settings(task, 0, args.model, args.data, Path(out) / "run"))
        wall, busy = time.perf_counter(), time.process_time()
        found = suggest(config, Asked(), reporter=Reporter(quiet=True))
    spent = {"cpu": time.process_time() - busy, "wall": time.perf_counter() - wall}
    return {"suggestion": {**found.to_json(), "model": Path(args.model).name}, **spent}


def measure(args: argparse.Namespace) -> None:
    """Measure everything that is not measured yet."""
    done = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    _import()
    for job in _jobs(args.blocks):
        if any(all(record.get(key) == value for key, value in job.items()) for record in done):
            continue
        task = job["task"]
        found = (
            suggest_one(task, args) if job["kind"] == "suggest" else sweep_one(task, job["depth"], job["seed"], args)
        )
        done.append({**job, **found})
        with args.out.open("a") as file:
            file.write(json.dumps(done[-1]) + "\n")
        print(job, found.get("scores", ""), f"{found['cpu']:.1f} s", file=sys.stderr, flush=True)


def _jobs(blocks: int) -> list[dict[str, Any]]:
    depths = [{"depth": depth, "seed": seed} for depth in range(1, blocks + 1) for seed in SEEDS]
    sweeps = [{"kind": "sweep", "task": task, **one} for task in ROWS for one in depths]
    return [*({"kind": "suggest", "task": task} for task in ROWS), *sweeps]


def _import() -> None:
    """Import the modules of both sides, so that neither is timed with them."""
    import sklearn.linear_model
    import sklearn.metrics
    import sklearn.model_selection
    import sklearn.pipeline  # noqa: F401
    import transformers.models.bert.modeling_bert  # noqa: F401

    import stratatune.studies.suggest.suggest
    import stratatune.studies.suggest.top_speed
    import stratatune.training.run  # noqa: F401


def main() -> None:
    """Measure what is not measured yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--blocks", type=int, default=6, help="L of the model")
    measure(parser.parse_args())


if __name__ == "__main__":
    main()
