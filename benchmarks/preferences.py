"""Preferences between sentences of E2E: plans of ``dpo`` beside TRL's ``DPOTrainer`` with ``peft`` LoRA.

    python -m benchmarks.preferences --model GEMMA3_270M --data FOLDER_WITH_e2e [--seeds 0,1,2] [--rows 300]
    python -m benchmarks.tables preferences benchmarks/results/preferences.jsonl docs/results/preferences.md

A row is a set of slots, the sentence that was written for it, and one that was written for the most similar other set:
as a rule a single fact differs. Rows are drawn by the seed from the validation file; 200 of the test file, evenly
drawn, are scored.

All arms have the same tokens (a run stops where they differ), epochs, batch size, weight decay, loss and beta, one
thread and bf16; LoRA of rank 8 on q and v. The peer is given the model's folder and loads it as ``DPOTrainer`` does, in
the checkpoint's bf16; it tunes every block, its reference is the model without its adapter, and it does without
gradient checkpointing, its default, which would save memory and cost it time. Every run is a process of its own. The
score is the accuracy of the rewards, the better epoch's, computed by the same lines for all arms. Each arm's rate is
the better of two by one run of one epoch with seed 100. Finished runs are skipped.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.chat import FILES
from benchmarks.jobs import (
    BY_DEPTH,
    SEARCH_SEED,
    Rates,
    Record,
    arguments,
    beside,
    device,
    heads,
    read,
    run_table,
    seeds_of,
)
from benchmarks.records import evenly, lora_settings, run_ours, run_stock, stock_arguments, write_rows

MODULE = "benchmarks.preferences"
OURS = ("2/3: lora", "1/2: lora")
PEER = "trl, peft lora"
RATES: Rates = dict.fromkeys((*OURS, PEER), (1e-4, 5e-4))
ROWS, EVALUATED, EPOCHS, BATCH_SIZE, SCORED_AT_ONCE, MAX_LENGTH, BETA = 300, 200, 2, 8, 16, 256, 0.1
SCORE, FURTHER = "reward_accuracy", ("reward_margin",)


def main() -> None:
    """Search the rates, then run the table."""
    args = arguments(__doc__, "preferences.jsonl", ROWS)
    if args.one:
        print(json.dumps(run_one(json.loads(args.one), args.model, args.data)))
        return
    job = {"base": Path(args.model).name, "task": "e2e", "rows": args.rows}
    run_table(MODULE, job, RATES, read(args.out), args)


def run_one(job: Record, model: str, data: str) -> Record:
    """One run of one arm."""
    import torch

    torch.set_num_threads(1)
    started = time.perf_counter()
    epochs = 1 if job["seed"] == SEARCH_SEED else EPOCHS
    with tempfile.TemporaryDirectory() as out:
        rows = {part: _rows(job, Path(data), part) for part in FILES}
        settings = {**_settings(job, rows, Path(out)), "model": model, "epochs": epochs}
        record = _peer(job, settings, rows) if job["arm"] == PEER else run_ours(settings, SCORE, further=FURTHER)
    times = {"wall": time.perf_counter() - started, "cpu": time.process_time()}
    return {**job, **record, "epochs": epochs, **times}


def _rows(job: Record, data: Path, part: str) -> list[dict[str, str]]:
    """Slots, their sentence, and that of the most similar other slots."""
    lines = [line for line in (data / "e2e" / f"{FILES[part]}.txt").read_text().splitlines() if "||" in line]
    pairs = [(slots.strip(), sentence.strip()) for slots, sentence in (line.split("||") for line in lines)]
    chance = random.Random(job["seed"])
    if part == "train":
        chosen = chance.sample(pairs, min(job["rows"], len(pairs)))
    else:
        chosen, chance = evenly(pairs, EVALUATED), random.Random(0)
    by_slots: dict[str, list[str]] = {}
    for slots, sentence in pairs:
        by_slots.setdefault(slots, []).append(sentence)
    facts = {slots: _facts(slots) for slots in by_slots}
    found = []
    for slots, sentence in chosen:
        near = min((one for one in facts if one != slots), key=lambda one: (len(facts[one] ^ facts[slots]), one))
        found.append({"prompt": slots, "chosen": sentence, "rejected": chance.choice(by_slots[near])})
    return [row for row in found if row["chosen"] != row["rejected"]]


def _facts(slots: str) -> frozenset[str]:
    return frozenset(fact.strip() for fact in slots.split("|"))


def _settings(job: Record, rows: dict[str, list[dict[str, str]]], out: Path) -> dict[str, Any]:
    return {
        **{part: write_rows(out / f"{part}.jsonl", found) for part, found in rows.items()},
        "plan": "lora" if job["arm"] == PEER else job["arm"],
        "objective": f"dpo(beta={BETA})",
        "lr": job["lr"],
        "seed": job["seed"],
        "batch_size": BATCH_SIZE,
        "max_length": MAX_LENGTH,
        "precision": "bf16",
        "out": str(out / "run"),
        "cache": str(out / "cache"),
    }


def _peer(job: Record, settings: dict[str, Any], rows: dict[str, list[dict[str, str]]]) -> Record:
    """TRL's trainer on the same rows; what it learns is scored by the objective."""
    from datasets import Dataset
    from peft import LoraConfig, TaskType
    from transformers import AutoTokenizer
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    from stratatune.training.config import validate
    from stratatune.training.prepare import Outline, read_tables, settle

    config = validate(settings)
    outline = Outline(config)
    prepared = settle(outline, read_tables(config, {}, outline.kind))
    # Between prompt and completion our `dpo` puts a blank.
    given = {
        part: Dataset.from_list(
            [{**row, "chosen": f" {row['chosen']}", "rejected": f" {row['rejected']}"} for row in found]
        )
        for part, found in rows.items()
    }
    trainer = DPOTrainer(
        model=config.model,
        processing_class=AutoTokenizer.from_pretrained(config.model),
        args=DPOConfig(
            **stock_arguments(job, config.out, config.epochs, BATCH_SIZE), bf16=True, max_length=MAX_LENGTH,
            gradient_checkpointing=False, beta=BETA,
        ),
        train_dataset=given["train"],
        eval_dataset=given["eval"],
        peft_config=LoraConfig(task_type=TaskType.CAUSAL_LM, **lora_settings(config.model)),
    )  # fmt: skip
    if _texts(prepared.train) != _their_texts(trainer.train_dataset):
        raise ValueError("the two sides train on different tokens")
    measure = _measure(trainer.model, prepared)

    def evaluate(*_: Any, **__: Any) -> dict[str, float]:
        found = {f"eval_{name}": value for name, value in measure().items()}
        trainer.log(found)
        return found

    trainer.evaluate = evaluate
    return run_stock(trainer, SCORE, further=FURTHER)


