"""E2E as conversations and as completions on a decoder: plans beside TRL's ``SFTTrainer`` with ``peft`` LoRA.

    python -m benchmarks.chat --model GEMMA3_270M --data FOLDER_WITH_e2e [--tasks chat,completion] [--seeds 0,1,2]
        [--rows 600]
    python -m benchmarks.tables chat benchmarks/results/chat.jsonl docs/results/chat.md

A row is a set of slots and a sentence that says them: a user's and an assistant's turn under one chat template that
both sides are given (``chat``), or a prompt and its completion (``completion``). Rows are drawn by the seed from the
validation file; 200 of the test file, evenly drawn, are scored.

All arms have the same tokens, of which the same bear loss (a run stops where they differ), epochs, batch size and
weight decay, one thread and bf16; LoRA of rank 8 on q and v. The peer is given the model's folder and loads it as
``SFTTrainer`` does, in the checkpoint's bf16; it tunes every block, with ``assistant_only_loss`` or the loss on the
completion alone, and without gradient checkpointing, its default, which would save memory and cost it time. Every run
is a process of its own. The score is the loss a token of the answer, the best epoch's, summed by the same lines for
all arms. Each arm's rate is the best of three by one run of one epoch with seed 100. Since epochs from the cache cost
little, one arm has three times as many, at the rate of the same plan. Finished runs are skipped.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

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

MODULE = "benchmarks.chat"
TASKS = ("chat", "completion")
PLANS = ("5/6: lora", "2/3: lora", "1/2: lora", "1/3: lora", "mid")
LONGER = "1/2: lora, 6 epochs"
OURS = (*PLANS, LONGER)
PEER = "trl, peft lora"
RATES: Rates = {**dict.fromkeys((*PLANS, PEER), (3e-4, 1e-3, 3e-3)), LONGER: (3e-3,)}
ROWS, EVALUATED, EPOCHS, BATCH_SIZE, SCORED_AT_ONCE, MAX_LENGTH = 600, 200, 2, 16, 16, 256
FILES = {"train": "valid", "eval": "test"}
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<end_of_turn>{% endgeneration %}"
    "{% else %}{{ m.content }}<end_of_turn>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
"""Gemma's, with marks around what the assistant says; the pretrained model's tokenizer has none."""


def main() -> None:
    """Search the rates, then run the table."""
    args = arguments(__doc__, "chat.jsonl", ROWS)
    if args.one:
        print(json.dumps(run_one(json.loads(args.one), args.model, args.data)))
        return
    done = read(args.out)
    for task in args.tasks.split(",") if args.tasks else TASKS:
        job = {"base": Path(args.model).name, "task": task, "rows": args.rows}
        run_table(MODULE, job, RATES, done, args, best=min)


def run_one(job: Record, model: str, data: str) -> Record:
    """One run of one arm."""
    import torch

    torch.set_num_threads(1)
    started = time.perf_counter()
    epochs = 1 if job["seed"] == SEARCH_SEED else _epochs(job["arm"])
    with tempfile.TemporaryDirectory() as out:
        rows = {part: _rows(job, Path(data), part) for part in FILES}
        settings = {**_settings(job, rows, Path(out)), "model": model, "epochs": epochs}
        if job["arm"] == PEER:
            record = _peer(job, settings, rows)
        else:
            record = run_ours(settings, "loss", smaller_is_better=True)
    times = {"wall": time.perf_counter() - started, "cpu": time.process_time()}
    return {**job, **record, "epochs": epochs, **times}


def _epochs(arm: str) -> int:
    return int(arm.partition(", ")[2].split()[0]) if arm == LONGER else EPOCHS


def _rows(job: Record, data: Path, part: str) -> list[tuple[str, str]]:
    """Slots and their sentences: those to train on are drawn by the seed."""
    lines = [line for line in (data / "e2e" / f"{FILES[part]}.txt").read_text().splitlines() if "||" in line]
    pairs = [(slots.strip(), sentence.strip()) for slots, sentence in (line.split("||") for line in lines)]
    if part == "train":
        return random.Random(job["seed"]).sample(pairs, min(job["rows"], len(pairs)))
    return evenly(pairs, EVALUATED)


def _settings(job: Record, rows: dict[str, list[tuple[str, str]]], out: Path) -> dict[str, Any]:
    chat = job["task"] == "chat"
    own = {"template": TEMPLATE} if chat else {"text": ("slots",), "label": "sentence"}
    for part, pairs in rows.items():
        written = [_messages(*pair) if chat else {"slots": pair[0], "sentence": pair[1]} for pair in pairs]
        own[part] = write_rows(out / f"{part}.jsonl", written)
    return {
        **own,
        "plan": "lora" if job["arm"] == PEER else job["arm"].partition(",")[0],
        "objective": job["task"],
        "lr": job["lr"],
        "seed": job["seed"],
        "batch_size": BATCH_SIZE,
        "max_length": MAX_LENGTH,
        "precision": "bf16",
        "out": str(out / "run"),
        "cache": str(out / "cache"),
    }


def _messages(slots: str, sentence: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": slots}, {"role": "assistant", "content": sentence}]}


def _peer(job: Record, settings: dict[str, Any], rows: dict[str, list[tuple[str, str]]]) -> Record:
    """TRL's trainer on the same rows; what it learns is scored by the objective."""
    from datasets import Dataset
    from peft import LoraConfig, TaskType
    from transformers import AutoTokenizer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from stratatune.training.config import validate
    from stratatune.training.prepare import Outline, read_tables, settle

    config = validate(settings)
    outline = Outline(config)
    prepared = settle(outline, read_tables(config, {}, outline.kind))
    tokenizer = AutoTokenizer.from_pretrained(config.model)
    chat = job["task"] == "chat"
    if chat:
        tokenizer.chat_template = TEMPLATE
    # Between prompt and completion our `completion` puts a blank.
    given = {
        part: Dataset.from_list(
            [_messages(*one) if chat else {"prompt": one[0], "completion": f" {one[1]}"} for one in pairs]
        )
        for part, pairs in rows.items()
    }
    trainer = SFTTrainer(
        model=config.model,
        processing_class=tokenizer,
        args=SFTConfig(
            **stock_arguments({**job, "precision": "bf16"}, config.out, config.epochs, BATCH_SIZE),
            max_length=MAX_LENGTH, assistant_only_loss=chat, gradient_checkpointing=False,
        ),
        train_dataset=given["train"],
        eval_dataset=given["eval"],
        peft_config=LoraConfig(task_type=TaskType.CAUSAL_LM, **lora_settings(config.model)),
    )  # fmt: skip
    check_same_tokens(prepared.train, trainer.train_dataset)
    measure = _measure(trainer.model, prepared)

    def evaluate(*_: Any, **__: Any) -> dict[str, float]:
        found = {"eval_loss": measure()}
        trainer.log(found)
        return found

    trainer.evaluate = evaluate
    return run_stock(trainer, "loss", smaller_is_better=True)


