#!/bin/sh
# sentence-transformers 6.2.0: `MatryoshkaLoss` gives the loss inside it unit vectors, the full dimension included.
#
# It is described as a modifier for other losses, which repeats them on the first dimensions of the embeddings. It also
# divides each piece by its length, which its docstring does not say and the model does not do in use. Under a loss by
# cosine that changes nothing. But `MarginMSELoss`, and `MultipleNegativesRankingLoss` with scale=1 and the dot product,
# as its docstring pairs them, then see products between -1 and 1 only: a teacher's margin of 5 is out of reach, and the
# ranking loss cannot come near zero. What the trained model gives in use has margins unrelated to the teacher's, while
# either loss alone, or its plain sum over the cut embeddings, is learned. Nothing warns.
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
import sys
import warnings

import sentence_transformers
import torch
from sentence_transformers import SentenceTransformer, util
from sentence_transformers.sentence_transformer.losses import (
    MarginMSELoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = [f"w{number}" for number in range(24)]
QUERIES, RIGHT, WRONG = WORDS[:8], WORDS[8:16], WORDS[16:]
MARGINS = torch.linspace(1, 8, 8)  # a teacher's score of the right text, less that of the wrong one
DIMS = [16, 8]


def made():
    torch.manual_seed(0)
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, "w0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return SentenceTransformer(modules=[StaticEmbedding(inner, embedding_dim=DIMS[0])], device="cpu")


def batch(model):
    return [model.preprocess(texts) for texts in (QUERIES, RIGHT, WRONG)]


class Cut(torch.nn.Module):
    """The plain sum of a loss over the first dimensions of the embeddings."""

    def __init__(self, model, make):
        super().__init__()
        self.model, self.make = model, make

    def forward(self, features, labels):
        whole = [self.model(dict(part))["sentence_embedding"] for part in features]
        total = 0.0
        for dim in DIMS:
            pieces = iter([{"sentence_embedding": one[:, :dim]} for one in whole])
            total = total + self.make(lambda _, pieces=pieces: next(pieces))(features, labels)
        return total


def margin(model):
    return MarginMSELoss(model)


def ranking(model):
    return MultipleNegativesRankingLoss(model, scale=1, similarity_fct=util.dot_score)


def cosine(model):
    return MultipleNegativesRankingLoss(model)


def tried(make, labels, wrap):
    """The loss at the end of a training, and how far the trained model's margins are from the teacher's."""
    model = made()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loss = {
            "alone": lambda: make(model),
            "plain sum": lambda: Cut(model, make),
            "MatryoshkaLoss": lambda: MatryoshkaLoss(model, make(model), DIMS),
        }[wrap]()
        optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
        for _ in range(400):
            value = loss(batch(model), labels)
            value.backward()
            optimiser.step()
            optimiser.zero_grad()
    about = sum("normal" in str(one.message) for one in caught)
    queries, right, wrong = (torch.tensor(model.encode(texts)) for texts in (QUERIES, RIGHT, WRONG))
    found = (queries * (right - wrong)).sum(1)
    span = f"{found.min():.1f} to {found.max():.1f}"
    print(f"    {wrap}: loss {value.item():.4f}, margins in use {span}; warnings {about}")
    return value.item(), (found - MARGINS).abs().max().item(), about


print(f"torch {torch.__version__}, sentence-transformers {sentence_transformers.__version__}; 400 steps of Adam")
ok = True
for name, make, labels in (
    ("MultipleNegativesRankingLoss by cosine", cosine, None),
    ("MultipleNegativesRankingLoss by dot product", ranking, None),
    (f"MarginMSELoss, the teacher's margins {MARGINS.min():.1f} to {MARGINS.max():.1f}", margin, MARGINS),
):
    print(f"  {name}")
    alone, plain, wrapped = (tried(make, labels, wrap) for wrap in ("alone", "plain sum", "MatryoshkaLoss"))
    ok = ok and alone[0] < 0.01 and plain[0] < 0.01 and not wrapped[2]
    if make is cosine:
        ok = ok and wrapped[0] < 0.01
    else:
        ok = ok and wrapped[0] > 1
    if make is margin:
        ok = ok and alone[1] < 0.1 and plain[1] < 0.1 and wrapped[1] > 5
sys.exit(0 if ok else 1)
P
"$WORK/venv/bin/python" -W ignore try.py
