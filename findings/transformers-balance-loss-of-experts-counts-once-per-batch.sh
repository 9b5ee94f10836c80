#!/bin/sh
# transformers 5.24.0: with gradient accumulation the loss that balances a mixture's experts weighs as many times as much
# as there are batches in a step.
#
# Under `output_router_logits=True` Mixtral, Qwen3-MoE and others add `router_aux_loss_coef` times that loss to the loss
# of the language model. Trainer leaves it to such models to divide by the tokens of the whole step, and they divide the
# language model's part only: the balance loss of each batch is added whole. With eight rows as one batch or as four
# batches of two, the output layer's step is the same, that of the routers over four times as long, and the logged loss
# is larger too. So a coefficient that was tuned without accumulation is another one with it. Nothing warns.
# Exits 0 while the behaviour is as described, 1 once it has changed.
set -eu
: "${PY:=python3}"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
"$PY" -m venv "$WORK/venv"
"$WORK/venv/bin/pip" install --quiet "torch==2.13.0" "transformers[torch]==5.24.0"
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1
cd "$WORK"
cat >try.py <<'P'
import sys

import torch
import transformers
from transformers import (
    MixtralConfig,
    MixtralForCausalLM,
    PrinterCallback,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    Trainer,
    TrainingArguments,
)

transformers.logging.set_verbosity_error()
SIZES = {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "intermediate_size": 48, "output_router_logits": True}
torch.manual_seed(0)
ROWS = [{"input_ids": row, "labels": row} for row in torch.randint(128, (8, 16)).tolist()]


def step(cls, config, coefficient, batch, batches):
    """By how much one step of plain gradient descent at rate 1 moves each weight, and the loss that is logged."""
    torch.manual_seed(0)
    model = cls(config(**SIZES, router_aux_loss_coef=coefficient))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": batches, "max_steps": 1}
    options |= {"learning_rate": 1.0, "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "use_cpu": True}
    options |= {"report_to": [], "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True}
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    optimizers = (sgd, torch.optim.lr_scheduler.ConstantLR(sgd, 1.0))
    trainer = Trainer(model, TrainingArguments("out", **options), train_dataset=ROWS, optimizers=optimizers)
    trainer.remove_callback(PrinterCallback)
    loss = trainer.train().training_loss
    return {name: before[name] - weight.detach() for name, weight in model.named_parameters()}, loss


def tried(cls, config, coefficient):
    """How long the step of four batches is beside that of one, along it: of the output layer and of the routers."""
    (one, plain), (four, cut) = step(cls, config, coefficient, 8, 1), step(cls, config, coefficient, 2, 4)

    def ratio(part):
        of = [name for name in one if part in name]
        a, b = (torch.cat([step[name].flatten() for name in of]) for step in (one, four))
        return (b @ a / (a @ a)).item()

    found = ratio("lm_head"), ratio("mlp.gate.weight"), cut / plain
    print(f"{cls.__name__}, coefficient {coefficient}: output layer x{found[0]:.2f}, routers x{found[1]:.2f}, ", end="")
    print(f"logged loss {plain:.2f} -> {cut:.2f}")
    return found


print(f"torch {torch.__version__}, transformers {transformers.__version__}; 8 rows as one batch, and as 4 batches of 2")
KINDS = [(MixtralForCausalLM, MixtralConfig), (Qwen3MoeForCausalLM, Qwen3MoeConfig)]
without = [tried(*kind, 0.0) for kind in KINDS]
held = [tried(*kind, 1.0) for kind in KINDS]
same = all(abs(value - 1) < 0.01 for found in without for value in found)
grown = all(abs(output - 1) < 0.01 and 3.8 < routers < 4.6 and loss > 1.3 for output, routers, loss in held)
sys.exit(0 if same and grown else 1)
P
"$WORK/venv/bin/python" -W ignore try.py
