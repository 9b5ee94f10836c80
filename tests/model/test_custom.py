"""An architecture that the table does not know, added by names: RoFormer (rotary positions, blocks give tuples)."""

from __future__ import annotations

import pytest
import torch
from transformers import RoFormerConfig, RoFormerForMaskedLM, RoFormerForSequenceClassification

import tiny
from asking import logits_at
from stratatune.errors import ModelError
from stratatune.model.attach import apply
from stratatune.model.backbone import Backbone
from stratatune.model.custom import add_architecture, backbone_from_names
from stratatune.model.split import Trunk
from stratatune.shapes import table
from stratatune.shapes.architectures import DecoderArchitecture, Fields
from tuning import shake

pytestmark = pytest.mark.filterwarnings("ignore:backbone_from_names:DeprecationWarning")

NAMES = {
    "embeddings": "embeddings",
    "blocks": "encoder.layer",
    "roles": {
        **{"q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value"},
        **{"o": "attention.output.dense", "up": "intermediate.dense", "down": "output.dense"},
        **{"norm_attn": "attention.output.LayerNorm", "norm_ffn": "output.LayerNorm"},
    },
    "mlm_head": {
        "dense": "cls.predictions.transform.dense",
        "norm": "cls.predictions.transform.LayerNorm",
        "decoder": "cls.predictions.decoder",
    },
    "projection": "embeddings_project",
    "token_types": True,
    "tuple_blocks": True,
}
IDS = torch.randint(5, 100, (2, 9), generator=torch.Generator().manual_seed(3))
MASK = torch.arange(9) < torch.tensor([9, 6])[:, None]


@pytest.fixture(autouse=True)
def empty_table(monkeypatch):
    """What a test adds is gone after it."""
    monkeypatch.setattr(table, "_ADDED", {})


def roformer(make=RoFormerForMaskedLM):
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 320,
        "embedding_size": 16,
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "intermediate_size": 48,
    }
    config = RoFormerConfig(
        **sizes, num_attention_heads=4, max_position_embeddings=64, initializer_range=0.1, num_labels=3
    )
    return make(config).double().eval()


@pytest.mark.parametrize("make", [RoFormerForMaskedLM, RoFormerForSequenceClassification])
@pytest.mark.parametrize("plan", ["bft-adapter", "bft", "spafit-0-1-II", "full"])
def test_every_plan_splits_where_the_model_does(make, plan):
    model = roformer(make)
    row = backbone_from_names(model, **NAMES)
    assert table.architecture_of("roformer") is row
    own = sum(parameter.numel() for parameter in Backbone(model).output_layer())
    every = model.num_parameters(only_trainable=True)  # its table of sines is none
    model = apply(model, plan)
    resolved = model.attached.resolved
    if plan == "full":
        assert resolved.trainable(model.attached.backbone.head.name) == every - own
    read = torch.tensor([4, 2]) if make is RoFormerForMaskedLM else torch.zeros(2, dtype=torch.long)
    with torch.no_grad():
        logits = model(input_ids=IDS, attention_mask=MASK.long()).logits
        whole = logits[torch.arange(2), read] if logits.dim() == 3 else logits
        split = logits_at(model.attached, Trunk(model.attached)(IDS, MASK), MASK, read)
    torch.testing.assert_close(split, whole, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        ({"blocks": "encoder.layers"}, "blocks: RoFormerForMaskedLM has no module 'encoder.layers'", "encoder.layer"),
        ({"embeddings": "embedding"}, "embeddings: .* has no module 'embedding'", "'embeddings'"),
        ({"blocks": "encoder"}, "'encoder' is not a list of blocks", "nn.ModuleList"),
        (
            {"roles": {"q": "attention.self.quer"}},
            "q: a block has no module 'attention.self.quer'",
            "attention.self.query'",
        ),
        ({"roles": {"query": "attention.self.query"}}, "'query' is not a role", "legal: q, k, v"),
        ({"roles": {"q": "attention.self"}}, "named for q is a RoFormerSelfAttention", "nn.Linear"),
    ],
)
def test_a_wrong_name_is_said_with_the_nearest(change, message, hint):
    model = roformer()
    with pytest.raises(ModelError, match=message) as error:
        backbone_from_names(model, **{**NAMES, **change})
        Backbone(model)
    assert hint in error.value.hint and "\n" not in str(error.value)


def test_names_are_checked_when_the_model_comes():
    backbone_from_names("roformer", **{**NAMES, "final_norm": "norm"})
    with pytest.raises(ModelError, match="final_norm: RoFormerForMaskedLM has no module 'norm'"):
        apply(roformer(), "lora")


def test_an_unknown_architecture_says_what_to_name():
    with pytest.raises(ModelError, match="model type 'roformer' is not in the table") as error:
        apply(roformer(), "lora")
    assert "stratatune.add_architecture, by an EncoderArchitecture" in error.value.hint


# ---- decoders -----------------------------------------------------------------------------------------------------

