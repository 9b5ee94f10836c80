#!/bin/sh
# sentence-transformers 6.2.0: a run with `SoftmaxLoss` that is resumed from a checkpoint goes on with an untrained head.
#
# `SoftmaxLoss` holds the layer that turns pairs of vectors into classes, and the trainer gives its weights to the optimiser.
# A checkpoint keeps the model's weights and the optimiser's state, the averages for that layer included, but not the
# weights of the loss. `resume_from_checkpoint` takes the old averages for a layer that was drawn anew, and warns of
# nothing. One expects a resumed run to end where an uninterrupted one ends, as it does to the last bit with a loss that has no
# weights of its own.
# Exits 0 while the behaviour is as described, 1 once it has changed.
set -eu
: "${PY:=python3}"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
"$PY" -m venv "$WORK/venv"
"$WORK/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.24.0" "sentence-transformers==6.2.0" \
  "accelerate==1.15.0" "datasets==5.2.0"
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 HF_HOME="$WORK/hf"
cd "$WORK"
cat >try.py <<'P'
import os
import random
import sys

import sentence_transformers
import torch
import transformers
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss, SoftmaxLoss
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, TrainerCallback

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
words = ["[PAD]", "[UNK]", *(f"w{number}" for number in range(60))]
inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "[UNK]"))
inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]").save_pretrained("bert")
sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
torch.manual_seed(0)
BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained("bert")
draw = random.Random(0)
texts = [" ".join(draw.choices(words[2:], k=6)) for _ in range(48)]
classes = Dataset.from_dict({"a": texts[:24], "b": texts[24:], "label": [number % 3 for number in range(24)]})
scores = Dataset.from_dict({"a": texts[:24], "b": texts[24:], "label": [number % 2 / 1 for number in range(24)]})


class StopAt(TrainerCallback):
    """Saves and stops after a step, as a run that is interrupted."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


def run(kind, stop=None, resume=None):
    """The loss module after 20 steps, or after `stop`."""
    torch.manual_seed(0)
    encoder = Transformer("bert")
    model = SentenceTransformer(modules=[encoder, Pooling(32)], device="cpu")
    loss = SoftmaxLoss(model, 32, 3) if kind == "SoftmaxLoss" else CosineSimilarityLoss(model)
    first = loss.classifier.weight.clone() if kind == "SoftmaxLoss" else None
    arguments = SentenceTransformerTrainingArguments(
        kind, per_device_train_batch_size=4, max_steps=20, learning_rate=1e-2, report_to=[], save_strategy="no",
        logging_strategy="no", disable_tqdm=True, use_cpu=True
    )  # fmt: skip
    rows = classes if kind == "SoftmaxLoss" else scores
    calls = [StopAt(stop)] if stop else []
    trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=rows, loss=loss, callbacks=calls)
    if resume:
        seen = {}

        class Look(TrainerCallback):
            def on_train_begin(self, args, state, control, **kwargs):
                seen["head"] = loss.classifier.weight.detach().clone() if first is not None else None

        trainer.add_callback(Look())
        trainer.train(resume_from_checkpoint=resume)
        return loss, first, seen["head"]
    trainer.train()
    return loss


def flat(module):
    return torch.cat([value.detach().flatten() for value in module.parameters()])


print(f"sentence-transformers {sentence_transformers.__version__}, transformers {transformers.__version__}")
apart = {}
for kind in ("CosineSimilarityLoss", "SoftmaxLoss"):
    whole = run(kind)
    stopped = run(kind, stop=11)
    folder = f"{kind}/checkpoint-11"
    resumed, first, head = run(kind, resume=folder)
    apart[kind] = (flat(whole) - flat(resumed)).abs().max().item()
    print(f"  {kind}: the resumed run's weights end {apart[kind]:.4f} away from the uninterrupted run's")
    if head is not None:
        trained = (stopped.classifier.weight - first).abs().max().item()
        print(f"    the head had moved by {trained:.4f} when the run stopped; the resumed run begins with")
        print(f"    {'the head as it was drawn' if torch.equal(head, first) else 'another head'}")
        kept = torch.equal(head, stopped.classifier.weight)
print(f"  files of a checkpoint: {sorted(os.listdir(folder))}")
sys.exit(0 if apart["CosineSimilarityLoss"] == 0 and apart["SoftmaxLoss"] > 0.01 and not kept else 1)
P
"$WORK/venv/bin/python" -W ignore try.py
