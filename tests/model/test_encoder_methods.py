"""Where encoders differ from BERT: fused and shared weights, positions behind a late prompt, mean pooling; and peft."""

from __future__ import annotations

import warnings

import peft
import pytest
import torch

import tiny
from asking import at, logits_at
from stratatune.errors import PlanError
from stratatune.methods.site import SideBySide
from stratatune.model.attach import apply
from stratatune.model.merging import merge
from stratatune.model.question import Question
from stratatune.model.split import Top, Trunk
from stratatune.plan import ARCHITECTURES, Plan, architecture_of, shape_of

TYPES = [name for row in ARCHITECTURES if row.family == "encoder" and row.mlm_head for name in row.model_types]
IDS = torch.randint(5, 100, (2, 9), generator=torch.Generator().manual_seed(3))
MASK = torch.arange(9) < torch.tensor([9, 6])[:, None]
READ = torch.tensor([4, 2])


def words(model, mask=MASK):
    """Logits at READ by the model's own forward."""
    return model(input_ids=IDS, attention_mask=mask.long()).logits[torch.arange(2), READ]


def split(model, read=READ):
    return logits_at(model.attached, Trunk(model.attached)(IDS, MASK), MASK, read)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft 0.21 asks transformers 5.23 by an old name
@pytest.mark.parametrize("model_type", TYPES)
def test_lora_is_that_of_peft(model_type):
    """On every linear that plays one role, in blocks 2 and 3 (all, where they share weights), with peft's A and B."""
    row = architecture_of(model_type)
    roles = [r for r in ("q", "k", "v", "o", "up", "down") if r in row.roles and row.roles[r] not in row.fused]
    layers, numbers = (":", range(1)) if row.fields.distinct else ("2:", range(2, 4))
    ours = apply(tiny.tiny_of(model_type).double(), f"{layers} lora(rank=3, alpha=5, on={','.join(roles)})")
    names = {(n, role): f"{row.base}.{row.blocks}.{n}.{row.roles[role]}" for n in numbers for role in roles}
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=list(names.values()), lora_dropout=0.0)
    theirs = peft.get_peft_model(tiny.tiny_of(model_type).double(), config)
    with torch.no_grad():
        for (number, role), name in names.items():
            wrapped, lora = ours.attached.backbone.site(number).get(role), theirs.base_model.model.get_submodule(name)
            lora.lora_B["default"].weight.normal_()
            wrapped.a.copy_(lora.lora_A["default"].weight)
            wrapped.b.copy_(lora.lora_B["default"].weight)
        torch.testing.assert_close(split(ours), words(theirs), atol=1e-10, rtol=0)
        torch.testing.assert_close(words(ours), words(theirs), atol=1e-10, rtol=0)


@pytest.mark.parametrize("biases", [False, True])
def test_fused_linears_are_taken_apart_and_put_together(biases):
    """LoRA on q and gate changes those rows of the fused matrices alone; merged, the block is the model's own again."""
    config = {"attention_bias": biases, "mlp_bias": biases}
    base = tiny.tiny_of("modernbert", **config).double()
    plan = "3: lora(rank=2, alpha=4, on=q,gate)"
    model = apply(tiny.tiny_of("modernbert", **config).double(), plan)
    torch.testing.assert_close(words(model), words(base), atol=1e-12, rtol=0)  # B is zero
    backbone = model.attached.backbone
    assert isinstance(backbone.blocks[3].get_submodule("attn.Wqkv"), SideBySide)
    assert isinstance(backbone.blocks[2].get_submodule("attn.Wqkv"), torch.nn.Linear)
    with torch.no_grad():
        for parameter in model.attached.trained().values():
            parameter.normal_()
        tuned = words(model)
        merge(model)
        torch.testing.assert_close(words(model), tuned, atol=1e-10, rtol=0)
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in base.named_parameters()]
    before, after = base.model.layers[3], model.model.layers[3]
    for path, changed in (("attn.Wqkv", 0), ("mlp.Wi", 0)):
        parts = len(backbone.row.fused[path])
        pairs = zip(*(m.get_submodule(path).weight.chunk(parts) for m in (before, after)), strict=True)
        assert [torch.equal(a, b) for a, b in pairs] == [number != changed for number in range(parts)]


