"""Encoder-decoders: plans over two stacks, counts, trunk and top, backward, runs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import tiny
from counting import count_backward_blocks
from stacks import FAMILIES, checkpoint, inputs, split, tuned, whole, without_dropout
from stratatune.errors import ModelError, PlanError
from stratatune.model.attach import apply
from stratatune.model.split import Trunk
from stratatune.objectives.rouge import rouge
from stratatune.plan import Plan, shape_of
from stratatune.plan.picture import terminal

FROZEN_DEPTHS = {
    "enc 1: lora(rank=2) | dec 2: lora(rank=2, on=cross_q,cross_v)": 1,
    "dec 0: lora(rank=2, on=q,o)": 3,
    "dec 2: full": 5,
    "0:1 frozen | 1: lora(rank=2, on=q,k,v,o)": 1,  # in each stack
    "enc 2: full(on=ffn)": 2,
    "head(mlm=norm)": 7,
    "full": 0,
    "adapter(depth=2)": 2,
    "adapter(depth=3) | adapter(depth=2, stack=dec)": 3,  # behind the whole encoder, and inside the decoder
    "adapter(depth=1, stack=dec)": 4,
    "late_prompt(depth=1/2, tokens=3, bottleneck=4)": 2,
    "late_prompt(depth=3, tokens=2, generator=appg) | dec 1: lora(rank=2)": 3,  # read by the decoder alone
    "prompt(tokens=3) | late_prompt(depth=2, tokens=1)": 0,
    "idpg(tokens=2, bottleneck=8, phm=4) | 1: prefix(tokens=2)": 0,
    "enc 1: prefix(tokens=3)": 1,
    "dec 0: prefix(tokens=3) + houlsby": 3,
}

GENERATE = (
    "0:1 frozen | 1: lora(rank=2, on=q,k,v,o)",
    "late_prompt(depth=1, tokens=3) | adapter(depth=2, stack=dec)",
    "prompt(tokens=2) | dec 1: prefix(tokens=2)",
    "late_prompt(depth=3, tokens=2)",
)


# ---- the plan -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", FROZEN_DEPTHS)
def test_the_text_form_names_a_stack_and_comes_back(text):
    plan = Plan.parse(text)
    assert Plan.parse(str(plan)) == plan == Plan.from_data(plan.to_data())


def test_plans_over_two_stacks_on_paper():
    shape = shape_of(tiny.tiny_encoder_decoder("t5").config.to_dict())
    assert shape.stacks == {"enc": range(3), "dec": range(3, 7)}
    picture = terminal(Plan.parse("enc 0:2 frozen | dec 1: lora").resolve(shape), colour=False)
    assert "dec 1..3" in picture and "enc 0..2" in picture
    for text, error in (
        ("enc 3: lora", "select no block"),
        ("dec 5: lora", "outside a model of 4 blocks"),
        ("enc lora", "legal: layers"),
        ("enc 0: lora(on=cross_q)", "no cross_q"),
        ("adapter(depth=4)", "legal: 0..3"),
        ("adapter(depth=0, stack=dec)", "legal: 1..4"),
        ("late_prompt(depth=1, stack=dec)", "not an option"),
        (": bitfit", "none of these roles has a bias"),
    ):
        with pytest.raises(PlanError) as caught:
            Plan.parse(text).resolve(shape)
        assert error in f"{caught.value.message} {caught.value.hint}", text
    for text in ("dec 1: lora", "adapter(depth=1, stack=dec)"):
        with pytest.raises(PlanError, match="one stack"):
            Plan.parse(text).resolve(shape_of("roberta-base"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_counts_are_those_of_a_real_model(family, tied):
    model = tiny.tiny_encoder_decoder(family, tie_word_embeddings=tied)
    if family == "bart" and not tied:  # four tables of words, two of which nothing reads
        with pytest.raises(ModelError, match="tie"):
            shape_of(model.config.to_dict())
        return
    shape = shape_of(model.config.to_dict())
    assert shape.parameters("seq2seq") == sum(p.numel() for p in model.parameters())
    resolved = Plan.parse("full").resolve(shape)
    assert resolved.trainable("seq2seq") == resolved.total("seq2seq")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("t5-small", 60_506_624),
        ("google-t5/t5-base", 222_903_552),
        ("t5-large", 737_668_096),
        ("facebook/bart-base", 139_420_416),
        ("bart-large", 406_291_456),
    ],
)
def test_built_in_shapes_are_those_of_the_hub(name, parameters):
    shape = shape_of(name)
    assert shape.parameters("seq2seq") == parameters
    assert shape_of(name.split("/")[-1]).blocks == shape.blocks == 2 * len(shape.stacks["dec"])


# ---- the model ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", FROZEN_DEPTHS)
@pytest.mark.parametrize("family", FAMILIES)
def test_top_of_trunk_is_the_whole_model_and_backward_stops(family, plan):
    model = tuned(family, plan)
    resolved = model.attached.resolved
    assert resolved.frozen_depth == FROZEN_DEPTHS[plan]
    assert torch.allclose(whole(model), split(model), atol=1e-5)
    if plan == "head(mlm=norm)" and family == "bart":
        return  # nothing trains: BART has no last norm
    without_dropout(model)
    wanted = None
    for reentrant in (None, True, False):
        checkpoint(model, reentrant)
        for run in (whole, split):
            case = f"checkpointing: {reentrant}, {run.__name__}"
            model.zero_grad(set_to_none=True)
            count = count_backward_blocks(model.attached, lambda run=run: run(model).backward())
            assert count == resolved.backprop_blocks, case
            found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
            assert found.keys() == model.attached.trained().keys(), case
            wanted = wanted or found
            for name, gradient in found.items():
                torch.testing.assert_close(gradient, wanted[name], atol=1e-5, rtol=1e-3, msg=f"{case}: {name}")


@pytest.mark.parametrize("plan", GENERATE)
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_generation_is_the_argmax_loop(family, plan):
    model = tuned(family, plan, more=0)
    model.generation_config.forced_eos_token_id = None
    ids, mask, _ = inputs()
    settings = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    said = model.generate(ids, attention_mask=mask.long(), **settings)
    told = torch.full((3, 1), model.config.decoder_start_token_id)
    for _ in range(5):
        logits = model(input_ids=ids, attention_mask=mask.long(), decoder_input_ids=told, use_cache=False).logits[:, -1]
        logits[:, model.config.eos_token_id] = -torch.inf
        told = torch.cat([told, logits.argmax(-1, keepdim=True)], 1)
    assert said.tolist() == told.tolist()


def test_rouge_by_its_library():
    pytest.importorskip("rouge_score")
    assert rouge(["the good film"], ["the good film"])["rougeL"] == 1.0
    assert 0 < rouge(["the good film"], ["a good book"])["rouge1"] < 1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("loss", [whole, split])
def test_the_first_block_of_the_encoder_trains(family, loss):
    """Nothing behind the blocks (T5's last norm of the encoder) may be cut off with the frozen embeddings."""
    model = tuned(family, "enc 0: lora(rank=2) | dec 1: lora(rank=2)")
    loss(model).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.attached.trained().values())


# ---- references ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_prompt_is_words_in_front_of_the_encoder(family):
    """Prompt tuning = the plain model on ``[P; E(x)]``: peft's formula (0.21 cannot wrap these on transformers 5)."""
    model = apply(tiny.tiny_encoder_decoder(family).double(), "prompt(tokens=4)")
    base = tiny.tiny_encoder_decoder(family).double()
    ids, mask, targets = inputs()
    given = torch.cat([model.attached.insertions[0][1].vectors.expand(3, -1, -1), base.get_input_embeddings()(ids)], 1)
    long = nn.functional.pad(mask, (4, 0), value=True).long()
    theirs = base(inputs_embeds=given, attention_mask=long, labels=targets, use_cache=False).logits
    ours = model.eval()(input_ids=ids, attention_mask=mask.long(), labels=targets, use_cache=False).logits
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


# ---- dropout ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", ["enc 2: lora", "dec 2: lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_trunk_has_no_dropout_while_the_top_trains(family, plan):
    model = apply(tiny.tiny_encoder_decoder(family), plan).train()
    ids, mask, _ = inputs()
    assert torch.equal(*(Trunk(model.attached)(ids, mask) for _ in range(2)))
    assert model.attached.backbone.blocks[-1].training
