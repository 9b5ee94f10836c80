"""Decoders: the top over the trunk is the whole model, candidates come out as if each stood alone, references agree."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

import tiny
from asking import candidates, logits_at, scores_behind
from stratatune.errors import ModelError
from stratatune.model.artefact import load
from stratatune.model.attach import apply
from stratatune.model.backbone import Backbone
from stratatune.model.base import load_base
from stratatune.model.families.decoder_layout import branched
from stratatune.model.fused import join, roles_now, separate
from stratatune.model.question import Question
from stratatune.model.split import Top, Trunk
from stratatune.objectives.registry import by_head

PLANS = (
    ": lora(rank=2, on=q,v)",
    "2: full",
    "1:3 lora(rank=2, on=o,down) | 3: full(on=norms)",
    "adapter(depth=2)",
    "late_prompt(depth=2, tokens=3, bottleneck=4)",
    "late_prompt(depth=0, tokens=2, bottleneck=4) | late_prompt(depth=3, tokens=3, bottleneck=4) | adapter(depth=4)",
    "embeddings full | head(mlm=norm)",
    "prompt(tokens=3) | 2: lora(rank=2) | late_prompt(depth=3, tokens=2, bottleneck=4)",
    "idpg(tokens=2, bottleneck=8, phm=4) | adapter(depth=2)",
)
SUFFIXES = ((7, 8, 9), (10,), (11, 12))
LENGTHS = (9, 6, 8)
WINDOW = {"sliding_window": 4, "use_sliding_window": True}
"""Where a family has no window, its code does not read these, and neither may ours."""


def tuned(family, plan, kind="causal", *, seed=1, **config):
    """A tiny tuned decoder in fp64 whose trained parameters are shaken, so that nothing is as at the start."""
    model = tiny.tiny_decoder(family, kind, **config).double()
    apply(model, tiny.with_experts(family, plan))
    shake(model, seed)
    return model.eval()


def shake(model, seed=1):
    torch.manual_seed(seed)
    for parameter in model.attached.trained().values():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)


def texts(seed=0, width=9):
    """Ids [3, 9] padded on the right, mask, and the last real token of each."""
    torch.manual_seed(seed)
    mask = torch.arange(width) < torch.tensor(LENGTHS)[:, None]
    return torch.where(mask, torch.randint(5, 50, (3, width)), 1), mask, mask.sum(1) - 1


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("family", tiny.WRITERS)
@torch.no_grad()
def test_top_of_trunk_is_the_whole_model(family, plan):
    window = WINDOW | ({"max_window_layers": 1} if family.startswith("qwen") else {})
    if "prompt" in plan or "idpg" in plan:
        window = {}
    model, (ids, mask, read) = tuned(family, plan, **window), texts()
    whole = model(input_ids=ids, attention_mask=mask.long()).logits[torch.arange(3), read]
    hidden = Trunk(model.attached)(ids, mask)
    hidden = torch.where(mask[..., None], hidden, 0)  # as it comes out of a cache
    assert torch.allclose(logits_at(model.attached, hidden, mask, read), whole, atol=1e-10)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3_text"])
@torch.no_grad()
def test_classification_reads_the_last_token(family, attention):
    model = tuned(family, "2: full", "classification", attn_implementation=attention)
    ids, mask, read = texts()
    whole = model(input_ids=ids, attention_mask=mask.long()).logits
    hidden = Trunk(model.attached)(ids, mask)
    assert torch.allclose(logits_at(model.attached, hidden, mask, read), whole, atol=1e-10)


def row_of(prefix, suffixes):
    return torch.cat([prefix, *(torch.tensor(suffix[:-1], dtype=torch.long) for suffix in suffixes)])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", tiny.WRITERS)
@torch.no_grad()
def test_every_candidate_comes_out_as_if_alone(family, attention):
    """All candidates behind one text in one forward = a plain forward for each: LPT's loss, mean over the suffix."""
    if (family, attention) == ("gemma2", "sdpa"):
        pytest.skip("transformers: sdpa does not support Gemma 2's soft cap")
    if (family, attention) == ("gpt_oss", "sdpa"):
        pytest.skip("transformers: its own attention alone knows the sinks")
    window = WINDOW | ({"max_window_layers": 1} if family.startswith("qwen") else {})
    model = tuned(family, "2: full | adapter(depth=3)", attn_implementation=attention, **window)
    ids, mask, read = texts()
    rows = [row_of(ids[n, :length], SUFFIXES) for n, length in enumerate(LENGTHS)]
    batch = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=1)
    real = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).bool()
    scores = candidates(model.attached, batch, real, read, SUFFIXES)
    for n, length in enumerate(LENGTHS):
        for c, suffix in enumerate(SUFFIXES):
            alone = torch.cat([ids[n, :length], torch.tensor(suffix)])[None]
            spoken = model(input_ids=alone).logits[0, length - 1 : -1].log_softmax(-1)
            loss = spoken[torch.arange(len(suffix)), alone[0, length:]].mean()
            assert torch.allclose(loss, scores[n, c], atol=1e-10)


