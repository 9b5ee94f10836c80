"""Names of settings in other tools, for the hint to one that is unknown here. No torch."""

from __future__ import annotations

from collections.abc import Iterable

from stratatune.errors import nearest

OF_OTHERS = {
    "learning_rate": "lr",
    "body_learning_rate": "lr",
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "train_batch_size": "batch_size",
    "per_device_eval_batch_size": "eval_batch_size",
    "gradient_accumulation_steps": "accumulate",
    "warmup_ratio": "warmup",
    "lr_scheduler_type": "schedule",
    "max_grad_norm": "clip",
    "adam_epsilon": "adam_eps",
    "output_dir": "out",
    "report_to": "loggers",
    "model_name_or_path": "model",
    **dict.fromkeys(("max_seq_length", "max_seq_len", "max_len"), "max_length"),
    "train_file": "train",
    "validation_file": "eval",
    "test_file": "test",
    "metric_for_best_model": "metric",
    "resume_from_checkpoint": "resume",
    "eval_strategy": "eval_every",
    "evaluation_strategy": "eval_every",
    "save_steps": "checkpoint_every",
    "save_strategy": "checkpoint_every",
    "early_stopping_patience": "early_stopping",
    "base_model": "model",
    "datasets": "train",
    "dataset": "train",
    **dict.fromkeys(("train_dataset", "train_data"), "train"),
    **dict.fromkeys(("eval_dataset", "eval_data", "valid_data", "validation_data", "val", "valid", "dev"), "eval"),
    "test_datasets": "eval",
    "val_set_size": "eval_split",
    "val_size": "eval_split",
    "sequence_len": "max_length",
    "cutoff_len": "max_length",
    **dict.fromkeys(("text_column", "text_column_name", "dataset_text_field"), "text"),
    **dict.fromkeys(("label_column", "label_column_name", "label_names"), "label"),
    **dict.fromkeys(("chat_template_path", "chat_template"), "template"),
    **dict.fromkeys(("max_samples", "max_train_samples"), "train_samples"),
    **dict.fromkeys(("random_state", "data_seed"), "seed"),
    "stage": "objective",
    "rl": "objective",
    "flash_attn": "attention",
    **dict.fromkeys(("bf16", "fp16"), "precision"),
    **dict.fromkeys(("load_in_4bit", "load_in_8bit", "quantization_bit"), "pack"),
}
"""Names in ``TrainingArguments``, example scripts, axolotl's and LLaMA-Factory's files, and those of the same here."""
_METHOD = "a method and its options are part of the plan, such as --plan '12: lora(rank=8, alpha=16, on=q,v)'"
_OPTION = "an option of the objective, such as --objective 'dpo(beta=0.1)'"
_ITS_OWN = "always the base model's own"
_LIVE = "a run has no such setting; st.apply puts a plan on a model that your own Trainer or loop trains"
_ALWAYS = "always on if there are evaluation data"
_NEVER_PACKED = "examples are not packed; batches hold texts of similar length"
SAID_OTHERWISE = {
    **dict.fromkeys(("adapter", "finetuning_type", "peft_config", "r", "target_modules", "use_dora"), _METHOD),
    **dict.fromkeys(
        ("lora_r", "lora_rank", "lora_alpha", "lora_dropout", "lora_target", "lora_target_modules"), _METHOD
    ),
    **dict.fromkeys(("lora_target_linear", "layers_to_transform", "modules_to_save", "rank_pattern"), _METHOD),
    **dict.fromkeys(("args", "training_args"), "write their contents as settings, such as --epochs 3"),
    **dict.fromkeys(("tokenizer", "processing_class"), _ITS_OWN),
    **dict.fromkeys(("callbacks", "data_collator", "compute_loss_func", "optimizers"), _LIVE),
    **dict.fromkeys(("compute_metrics", "metrics"), "every metric is computed; the one that decides is --metric"),
    "ref_model": "the reference is the base model before tuning",
    "num_labels": "the labels are counted in the data",
    "formatting_func": "the columns are --text and --label; --objective chat reads conversations",
    "load_best_model_at_end": _ALWAYS,
    "group_by_length": "batches always hold texts of similar length",
    "gradient_checkpointing": "not available; for less memory, use a deeper frozen depth or a smaller --batch-size",
    "assistant_only_loss": "always on with --objective chat",
    "completion_only_loss": "always on with --objective completion and a label",
    "optim": "the optimiser is AdamW, with --lr, --weight-decay and --adam-eps",
    **dict.fromkeys(("adam_beta1", "adam_beta2"), "always those of torch's AdamW"),
    "save_total_limit": "a run keeps only its last checkpoint, until it is finished",
    "overwrite_output_dir": "a finished run is never overwritten: choose another --out, or remove the folder",
    "logging_steps": "each evaluation is a line of metrics.jsonl; --eval-every 1/4 writes four in each epoch",
    **dict.fromkeys(("system_prompt", "default_system"), "a column system, or the first message of each conversation"),
    "neftune_noise_alpha": _LIVE,
    "label_smoothing_factor": "an option of the objective: --objective 'classification(smoothing=0.1)'",
    **dict.fromkeys(("push_to_hub", "hub_model_id"), "`stratatune export RUN --push NAME` uploads a finished run"),
    **dict.fromkeys(("packing", "sample_packing"), _NEVER_PACKED),
    **dict.fromkeys(("beta", "pref_beta", "rl_beta"), _OPTION),
    "eval_steps": "--eval-every 1/4 evaluates four times in each epoch",
    "evals_per_epoch": "--eval-every 1/4 evaluates four times in each epoch",
    "warmup_steps": "a fraction of all steps, such as --warmup 0.06",
    "deepspeed": "start a run on several devices with accelerate launch or torchrun",
    "train_on_inputs": "the loss covers only the answers; --objective completion without a label learns the whole text",
}
"""Names of other tools for what is said here in another place or another unit, and how."""


def advice(name: str, legal: Iterable[str]) -> str:
    """What to write in place of a name that is no setting: another tool's own, or the nearest of ``legal``; or ""."""
    if name in SAID_OTHERWISE:
        return SAID_OTHERWISE[name]
    near = meant(name, legal)
    return f"did you mean {near!r}?" if near else ""


def meant(name: str, legal: Iterable[str]) -> str:
    """The one of ``legal`` that is meant by a name of another tool, or that is spelt most like it; or ""."""
    legal = list(legal)
    if name in OF_OTHERS:
        return OF_OTHERS[name] if OF_OTHERS[name] in legal else ""
    return nearest(name, legal)
