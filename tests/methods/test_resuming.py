"""A run that is stopped and goes on, without a cache, is the run that was neither: for every method and architecture.

Both runs are compared bit for bit. Every method of the registries runs on a model of each sort, and every row of the
table with all sorts of methods.
"""

from __future__ import annotations

import json

import pytest
import torch

import tiny
from stratatune.cache.feed import Feed
from stratatune.model.saving import read_tensors
from stratatune.plan import ARCHITECTURES, BLOCK_METHODS, INSERTIONS
from stratatune.progress import Reporter
from stratatune.shapes.relatives import RELATIVES
from stratatune.training.config import validate
from stratatune.training.run import train

OPTIONS = {"late_prompt": "depth=1, tokens=2", "adapter": "depth=2", "prompt": "tokens=2", "idpg": "tokens=2, phm=4"}
KINDS = [f"{kind}({OPTIONS[kind]})" for kind in INSERTIONS] + [f"1: {k}" for k in BLOCK_METHODS if k != "frozen"]
MIX = "2: lora(dropout=0.1) + delta_bias(on=o) | late_prompt(depth=1, tokens=2)"
SORTS = (("bert", "mlm"), ("gpt2", "causal"), ("bart", "seq2seq"))
CASES = [(*sort, plan) for sort in SORTS for plan in KINDS]
NO_CLASSES = ("granite", "cohere2", "lfm2", "olmoe", "granitemoe", "gemma4", "gemma4_moe")  # of transformers
NO_WORDS = ("eurobert",)  # that a masked-LM head reads
STATEFUL = ("qwen3_5", "lfm2", "qwen3_5_moe", "lfm2_moe")  # take no prompt, and score no label words side by side
CASES += [
    (row.name, "lm", MIX) for row in ARCHITECTURES if row.name not in (*NO_WORDS, *STATEFUL) and row not in RELATIVES
]
CASES += [
    (row.name, "classification", MIX)
    for row in ARCHITECTURES
    if row.name not in (*NO_CLASSES, *STATEFUL) and row not in RELATIVES
]
CASES.append((STATEFUL[0], "classification", MIX.replace("late_prompt(depth=1, tokens=2)", "adapter(depth=1)")))
LM = {"encoder": "mlm", "decoder": "causal", "encoder-decoder": "seq2seq"}
BATCHES = 2  # of an epoch: 8 rows, 4 a batch


@pytest.fixture(scope="module")
def base_of(tmp_path_factory):
    """Gives the folder of a tiny model of a row, with a tokenizer; each is saved once."""
    made = {}

    def folder(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            _model(name).save_pretrained(made[name])
            row = next(row for row in ARCHITECTURES if row.name == name)
            tokenizer = tiny.decoder_tokenizer() if row.family == "decoder" else tiny.roberta_tokenizer()
            tokenizer.save_pretrained(made[name])
        return made[name]

    return folder


def _model(name):
    row, vocab = next(row for row in ARCHITECTURES if row.name == name), len(tiny.roberta_tokenizer())
    if row.family == "encoder-decoder":
        return tiny.tiny_encoder_decoder(name, blocks=4, more=0)
    if row.family == "decoder":
        return tiny.tiny_decoder(row.model_types[0])
    return tiny.tiny_of(row.model_types[0], **{row.fields.vocab: vocab})


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "films.jsonl"
    words = ("good", "bad", "great", "terrible")
    rows = [{"sentence": f"the {a} was {w}", "label": n % 2} for a in ("film", "day") for n, w in enumerate(words)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


class Stop(KeyboardInterrupt):
    """A user's Ctrl-C."""


def _stopped(monkeypatch, config, batch):
    """Start a run and stop it in front of that training batch."""
    seen, plain = [0], Feed.hidden

    def hidden(self, given):
        if torch.is_grad_enabled():
            if seen[0] == batch:
                raise Stop
            seen[0] += 1
        return plain(self, given)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(Feed, "hidden", hidden)
        train(config, reporter=Reporter(quiet=True))


@pytest.mark.parametrize(("name", "objective", "plan"), CASES)
def test_stopped_and_uncached_is_neither(name, objective, plan, base_of, films, tmp_path, monkeypatch):
    row = next(row for row in ARCHITECTURES if row.name == name)
    objective = LM[row.family] if objective == "lm" else objective
    plan = MIX.replace("2: ", ": ") if name == "albert" and plan == MIX else plan
    task = {"text": "sentence", "label": "label"} if objective == "seq2seq" else {"task": "sst2"}
    given = {"model": str(base_of(name)), "plan": plan, "train": str(films), "objective": objective, **task}
    given |= {"epochs": 2, "batch_size": 4, "lr": 1e-2, "max_length": 24, "device": "cpu", "checkpoint_every": 1}

    def config(out, **settings):
        return validate({**given, "out": str(tmp_path / out), **settings})

    train(config("whole", cache="ram"), reporter=Reporter(quiet=True))
    _stopped(monkeypatch, config("parts", cache="off"), BATCHES + 1)
    train(config("parts", cache="off", resume=True), reporter=Reporter(quiet=True))
    one, other = (read_tensors(tmp_path / out / "adapter") for out in ("whole", "parts"))
    assert one.keys() == other.keys() and one
    for tensor in one:
        assert torch.equal(one[tensor], other[tensor]), tensor