@torch.no_grad()
def test_a_late_prompt_in_gpt2_by_hand():
    """LPT: P vectors in front of block n from the last token before the label word; causal over P + T; no positions."""
    model = tuned("gpt2", "late_prompt(depth=2, tokens=3, bottleneck=4)")
    ids, _, _ = texts()
    prefix, read = ids[0], torch.tensor([8])
    row = row_of(prefix, SUFFIXES)[None]
    real = torch.ones_like(row).bool()
    scores = candidates(model.attached, row, real, read, SUFFIXES)[0]
    gpt, generator = model.transformer, model.attached.insertions[0][1].generator
    for suffix, score in zip(SUFFIXES, scores, strict=True):
        tokens = torch.cat([prefix, torch.tensor(suffix)])
        hidden = gpt.wte(tokens) + gpt.wpe(torch.arange(len(tokens)))
        for number, block in enumerate(gpt.h):
            if number == 2:
                narrow = torch.relu(generator.down.weight @ hidden[8] + generator.down.bias)
                prompt = (generator.up.weight @ narrow + generator.up.bias).view(3, -1)
                hidden = torch.cat([prompt, hidden])
            x = block.ln_1(hidden)
            q, k, v = (part.view(len(x), 4, 8).transpose(0, 1) for part in block.attn.c_attn(x).split(32, dim=1))
            weight = (q @ k.transpose(1, 2) / 8**0.5).masked_fill(~torch.ones(len(x), len(x)).tril().bool(), -torch.inf)
            hidden = hidden + block.attn.c_proj((weight.softmax(2) @ v).transpose(0, 1).reshape(len(x), 32))
            hidden = hidden + block.mlp(block.ln_2(hidden))
        spoken = model.lm_head(gpt.ln_f(hidden[3:])).log_softmax(-1)
        by_hand = spoken[8 : 8 + len(suffix)][torch.arange(len(suffix)), torch.tensor(suffix)].mean()
        assert torch.allclose(score, by_hand, atol=1e-10)


@torch.no_grad()
def test_the_models_own_forward_reads_the_prompt_where_the_labels_begin():
    model = tuned("llama", "late_prompt(depth=2, tokens=3, bottleneck=4)")
    ids, mask, _ = texts()
    read = torch.tensor([4, 2, 3])
    labels = torch.where(mask & (torch.arange(9) > read[:, None]), ids, -100)
    out = model(input_ids=ids, attention_mask=mask.long(), labels=labels)
    assert torch.allclose(out.loss, nn.functional.cross_entropy(out.logits[:, :-1].mT, labels[:, 1:]).float())
    loss = nn.functional.cross_entropy(out.logits[:, :-1].mT, labels[:, 1:])
    total, count = scores_behind(model.attached, Trunk(model.attached)(ids, mask), mask, read, ids).sum(0)
    assert torch.allclose(loss, -total / count, atol=1e-10)


@torch.no_grad()
def test_labels_of_one_call_are_forgotten_in_the_next():
    """Also when the next is of the model below its head, with as many rows or fewer."""
    model = tuned("llama", "late_prompt(depth=2, tokens=3, bottleneck=4)")
    ids, _, _ = texts()
    labels = torch.where(torch.arange(9) > 2, ids, -100)
    before = model.model(ids).last_hidden_state
    model(ids, labels=labels)
    assert torch.allclose(model.model(ids).last_hidden_state, before, atol=1e-10)
    assert torch.allclose(model.model(ids[:1]).last_hidden_state, before[:1], atol=1e-10)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_checkpointed_blocks_know_the_labels_in_the_backward_pass():
    gradients = []
    for checkpointed in (False, True):
        model = tuned("llama", "late_prompt(depth=2, tokens=3, bottleneck=4, dropout=0)").train()
        if checkpointed:
            model.gradient_checkpointing_enable()
        ids, _, _ = texts()
        model(ids, labels=torch.where(torch.arange(9) > 2, ids, -100), use_cache=False).loss.backward()
        gradients.append([one.grad for one in model.attached.trained().values()])
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-10)