LLAMA_LIKE = {
    "embeddings": "embed_tokens",
    "blocks": "layers",
    "final_norm": "norm",
    "lm_head": "lm_head",
    "rotary": "rotary_emb",
    "roles": {
        **{role: f"self_attn.{role}_proj" for role in "qkvo"},
        **{"norm_attn": "input_layernorm", "norm_ffn": "post_attention_layernorm"},
    },
}
DECODERS = {  # layer norms and biases; norms behind what each part gives back; an attention beside the FFN
    "stablelm": {"roles": {**LLAMA_LIKE["roles"], **{role: f"mlp.{role}_proj" for role in ("up", "gate", "down")}}},
    "olmo2": {
        "roles": {
            **{role: f"self_attn.{role}_proj" for role in "qkvo"},
            **{"up": "mlp.up_proj", "gate": "mlp.gate_proj", "down": "mlp.down_proj"},
            **{"norm_post_attn": "post_attention_layernorm", "norm_post_ffn": "post_feedforward_layernorm"},
        }
    },
    "phi": {
        "final_norm": "final_layernorm",
        "roles": {
            **{"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.dense"},
            **{"up": "mlp.fc1", "down": "mlp.fc2", "norm_attn": "input_layernorm"},
        },
    },
}


def decoder(model_type, head="causal", **config):
    return tiny.tiny_decoder(model_type, head, **config).double()


FUSED = {
    **dict.fromkeys("qkv", "self_attn.qkv_proj"),
    **{"o": "self_attn.o_proj", "gate": "mlp.gate_up_proj", "up": "mlp.gate_up_proj", "down": "mlp.down_proj"},
    **{"norm_attn": "input_layernorm", "norm_ffn": "post_attention_layernorm"},
}


@pytest.mark.parametrize("kv_heads", [2, None])
def test_a_fused_linear_gives_each_role_its_width(kv_heads):
    """As the config has them; where it names no heads of keys, the linear of a model with such heads is refused."""
    row = DecoderArchitecture(
        **{"name": "phi3", "model_types": ("phi3",), "walked_by": "decoder", "measured": True, "lm_head": "lm_head"},
        **{"embeddings": "embed_tokens", "blocks": "layers", "final_norm": "norm", "classifier": "score"},
        **{"rotary": "rotary_emb", "roles": FUSED, "embedding_tables": ("vocab",), "classifier_bias": False},
        fused={"self_attn.qkv_proj": ("q", "k", "v"), "mlp.gate_up_proj": ("gate", "up")},
        fields=Fields(types=None, kv_heads="num_key_value_heads" if kv_heads else None),
    )
    model = decoder("phi3", num_key_value_heads=2, num_attention_heads=4)
    if kv_heads is None:
        with pytest.raises(ModelError, match="fused: a linear of 64 outputs is not q, k, v side by side"):
            add_architecture(row, model)
        return
    add_architecture(row, model)
    model = shake(apply(model, "2: lora(on=q,v,up)"))
    assert {role: model.attached.resolved.shape.linears[role].outputs for role in "qkv"} == {"q": 32, "k": 16, "v": 16}
    ids, read = IDS.masked_fill(~MASK, 1), MASK.sum(1) - 1
    with torch.no_grad():
        whole = model(input_ids=ids, attention_mask=MASK.long(), use_cache=False).logits[torch.arange(2), read]
        split = logits_at(model.attached, Trunk(model.attached)(ids, MASK), MASK, read)
    torch.testing.assert_close(split, whole, atol=1e-10, rtol=0)


@pytest.mark.parametrize("head", ["causal", "classification"])
@pytest.mark.parametrize(
    "plan",
    [
        "2: lora(on=q,v,down)",
        "late_prompt(depth=2, tokens=3)",
        "prompt(tokens=2) | adapter(depth=4)",
        "embeddings full | : full",
    ],
)
@pytest.mark.parametrize("model_type", DECODERS)
def test_a_decoder_is_added_by_names(model_type, plan, head):
    model = decoder(model_type, head)
    every, row = model.num_parameters(), backbone_from_names(model, **{**LLAMA_LIKE, **DECODERS[model_type]})
    own = sum(parameter.numel() for parameter in Backbone(model).output_layer())
    assert row.family == "decoder"
    model = shake(apply(model, plan))
    resolved = model.attached.resolved
    assert resolved.shape.parameters(model.attached.backbone.head.name) + own == every
    read, ids = MASK.sum(1) - 1, IDS.masked_fill(~MASK, 1)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=MASK.long(), use_cache=False).logits
        whole = logits[torch.arange(2), read] if logits.dim() == 3 else logits
        split = logits_at(model.attached, Trunk(model.attached)(ids, MASK), MASK, read)
    torch.testing.assert_close(split, whole, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("model_type", "change", "message"),
    [
        ("granitemoeshared", {}, "does more around its blocks"),  # its logits are scaled
        ("stablelm", {"rotary": None}, "cannot be run as its row describes"),
        ("stablelm", {"final_norm": None}, "final_norm: a decoder needs one"),
    ],
)
def test_a_decoder_of_another_kind_is_refused(model_type, change, message):
    names = {**LLAMA_LIKE, **DECODERS.get(model_type, {}), **change}
    config = {"logits_scaling": 4.0} if model_type == "granitemoeshared" else {}
    with pytest.raises(ModelError, match=message):
        backbone_from_names(decoder(model_type, **config).float(), **names)  # experts have no kernel for fp64
    assert model_type not in table._ADDED  # nothing of it stays behind
