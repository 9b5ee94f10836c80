"""Every encoder of the backbone table with every kind of plan. Made from the table: a new row is in them by itself."""

from __future__ import annotations

import copy
import json
from functools import cache

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForSequenceClassification

import tiny
from asking import logits_at
from counting import count_backward_blocks
from stratatune.errors import ModelError, PlanError
from stratatune.model.artefact import load
from stratatune.model.attach import apply
from stratatune.model.backbone import Backbone
from stratatune.model.base import load_base
from stratatune.model.heads.registry import head_named
from stratatune.model.measure import measured
from stratatune.model.names import check_names
from stratatune.model.saving import read_tensors, save_adapter
from stratatune.model.split import Trunk
from stratatune.objectives.registry import by_head
from stratatune.plan import ARCHITECTURES, BUILTIN, Plan, architecture_of, shape_of
from stratatune.shapes.builtin import builtin_config
from tuning import shake

ENCODERS = [row for row in ARCHITECTURES if row.family == "encoder" and row.mlm_head]


def _is_encoder(name):
    return architecture_of(str((builtin_config(name) or {})["model_type"])).family == "encoder"


VARIANTS = {
    **{name: (name, {}) for row in ENCODERS for name in row.model_types},
    "electra-base": ("electra", {"embedding_size": 32}),
    "deberta-v3-head": ("deberta-v2", {"legacy": False}),
    "deberta-absolute": (
        "deberta-v2",
        {"relative_attention": False, "position_biased_input": True, "type_vocab_size": 2, "norm_rel_ebd": "none"},
    ),
    "modernbert-mean": ("modernbert", {"classifier_pooling": "mean"}),
    "modernbert-biases": (
        "modernbert",
        {**dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"), True), "decoder_bias": False},
    ),
    "albert-groups": ("albert", {"num_hidden_groups": 2}),
}
PRECISIONS = ((torch.float64, 1e-12), (torch.float32, 1e-5))
PLANS = ("bft-adapter", "bft", "spafit-0-1-II", "lora", "full", "head", "bitfit", "frozen")


def refused(variant: str, plan: str) -> str:
    """What a PlanError must say where a plan makes no sense for an architecture."""
    if variant.startswith("albert") and plan.startswith("spafit"):
        return "they are the same weights"
    no_biases = variant in ("modernbert", "modernbert-mean")
    return "bitfit trains nothing" if no_biases and plan in ("bitfit", "spafit-0-1-II") else ""


@cache
def base(variant: str, kind: str):
    model_type, config = VARIANTS[variant]
    return tiny.tiny_of(model_type, kind, **config)


def tuned(variant: str, kind: str, plan: str, dtype: torch.dtype = torch.float32):
    """A tuned tiny model; everything that trains is shaken."""
    model = apply(copy.deepcopy(base(variant, kind)).to(dtype), plan)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.attached.trained().values():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(dtype) * 0.1)
    return model


@pytest.fixture(params=VARIANTS)
def variant(request):
    return request.param


@pytest.fixture
def inputs(variant, kind, make_inputs):
    types = "bert" if architecture_of(VARIANTS[variant][0]).token_types else "roberta"
    made = make_inputs(types, kind)
    made.ids.masked_fill_(~made.mask, 1)
    return made


def test_every_plan_splits_where_the_model_does(variant, kind, inputs):
    """top(trunk(x)) is the model's own forward; what the trunk leaves may be kept for real tokens alone."""
    for plan in PLANS:
        if refused(variant, plan):
            with pytest.raises(PlanError, match=refused(variant, plan)):
                tuned(variant, kind, plan)
            continue
        for dtype, tolerance in PRECISIONS[: 2 if plan == "bft" else 1]:
            model = tuned(variant, kind, plan, dtype)
            with torch.no_grad():
                whole, split = inputs.whole(model, kind), inputs.split(model)
            torch.testing.assert_close(
                split, whole, atol=tolerance, rtol=0, msg=lambda text, plan=plan: f"{plan}: {text}"
            )


