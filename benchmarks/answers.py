"""Questions of XQuAD (English): plans from the trunk cache beside stock ``transformers.Trainer``, LoRA and full tuning.

    python -m benchmarks.answers --model MODEL --data FOLDER_WITH_xquad [--seeds 0,1,2] [--rows 1013]

``xquad.en.json`` has 48 articles and no split: the last 8 are the test part. All arms have the same rows, windows,
epochs, batch size and weight decay, one thread and fp32; the peers are ``peft`` LoRA (r = 8, q and v, output layer
trained) and all weights, with a new output layer, dynamic padding and random batches. Every run is a process of its
own. The score is SQuAD's F1 of the best epoch, computed for all arms by the same lines. Each arm's rate is the best of
two by one run with seed 100. Finished runs are skipped.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.jobs import Record, arguments, read, run_table
from benchmarks.records import lora_settings, run_ours, run_stock, stock_arguments

MODULE = "benchmarks.answers"
OURS = ("2/3: full", "1/2: full")
PEERS = ("peft lora", "full tuning")
RATES = {
    "2/3: full": (3e-4, 1e-3),
    "1/2: full": (3e-4, 1e-3),
    "peft lora": (1e-3, 3e-3),
    "full tuning": (1e-4, 3e-4),
}
ROWS, EPOCHS, BATCH_SIZE, MAX_LENGTH, TEST_ARTICLES = 1013, 4, 32, 384, 8


def main() -> None:
    """Search the rates, then run the table."""
    args = arguments(__doc__, "answers.jsonl", ROWS)
    if args.one:
        print(json.dumps(run_one(json.loads(args.one), args.model, args.data)))
        return
    run_table(MODULE, {"rows": args.rows}, RATES, read(args.out), args)


def run_one(job: Record, model: str, data: str) -> Record:
    """One run of one arm."""
    import torch

    torch.set_num_threads(1)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        settings = _settings(job, model, data, out)
        record = (
            _peer(job, settings, out) if job["arm"] in PEERS else run_ours(settings, "f1", further=("exact_match",))
        )
    return {**job, **record, "epochs": EPOCHS, "wall": time.perf_counter() - started}


def _settings(job: Record, model: str, data: str, out: str) -> dict[str, Any]:
    """The settings of a run; the seed also draws the rows, for every arm the same."""
    articles = json.loads((Path(data) / "xquad" / "xquad.en.json").read_text(encoding="utf-8"))["data"]
    parts = {"train": articles[:-TEST_ARTICLES], "eval": articles[-TEST_ARTICLES:]}
    for name, part in parts.items():
        (Path(out) / f"{name}.json").write_text(json.dumps({"version": "1.1", "data": part}), encoding="utf-8")
    settings: dict[str, Any] = {name: f"{out}/{name}.json" for name in parts}
    settings |= {"model": model, "plan": "full" if job["arm"] in PEERS else job["arm"], "objective": "span"}
    settings |= {"train_samples": job["rows"], "seed": job["seed"], "lr": job["lr"]}
    settings |= {"epochs": EPOCHS, "batch_size": BATCH_SIZE, "max_length": MAX_LENGTH, "precision": "fp32"}
    return {**settings, "out": f"{out}/run", "cache": f"{out}/cache"}


def _peer(job: Record, settings: dict[str, Any], out: str) -> Record:
    """A stock Trainer on the same windows; its logits are scored as ours are."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import (
        AutoModelForQuestionAnswering,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    from stratatune.training.config import validate
    from stratatune.training.prepare import Outline, read_tables, settle

    config = validate(settings)
    outline = Outline(config)
    tokenizer = AutoTokenizer.from_pretrained(config.model)
    prepared = settle(outline, read_tables(config, {}, outline.kind), tokenizer)
    objective, dev = prepared.objective, prepared.eval
    assert dev is not None
    set_seed(job["seed"])
    model: Any = AutoModelForQuestionAnswering.from_pretrained(config.model, dtype=torch.float32)
    if job["arm"] == "peft lora":
        lora = LoraConfig(
            task_type=TaskType.QUESTION_ANS, modules_to_save=["qa_outputs"], **lora_settings(config.model)
        )
        model = get_peft_model(model, lora)

    def measure(found: Any) -> dict[str, float]:
        """The scores of the tokens that ours reads."""
        assert dev.places is not None
        start, end = found.predictions[:2]  # [N, T] each, padded with -100
        rows = np.repeat(np.arange(len(dev)), dev.places.sizes)
        output = np.stack([start[rows, dev.places.values], end[rows, dev.places.values]], axis=1)
        return objective.score(output, dev, 0.0)[0]

    stock = {**stock_arguments(job, out, EPOCHS, BATCH_SIZE), "label_names": ["start_positions", "end_positions"]}
    trainer = Trainer(
        model=model, args=TrainingArguments(**stock, per_device_eval_batch_size=64),
        train_dataset=Dataset.from_list(_rows(prepared.train)), eval_dataset=Dataset.from_list(_rows(dev)),
        data_collator=DataCollatorWithPadding(tokenizer), compute_metrics=measure,
    )  # fmt: skip
    return run_stock(trainer, "f1", further=("exact_match",))


def _rows(data: Any) -> list[dict[str, Any]]:
    """Windows as token ids, with the first and the last token of the answer in them."""
    found = []
    for row, (start, end) in enumerate(zip(data.offsets[:-1], data.offsets[1:], strict=True)):
        places = data.places.subset(np.array([row])).values
        first, last = places[data.targets["answer"].values[row]].tolist()
        own = {"input_ids": data.ids[start:end].tolist(), "start_positions": first, "end_positions": last}
        if data.types is not None:
            own["token_type_ids"] = data.types[start:end].tolist()
        found.append({**own, "attention_mask": [1] * int(end - start)})
    return found


if __name__ == "__main__":
    main()
