"""Vectors and rank on real data, one short run each: STS-B, QNLI as a search (both sides, and queries alone), MRPC.

    python -m benchmarks.search --model minilm-mlm --data FOLDER [--seeds 0]

QNLI: a question and the sentence that answers it are a pair; the sentences of the evaluation part are the documents.
MRPC: two sentences and whether they say the same. The untuned base is epoch 0; a new output layer (MRPC) has none.
"""

from __future__ import annotations

import csv
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.jobs import Record, arguments, ensure, read

JOBS: dict[str, dict[str, Any]] = {
    "sts-b": {"objective": "vectors", "train_samples": 3000, "lr": 5e-5},
    "qnli": {"objective": "vectors", "lr": 5e-5, "batch_size": 128},
    "qnli, queries alone": {"objective": "vectors(query_only=true)", "lr": 5e-5, "batch_size": 128},
    "qnli, mined": {"objective": "vectors(mine=1)", "lr": 5e-5, "batch_size": 128},
    "mrpc": {"objective": "rank", "train_samples": 2000, "lr": 1e-4},
}
PAIRS = {"train": 2000, "dev": 1000}


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def _data(name: str, data: Path, folder: Path) -> dict[str, str]:
    """The files of a job, in the columns that the objectives read."""
    task = name.partition(",")[0]
    if task == "sts-b":
        return {"task": "stsb", "train": str(data / "glue" / "STS-B")}
    found: dict[str, str] = {}
    for part, key in (("train", "train"), ("dev", "eval")):
        rows: list[dict[str, Any]]
        if task == "qnli":
            every = (one for one in _rows(data / "glue" / "QNLI" / f"{part}.tsv") if one["label"] == "entailment")
            rows = [{"question": one["question"], "answer": one["sentence"]} for one in every][: PAIRS[part]]
        else:
            rows = [
                {"sentence1": one["#1 String"], "sentence2": one["#2 String"], "label": int(one["Quality"])}
                for one in _rows(data / "glue" / "MRPC" / f"{part}.tsv")
            ]
        path = folder / f"{part}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found[key] = str(path)
    return found


def run(job: Record, model: str, data: str) -> Record:
    """One run: its scores, those of the untuned base, and its seconds."""
    from stratatune.progress import Reporter
    from stratatune.training.config import validate
    from stratatune.training.run import train

    with tempfile.TemporaryDirectory() as folder:
        given = {**JOBS[job["name"]], **_data(job["name"], Path(data), Path(folder))}
        given |= {"model": model, "plan": "4: full", "epochs": 2, "max_length": 128, "cache": "ram", "device": "cpu"}
        result = train(validate({**given, "seed": job["seed"], "out": f"{folder}/run"}), reporter=Reporter(quiet=True))
        first = json.loads((Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()[0])
    untuned = {name.removeprefix("eval_"): value for name, value in first.items() if name.startswith("eval_")}
    scores = {name: round(value, 4) for name, value in result.best.items()}
    base = {name: round(value, 4) for name, value in untuned.items() if name in scores} if first["epoch"] == 0 else {}
    return {**job, "scores": scores, "untuned": base, "best_epoch": result.best_epoch, "seconds": result.seconds}


def main() -> None:
    """Run what is not done yet, a process each."""
    args = arguments(__doc__, "search.jsonl")
    if args.one:
        print(json.dumps(run(json.loads(args.one), args.model, args.data)))
        return
    done = read(args.out)
    for seed in map(int, (args.seeds or "0").split(",")):
        for name in JOBS if args.tasks is None else args.tasks.split(";"):
            ensure("benchmarks.search", {"name": name, "seed": seed}, done, args)


if __name__ == "__main__":
    main()
