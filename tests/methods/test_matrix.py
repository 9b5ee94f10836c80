"""What every method promises, for each method of the registries on each family: adding one covers it."""

from __future__ import annotations

import copy

import pytest
import torch

import tiny
from stratatune.errors import PlanError
from stratatune.methods.registry import INSERTIONS, METHODS
from stratatune.model.artefact import load
from stratatune.model.attach import apply
from stratatune.model.merging import merge, remove
from stratatune.model.precision import cast_frozen
from stratatune.plan import BLOCK_METHODS
from stratatune.plan import INSERTIONS as INSERTION_CONFIGS
from tuning import MIXES, PLANS, batch, halves, read_at, shake, starts_as_the_base, tuned, whole

ALL = pytest.mark.parametrize("text", (*PLANS, *MIXES))


def test_every_config_has_a_method_and_the_other_way_round():
    assert set(BLOCK_METHODS) - {"frozen"} == set(METHODS)
    assert set(INSERTION_CONFIGS) == set(INSERTIONS)


def base_logits(family, kind="mlm", **config):
    with torch.no_grad():
        return whole(tiny.tiny_model(family, kind, **config).double(), batch(family), read_at(kind))


@ALL
def test_starts_as_the_base_model_where_that_is_promised(family, text):
    with torch.no_grad():
        found = whole(tuned(family, text), batch(family), read_at("mlm"))
    assert torch.equal(found, base_logits(family)) == starts_as_the_base(text)


@ALL
@pytest.mark.parametrize("kind", ["mlm", "classification"])
def test_top_of_trunk_is_the_whole_forward(family, text, kind):
    model, inputs, read = shake(tuned(family, text, kind, dtype=torch.float32)), batch(family), read_at(kind)
    with torch.no_grad():
        assert (whole(model, inputs, read) - halves(model, inputs, read)).abs().max() < 1e-6 * 5


@ALL
def test_attention_eager_and_sdpa_agree(family, text):
    found = []
    for attention in ("eager", "sdpa"):
        model = shake(tuned(family, text, attn_implementation=attention))
        with torch.no_grad():
            found += [f(model, batch(family), read_at("mlm")) for f in (whole, halves)]
    for one in found[1:]:
        torch.testing.assert_close(one, found[0], rtol=0, atol=1e-12)


@ALL
def test_trains_exactly_what_the_formulas_count(family, text):
    model = tuned(family, text)
    trained = model.attached.trained()
    assert sum(parameter.numel() for parameter in trained.values()) == model.attached.resolved.trainable("mlm") > 0
    grouped = [id(parameter) for group in model.attached.groups for parameter in group.parameters]
    assert len(grouped) == len(set(grouped)) and set(grouped) == {id(parameter) for parameter in trained.values()}


def _gradients(model, logits):
    model.zero_grad()
    logits.square().sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@ALL
def test_gradients_reach_what_trains_and_nothing_else(family, text):
    model, inputs, read = shake(tuned(family, text)), batch(family), read_at("mlm")
    below = [model.attached.backbone.embeddings, *model.attached.backbone.blocks][model.attached.resolved.frozen_depth]
    seen = []
    handle = below.register_forward_hook(lambda module, args, output: seen.append(output.requires_grad))
    by_whole = _gradients(model, whole(model, inputs, read))
    handle.remove()
    assert seen == [False]
    by_halves = _gradients(model, halves(model, inputs, read))
    assert set(by_whole) == set(by_halves) == set(model.attached.trained())
    for name, gradient in by_whole.items():
        torch.testing.assert_close(gradient, by_halves[name], rtol=1e-9, atol=1e-9)


@ALL
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")
def test_gradient_checkpointing_changes_no_gradient(family, text):
    model, inputs, read = shake(tuned(family, text, attention_probs_dropout_prob=0)), batch(family), read_at("mlm")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.train()
    plain = _gradients(model, whole(model, inputs, read))
    model.gradient_checkpointing_enable({"use_reentrant": False})
    checkpointed = _gradients(model, whole(model, inputs, read))
    assert set(plain) == set(checkpointed)
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-10, atol=1e-12)


@ALL
def test_computes_in_bf16_with_frozen_weights_held_in_it(family, text):
    model, inputs, read = shake(tuned(family, text, dtype=torch.float32)), batch(family), read_at("mlm")
    with torch.no_grad():
        exact = halves(model, inputs, read)
    cast_frozen(model.attached, torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = halves(model, inputs, read)
    gradients = _gradients(model, rounded.float())
    assert set(gradients) == set(model.attached.trained())
    assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}
    assert (rounded - exact).abs().max() < 0.05 * exact.abs().max()


