"""Emotions of GoEmotions, several a text: plans from the trunk cache beside stock ``transformers.Trainer``.

    python -m benchmarks.labels --model MODEL --data FOLDER_WITH_goemotions [--seeds 0,1,2] [--rows 5000]
        [--precision bf16] [--arms ARM,ARM]
    python -m benchmarks.tables labels benchmarks/results/labels.jsonl docs/results/labels.md

All arms have the same rows (drawn by the seed), epochs, batch size, weight decay and precision, one thread. The peers
are ``AutoModelForSequenceClassification`` with ``problem_type="multi_label_classification"``: all weights, and ``peft``
LoRA (r = 8, query and value; new layers trained), with dynamic padding and random batches. Every run is a process of
its own. The score is the micro F1 of the best epoch on 1,000 rows of dev, evenly drawn, by one threshold for all labels
that is tuned on them; the same lines compute it for all arms. Each arm's rate is the best of three by one run of
one epoch with seed 100. Finished runs are skipped. Runs of several models may be in one file.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.jobs import BY_DEPTH, SEARCH_SEED, Record, arguments, beside, heads, read, run_table, seeds_of
from benchmarks.records import evenly, lora_settings, run_ours, run_stock, stock_arguments, write_rows

MODULE = "benchmarks.labels"
OURS = ("2/3: full", "1/2: full", "1/2: lora(rank=8)")
PEERS = ("peft lora", "full tuning")
RATES = {
    **dict.fromkeys(("2/3: full", "1/2: full"), (1e-4, 3e-4, 1e-3)),
    **dict.fromkeys(("1/2: lora(rank=8)", "peft lora"), (1e-3, 3e-3, 1e-2)),
    "full tuning": (3e-5, 1e-4, 3e-4),
}
OBJECTIVE, METRIC, FURTHER = "multilabel(threshold=tuned)", "micro_f1", ("macro_f1", "map")
ROWS, EVALUATED, EPOCHS, BATCH_SIZE, MAX_LENGTH = 5000, 1000, 3, 32, 40


def main() -> None:
    """Search the rates, then run the table."""
    args = arguments(__doc__, "labels.jsonl", ROWS, (*OURS, *PEERS), precision=True)
    if args.one:
        print(json.dumps(run_one(json.loads(args.one), args.model, args.data)))
        return
    job = {"base": Path(args.model).name, "rows": args.rows, "precision": args.precision}
    run_table(MODULE, job, {arm: RATES[arm] for arm in args.arms}, read(args.out), args)


def run_one(job: Record, model: str, data: str) -> Record:
    """One run of one arm."""
    import torch

    torch.set_num_threads(1)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        settings = settings_of(job, model, data, out)
        if job["arm"] in PEERS:
            record = run_peer(job, settings)
        else:
            record = run_ours(settings, METRIC, further=FURTHER)
    times = {"wall": time.perf_counter() - started, "cpu": time.process_time()}
    return {**job, **record, "epochs": settings["epochs"], **times}


def settings_of(job: Record, model: str, data: str, out: str) -> dict[str, Any]:
    """The settings of a run; the peers have the same rows, and what ``objective`` makes of them."""
    train, dev = (read_rows(Path(data), part) for part in ("train", "dev"))
    drawn = random.Random(job["seed"]).sample(train, min(job["rows"], len(train)))
    return {
        "model": model,
        "plan": "full" if job["arm"] in PEERS else job["arm"],
        "objective": OBJECTIVE,
        "metric": METRIC,
        "train": write_rows(Path(out) / "train.jsonl", drawn),
        "eval": write_rows(Path(out) / "dev.jsonl", evenly(dev, EVALUATED)),
        "epochs": 1 if job["seed"] == SEARCH_SEED else EPOCHS,
        "lr": job["lr"],
        "seed": job["seed"],
        "batch_size": BATCH_SIZE,
        "max_length": MAX_LENGTH,
        "precision": job["precision"],
        "out": f"{out}/run",
        "cache": f"{out}/cache",
    }


def read_rows(data: Path, part: str) -> list[dict[str, Any]]:
    """Texts with the names of their emotions."""
    folder = data / "goemotions"
    names = (folder / "labels.txt").read_text().split()
    lines = [line.split("\t") for line in (folder / f"{part}.tsv").read_text(encoding="utf-8").splitlines()]
    return [{"text": text, "labels": [names[int(one)] for one in labels.split(",")]} for text, labels, _ in lines]


def run_peer(job: Record, settings: dict[str, Any]) -> Record:
    """A stock Trainer on the same rows; its logits are scored by the objective."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments

    from stratatune.training.config import validate
    from stratatune.training.prepare import Outline, read_tables, settle

    config = validate(settings)
    outline = Outline(config)
    tables = read_tables(config, {}, outline.kind)
    tokenizer = AutoTokenizer.from_pretrained(config.model)
    prepared = settle(outline, tables, tokenizer)
    objective: Any = prepared.objective
    dev = prepared.eval
    assert dev is not None

    def rows(table: Any) -> Dataset:
        sets = objective.targets(table).astype("float32")
        return Dataset.from_dict(
            {**tokenizer(table.texts[0], truncation=True, max_length=MAX_LENGTH), "labels": sets.tolist()}
        )

    def measure(found: Any) -> dict[str, float]:
        chances = objective.predict(torch.from_numpy(found.predictions), None)
        return objective.score(chances, dev, 0.0)[0]

    arguments = stock_arguments(job, config.out, config.epochs, BATCH_SIZE)
    trainer = Trainer(
        model=_stock_model(job, config.model, objective.outputs),
        args=TrainingArguments(**arguments, per_device_eval_batch_size=64),
        train_dataset=rows(tables.train),
        eval_dataset=rows(tables.eval[0]),
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=measure,
    )
    return run_stock(trainer, METRIC, further=FURTHER)


