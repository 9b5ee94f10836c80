"""Compare plans with a plain ``peft`` + ``transformers.Trainer`` run on real weights and data: score, seconds, memory.

    python -m benchmarks.accuracy --model MODEL --data GLUE_AND_TREC_FOLDER --out results.jsonl

Every run is a separate process (so that its peak memory is its own), one thread, bf16, the same epochs and
batch size. Finished runs are skipped, so the script can be stopped and started. Each plan's rate is the best of a
small search with seed 100 and one epoch of TREC and of CoLA; the table's seeds are 0, 1, 2.
"""

from __future__ import annotations

import json
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.jobs import Record, arguments, ensure, read, timed

MODULE = "benchmarks.accuracy"

TASKS = ("trec", "cola", "sst2", "mrpc", "stsb", "rte")
PLANS = ("bft-adapter", "bft", "spafit-1-2-II", "upper-half", "lora", "full")
RATES = {
    "bft-adapter": (1e-3, 3e-3),
    "bft": (3e-4, 1e-3),
    "spafit-1-2-II": (3e-4, 1e-3),
    "upper-half": (1e-4, 3e-4, 1e-3),
    "lora": (1e-3, 3e-3),
    "peft": (1e-3, 3e-3),
    "full": (5e-5, 2e-4),
}
FOLDERS = {
    "trec": "sentence/TREC",
    "rte": "glue/RTE",
    "qnli": "glue/QNLI",
    "mrpc": "glue/MRPC",
    "cola": "glue/CoLA",
    "stsb": "glue/STS-B",
    "sst2": "glue/SST-2",
}
SPLITS = {"trec": "test"}
SAMPLES = {"sst2": 10_000}
EPOCHS = 3
SEARCH_TASKS, SEARCH_SEED, SEEDS = ("trec", "cola"), 100, (0, 1, 2)


def main() -> None:
    """Search the rates, then run the table."""
    args = arguments(__doc__, "accuracy.jsonl")
    if args.one:
        print(json.dumps(run_one(json.loads(args.one), args.model, args.data)))
        return
    done = read(args.out)
    rates = {arm: search(arm, RATES[arm], done, args) for arm in (*PLANS, "peft")}
    for task in args.tasks.split(",") if args.tasks else TASKS:
        for seed in [int(seed) for seed in args.seeds.split(",")] if args.seeds else SEEDS:
            for arm in (*PLANS, "peft"):
                ensure(MODULE, {"arm": arm, "task": task, "lr": rates[arm], "seed": seed}, done, args)


def search(arm: str, rates: Sequence[float], done: list[Record], args: Namespace, module: str = MODULE) -> float:
    """The best of ``rates``; runs the missing ones."""
    for task in SEARCH_TASKS:
        for rate in rates:
            ensure(module, {"arm": arm, "task": task, "lr": rate, "seed": SEARCH_SEED}, done, args)
    return best_rate(arm, rates, done)


def best_rate(arm: str, rates: Sequence[float], done: list[Record]) -> float:
    """The rate with the best mean score over the search tasks."""

    def score(rate: float) -> float:
        return mean(run["score"] for run in done if (run["arm"], run["lr"], run["seed"]) == (arm, rate, SEARCH_SEED))

    return max(rates, key=score)


def run_one(job: dict[str, Any], model: str, data: str) -> dict[str, Any]:
    """One run of one arm."""
    import torch

    epochs = job.get("epochs") or (1 if job["seed"] == SEARCH_SEED else EPOCHS)
    torch.set_num_threads(1)
    source = str(Path(data) / FOLDERS[job["task"]])
    started = time.perf_counter()
    arm = _peft if job["arm"] == "peft" else _ours
    record = arm(job, model, source, epochs)
    return {**job, **record, "epochs": epochs, "wall": time.perf_counter() - started}


def _settings(job: dict[str, Any], model: str, source: str, epochs: int, out: str) -> dict[str, Any]:
    return {
        "model": model,
        "plan": job["arm"],
        "task": job["task"],
        "train": source,
        "eval_split": SPLITS.get(job["task"]),
        "train_samples": job.get("samples") or SAMPLES.get(job["task"]),
        "out": out,
        "epochs": epochs,
        "lr": job["lr"],
        "seed": job["seed"],
        "precision": "bf16",
        "weight_decay": 0.01,
    }


