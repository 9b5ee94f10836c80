"""A run of ours and one of a stock Trainer, as records with the same fields."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.jobs import Record, device, timed

WEIGHT_DECAY = 0.01


def run_ours(
    settings: Mapping[str, Any], metric: str, *, further: Sequence[str] = (), smaller_is_better: bool = False
) -> Record:
    """Train as ``settings`` say.

    Args:
        settings: the run's; its folder may not exist.
        metric: the score.
        further: other metrics of the epoch with the best score.
        smaller_is_better: whether the metric is like a loss.
    """
    from stratatune.progress import Reporter
    from stratatune.training.config import validate
    from stratatune.training.run import train

    config = validate({"device": device().type, "weight_decay": WEIGHT_DECAY, **settings})
    result = train(config, reporter=Reporter(quiet=True))
    lines = [json.loads(line) for line in (Path(config.out) / "metrics.jsonl").read_text().splitlines()]
    untuned = [line[f"eval_{metric}"] for line in lines if line["epoch"] == 0]
    return {
        **({"untuned": untuned[0]} if untuned else {}),
        **_scores([line for line in lines if line["epoch"] > 0], metric, further, smaller_is_better),
        "trainable": result.trainable,
        "seconds": result.seconds["cache"] + result.seconds["train"],
        "memory": result.peak_memory_bytes,
    }


def run_stock(trainer: Any, metric: str, *, further: Sequence[str] = (), smaller_is_better: bool = False) -> Record:
    """Train by a stock Trainer that evaluates after each epoch; its evaluations are not in the seconds."""
    from stratatune.training.machine import now, peak_memory

    evaluating = timed(trainer)
    started = now(device())
    trainer.train()
    seconds = now(device()) - started - sum(evaluating)
    lines = [line for line in trainer.state.log_history if f"eval_{metric}" in line]
    return {
        **_scores(lines, metric, further, smaller_is_better),
        "trainable": sum(one.numel() for one in trainer.model.parameters() if one.requires_grad),
        "seconds": seconds,
        "memory": peak_memory(device()),
    }


def _scores(lines: list[Record], metric: str, further: Sequence[str], smaller_is_better: bool) -> Record:
    """The score of the best epoch and of each."""
    best = (min if smaller_is_better else max)(lines, key=lambda line: line[f"eval_{metric}"])
    return {
        "score": best[f"eval_{metric}"],
        **{name: best[f"eval_{name}"] for name in further},
        "history": [line[f"eval_{metric}"] for line in lines],
    }


def stock_arguments(job: Record, out: str, epochs: int, batch_size: int) -> dict[str, Any]:
    """The arguments of a stock Trainer that make it do as our runs do."""
    return {
        "output_dir": out,
        "num_train_epochs": epochs,
        "per_device_train_batch_size": batch_size,
        "learning_rate": job["lr"],
        "weight_decay": WEIGHT_DECAY,
        "warmup_steps": 0.06,
        "max_grad_norm": 1.0,
        "use_cpu": device().type == "cpu",
        "bf16": job.get("precision") == "bf16",
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
        "seed": job["seed"],
        "disable_tqdm": True,
    }


def lora_settings(folder: str) -> dict[str, Any]:
    """The rank, scale and targets (query and value) of the peers' LoRA; ours has the same."""
    from transformers import AutoConfig

    kind = AutoConfig.from_pretrained(folder).model_type
    targets = {"bert": ["query", "value"], "mpnet": ["q", "v"]}.get(kind, ["q_proj", "v_proj"])
    return {"r": 8, "lora_alpha": 16, "target_modules": targets}


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """Write a file of JSON lines; returns its path for the settings."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def evenly(rows: Sequence[Any], count: int) -> list[Any]:
    """``count`` of the rows, or all where there are no more, spread over all of them."""
    return [rows[at * len(rows) // count] for at in range(count)] if count < len(rows) else list(rows)
