"""An architecture that the table does not know, added by names: RoFormer (rotary positions, blocks give tuples)."""

from __future__ import annotations

import pytest
import torch
from transformers import RoFormerConfig, RoFormerForMaskedLM, RoFormerForSequenceClassification

from stratatune.errors import ModelError
from stratatune.model.backbones import Backbone
from stratatune.model.custom import backbone_from_names
from stratatune.model.split import Top, Trunk
from stratatune.model.tuned import apply
from stratatune.plan import table

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
        "vocab_size": 120,
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
    resolved = model.strata.resolved
    if plan == "full":
        assert resolved.trainable(model.strata.backbone.output) == every - own
    read = torch.tensor([4, 2]) if make is RoFormerForMaskedLM else torch.zeros(2, dtype=torch.long)
    with torch.no_grad():
        logits = model(input_ids=IDS, attention_mask=MASK.long()).logits
        whole = logits[torch.arange(2), read] if logits.dim() == 3 else logits
        split = Top(model.strata)(Trunk(model.strata)(IDS, MASK), MASK, read)
    torch.testing.assert_close(split, whole, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        ({"blocks": "encoder.layers"}, "blocks: RoFormerForMaskedLM has no module 'encoder.layers'", "encoder.layer"),
        ({"embeddings": "embedding"}, "embeddings: .* has no module 'embedding'", "'embeddings'"),
        ({"blocks": "encoder"}, "'encoder' is no list of blocks", "nn.ModuleList"),
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
    assert "backbone_from_names(model, blocks=..., embeddings=..., roles={" in error.value.hint