def test_cached_is_uncached(variant, kind, inputs):
    """Zeros for padding, more of it than before, and rows in another company: the logits stay."""
    for plan in ("bft-adapter", "bft", "frozen"):
        model = tuned(variant, kind, plan, torch.float64)
        with torch.no_grad():
            hidden = Trunk(model.attached)(inputs.ids, inputs.mask, inputs.types)
            kept = torch.nn.functional.pad(hidden * inputs.mask[..., None], (0, 0, 0, 3))
            mask = torch.nn.functional.pad(inputs.mask, (0, 3))
            again = logits_at(model.attached, kept[1:], mask[1:], inputs.read[1:])
            torch.testing.assert_close(again, inputs.split(model)[1:], atol=1e-12, rtol=0)


@pytest.mark.parametrize("plan", ["bft-adapter", "bft", "full"])
def test_gradients_stop_at_the_frozen_depth(variant, kind, plan, inputs):
    """The same gradients by the model's own forward and by trunk and top, and none below the frozen depth."""
    model = tuned(variant, kind, plan, torch.float64)
    model.enable_input_require_grads()
    whole = inputs.gradients(model, inputs.whole(model, kind))
    split = inputs.gradients(model, inputs.split(model))
    assert whole.keys() == split.keys()
    assert whole.keys() <= model.attached.trained().keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(split[name], gradient, atol=1e-10, rtol=1e-8)
    if not model.attached.resolved.shape.distinct:
        run = lambda: inputs.loss(inputs.whole(model, kind)).backward()  # noqa: E731
        assert count_backward_blocks(model.attached, run) == model.attached.resolved.backprop_blocks


def test_everything_that_full_says_trains(variant, kind, inputs):
    """Every parameter trains; the embeddings and each table beside them get a gradient."""
    model = tuned(variant, kind, "full")
    trained = model.attached.trained()
    assert trained.keys() == dict(model.named_parameters()).keys()
    inputs.loss(inputs.split(model)).backward()
    for module in model.attached.backbone.body.embedding_modules():
        assert any(parameter.grad is not None for parameter in module.parameters())


def test_saved_and_loaded_is_equal(variant, kind, inputs, tmp_path):
    folder = tmp_path / "base"
    base(variant, kind).save_pretrained(folder)
    tiny.bert_tokenizer().save_pretrained(folder)
    loaded = load_base(str(folder), kind, num_labels=3)
    assert not loaded.notices
    model = apply(loaded.model, "bft-adapter" if kind == "mlm" else ": lora")
    with torch.no_grad():
        for parameter in model.attached.trained().values():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    save_adapter(model.attached, tmp_path / "adapter")
    assert read_tensors(tmp_path / "adapter").keys() == model.attached.trained().keys()
    with torch.no_grad():
        assert torch.equal(inputs.whole(load(tmp_path / "adapter"), kind), inputs.whole(model, kind))


def test_counts_are_those_of_the_live_model(variant, kind):
    """Each size by formula is the size of the live module, each name of the row is there, and the totals agree."""
    model = base(variant, kind)
    backbone = Backbone(model)
    assert backbone.head.name == head_named(kind).name and model.base_model_prefix == backbone.row.base
    check_names(backbone.row, model, f"{backbone.row.base}.")
    assert measured(backbone.body, backbone.head) == backbone.shape
    own = sum(parameter.numel() for parameter in backbone.output_layer())
    assert backbone.shape.parameters(kind) == model.num_parameters() - own
    assert own == 0 or own == 3 * 32 + 3 + backbone.shape.classifier_dense


@pytest.mark.parametrize("name", [name for name in BUILTIN if _is_encoder(name)])
def test_built_in_shapes_train_all_of_a_real_model(name):
    config, shape = dict(builtin_config(name) or {}), shape_of(name)
    row, made = architecture_of(str(config["model_type"])), AutoConfig.for_model(**config)
    with torch.device("meta"):
        mlm, classification = (
            auto.from_config(made) for auto in (AutoModelForMaskedLM, AutoModelForSequenceClassification)
        )
    full = Plan.parse("full").resolve(shape)
    assert full.trainable("mlm") == shape.parameters("mlm") == mlm.num_parameters()
    heads = [classification.get_submodule(path) for path in (row.classifier, row.classifier_before) if path]
    new = sum(parameter.numel() for head in heads for parameter in head.parameters())
    assert full.trainable("classification") == classification.num_parameters() - new