def check_same_tokens(own: Any, theirs: Any) -> None:
    """Refuse to compare runs on other tokens: ``own`` encoded data, ``theirs`` as ``SFTTrainer`` prepared them.

    Raises:
        ValueError: the rows differ in their tokens, or in those that bear loss.
    """
    from stratatune.data.encoded import LABEL

    starts, targets = own.offsets, own.targets[LABEL].values
    if len(own) != len(theirs):
        raise ValueError(f"one side has {len(own)} rows, the other {len(theirs)}")
    for row, (start, end, other) in enumerate(zip(starts[:-1], starts[1:], theirs, strict=True)):
        if own.ids[start:end].tolist() != other["input_ids"] or targets[start:end].tolist() != other["labels"]:
            raise ValueError(f"row {row}: the two sides train on different tokens")


def _measure(model: Any, prepared: Any) -> Callable[[], float]:
    """The loss a token of the answers by the peer's model: its logits where there is one to predict, our sums."""
    import torch

    from stratatune.data.batching import collate, pad_id, plan_batches
    from stratatune.data.encoded import IGNORED
    from stratatune.model.heads.token_scores import scores_of
    from stratatune.objectives.text_loss import next_tokens

    objective, data, base = prepared.objective, prepared.eval, model.get_base_model()
    batches = plan_batches(data.example_lengths, batch_size=SCORED_AT_ONCE, seed=0, epoch=0, shuffle=False)

    @torch.no_grad()
    def measure() -> float:
        model.eval()
        found = []
        for index in batches:
            batch = collate(data, index, pad_id(prepared.tokenizer)).to(device())
            with torch.autocast(device().type, torch.bfloat16):
                hidden = base.model(input_ids=batch.input_ids, attention_mask=batch.mask.long()).last_hidden_state
                # Logits of every token would be as large as a training step's and count into the peak of memory.
                targets = next_tokens(batch)
                logits = base.lm_head(hidden[targets != IGNORED])
            found.append(objective.predict(scores_of(logits, targets[targets != IGNORED]), batch))
        model.train()
        return objective.score(np.concatenate(found), data, 0.0)[0]["loss"]

    return measure


def page(records: list[Record]) -> str:
    """docs/results/chat.md."""
    runs = [run for run in records if run["seed"] != SEARCH_SEED]
    lines = [
        "# Chat and completion: E2E compared with TRL",
        "",
        "Written by `python -m benchmarks.tables`; measured by `python -m benchmarks.chat` (see its docstring).",
        f"Runs take {EPOCHS} epochs, unless an arm names another number, in batches of {BATCH_SIZE}, with LoRA of rank",
        "8 on q and v, on one CPU thread in bf16. Score is the loss per token of the answers",
        f"to {EVALUATED} sets of slots in the best epoch (less is better): mean and standard",
        "deviation over the seeds. `Less peft` is the mean difference over the same seeds, with its 95 % interval;",
        "peft is TRL's `SFTTrainer` with LoRA on every block.",
        "Seconds are processor time of training, including the trunk pass and excluding evaluation; each run builds",
        "its own cache, and the fastest seed counts. Memory is the peak of the process.",
        *BY_DEPTH,
        "",
        "The model has never seen such data, and 128 rows are only 16 steps in two epochs, so the loss is lower the",
        "more blocks train. Further epochs from the cache cost little, and make up for blocks that do not train.",
    ]
    for base, task, rows in dict.fromkeys((run["base"], run["task"], run["rows"]) for run in runs):
        here = [run for run in runs if (run["base"], run["task"], run["rows"]) == (base, task, rows)]
        seeds = seeds_of(here)
        lines += [
            "",
            f"## {base}: {task}",
            "",
            f"{rows:,} training rows drawn by the seed; {seeds}.",
            "",
            *heads(),
        ]
        peer = [run for run in here if run["arm"] == PEER]
        for arm in (*OURS, PEER):
            if own := [run for run in here if run["arm"] == arm]:
                lines.append(beside(f"`{arm}`" if arm in OURS else arm, own, peer, scale=1, digits=3))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
