"""Names of settings in other tools, for the hint to one that is unknown here. No torch."""

from __future__ import annotations

OF_OTHERS = {
    "learning_rate": "lr",
    "num_train_epochs": "epochs",
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
    "max_seq_length": "max_length",
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
    "train_dataset": "train",
    "eval_dataset": "eval",
    "test_datasets": "eval",
    "val_set_size": "eval_split",
    "val_size": "eval_split",
    "sequence_len": "max_length",
    "cutoff_len": "max_length",
    "text_column": "text",
    "label_column": "label",
    "random_state": "seed",
    "stage": "objective",
    "rl": "objective",
    "flash_attn": "attention",
    **dict.fromkeys(("bf16", "fp16"), "precision"),
    **dict.fromkeys(("load_in_4bit", "load_in_8bit", "quantization_bit"), "pack"),
}
"""Names in ``TrainingArguments``, example scripts, axolotl's and LLaMA-Factory's files, and those of the same here."""
_METHOD = "a method and its options are part of the plan, such as plan: '12: lora(rank=8, alpha=16, on=q,v)'"
_OPTION = "an option of the objective, such as objective: dpo(beta=0.1)"
_NEVER_PACKED = "examples are not packed; batches are cut by length"
SAID_OTHERWISE = {
    **dict.fromkeys(("adapter", "finetuning_type", "peft_config", "r", "target_modules", "use_dora"), _METHOD),
    **dict.fromkeys(
        ("lora_r", "lora_rank", "lora_alpha", "lora_dropout", "lora_target", "lora_target_modules"), _METHOD
    ),
    **dict.fromkeys(("lora_target_linear", "layers_to_transform", "modules_to_save"), _METHOD),
    **dict.fromkeys(("packing", "sample_packing"), _NEVER_PACKED),
    **dict.fromkeys(("beta", "pref_beta", "rl_beta"), _OPTION),
    "eval_steps": "eval_every counts epochs: 1/4 evaluates four times in each",
    "evals_per_epoch": "eval_every counts epochs: 1/4 evaluates four times in each",
    "max_steps": "a run is as long as its epochs",
    "warmup_steps": "warmup is a fraction of all steps, such as 0.06",
    "deepspeed": "a run on several devices is started by accelerate launch or torchrun",
    "train_on_inputs": "the loss covers the answers alone; objective: completion without a label learns all of a text",
}
"""Names of other tools for what is said here in another place or another unit, and how."""
