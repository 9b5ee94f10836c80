"""Every method on decoders and encoder-decoders: the same by trunk and top, when generating, merged and taken off."""

from __future__ import annotations

import copy

import pytest
import torch

import tiny
from asking import logits_at, scores_of
from stratatune.errors import PlanError
from stratatune.model.attach import apply
from stratatune.model.merging import merge, remove
from stratatune.model.split import Trunk

MERGE = {
    "1: lora(rank=2)": True,
    "1: dora(rank=2)": True,
    "1: ia3": True,
    "1: delta_bias(on=attn,ffn)": None,  # test_delta_bias.py
    "1: houlsby(bottleneck=4)": False,
    "1: parallel(bottleneck=4)": False,
    "1: prefix(tokens=3)": False,
    "1: full(on=q,down)": True,
    "1:2 delta_bias(on=all) | 2: lora(rank=2, on=q,k,v,o) + delta_bias(on=ffn,norm_ffn)": None,
    "late_prompt(depth=2, tokens=3, generator=appg)": False,
    "late_prompt(depth=1, tokens=3, generator=table)": False,
    "prompt(tokens=3)": False,
    "idpg(tokens=2, bottleneck=8, phm=4)": False,
}
FAMILIES = ("gpt2", "llama", "qwen3")


def shake(model):
    torch.manual_seed(1)
    for parameter in model.attached.trained().values():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


@pytest.mark.parametrize("plan", MERGE)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_method_on_a_decoder(family, plan):
    base = tiny.tiny_decoder(family).double()
    model = shake(apply(copy.deepcopy(base), plan))
    model.generation_config.eos_token_id = None
    torch.manual_seed(0)
    ids = torch.randint(5, 60, (2, 6))
    mask, read = torch.ones_like(ids).bool(), torch.tensor([5, 5])
    whole = logits(model, ids)
    with torch.no_grad():
        assert torch.allclose(
            logits_at(model.attached, Trunk(model.attached)(ids, mask), mask, read), whole[:, -1], atol=1e-10
        )
    if "late_prompt" not in plan and "idpg" not in plan:  # those: test_generation.py
        said = model.generate(ids, attention_mask=mask.long(), max_new_tokens=4, do_sample=False)
        told = ids
        for _ in range(4):
            told = torch.cat([told, logits(model, told)[:, -1].argmax(-1, keepdim=True)], 1)
        assert said.tolist() == told.tolist()
    merges = (family != "qwen3") if MERGE[plan] is None else MERGE[plan]
    if merges:
        merged = merge(copy.deepcopy(model))
        assert type(merged) is type(base)
        assert torch.allclose(logits(merged, ids), whole, atol=1e-10)
    else:
        with pytest.raises(PlanError, match="cannot be merged"):
            merge(model)
    if "full" not in plan:
        plain = remove(model)
        assert plain.state_dict().keys() == base.state_dict().keys()
        for name, tensor in plain.state_dict().items():
            assert torch.equal(tensor, base.state_dict()[name]), name


SEQ2SEQ_PLANS = ("1: dora(rank=2)", "dec 1: ia3(on=k,v,down)", "1: houlsby", "enc 1: delta_bias(on=q)")
STORIES_PLANS = ("0:2 frozen | 2:3 delta_bias(on=ffn) | 3: lora(rank=4, on=q,k,v,o)", "2:4 lora | 4: dora")


@pytest.mark.parametrize("plan", SEQ2SEQ_PLANS)
@pytest.mark.parametrize("family", ["t5", "t5-gated", "bart"])
def test_a_method_on_an_encoder_decoder(family, plan):
    model = shake(apply(tiny.tiny_encoder_decoder(family).double(), plan))
    torch.manual_seed(0)
    ids, targets = torch.randint(5, 60, (2, 6)), torch.randint(5, 60, (2, 4))
    mask = torch.ones_like(ids).bool()
    with torch.no_grad():
        loss = model(input_ids=ids, attention_mask=mask.long(), labels=targets).loss
        total, count = scores_of(model.attached, Trunk(model.attached)(ids, mask), mask, targets).sum(0)
    assert torch.allclose(loss.double(), -total.double() / count, atol=1e-5)


@pytest.mark.parametrize("plan", STORIES_PLANS)
def test_stories260k_merges(shared, plan):
    folder = shared / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip("no stories260K in the shared folder")
    from stratatune.model.base import load_base

    loaded = load_base(str(folder), "causal")
    ids = loaded.tokenizer("Once upon a time there was a", return_tensors="pt")["input_ids"]
    model = shake(apply(loaded.model, plan))
    before = logits(model, ids)
    assert torch.allclose(logits(merge(model), ids), before, atol=1e-4)


@pytest.mark.parametrize("output", ["causal", "classification"])
@pytest.mark.parametrize("head", ["head(final_norm)", "head(mlm=norm)", "head(mlm=norm, final_norm)"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_heads_norm_of_a_decoder_is_its_final_norm(family, head, output):
    model = apply(tiny.tiny_decoder(family, output), head)
    norm = model.attached.backbone.body.final_norms()[0]
    assert [p for group in model.attached.groups if group.method == "head" for p in group.parameters] == list(
        norm.parameters()
    )