@pytest.mark.parametrize("plan", PLANS[4:6])
@torch.no_grad()
def test_tags_are_no_next_tokens(plan):
    """A prompt is made from the whole text, whichever tokens have a tag and whichever are asked."""
    ids, mask, _ = texts()
    config = tiny.tiny_decoder("llama").config
    model = apply(AutoModelForTokenClassification.from_config(config).double().eval(), plan).eval()
    shake(model)
    wanted = model(input_ids=ids, attention_mask=mask.long()).logits
    tags = torch.where(mask & (torch.arange(9) > 1), 0, -100)
    said = model(input_ids=ids, attention_mask=mask.long(), labels=tags).logits
    assert torch.allclose(said[mask], wanted[mask], atol=1e-10)
    hidden = Trunk(model.attached)(ids, mask)
    for places in (mask, tags == 0):
        asked = Top(model.attached)(hidden, mask, Question(places=places))
        assert torch.allclose(asked, wanted[places], atol=1e-10)


def test_branches_see_the_text_and_themselves():
    mask = torch.ones(1, 6).bool()
    layout = branched(mask, torch.tensor([1]), (2, 1))  # text of 2, candidates of 2 and 1, one pad
    assert layout.positions[0, :5].tolist() == [0, 1, 2, 3, 2]
    assert layout.allowed[0, 4].tolist() == [True, True, False, False, True, False]
    assert layout.prefix[0].tolist() == [True, True, False, False, False, False]
    grown = layout.with_prompt(2)
    assert grown.positions[0].tolist()[:4] == [0, 0, 0, 1]
    assert grown.allowed[0, 0].tolist() == [True] + [False] * 7
    assert grown.allowed[0, 2:, :2].all() and not grown.allowed[0, 1, 2:].any()


# ---- references ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21's own
@torch.no_grad()
def test_lora_equals_peft(family):
    """On GPT-2 peft wraps the whole c_attn, so there the same plan is q, k and v; c_proj of both kinds."""
    peft = pytest.importorskip("peft")
    plan = "1: lora(rank=3, alpha=6, on=o,down)" if family == "gpt2" else "1: lora(rank=3, alpha=6, on=q,v)"
    names = ["c_proj"] if family == "gpt2" else ["q_proj", "v_proj"]
    model = tuned(family, plan)
    config = peft.LoraConfig(
        r=3, lora_alpha=6, target_modules=names, layers_to_transform=[1, 2, 3], fan_in_fan_out=family == "gpt2"
    )
    other = peft.get_peft_model(tiny.tiny_decoder(family).double(), config).eval()
    ours = {name.removesuffix(".a"): name for name in model.attached.trained() if name.endswith(".a")}
    tensors = dict(model.named_parameters())
    modules = dict(other.base_model.model.named_modules())
    for name in ours:
        modules[name].lora_A["default"].weight.copy_(tensors[f"{name}.a"])
        modules[name].lora_B["default"].weight.copy_(tensors[f"{name}.b"])
    ids, mask, _ = texts()
    theirs = other(input_ids=ids, attention_mask=mask.long()).logits
    assert torch.allclose(model(input_ids=ids, attention_mask=mask.long()).logits, theirs, atol=1e-10)


@pytest.mark.parametrize("family", tiny.WRITERS)
@torch.no_grad()
def test_a_prompt_is_words_in_front(family):
    """Prompt tuning = the plain model on ``[P; E(x)]``, which is what stock peft runs; windows count its positions."""
    window = WINDOW | ({"max_window_layers": 1} if family.startswith("qwen") else {})
    model, base = tuned(family, "prompt(tokens=3)", **window), tiny.tiny_decoder(family, **window).double()
    ids, mask, read = texts()
    vectors = model.attached.insertions[0][1].vectors
    given = torch.cat([vectors.expand(3, -1, -1), base.get_input_embeddings()(ids)], dim=1)
    long = nn.functional.pad(mask, (3, 0), value=True).long()
    expected = base(inputs_embeds=given, attention_mask=long).logits[torch.arange(3), read + 3]
    hidden = Trunk(model.attached)(ids, mask)
    for found in (
        model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits[torch.arange(3), read],
        logits_at(model.attached, hidden, mask, read),
    ):
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21's own
@torch.no_grad()
def test_prompt_tuning_equals_peft(family):
    peft = pytest.importorskip("peft")
    model = tuned(family, "prompt(tokens=3)")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    other = peft.get_peft_model(tiny.tiny_decoder(family), config).double().eval()
    other.prompt_encoder.default.embedding.weight.copy_(model.attached.insertions[0][1].vectors)
    ids, mask, read = texts()
    theirs = other(input_ids=ids, attention_mask=mask.long()).logits[torch.arange(3), read + 3]
    ours = model(input_ids=ids, attention_mask=mask.long()).logits[torch.arange(3), read]
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