def _texts(data: Any) -> list[list[int]]:
    """The tokens of each row's chosen and rejected text, one after the other."""
    return [data.ids[data.offsets[at] : data.offsets[at + 1]].tolist() for at in data.groups.values]


def _their_texts(rows: Any) -> list[list[int]]:
    return [row["prompt_ids"] + row[f"{name}_ids"] for row in rows for name in ("chosen", "rejected")]


def _measure(model: Any, prepared: Any) -> Callable[[], dict[str, float]]:
    """The scores of the peer's model: its logits where an answer is predicted, and our sums."""
    import torch

    from stratatune.data.batching import collate, pad_id, plan_batches
    from stratatune.model.heads.token_scores import scores_of

    objective, data, base = prepared.objective, prepared.eval, model.get_base_model()

    @torch.no_grad()
    def represented() -> np.ndarray:
        found = np.zeros((len(data), 2), np.float32)
        texts = data.ungrouped()
        for index in plan_batches(texts.lengths, batch_size=SCORED_AT_ONCE, seed=0, epoch=0, shuffle=False):
            batch = collate(texts, index, pad_id(prepared.tokenizer)).to(device())
            with torch.autocast(device().type, torch.bfloat16):
                hidden = base.model(input_ids=batch.input_ids, attention_mask=batch.mask.long()).last_hidden_state
                asked = objective.question(batch, training=False)
                scores = scores_of(base.lm_head(hidden[asked.places]), asked.following)
            found[index] = objective.represent(scores, batch).float().cpu().numpy()
        return found

    def measure() -> dict[str, float]:
        model.eval()
        with model.disable_adapter():
            known, _ = objective.looked(data, represented(), training=False)
        scores, _ = objective.score(represented()[data.groups.values], known, 0.0)
        model.train()
        return scores

    return measure


def page(records: list[Record]) -> str:
    """docs/results/preferences.md."""
    runs = [run for run in records if run["seed"] != SEARCH_SEED]
    lines = [
        "# Preferences: DPO beside TRL",
        "",
        "Written by `python -m benchmarks.tables`; measured by `python -m benchmarks.preferences`, whose text",
        f"says how. {EPOCHS} epochs, batches of {BATCH_SIZE} pairs, beta {BETA:g}, LoRA of rank 8 on q and v, one",
        f"CPU thread, bf16. Score: the accuracy of the rewards on {EVALUATED} rows of the test part, the better",
        "epoch's, mean and standard deviation over the seeds, in points. Less peft: the mean difference over the",
        "same seeds, with its 95 % interval; peft is TRL's `DPOTrainer` with LoRA on every block. Seconds of the",
        "processor: training, the trunk pass and the reference included, evaluation left out; each run pays for a",
        "cache of its own; the least over the seeds. Memory: peak of the process.",
        *BY_DEPTH,
    ]
    for base, rows in dict.fromkeys((run["base"], run["rows"]) for run in runs):
        here = [run for run in runs if (run["base"], run["rows"]) == (base, rows)]
        lines += ["", f"## {base}", "", f"{rows:,} training rows drawn by the seed; {seeds_of(here)}.", ""]
        lines += _rows_of(here)
    return "\n".join(lines) + "\n"


def _rows_of(here: Sequence[Record]) -> list[str]:
    peer = [run for run in here if run["arm"] == PEER]
    lines = [*heads()]
    for arm in (*OURS, PEER):
        if own := [run for run in here if run["arm"] == arm]:
            lines.append(beside(f"`{arm}`" if arm in OURS else arm, own, peer))
    return lines


if __name__ == "__main__":
    main()