def _stock_model(job: Record, folder: str, labels: int) -> Any:
    import torch
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import AutoModelForSequenceClassification, set_seed

    set_seed(job["seed"])
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=labels, problem_type="multi_label_classification", dtype=torch.float32
    )
    if job["arm"] == "full tuning":
        return model
    # BERT's pooler is as new as its output layer; MPNet's classifier has both in it.
    new = [name for name in ("classifier", "pooler") if any(one.endswith(name) for one, _ in model.named_modules())]
    return get_peft_model(model, LoraConfig(task_type=TaskType.SEQ_CLS, modules_to_save=new, **lora_settings(folder)))


def page(records: list[Record]) -> str:
    """docs/results/labels.md."""
    runs = [run for run in records if run["seed"] != SEARCH_SEED]
    lines = [
        "# Label sets: GoEmotions compared with peft and full tuning",
        "",
        "Written by `python -m benchmarks.tables`; measured by `python -m benchmarks.labels` (see its docstring).",
        f"All runs take {EPOCHS} epochs on one CPU thread, in batches of {BATCH_SIZE}, with 28 emotions and texts of",
        f"up to {MAX_LENGTH} tokens. Score is the micro F1 of the best epoch on {EVALUATED:,} dev rows, with a",
        "threshold tuned on them: mean and standard deviation over the seeds, in points. Macro F1 and mean average",
        "precision (map) are those of the same epoch. `Less peft` is the mean difference over the same seeds, with its",
        "95 % interval. Seconds are processor time of training, including the trunk pass and excluding evaluation;",
        "each run builds its own cache, and the fastest seed counts. Memory is the peak of the process.",
        *BY_DEPTH,
        "",
        "With so few rows (96 steps), the peers' new output layers learn little more than the most frequent emotion,",
        "which alone scores 30.3. The output layer of a plan is [fitted first](starts.md).",
    ]
    for base, rows, precision in dict.fromkeys((run["base"], run["rows"], run["precision"]) for run in runs):
        here = [run for run in runs if (run["base"], run["rows"], run["precision"]) == (base, rows, precision)]
        seeds = seeds_of(here)
        lines += [
            "",
            f"## {base}",
            "",
            f"{precision}, {rows:,} of 43,410 training rows drawn by the seed; {seeds}.",
            "",
        ]
        lines += heads("macro F1", "map")
        peer = [run for run in here if run["arm"] == "peft lora"]
        for arm in (*OURS, *PEERS):
            if own := [run for run in here if run["arm"] == arm]:
                lines.append(beside(f"`{arm}`" if arm in OURS else arm, own, peer, FURTHER))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
