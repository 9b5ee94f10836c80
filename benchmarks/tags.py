"""Named entities of WNUT-17: plans from the trunk cache beside stock ``transformers.Trainer``, LoRA and full tuning.

    python -m benchmarks.tags --model MODEL --data FOLDER_WITH_wnut17 [--seeds 0,1,2] [--rows 1600]
        [--precision bf16] [--arms ARM,ARM]
    python -m benchmarks.tables tags benchmarks/results/tags.jsonl docs/results/tags.md

All arms have the same rows, windows, epochs, batch size, weight decay and precision, one thread; the peers are ``peft``
LoRA (r = 8, q and v, classifier trained) and all weights, with a new output layer, dynamic padding and random batches.
Every run is a process of its own. The score is the entity F1 of the best epoch on dev, computed for all arms by the
same lines. Each arm's rate is the best of two or three by one run with seed 100. Finished runs are skipped.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.jobs import BY_DEPTH, SEARCH_SEED, Record, arguments, beside, heads, read, run_table, seeds_of
from benchmarks.records import lora_settings, run_ours, run_stock, stock_arguments

MODULE = "benchmarks.tags"
OURS = ("2/3: full", "1/2: full", "1/2: lora(rank=8)")
PEERS = ("peft lora", "full tuning")
RATES = {
    "2/3: full": (3e-4, 1e-3),
    "1/2: full": (3e-4, 1e-3),
    "1/2: lora(rank=8)": (1e-3, 3e-3, 1e-2),
    "peft lora": (1e-3, 3e-3, 1e-2),
    "full tuning": (1e-4, 3e-4),
}
ROWS, EPOCHS, BATCH_SIZE, MAX_LENGTH = 1600, 4, 32, 128
FILES = {"train": "wnut17train.conll", "dev": "emerging.dev.conll"}


def main() -> None:
    """Search the rates, then run the table."""
    args = arguments(__doc__, "tags.jsonl", ROWS, (*OURS, *PEERS), precision=True)
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
        record = run_peer(job, settings) if job["arm"] in PEERS else run_ours(settings, "f1")
    return {**job, **record, "epochs": EPOCHS, "wall": time.perf_counter() - started}


def settings_of(job: Record, model: str, data: str, out: str) -> dict[str, Any]:
    """The settings of a run; the seed also draws the rows, for every arm the same."""
    train, dev = (str(Path(data) / "wnut17" / FILES[part]) for part in ("train", "dev"))
    settings = {"model": model, "plan": "full" if job["arm"] in PEERS else job["arm"], "objective": "tags"}
    settings |= {"train": train, "eval": dev, "train_samples": job["rows"], "seed": job["seed"], "lr": job["lr"]}
    settings |= {"epochs": EPOCHS, "batch_size": BATCH_SIZE, "max_length": MAX_LENGTH}
    return {**settings, "precision": job["precision"], "out": f"{out}/run", "cache": f"{out}/cache"}


def run_peer(job: Record, settings: dict[str, Any]) -> Record:
    """A stock Trainer on the same rows; predictions are scored as ours are."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import (
        AutoModelForTokenClassification,
        AutoTokenizer,
        DataCollatorForTokenClassification,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    from stratatune.training.config import validate
    from stratatune.training.prepare import Outline, read_tables, settle

    config = validate(settings)
    outline = Outline(config)
    tables = read_tables(config, {}, outline.kind)
    tokenizer = AutoTokenizer.from_pretrained(config.model)
    prepared = settle(outline, tables, tokenizer)
    objective, dev = prepared.objective, prepared.eval
    assert dev is not None
    set_seed(job["seed"])
    model: Any = AutoModelForTokenClassification.from_pretrained(
        config.model, num_labels=len(objective.labels), dtype=torch.float32
    )
    if job["arm"] == "peft lora":
        lora = LoraConfig(task_type=TaskType.TOKEN_CLS, modules_to_save=["classifier"], **lora_settings(config.model))
        model = get_peft_model(model, lora)
    rows = [Dataset.from_list(list(_rows(one, objective, tokenizer))) for one in (tables.train, tables.eval[0])]

    def measure(found: Any) -> dict[str, float]:
        """The entity F1 of the first token of each word; a word that was cut is outside."""
        classes, at, output = found.predictions.argmax(axis=2), 0, np.zeros((len(dev.targets["tags"].values), 2))
        for row, words in enumerate(tables.eval[0].further["words"]):
            first = found.label_ids[row] != -100
            output[at : at + int(first.sum()), 0] = classes[row][first]
            at += len(words)
        return {"f1": objective.score(output, dev, 0.0)[0]["f1"]}

    arguments = TrainingArguments(**stock_arguments(job, config.out, EPOCHS, BATCH_SIZE), per_device_eval_batch_size=64)
    trainer = Trainer(
        model=model, args=arguments, train_dataset=rows[0], eval_dataset=rows[1],
        data_collator=DataCollatorForTokenClassification(tokenizer), compute_metrics=measure,
    )  # fmt: skip
    return run_stock(trainer, "f1")


def _rows(table: Any, objective: Any, tokenizer: Any) -> Iterator[dict[str, Any]]:
    """Words as token ids; the first token of each word bears its tag."""
    from stratatune.objectives.tag_tables import TagTables

    index = {tag: number for number, tag in enumerate(objective.labels)}
    for text, words, tags in zip(table.texts[0], table.further["words"], TagTables("auto").in_iob2(table), strict=True):
        cut = [text[start:end] for start, end in words]
        out = tokenizer(cut, is_split_into_words=True, truncation=True, max_length=MAX_LENGTH)
        before = [None, *out.word_ids()[:-1]]
        labels = [
            -100 if word is None or word == last else index[tags[word]]
            for word, last in zip(out.word_ids(), before, strict=True)
        ]
        yield {**out, "labels": labels}


def page(records: list[Record]) -> str:
    """docs/results/tags.md."""
    runs = [run for run in records if run["seed"] != SEARCH_SEED]
    lines = [
        "# Tags: WNUT-17 compared with peft and full tuning",
        "",
        "Written by `python -m benchmarks.tables`; measured by `python -m benchmarks.tags` (see its docstring).",
        f"All runs take {EPOCHS} epochs on one CPU thread, in batches of {BATCH_SIZE}. Score is the F1 of entities on",
        "dev in the best epoch: mean and standard deviation, in points. `Less peft` is the mean difference over the",
        "same seeds, with its 95 % interval.",
        "Seconds are processor time of training, including the trunk pass and excluding evaluation; each run builds",
        "its own cache, and the fastest seed counts. Memory is the peak of the process.",
        *BY_DEPTH,
        "",
        "A peer with a score of 0 still gives every word the most frequent tag after its last step: with few rows, its",
        "new output layer learns no more. The output layer of a plan is [fitted first](starts.md).",
    ]
    for base, rows, precision in dict.fromkeys((run["base"], run["rows"], run["precision"]) for run in runs):
        here = [run for run in runs if (run["base"], run["rows"], run["precision"]) == (base, rows, precision)]
        lines += ["", f"## {base}", "", f"{precision}, {rows:,} of 3,394 training texts drawn by the seed;"]
        lines += [f"{seeds_of(here)}.", "", *heads()]
        peer = [run for run in here if run["arm"] == "peft lora"]
        for arm in (*OURS, *PEERS):
            if own := [run for run in here if run["arm"] == arm]:
                lines.append(beside(f"`{arm}`" if arm in OURS else arm, own, peer))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
