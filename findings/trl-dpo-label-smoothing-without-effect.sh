#!/bin/sh
# trl 1.16.0: `DPOConfig(label_smoothing=0.3)` changes nothing under the default loss of `DPOTrainer`.
#
# Smoothed labels of DPO ("conservative DPO": a share of the preferences is taken to be the wrong way round) are the usual
# meaning of the setting, and that of DPOTrainer's default loss, "sigmoid", in releases such as 0.11. In this one only
# "robust", "exo_pair" and two others read it. With "sigmoid" any value is taken, legal or not, and the loss is the plain
# one; nothing warns.
# Exits 0 while the behaviour is as described, 1 once it has changed.
set -eu
: "${PY:=python3}"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
"$PY" -m venv "$WORK/venv"
"$WORK/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.24.0" "trl==1.16.0"
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1
cd "$WORK"
cat >try.py <<'P'
import sys
import warnings

import torch
import transformers
import trl
from datasets import Dataset, disable_progress_bars
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

disable_progress_bars()
transformers.logging.set_verbosity_error()
words = ["<pad>", "<eos>", "<unk>", "a", "film", "good", "bad", "very"]
plain = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
plain.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
rows = [{"prompt": "a film", "chosen": " very good", "rejected": " bad"}] * 4
sizes = {"vocab_size": 8, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def model(seed):
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**sizes, pad_token_id=0, eos_token_id=1))


def loss(kind, smoothing):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        config = trl.DPOConfig(
            output_dir="out", loss_type=[kind], label_smoothing=smoothing, beta=5.0, report_to=[], use_cpu=True, bf16=False
        )
        trainer = trl.DPOTrainer(
            model(0), ref_model=model(1), args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
        )
        batch = next(iter(trainer.get_train_dataloader()))
        found = trainer.compute_loss(trainer.model, batch).item()
    return found, sum("smoothing" in str(one.message) for one in caught)


print(f"trl {trl.__version__}, transformers {transformers.__version__}; the loss of one batch")
found = {}
for kind, smoothing in (("sigmoid", 0.0), ("sigmoid", 0.3), ("sigmoid", 7.0), ("robust", 0.0), ("robust", 0.3)):
    found[kind, smoothing], about = loss(kind, smoothing)
    print(f"  loss_type {kind}, label_smoothing {smoothing}: {found[kind, smoothing]:.4f}, warnings about it: {about}")
    if about:
        sys.exit(1)
same = found["sigmoid", 0.0] == found["sigmoid", 0.3] == found["sigmoid", 7.0]
sys.exit(0 if same and abs(found["robust", 0.0] - found["robust", 0.3]) > 0.001 else 1)
P
"$WORK/venv/bin/python" try.py