def _ours(job: dict[str, Any], model: str, source: str, epochs: int) -> dict[str, Any]:
    from stratatune.progress import Reporter
    from stratatune.training.config import validate
    from stratatune.training.run import train

    with tempfile.TemporaryDirectory() as out:
        cache = {"cache": str(Path(out) / "cache")}  # of its own: each run pays for its trunk
        settings = _settings(job, model, source, epochs, str(Path(out) / "run")) | cache
        result = train(validate({k: v for k, v in settings.items() if v is not None}), reporter=Reporter(quiet=True))
        lines = (Path(out) / "run" / "metrics.jsonl").read_text().splitlines()
        predicting = _predicting(Path(out) / "run", source, job) if job.get("predict") else {}
    metric = _metric(job["task"])
    return {
        "metric": metric,
        "score": result.best[metric],
        "history": [json.loads(line)[f"eval_{metric}"] for line in lines],
        "trainable": result.trainable,
        "seconds": result.seconds["cache"] + result.seconds["train"],
        "trunk_seconds": result.seconds["cache"],
        "memory": result.peak_memory_bytes,
        **predicting,
    }


def _predicting(run: Path, source: str, job: dict[str, Any]) -> dict[str, float]:
    """The seconds of predicting the evaluation data, the least of two."""
    from stratatune.training.predict import Predictor

    predictor, times = Predictor(run), []
    for _ in range(2):
        started = time.perf_counter()
        predictor.predict(source, split=SPLITS.get(job["task"]) or "dev")
        times.append(time.perf_counter() - started)
    return {"predict_seconds": min(times)}


def _metric(task: str) -> str:
    from stratatune.data.tasks import TASKS as TABLE

    return TABLE[task].metric


def _peft(job: dict[str, Any], model: str, source: str, epochs: int) -> dict[str, Any]:
    """Stock peft LoRA (r=8, q and v) under a stock Trainer on the same rows; pooler and classifier train too."""
    import numpy as np
    import torch
    from datasets import Dataset
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments, set_seed

    from stratatune.data.labels import LabelSet
    from stratatune.data.tasks import TASKS as TABLE
    from stratatune.model.backbone import Backbone
    from stratatune.model.base import load_base
    from stratatune.objectives.metrics import class_scores, value_scores
    from stratatune.training.config import validate
    from stratatune.training.prepare import Outline, read_tables
    from stratatune.training.run import peak_memory

    with tempfile.TemporaryDirectory() as out:
        settings = _settings({**job, "arm": "lora"}, model, source, epochs, out)
        config = validate({k: v for k, v in settings.items() if v is not None})
        tables = read_tables(config, {}, Outline(config).kind)
        is_value = job["task"] == "stsb"
        names = None if is_value else LabelSet(TABLE[job["task"]].labels)  # in its order: F1 is of the second class
        set_seed(job["seed"])
        base = load_base(model, "classification", num_labels=len(names or [0]), seed=job["seed"])

        def encoded(table: Any) -> Dataset:
            rows = dict(base.tokenizer(*table.texts, truncation=True, max_length=256))
            labels = [float(y) for y in table.labels] if names is None else names.encode(table.labels).tolist()
            return Dataset.from_dict({**rows, "labels": labels})

        decoder = Backbone(base.model).shape.causal
        lora = LoraConfig(
            task_type=TaskType.SEQ_CLS,
            r=8,
            lora_alpha=16,
            target_modules=["q_proj", "v_proj"] if decoder else ["query", "value"],
            modules_to_save=["score"] if decoder else ["classifier", "pooler"],
        )
        tuned = get_peft_model(base.model, lora)
        metric = _metric(job["task"])

        def measure(output: Any) -> dict[str, float]:
            guess = output.predictions[:, 0] if is_value else output.predictions.argmax(axis=1)
            truth = np.asarray(output.label_ids)
            return class_scores(truth, guess, len(names)) if names else value_scores(truth, guess)

        arguments = TrainingArguments(
            output_dir=out, per_device_train_batch_size=32, per_device_eval_batch_size=64, num_train_epochs=epochs,
            learning_rate=job["lr"], weight_decay=0.01, warmup_steps=0.06, max_grad_norm=1.0, bf16=True, use_cpu=True,
            eval_strategy="epoch", save_strategy="no", logging_strategy="no", report_to=[], seed=job["seed"],
            disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(
            model=tuned, args=arguments, train_dataset=encoded(tables.train), eval_dataset=encoded(tables.eval[0]),
            data_collator=DataCollatorWithPadding(base.tokenizer), compute_metrics=measure,
        )  # fmt: skip
        evaluating = timed(trainer)
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started - sum(evaluating)
    scores = [line[f"eval_{metric}"] for line in trainer.state.log_history if f"eval_{metric}" in line]
    return {
        "metric": metric,
        "score": max(scores),
        "history": scores,
        "trainable": sum(p.numel() for p in tuned.parameters() if p.requires_grad),
        "seconds": seconds,
        "memory": peak_memory(torch.device("cpu")),
    }


if __name__ == "__main__":
    main()