@pytest.mark.parametrize(
    ("model_type", "config", "reason"),
    [
        ("deberta-v2", {"conv_kernel_size": 3}, "a convolution between"),
        ("deberta-v2", {"share_att_key": False}, "share_att_key is off"),
        ("albert", {"inner_group_num": 2}, "inner_group_num is above 1"),
    ],
)
def test_a_layout_that_is_not_supported_is_said_to_be(model_type, config, reason):
    with pytest.raises(ModelError, match=reason):
        Backbone(tiny.tiny_of(model_type, **config))


def test_a_head_as_narrow_as_the_embeddings_is_not_made_up(tmp_path):
    """ELECTRA's small discriminator brings no masked-LM head, and none can be an identity on narrower embeddings."""
    base("electra", "classification").save_pretrained(tmp_path)
    tiny.bert_tokenizer().save_pretrained(tmp_path)
    loaded = load_base(str(tmp_path), "mlm")
    assert any(name.startswith("generator_predictions.dense") for name in loaded.new)
    (said,) = loaded.about_new()
    assert "newly initialized and trained" in said and all(name in said for name in loaded.new)
    assert loaded.about_new(loaded.new) == [] and loaded.about_new(loaded.new[1:])[0].endswith(f": {loaded.new[0]}")


def test_the_head_that_deberta_s_checkpoints_hold_is_read(tmp_path):
    """Published ones keep it as ``lm_predictions``, which takes ``legacy=False``; their configs do not say so."""
    made = tiny.tiny_of("deberta-v2", legacy=False, vocab_size=len(tiny.bert_tokenizer()))
    made.save_pretrained(tmp_path)
    tiny.bert_tokenizer().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("legacy") is False
    (tmp_path / "config.json").write_text(json.dumps(config))
    base = load_base(str(tmp_path), "mlm")
    assert any("own masked-LM head" in notice for notice in base.notices) and not base.new
    ids = torch.randint(5, 100, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(base.model(input_ids=ids).logits, made(input_ids=ids).logits)
    model = apply(base.model, "3: lora | head(mlm=dense,norm,bias)")
    model.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        assert torch.equal(*(one.eval()(input_ids=ids).logits for one in (model, load(tmp_path / "adapter"))))
    assert not load_base(str(tmp_path), "classification").notices[:-1]


@pytest.mark.parametrize("pooling", ["late", "mean", "bos"])
@pytest.mark.parametrize(
    "plan", ["2: full", "1: lora(rank=2) | adapter(depth=3)", "late_prompt(depth=2, tokens=3)", "head"]
)
@torch.no_grad()
def test_eurobert_pools_as_its_config_says(plan, pooling):
    model = tiny.tiny_of("eurobert", "classification", classifier_pooling=pooling).double()
    model = shake(apply(model, plan)).eval()
    mask = torch.arange(9) < torch.tensor((9, 6, 8))[:, None]
    ids = torch.randint(5, 60, (3, 9), generator=torch.Generator().manual_seed(0)).masked_fill(~mask, 1)
    hidden = torch.where(mask[..., None], Trunk(model.attached)(ids, mask), 0)
    whole = model(input_ids=ids, attention_mask=mask.long()).logits
    torch.testing.assert_close(
        logits_at(model.attached, hidden, mask, torch.zeros(3, dtype=torch.long)), whole, atol=1e-10, rtol=0
    )
    shape = model.attached.resolved.shape
    assert shape.reads_all("sequence") == (pooling != "bos")


def test_eurobert_reads_no_label_words(tmp_path):
    tiny.tiny_of("eurobert", vocab_size=len(tiny.roberta_tokenizer())).save_pretrained(tmp_path)
    tiny.roberta_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no label words are read with a eurobert model") as refused:
        load_base(str(tmp_path), "masked_lm", objectives=by_head("encoder"))
    assert "classification" in refused.value.hint and "rank" in refused.value.hint and "mlm" not in refused.value.hint
