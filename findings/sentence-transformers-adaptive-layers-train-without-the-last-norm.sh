#!/bin/sh
# sentence-transformers 6.2.0: `AdaptiveLayerLoss` trains vectors of Qwen3 and ModernBERT that no cut model gives.
#
# The loss trains every depth of a model, so that blocks can be cut off later, as its guide shows: `layer =
# layer[:new_num_layers]`. For a depth it pools what leaves that block. In BERT, and in MPNet, the guide's example, a
# cut model pools the same, and the loss in training is that of the cut model. Qwen3 and other decoders, and ModernBERT,
# have one more norm behind the last block. A cut model keeps it; the loss leaves it out at all depths but the last. It
# gives long and short vectors of tokens the same length, so what training did with lengths is lost: here a Qwen3 cut
# after one of four blocks has a loss of 2.0, where chance has 2.8 and training saw 0.004. `Matryoshka2dLoss` rests on
# it. One expects the vectors in use to be those trained. Nothing warns.
# Exits 0 while the behaviour is as described, 1 once it has changed.
set -eu
: "${PY:=python3}"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
"$PY" -m venv "$WORK/venv"
"$WORK/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.24.0" "sentence-transformers==6.2.0"
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1
cd "$WORK"
cat >try.py <<'P'
import copy
import random
import sys
import warnings

import sentence_transformers
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import AdaptiveLayerLoss, MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    BertConfig,
    BertModel,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3Model,
)

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)
TOPICS = [f"topic{number}" for number in range(16)]
FILLING = [f"word{number}" for number in range(40)]
NUMBERS = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[MASK]", *TOPICS, *FILLING])}
BLOCKS, WIDTH, STEPS = 4, 32, 300
SIZES = {"vocab_size": len(NUMBERS), "hidden_size": WIDTH, "num_hidden_layers": BLOCKS, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 64, "max_position_embeddings": 64, "pad_token_id": 0, "initializer_range": 0.1}
FAMILIES = {
    "BERT": (BertModel, BertConfig(**SIZES), 2e-3),
    "MPNet": (MPNetModel, MPNetConfig(**SIZES), 2e-3),
    "ModernBERT": (ModernBertModel, ModernBertConfig(**SIZES), 6e-3),
    "Qwen3": (Qwen3Model, Qwen3Config(**SIZES, num_key_value_heads=4, head_dim=8), 6e-3),
}
INNER = Tokenizer(WordLevel(NUMBERS, unk_token="[UNK]"))
INNER.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
TOKENIZER = PreTrainedTokenizerFast(tokenizer_object=INNER, pad_token="[PAD]", unk_token="[UNK]", mask_token="[MASK]")


def batch(model, draw):
    """Two texts on each of sixteen topics: its word, amid seven that mean nothing."""
    sides = [[draw.sample([topic, *draw.sample(FILLING, 7)], 8) for topic in TOPICS] for _ in range(2)]
    return [model.preprocess([" ".join(words) for words in side]) for side in sides]


@torch.no_grad()
def measured(model, loss):
    """The mean loss over eight batches that were not trained on."""
    return sum(loss(batch(model, random.Random(1000 + number)), None).item() for number in range(8)) / 8


def tried(name):
    """For each depth the loss that training sees, and that of the model cut there, with its last norm and without."""
    cls, config, rate = FAMILIES[name]
    torch.manual_seed(0)
    cls(config).save_pretrained(name)
    TOKENIZER.save_pretrained(name)
    model = SentenceTransformer(modules=[Transformer(name), Pooling(WIDTH)], device="cpu")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loss = AdaptiveLayerLoss(model, MultipleNegativesRankingLoss(model), n_layers_per_step=-1)
        optimiser = torch.optim.AdamW(model.parameters(), lr=rate)
        draw = random.Random(0)
        model.train()
        for _ in range(STEPS):
            loss(batch(model, draw), None).backward()
            optimiser.step()
            optimiser.zero_grad()
    about = sum("layer" in str(one.message).lower() or "norm" in str(one.message) for one in caught)
    model.eval()
    whole = measured(model, MultipleNegativesRankingLoss(model))
    print(f"  {name}: loss of the whole model {whole:.3f}; warnings {about}")
    found = []
    for depth in range(1, BLOCKS):
        only = AdaptiveLayerLoss(  # the same loss, of which one depth is looked at
            model,
            MultipleNegativesRankingLoss(model),
            n_layers_per_step=-1,
            last_layer_weight=0.0,
            prior_layers_weight=BLOCKS,
            kl_temperature=0,
            layer_weighting=lambda layer, depth=depth: float(layer == depth),
        )
        trained = measured(model, only)
        shorter = copy.deepcopy(model)
        body = shorter[0].auto_model
        if hasattr(body, "encoder"):
            body.encoder.layer = body.encoder.layer[:depth]
        else:
            body.layers = body.layers[:depth]
        cut = measured(shorter, MultipleNegativesRankingLoss(shorter))
        for norm in {"norm", "final_norm"} & set(dict(body.named_children())):
            setattr(body, norm, torch.nn.Identity())
        bare = measured(shorter, MultipleNegativesRankingLoss(shorter))
        print(f"    after {depth} of {BLOCKS} blocks: {trained:.3f} as trained, {cut:.3f} of the model cut there")
        print(f"      and {bare:.3f} of that without its last norm")
        found.append((trained, cut, bare, about))
    return found


print(f"torch {torch.__version__}, transformers {transformers.__version__}, ", end="")
print(f"sentence-transformers {sentence_transformers.__version__}")
ok = True
for name in FAMILIES:
    for trained, cut, bare, about in tried(name):
        same = abs(trained - cut) < 1e-5
        ok = ok and not about and abs(trained - bare) < 1e-5 and same == (name in ("BERT", "MPNet"))
        ok = ok and (name != "Qwen3" or (trained < 0.2 and cut > 1))
sys.exit(0 if ok else 1)
P
"$WORK/venv/bin/python" -W ignore try.py