@ALL
def test_saved_and_loaded_it_says_the_same(family, text, tiny_folder, tmp_path):
    folder = tiny_folder(family, "mlm")
    model = shake(apply(tiny.tiny_model(family), text))
    model.config._name_or_path = str(folder)
    model.save_pretrained(tmp_path / "adapter")
    loaded = load(tmp_path / "adapter")
    with torch.no_grad():
        assert torch.equal(*(whole(one, batch(family), read_at("mlm")) for one in (model, loaded)))
    assert set(loaded.attached.trained()) == set(model.attached.trained())


@ALL
def test_merged_it_says_the_same_or_says_why_not(family, text, tmp_path):
    model = shake(tuned(family, text))
    base_class, inputs = type(tiny.tiny_model(family)), batch(family)
    with torch.no_grad():
        before = whole(model, inputs, read_at("mlm"))
    try:
        merged = merge(model)
    except PlanError as error:
        assert any(kind in error.message for kind in (*METHODS, *INSERTIONS)) and "\n" not in error.message
        with torch.no_grad():  # refused, and as it was
            assert torch.equal(before, whole(model, inputs, read_at("mlm")))
        return
    assert type(merged) is base_class and not any(parameter.grad_fn for parameter in merged.parameters())
    assert set(merged.state_dict()) == set(tiny.tiny_model(family).state_dict())
    with torch.no_grad():
        torch.testing.assert_close(whole(merged, inputs, read_at("mlm")), before, rtol=0, atol=1e-12)
        merged.save_pretrained(tmp_path)
        again = base_class.from_pretrained(tmp_path, dtype=torch.float64).eval()
        torch.testing.assert_close(whole(again, inputs, read_at("mlm")), before, rtol=0, atol=1e-12)


MERGEABLE = {"full", "bitfit", "delta_bias", "lora", "dora", "ia3"}


@pytest.mark.parametrize("text", PLANS)
def test_what_can_be_merged(text):
    kind = text.removeprefix("1: ").partition("(")[0]
    if kind in MERGEABLE:
        merge(tuned("bert", text))
    else:
        with pytest.raises(PlanError, match="cannot be merged"):
            merge(tuned("bert", text))


@ALL
def test_taken_off_the_base_is_back_bit_for_bit(family, text):
    model = shake(tuned(family, text))
    try:
        remove(model)
    except PlanError as error:
        assert any(word in text for word in ("full", "bitfit", "head"))
        assert "trained weights of the base" in error.message
        return
    assert type(model) is type(tiny.tiny_model(family)) and not hasattr(model, "attached")
    assert set(model.state_dict()) == set(tiny.tiny_model(family).state_dict())
    with torch.no_grad():
        assert torch.equal(whole(model, batch(family), read_at("mlm")), base_logits(family))
    apply(model, text)  # and it takes a plan again


@ALL
def test_a_copy_stands_on_its_own(family, text):
    model = shake(tuned(family, text))
    twin = copy.deepcopy(model)
    shake(model)
    with torch.no_grad():
        one, other = (whole(each, batch(family), read_at("mlm")) for each in (model, twin))
        assert not torch.equal(one, other)
        torch.testing.assert_close(other, halves(twin, batch(family), read_at("mlm")), rtol=0, atol=1e-12)


def test_the_order_of_treatments_in_a_plan_changes_nothing():
    one, other = (shake(tuned("bert", f"1: {text}")) for text in ("ia3 + lora + houlsby", "houlsby + lora + ia3"))
    assert list(one.attached.trained()) == list(other.attached.trained())
    with torch.no_grad():
        assert torch.equal(*(whole(each, batch("bert"), read_at("mlm")) for each in (one, other)))


def test_one_base_carries_many_delta_biases():
    """SPAFIT's remedy: the tasks' vectors come and go, the base stays."""
    model = tiny.tiny_model("bert").double()
    for _ in range(2):
        shake(apply(model, "delta-bias"))
        with torch.no_grad():
            assert not torch.equal(whole(model, batch("bert"), read_at("mlm")), base_logits("bert"))
        remove(model)
        with torch.no_grad():
            assert torch.equal(whole(model, batch("bert"), read_at("mlm")), base_logits("bert"))
