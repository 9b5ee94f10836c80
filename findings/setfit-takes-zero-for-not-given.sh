#!/bin/sh
# setfit 1.2.0: with `end_to_end=True` a rate of 0 for the body is the head's, and `l2_weight=0.0` decays by 0.01.
#
# `body_learning_rate=(2e-5, 0.0)` gives the body one rate for the contrastive phase and one for the phase in which a
# differentiable head is trained. Where the second or `l2_weight` is None, a value is put in its place, by `or`; so 0.0
# is taken for None too. A search over the body's rate thus has its strongest trial where it means to have none: at
# 1e-12 the body stays, at 0.0 it moves at 1e-2, a thousand times the usual 1e-5, and its vectors are others. A run
# "without decay" is to the last bit the one with 0.01. The recorded settings say 0.0. One expects 0 to be 0, as it is
# in the contrastive phase. Nothing warns.
# Exits 0 while the behaviour is as described, 1 once it has changed.
set -eu
: "${PY:=python3}"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
"$PY" -m venv "$WORK/venv"
"$WORK/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.24.0" "sentence-transformers==6.2.0" \
    "setfit==1.2.0" "datasets==5.2.0" "accelerate==1.15.0"
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1 HF_HOME="$WORK"
cd "$WORK"
cat >try.py <<'P'
import logging
import random
import sys
import warnings

import datasets
import sentence_transformers
import setfit
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from setfit import SetFitModel, Trainer, TrainingArguments
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
datasets.disable_progress_bars()
torch.set_num_threads(1)
GOOD, BAD, OTHER = (["fine", "great", "lovely"], ["poor", "awful", "dull"], [f"word{number}" for number in range(20)])
NUMBERS = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *GOOD, *BAD, *OTHER])}
INNER = Tokenizer(WordLevel(NUMBERS, unk_token="[UNK]"))
INNER.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
TOKENIZER = PreTrainedTokenizerFast(tokenizer_object=INNER, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16)
SIZES = {"vocab_size": len(NUMBERS), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 64, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}

torch.manual_seed(0)
BertModel(BertConfig(**SIZES)).save_pretrained("bert")
TOKENIZER.save_pretrained("bert")
SentenceTransformer(modules=[Transformer("bert"), Pooling(32)], device="cpu").save_pretrained("body")
draw = random.Random(0)
TEXTS = [" ".join([draw.choice((BAD, GOOD)[row % 2]), *draw.sample(OTHER, 5)]) for row in range(16)]
ROWS = datasets.Dataset.from_dict({"text": TEXTS, "label": [row % 2 for row in range(16)]})


class Kept(logging.Handler):
    """Keeps what setfit has to say."""

    def emit(self, record):
        said.append(record.getMessage())


said = []
logging.getLogger("setfit").handlers = [Kept(logging.WARNING)]


def tried(**asked):
    """All weights after the head's phase, how far the body's moved, and how alike its vectors are to those before."""
    torch.manual_seed(0)
    said.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = SetFitModel.from_pretrained(
            "body", use_differentiable_head=True, head_params={"out_features": 2}, device="cpu"
        )
        before = {name: value.clone() for name, value in model.model_body.named_parameters()}
        vectors = model.encode(TEXTS)
        settings = asked | {"report_to": "none", "show_progress_bar": False}
        arguments = TrainingArguments("out", num_epochs=(1, 4), batch_size=4, end_to_end=True, **settings)
        trainer = Trainer(model=model, args=arguments, train_dataset=ROWS)
        trainer.train_classifier(TEXTS, ROWS["label"])
    lines = [*said, *(str(one.message) for one in caught)]
    about = sum("learning" in line or "l2" in line or "decay" in line for line in lines)
    moved = max((value - before[name]).abs().max().item() for name, value in model.model_body.named_parameters())
    alike = torch.cosine_similarity(vectors, model.encode(TEXTS)).min().item()
    values = [*model.model_body.parameters(), *model.model_head.parameters()]
    weights = torch.cat([value.detach().flatten() for value in values])
    print(f"  {asked}: the body's weights moved by up to {moved:.1e}, its vectors' cosine is {alike:.4f} or more")
    print(f"    recorded: {arguments.body_learning_rate}, l2_weight {arguments.l2_weight}; warnings {about}")
    return weights, moved, alike, about


print(f"torch {torch.__version__}, transformers {transformers.__version__}, ", end="")
print(f"sentence-transformers {sentence_transformers.__version__}, setfit {setfit.__version__}")
usual = tried(body_learning_rate=(2e-5, 1e-5))
least = tried(body_learning_rate=(2e-5, 1e-12))
zero = tried(body_learning_rate=(2e-5, 0.0))
heads = tried(body_learning_rate=(2e-5, 1e-2))
decayed = tried(l2_weight=0.01)
nothing = tried(l2_weight=0.0)
little = tried(l2_weight=1e-12)
ok = least[1] < 1e-6 and usual[1] < 1e-3 and zero[1] > 1e-2 and zero[2] < 0.9 and torch.equal(zero[0], heads[0])
ok = ok and torch.equal(nothing[0], decayed[0]) and not torch.equal(little[0], decayed[0])
print(f"  0.0 as a rate is 1e-2, the head's: {torch.equal(zero[0], heads[0])}; ", end="")
print(f"as decay it is 0.01: {torch.equal(nothing[0], decayed[0])}, and 1e-12 is: {torch.equal(little[0], decayed[0])}")
sys.exit(0 if ok and not any(one[3] for one in (usual, least, zero, heads, decayed, nothing, little)) else 1)
P
"$WORK/venv/bin/python" -W ignore try.py
