"""Heads: each gives the logits of the model's own class; one more is a class and a registration, as is a family."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
import transformers

import stratatune as st
import tiny
from stratatune.errors import ModelError
from stratatune.model.backbone import Backbone
from stratatune.model.base import load_base
from stratatune.model.families.encoder import Encoder
from stratatune.model.families.registry import FAMILIES
from stratatune.model.heads.head import Head
from stratatune.model.heads.registry import HEADS, head_named
from stratatune.model.question import Question
from stratatune.model.split import Top, Trunk
from stratatune.plan import ARCHITECTURES, architecture_of
from stratatune.shapes.table import forget_architecture
from tuning import shake

ENCODERS = [name for row in ARCHITECTURES if row.family == "encoder" for name in row.model_types]
DECODERS = ("gpt2", "llama", "qwen2", "mistral", "phi3", "phi")
MASK = torch.arange(7) < torch.tensor([7, 4, 6])[:, None]
IDS = torch.randint(5, 60, (3, 7), generator=torch.Generator().manual_seed(3)).masked_fill(~MASK, 1)
PLACES = torch.tensor([[0, 3], [1, 2], [5, 0]])


def wearing(name: str, head: str) -> Any:
    """A tiny model of a type with the class that transformers has for a head, in eval mode and fp64."""
    config = (tiny.tiny_decoder(name) if name in DECODERS else tiny.tiny_of(name)).config
    config.num_labels = 2 if head == "span" else 3
    auto = getattr(transformers, head_named(head).auto)
    try:
        torch.manual_seed(0)
        return auto.from_config(config).double().eval()
    except ValueError:
        pytest.skip(f"transformers has no {auto.__name__} of {name}")


def own_logits(model: Any) -> torch.Tensor:
    """[B, T, C] by the model's own forward."""
    out = model(input_ids=IDS, attention_mask=MASK.long())
    return head_named("span" if "start_logits" in out else "token").of_output(out)


@pytest.mark.parametrize("head", ["token", "span"])
@pytest.mark.parametrize("name", [*ENCODERS, *DECODERS])
@torch.no_grad()
def test_logits_of_every_token_are_the_models_own(name, head):
    """At every token, at a mask of them, at places, and with an insertion in between."""
    blocks = ":" if architecture_of(name).fields.distinct else "2:"
    # What is asked says where a decoder's text ends, and so what its prompt is made from: an adapter there.
    inserted = "adapter(depth=3)" if name in DECODERS else "late_prompt(depth=2, tokens=2, dropout=0)"
    model = shake(st.apply(wearing(name, head), f"{inserted} | {blocks} lora"))
    attached = model.attached
    assert attached.backbone.head.name == head
    wanted, hidden = own_logits(model), Trunk(attached)(IDS, MASK)
    top = Top(attached)
    torch.testing.assert_close(top(hidden, MASK, Question())[MASK], wanted[MASK], atol=1e-6, rtol=0)
    torch.testing.assert_close(top(hidden, MASK, Question(places=MASK)), wanted[MASK], atol=1e-6, rtol=0)
    at = top(hidden, MASK, Question(places=PLACES))
    torch.testing.assert_close(at, wanted[torch.arange(3)[:, None], PLACES], atol=1e-6, rtol=0)


@pytest.mark.parametrize("head", ["token", "span", "sequence"])
def test_what_trains_is_the_plans_and_the_new_layer(head):
    model = st.apply(wearing("bert", head), "2: lora")
    new = {name for path in model.attached.backbone.head.new_layers for name in named(model, path)}
    trained = set(model.attached.trained())
    assert new <= trained and all(".a" in name or ".b" in name for name in trained - new)


def named(model: Any, path: str) -> set[str]:
    """The names of the parameters below ``path``."""
    return {name for name, _ in model.named_parameters() if name.startswith(f"{path}.")}


@pytest.mark.parametrize("head", ["token", "span", "sequence", "masked_lm", "none"])
def test_saved_and_loaded(head, tmp_path, tiny_folder):
    base = load_base(str(tiny_folder("bert", "mlm")), head, num_labels=4)
    model = shake(st.apply(base.model, "2: lora | 3: bitfit", also_train=base.new)).eval()
    model.save_pretrained(tmp_path / "adapter")
    again = st.load(tmp_path / "adapter")
    asked = Question()
    with torch.no_grad():
        wanted, found = (Top(one.attached)(Trunk(one.attached)(IDS, MASK), MASK, asked) for one in (model, again))
    assert torch.equal(found, wanted) and again.attached.backbone.head.name == head


def test_a_head_that_a_family_does_not_wear_is_refused(tiny_folder):
    with pytest.raises(ModelError, match="head lm: bert is an encoder, which has none") as error:
        load_base(str(tiny_folder("bert", "mlm")), "lm")
    assert "masked_lm, token, span, sequence" in str(error.value.hint)
    with pytest.raises(ModelError, match="head 'tokens' is not in the table") as error:
        load_base(str(tiny_folder("bert", "mlm")), "tokens")
    assert "token" in str(error.value.hint)