def test_shared_blocks_are_counted_once_and_treated_alike():
    shape = shape_of("albert-base-v2")
    assert shape.blocks == 12 and shape.owners == (0,)
    assert shape_of("bert-base-cased").owners == tuple(range(12))
    one = Plan.parse(": lora(rank=8, on=q)").resolve(shape)
    assert one.trainable("mlm") == 8 * (768 + 768) and one.frozen_depth == 0
    assert Plan.parse("bft-adapter").resolve(shape).frozen_depth == 9
    with pytest.raises(PlanError, match="block 6 is lora.* and block 0 is frozen") as error:
        Plan.parse("6: lora").resolve(shape)
    assert "': ...'" in error.value.hint
    groups = shape_of({**tiny.tiny_of("albert", num_hidden_groups=2).config.to_dict()})
    assert groups.owners == (0, 2) and [groups.owner(n) for n in range(4)] == [0, 0, 2, 2]
    assert Plan.parse("2: bitfit").resolve(groups).frozen_depth == 2


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_an_insertion_between_runs_of_one_block(depth):
    """An adapter at depth d acts once, between the d-th and the next run, though every run is the same module."""
    base, model = (tiny.tiny_of("albert").double() for _ in range(2))
    model = apply(model, f"adapter(depth={depth})")
    adapter = model.attached.insertions[0][1]
    with torch.no_grad():
        adapter.up.weight.normal_()
        hidden = base(input_ids=IDS, attention_mask=MASK.long(), output_hidden_states=True).hidden_states
        state, _ = adapter(hidden[depth], MASK)
        seen = (MASK[:, None, None, :]).expand(2, 1, 9, 9)
        for _ in range(4 - depth):
            state = base.albert.encoder.albert_layer_groups[0](state, seen)
        wanted = base.predictions(state)[torch.arange(2), READ]
        for got in (words(model), split(model), words(model)):
            torch.testing.assert_close(got, wanted, atol=1e-10, rtol=0)


def by_hand(model, state, mask):
    """What the encoder's own modules make of a longer sequence from block 2 on; no hooks, no skeleton."""
    base, tokens = model.base_model, state.shape[1]
    if model.config.model_type == "mpnet":
        bias = base.encoder.compute_position_bias(state)
        added = torch.zeros(mask.shape, dtype=state.dtype).masked_fill(~mask, -1e30)[:, None, None]
        calls = [((added, bias), {})] * 2
    elif model.config.model_type == "deberta-v2":
        both = (mask[:, None, :, None] & mask[:, None, None, :]).long()
        given = {"relative_pos": base.encoder.get_rel_pos(state), "rel_embeddings": base.encoder.get_rel_embedding()}
        calls = [((both,), given)] * 2
    else:
        apart = (torch.arange(tokens)[:, None] - torch.arange(tokens)).abs()
        positions = torch.arange(tokens)[None]
        seen = mask[:, None, None, :].expand(2, 1, tokens, tokens)
        windows = {"full_attention": seen, "sliding_attention": seen & (apart <= base.config.sliding_window)}
        kinds = [block.attention_type for block in base.layers[2:]]
        assert set(kinds) == set(windows)
        calls = [((windows[kind], base.rotary_emb(state, positions, kind)), {}) for kind in kinds]
    for block, (args, kwargs) in zip(model.attached.backbone.blocks[2:], calls, strict=True):
        state = block.forward(state, *args, **kwargs)
        state = state[0] if isinstance(state, tuple) else state
    return state


@torch.no_grad()
def test_a_prompt_is_words_in_front_where_the_blocks_number_the_tokens():
    """ModernBERT's embeddings know no positions: its rotary angles and windows count the prompt as words."""
    base, model = tiny.tiny_of("modernbert").double(), apply(tiny.tiny_of("modernbert").double(), "prompt(tokens=3)")
    vectors = model.attached.insertions[0][1].vectors.expand(2, -1, -1)
    given = torch.cat([vectors, base.get_input_embeddings()(IDS)], dim=1)
    mask = torch.nn.functional.pad(MASK, (3, 0), value=True).long()
    wanted = base(inputs_embeds=given, attention_mask=mask).logits[torch.arange(2), READ + 3]
    for got in (words(model), split(model)):
        torch.testing.assert_close(got, wanted, atol=1e-10, rtol=0)


