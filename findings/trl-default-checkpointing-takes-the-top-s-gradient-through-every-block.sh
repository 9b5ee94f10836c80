#!/bin/sh
# trl 1.16.0 with transformers 5.24.0 and peft 0.21.2: where only the last block trains, SFTTrainer still computes the
# gradient of every block, and each block once more, since it checkpoints by default.
#
# Whoever trains the top alone (`layers_to_transform`, or `requires_grad` set by hand) expects the backward pass to end
# there. `SFTConfig` has `gradient_checkpointing=True`, in contrast to transformers' own arguments, and for it the
# output of the embeddings is made to require a gradient. So each frozen block below takes part in the backward pass,
# after it was computed again: a step of a six-block model whose last block trains costs 2.2 to 2.5 times as
# many operations as under `gradient_checkpointing=False`, and the blocks' inputs are kept. The result is the same, and
# nothing is said. Exits 0 while the behaviour is as described, 1 once it has changed.
set -eu
: "${PY:=python3}"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
"$PY" -m venv "$WORK/venv"
"$WORK/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.24.0" "peft==0.21.2" "trl==1.16.0"
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1
cd "$WORK"
cat >try.py <<'P'
import sys

import peft
import torch
import transformers
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, PrinterCallback

transformers.logging.set_verbosity_error()
WORDS = ["<pad>", "</s>", *(f"w{number}" for number in range(60))]
split = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="<pad>"))
split.pre_tokenizer = pre_tokenizers.Whitespace()
TOKENS = PreTrainedTokenizerFast(tokenizer_object=split, pad_token="<pad>", eos_token="</s>")
TEXTS = Dataset.from_list([{"text": " ".join(f"w{step * n % 60}" for n in range(1, 40))} for step in range(1, 9)])
SIZES = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 6}


def step(by_lora, **more):
    """One step that trains the last block: its operations, the blocks that a gradient goes through, and the loss."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, num_attention_heads=4))
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], layers_to_transform=[5]) if by_lora else None
    if not by_lora:
        model.requires_grad_(False)
        model.model.layers[5].requires_grad_(True)
    through = set()
    for at, block in enumerate(model.model.layers):
        block.register_full_backward_hook(lambda *_, at=at: through.add(at))
    options = {"max_steps": 1, "per_device_train_batch_size": 8, "use_cpu": True, "bf16": False, "report_to": []}
    options |= {"save_strategy": "no", "disable_tqdm": True, "seed": 0, **more}
    trainer = trl.SFTTrainer(
        model=model, args=trl.SFTConfig("out", **options), train_dataset=TEXTS, processing_class=TOKENS, peft_config=lora
    )
    trainer.remove_callback(PrinterCallback)
    with FlopCounterMode(display=False) as counted:
        loss = trainer.train().training_loss
    return counted.get_total_flops(), len(through), loss


print(f"torch {torch.__version__}, transformers {transformers.__version__}, trl {trl.__version__}, ", end="")
print(f"peft {peft.__version__}; six blocks, the last one trains")
as_described = trl.SFTConfig("out", use_cpu=True, bf16=False).gradient_checkpointing is True
for name, by_lora in (("layers_to_transform=[5]", True), ("requires_grad of block 5", False)):
    (work, blocks, loss), (least, top, same) = step(by_lora), step(by_lora, gradient_checkpointing=False)
    print(f"{name}: gradient through {blocks} blocks and {work / 1e6:.0f} MFLOP by default, ", end="")
    print(f"{top} and {least / 1e6:.0f} without checkpointing; losses {loss:.4f} and {same:.4f}")
    as_described &= blocks == 6 and top == 1 and work > 2 * least and abs(loss - same) < 1e-4
sys.exit(0 if as_described else 1)
P
"$WORK/venv/bin/python" -W ignore try.py