def test_places_are_refused_where_all_tokens_are_pooled():
    model = st.apply(tiny.tiny_of("modernbert", "classification", classifier_pooling="mean"), "2: lora")
    with pytest.raises(ModelError, match="pools all tokens"):
        Top(model.attached)(Trunk(model.attached)(IDS, MASK), MASK, Question(places=PLACES))


# ---- one more head ------------------------------------------------------------------------------------------------


class NextSentence(Head):
    """Whether a second sentence follows the first, by BERT's pooler and a linear."""

    name: ClassVar[str] = "next_sentence"
    auto: ClassVar[str] = "AutoModelForNextSentencePrediction"
    families: ClassVar[frozenset[str]] = frozenset({"encoder"})

    @classmethod
    def is_worn(cls, body):
        return "cls.seq_relationship" in body.names

    @property
    def new_layers(self):
        return ("cls.seq_relationship",)

    def places(self, question, mask):
        return self.family.pooled(mask)

    def logits(self, hidden, mask, question):
        pooled = self.body.part("bert.pooler")(hidden)  # of the first position
        return self.body.part("cls.seq_relationship")(pooled)


@pytest.fixture
def toy_head(monkeypatch):
    monkeypatch.setitem(HEADS, NextSentence.name, NextSentence)


def test_a_head_is_one_class_and_one_registration(toy_head, tmp_path):
    torch.manual_seed(0)
    transformers.BertForNextSentencePrediction(tiny.tiny_bert().config).save_pretrained(tmp_path / "base")
    tiny.bert_tokenizer().save_pretrained(tmp_path / "base")
    base = load_base(str(tmp_path / "base"), "next_sentence")
    model = shake(st.apply(base.model, "2: lora | late_prompt(depth=3, tokens=2, dropout=0)")).eval()
    assert {"cls.seq_relationship.weight", "cls.seq_relationship.bias"} <= set(model.attached.trained())
    with torch.no_grad():
        wanted = model(input_ids=IDS, attention_mask=MASK.long()).logits
        found = Top(model.attached)(Trunk(model.attached)(IDS, MASK), MASK, Question())
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
        model.save_pretrained(tmp_path / "adapter")
        again = st.load(tmp_path / "adapter")
        torch.testing.assert_close(again(input_ids=IDS, attention_mask=MASK.long()).logits, wanted, atol=0, rtol=0)
    assert isinstance(again.attached.backbone.head, NextSentence)


# ---- one more family ----------------------------------------------------------------------------------------------


class Everywhere(Encoder):
    """Encoders whose top runs every block at every token, whatever is asked."""

    def top(self, hidden, mask, depth, inserted, question, head):
        all_of_it = self._blocks(hidden, mask, depth, inserted, None)
        places = head.places(question, mask)
        found = all_of_it if places is None else all_of_it[torch.arange(len(mask))[:, None], places]
        return head.logits(found, mask, question)


@pytest.fixture
def toy_family(monkeypatch):
    monkeypatch.setitem(FAMILIES, "everywhere", Everywhere)
    row = replace(architecture_of("bert"), name="toy", walked_by="everywhere")
    st.add_architecture(row)
    yield
    forget_architecture("bert")


@pytest.mark.parametrize("head", ["masked_lm", "sequence", "token"])
def test_a_family_is_one_class_and_one_registration(head, toy_family, tmp_path, tiny_folder):
    base = load_base(str(tiny_folder("bert", "mlm")), head, num_labels=3)
    model = shake(st.apply(base.model, "2: lora | adapter(depth=3) | prompt(tokens=2)", also_train=base.new)).eval()
    assert isinstance(model.attached.backbone.family, Everywhere)
    asked = Question(places=PLACES) if head == "masked_lm" else Question()
    with torch.no_grad():
        wanted = model(input_ids=IDS, attention_mask=MASK.long()).logits
        wanted = wanted[torch.arange(3)[:, None], PLACES] if head == "masked_lm" else wanted
        found = Top(model.attached)(Trunk(model.attached)(IDS, MASK), MASK, asked)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
        model.save_pretrained(tmp_path / "adapter")
        again = st.load(tmp_path / "adapter").attached
        assert torch.equal(Top(again)(Trunk(again)(IDS, MASK), MASK, asked), found)
    assert isinstance(again.backbone.family, Everywhere)


def test_a_family_that_is_not_there_is_said():
    st.add_architecture(replace(architecture_of("bert"), walked_by="encoders"))
    try:
        with pytest.raises(ModelError, match="walked_by: bert names the family 'encoders'"):
            Backbone(tiny.tiny_bert())
    finally:
        forget_architecture("bert")