@pytest.mark.parametrize("model_type", [t for t in TYPES if architecture_of(t).position_offset])
@torch.no_grad()
def test_a_prompt_before_texts_padded_on_either_side(model_type):
    """Models that count real tokens, as RoBERTa does, give the same behind a prompt."""
    model = apply(tiny.tiny_of(model_type).double(), "prompt(tokens=3)")
    ids, mask = torch.full((2, 9), 1), torch.arange(9) < 6
    ids[:, :6] = torch.randint(5, 60, (2, 6), generator=torch.Generator().manual_seed(0))
    mask = mask.expand(2, 9)
    alone = model(ids[:, :6]).logits
    for shift in (0, 1, 3):
        given, real = ids.roll(shift, 1), mask.roll(shift, 1)
        whole = model(given, attention_mask=real.long()).logits
        halves = Top(model.attached)(Trunk(model.attached)(given, real), real, Question())
        torch.testing.assert_close(halves[real], whole[real], atol=1e-10, rtol=0)
        if model_type != "mpnet":  # whose blocks count the padding between prompt and text as distance
            torch.testing.assert_close(whole[:, shift : shift + 6], alone, atol=1e-10, rtol=0)


@pytest.mark.parametrize("model_type", ["mpnet", "deberta-v2", "modernbert"])
def test_positions_behind_a_late_prompt(model_type):
    """Relative positions, rotary angles and windows are those of P + T tokens, the prompt the first."""
    model = apply(tiny.tiny_of(model_type).double(), "late_prompt(depth=2, tokens=3, dropout=0)")
    with torch.no_grad():
        insertion = model.attached.insertions[0][1]
        prompted, mask = insertion(Trunk(model.attached)(IDS, MASK), MASK)
        state = by_hand(model, prompted, mask)
        state = state[torch.arange(2), READ + 3].unsqueeze(1)
        wanted = model.attached.backbone.head.logits(state, MASK, at(READ))[:, 0]
        torch.testing.assert_close(split(model), wanted, atol=1e-10, rtol=0)
        torch.testing.assert_close(words(model), wanted, atol=1e-10, rtol=0)


@pytest.mark.parametrize("model_type", [t for t in TYPES if tiny.tiny_of(t).supports_gradient_checkpointing])
@pytest.mark.parametrize("plan", ["bft", "lora"])
def test_checkpointing_changes_no_gradient(model_type, plan):
    """A late prompt's longer calls are there again when a block is run anew in the backward pass."""
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = apply(tiny.tiny_of(model_type).double(), plan).train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if checkpointing:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        words(model).square().sum().backward()
        found.append({name: p.grad for name, p in model.attached.trained().items() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-10, rtol=1e-8)


def test_mean_pooling_reads_every_token():
    """The trunk keeps all positions, even where every block is frozen; a prompt's positions are not averaged."""
    cls, mean = (tiny.tiny_of("modernbert", "classification", classifier_pooling=how) for how in ("cls", "mean"))
    assert apply(cls, "frozen").attached.all_in_trunk and not apply(mean, "frozen").attached.all_in_trunk
    model = apply(tiny.tiny_of("modernbert", "classification", classifier_pooling="mean"), "lpt").double()
    with torch.no_grad():
        whole = model(input_ids=IDS, attention_mask=MASK.long()).logits
        torch.testing.assert_close(split(model, torch.zeros(2, dtype=torch.long)), whole, atol=1e-12, rtol=0)


@pytest.mark.parametrize("model_type", TYPES)
def test_dropout_is_where_the_model_has_it(model_type):
    """The last block at one position drops what the whole block drops: the same share of zeros, the same scale."""
    probabilities = (
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "dropout",
        "attention_dropout",
        "mlp_dropout",
    )
    there = [name for name in probabilities if name in tiny.tiny_of(model_type).config.to_dict()]
    blocks = ":" if architecture_of(model_type).fields.distinct else "-1:"
    model = apply(tiny.tiny_of(model_type, **dict.fromkeys(there, 0.3)), f"{blocks} full(on=o)").train()
    torch.manual_seed(0)
    hidden = Trunk(model.attached)(IDS, MASK)
    backbone, last = model.attached.backbone, 3
    call = backbone.calls(hidden, MASK)[last]
    with torch.no_grad():
        whole = torch.stack([backbone.run_block(last, hidden, call)[torch.arange(2), READ] for _ in range(120)])
        one = torch.stack([backbone.run_block_at(last, hidden, call, READ)[:, 0] for _ in range(120)])
    assert whole.std(0).mean() > 0.01
    assert abs(whole.std(0).mean() / one.std(0).mean() - 1) < 0.15
    assert (whole.mean(0) - one.mean(0)).abs().mean() < 0.25 * whole.std(0).mean()