@torch.no_grad()
def test_idpg_reads_the_last_token_of_the_text():
    """S-IDPG-PHM on a decoder: M(x) is the normed last hidden state of the last token, in a pass of its own."""
    model, base = tuned("llama", "idpg(tokens=2, bottleneck=8, phm=4)"), tiny.tiny_decoder("llama").double()
    ids, mask, read = texts()
    made = model.attached.insertions[0][1]
    last = base.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state[torch.arange(3), read]
    prompt = made.up(nn.functional.gelu(made.down(last))).view(3, 2, -1)
    hidden = base.get_input_embeddings()(ids)
    found, _ = made(hidden, mask)
    torch.testing.assert_close(found[:, :2], prompt, atol=1e-10, rtol=0)


@torch.no_grad()
def test_the_trunk_has_no_dropout_while_the_top_trains():
    model = tuned("gpt2", "2: lora").train()
    ids, mask, read = texts()
    assert torch.equal(*(Trunk(model.attached)(ids, mask) for _ in range(2)))


@torch.no_grad()
def test_lora_on_a_slice_of_gpt2_is_a_change_of_that_slice():
    model = tuned("gpt2", "3: lora(rank=2, alpha=4, on=q,v)")
    plain = tiny.tiny_decoder("gpt2").double()
    tensors = dict(model.named_parameters())
    for place, role in ((0, "q"), (2, "v")):
        a, b = (tensors[f"transformer.h.3.attn.c_attn.{role}.{end}"] for end in "ab")
        plain.transformer.h[3].attn.c_attn.weight[:, 32 * place : 32 * (place + 1)] += (2 * b @ a).T
    ids, _, _ = texts()
    assert torch.allclose(model(input_ids=ids).logits, plain(input_ids=ids).logits, atol=1e-10)
    assert len(model.attached.trained()) == 4


@pytest.mark.parametrize("family", ["gpt2", "phi3"])
def test_fused_linears_come_apart_and_together_again(family):
    model = tiny.tiny_decoder(family).double()
    before, (ids, _, _) = copy.deepcopy(model.state_dict()), texts()
    backbone, logits = Backbone(model), model(input_ids=ids).logits
    row, block = backbone.row, backbone.blocks[1]
    kinds = [type(block.get_submodule(path)) for path in row.roles.values()]
    for _ in range(2):
        separate(block, row, ("v", "down"), backbone.shape)
    roles = roles_now(block, row)
    assert all(type(block.get_submodule(roles[role])) is nn.Linear for role in ("q", "k", "v", "o", "up", "down"))
    if family == "phi3":  # keys are narrower than queries; nothing was asked of gate and up
        assert block.get_submodule(roles["k"]).out_features == 16 and roles["up"] == "mlp.gate_up_proj"
    assert torch.allclose(model(input_ids=ids).logits, logits, atol=1e-12)
    join(block, row)
    assert [type(block.get_submodule(path)) for path in row.roles.values()] == kinds
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


# ---- saving -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", ["2: full", "late_prompt(depth=2, tokens=3)", "1: lora(on=q,v) | head(mlm=norm)"])
@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
@torch.no_grad()
def test_a_saved_decoder_comes_back(family, plan, tmp_path):
    folder = tiny.save_tiny_decoder(tmp_path / "base", family)
    model = apply(load_base(str(folder), "causal").model, plan)
    shake(model)
    model.eval().save_pretrained(tmp_path / "adapter")
    ids, mask, _ = texts()
    again = load(tmp_path / "adapter")
    want, got = (one(input_ids=ids, attention_mask=mask.long()).logits for one in (model, again))
    assert torch.equal(want, got)
    assert isinstance(again, type(AutoModelForCausalLM.from_pretrained(folder)))


def test_objectives_that_a_family_has_not_are_refused(tmp_path):
    folder = tiny.save_tiny_decoder(tmp_path, "llama")
    with pytest.raises(ModelError, match="head masked_lm: llama is a decoder, which has none"):
        load_base(str(folder), "masked_lm")


@pytest.mark.parametrize("head", ["sequence", "token", "span"])
def test_a_head_that_transformers_does_not_have_is_refused(head, tmp_path):
    folder = tiny.save_tiny_decoder(tmp_path, "granite")
    with pytest.raises(ModelError, match=r"has no granite model with this head \(AutoModelFor\w+\)") as refused:
        load_base(str(folder), head)
    assert refused.value.hint == "its heads: lm, none"
    with pytest.raises(ModelError) as refused:
        load_base(str(folder), head, objectives=by_head("decoder"))
    assert refused.value.hint == 'use objective="causal", completion, chat, dpo, vectors'
