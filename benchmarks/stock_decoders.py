"""The baseline for decoders: stock peft LoRA on every block of a model in bf16, under a stock ``Trainer``.

It gets the token ids that Stratatune made from the texts, so that both train on the same tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.jobs import Record, device, timed
from stratatune.training.prepare import Outline, Prepared, read_tables, settle

BATCH = 32


def run_peft(settings: dict[str, Any]) -> Record:
    """Train a LoRA of rank 8 on q and v of every block, with ``settings`` of a run of ours."""
    from stratatune.training.config import validate
    from stratatune.training.machine import now, peak_memory

    config = validate(settings)
    outline = Outline(config)
    prepared = settle(outline, read_tables(config, {}, outline.kind))
    writes = prepared.objective.writes
    trainer = _trainer(prepared, settings, writes=writes)
    evaluating = timed(trainer)
    started = now(device())
    trainer.train()
    seconds = now(device()) - started - sum(evaluating)
    name = "eval_loss" if writes else "eval_accuracy"
    scores = [line[name] for line in trainer.state.log_history if name in line]
    return {
        "metric": name.removeprefix("eval_"),
        "score": min(scores) if writes else max(scores),
        "history": scores,
        "trainable": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "seconds": seconds,
        "predict_seconds": min(evaluating),
        "memory": peak_memory(device()),
    }


def _trainer(prepared: Prepared, settings: dict[str, Any], *, writes: bool) -> Any:
    import torch
    import transformers
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import DataCollatorForSeq2Seq, DataCollatorWithPadding, Trainer, TrainingArguments

    transformers.set_seed(settings["seed"])
    labels = {} if writes else {"num_labels": prepared.objective.outputs}
    auto = transformers.AutoModelForCausalLM if writes else transformers.AutoModelForSequenceClassification
    model: Any = auto.from_pretrained(settings["model"], dtype=torch.bfloat16, **labels)
    model.config.pad_token_id = prepared.tokenizer.pad_token_id
    lora = LoraConfig(
        task_type=TaskType.CAUSAL_LM if writes else TaskType.SEQ_CLS,
        r=8,
        lora_alpha=16,
        target_modules=["q_proj", "v_proj"],
        modules_to_save=None if writes else ["score"],
    )
    arguments = TrainingArguments(
        output_dir=settings["out"], per_device_train_batch_size=BATCH, per_device_eval_batch_size=BATCH,
        num_train_epochs=settings["epochs"], learning_rate=settings["lr"], weight_decay=settings["weight_decay"],
        warmup_steps=0.06, max_grad_norm=1.0, bf16=True, use_cpu=device().type == "cpu", eval_strategy="epoch",
        save_strategy="no", logging_strategy="no", report_to=[], seed=settings["seed"], disable_tqdm=True,
        prediction_loss_only=writes,
    )  # fmt: skip
    pad: Any = DataCollatorForSeq2Seq if writes else DataCollatorWithPadding
    return Trainer(
        model=get_peft_model(model, lora),
        args=arguments,
        train_dataset=_dataset(prepared.train),
        eval_dataset=_dataset(prepared.eval),
        data_collator=pad(prepared.tokenizer),
        compute_metrics=None if writes else _accuracy,
    )


def _dataset(data: Any) -> Any:
    """Token ids and labels: one an example, or one a token."""
    from datasets import Dataset

    (targets,) = data.targets.values()

    def pieces(values: np.ndarray, offsets: np.ndarray) -> list[list[int]]:
        return [values[start:stop].tolist() for start, stop in zip(offsets[:-1], offsets[1:], strict=True)]

    ids = pieces(data.ids, data.offsets)
    labels = targets.values.tolist() if targets.offsets is None else pieces(targets.values, targets.offsets)
    return Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(one) for one in ids], "labels": labels})


def _accuracy(output: Any) -> dict[str, float]:
    found = output.predictions
    logits = found[0] if isinstance(found, tuple) else found
    return {"accuracy": float((logits.argmax(axis=1) == output.label_ids).mean())}
