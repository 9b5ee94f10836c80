"""``st.apply`` on models as users load them: what is new trains and is saved, and what fails leaves the model alone."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

import tiny
from stratatune._compat import came_with_checkpoint
from stratatune.errors import ModelError, PlanError, StratatuneError
from stratatune.methods.own_attention import FORWARDS
from stratatune.model.artefact import load
from stratatune.model.attach import Tuned, apply
from stratatune.model.merging import merge, remove

IDS = {"input_ids": torch.tensor([[5, 9, 12, 7], [6, 20, 21, 2]]), "attention_mask": torch.ones(2, 4, dtype=torch.long)}
TASKS = {
    AutoModelForSequenceClassification: {"num_labels": 5},
    AutoModelForTokenClassification: {"num_labels": 4},
    AutoModelForQuestionAnswering: {"num_labels": 2},
    AutoModelForMultipleChoice: {},
    AutoModel: {},
}


def outputs(model, inputs=IDS):
    with torch.no_grad():
        return torch.cat([one.flatten() for one in model(**inputs).to_tuple() if isinstance(one, torch.Tensor)])


def fitted(model, steps=3):
    """A plain loop, on whatever the model puts out."""
    torch.manual_seed(0)
    model.train()
    optimiser = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.05)
    for _ in range(steps):
        tensors = [one for one in model(**IDS).to_tuple() if isinstance(one, torch.Tensor)]
        sum(one.square().mean() for one in tensors).backward()
        optimiser.step()
        optimiser.zero_grad()
    return model.eval()


def test_transformers_marks_what_it_loads(tiny_folder):
    """The private mark that new parts are told by."""
    model = AutoModelForSequenceClassification.from_pretrained(tiny_folder("bert", "mlm"))
    new = {name for name, one in model.named_parameters() if not came_with_checkpoint(one)}
    assert new == {"bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"}
    whole = AutoModelForMaskedLM.from_pretrained(tiny_folder("bert", "mlm")).to(torch.bfloat16)
    assert all(map(came_with_checkpoint, whole.parameters()))


@pytest.mark.parametrize("plan", ["lora", "-1: bitfit", "frozen", "bft-adapter"])
@pytest.mark.parametrize("auto", TASKS)
def test_what_is_new_trains_is_saved_and_comes_back(auto, plan, family, tiny_folder, tmp_path):
    if plan == "frozen" and auto is AutoModel and family == "roberta":
        plan = "-1: bitfit"  # nothing else would train
    model = auto.from_pretrained(tiny_folder(family, "mlm"), **TASKS[auto])
    new = {name for name, one in model.named_parameters() if not came_with_checkpoint(one)}
    tuned = apply(model, plan)
    assert new <= tuned.attached.trained().keys()
    if auto is AutoModelForMultipleChoice:
        tuned.save_pretrained(tmp_path)
    else:
        fitted(tuned).save_pretrained(tmp_path)
        again = load(tmp_path)
        assert type(again).__name__ == type(tuned).__name__
        assert torch.equal(outputs(again), outputs(tuned))
    assert load(tmp_path).attached.trained().keys() == tuned.attached.trained().keys()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_a_decoder_without_a_head(family, tmp_path):
    tiny.save_tiny_decoder(tmp_path / "base", family)
    base = AutoModel.from_pretrained(tmp_path / "base")
    before = outputs(base)
    model = apply(base, "-2: lora")
    assert torch.equal(outputs(model), before)
    fitted(model).save_pretrained(tmp_path / "adapter")
    assert not torch.equal(outputs(model), before)
    assert torch.equal(outputs(load(tmp_path / "adapter")), outputs(model))


def test_the_model_inside_sentence_transformers(tiny_folder, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    models = sentence_transformers.sentence_transformer.modules
    outer = sentence_transformers.SentenceTransformer(
        modules=[models.Transformer(str(tiny_folder("bert", "mlm"))), models.Pooling(32)], device="cpu"
    )
    inner = next(one for one in outer[0].modules() if one.__class__.__name__ == "BertModel")
    before = outer.encode(["a good film"])
    apply(inner, "-1: lora")
    assert (outer.encode(["a good film"]) == before).all()
    with torch.no_grad():
        next(iter(inner.attached.trained().values())).add_(1.0)
        dict(inner.attached.trained())["encoder.layer.3.attention.self.value.b"].add_(1.0)
    assert (outer.encode(["a good film"]) != before).any()
    inner.save_pretrained(tmp_path / "adapter")
    assert torch.equal(outputs(load(tmp_path / "adapter")), outputs(inner.eval()))
    # The way out that docs/from.md shows: merged first, the whole model is saved in its place.
    merge(inner)
    outer.save(str(tmp_path / "tuned"))
    again = sentence_transformers.SentenceTransformer(str(tmp_path / "tuned"), device="cpu")
    assert (again.encode(["a good film"]) == outer.encode(["a good film"])).all()


def test_what_a_user_unfroze_is_saved_and_comes_back(family, tiny_folder, tmp_path):
    model = apply(AutoModelForMaskedLM.from_pretrained(tiny_folder(family, "mlm")), "-1: lora")
    name, parameter = next((n, p) for n, p in model.named_parameters() if "LayerNorm" in n and "layer" not in n)
    parameter.requires_grad_(True)
    with torch.no_grad():
        parameter.add_(0.5)
    model.eval().save_pretrained(tmp_path)
    assert name in load(tmp_path).attached.trained()
    assert torch.equal(outputs(load(tmp_path)), outputs(model))


@pytest.mark.parametrize("plan", ["-1: lora(on=attn,ffn)", "-1: ia3 + bitfit(on=norms)", "-1: dora + houlsby + prefix"])
def test_a_block_that_a_user_unfroze_comes_back(plan, family, tiny_folder, tmp_path):
    """With the modules that a method has wrapped, whose parameters have another name than in the base."""
    model = apply(AutoModelForMaskedLM.from_pretrained(tiny_folder(family, "mlm")), plan)
    block = model.attached.backbone.blocks[-1].requires_grad_(True)
    with torch.no_grad():
        for number, parameter in enumerate(block.parameters()):
            parameter.add_(0.01 * (number + 1))
    model.eval().save_pretrained(tmp_path)
    assert torch.equal(outputs(load(tmp_path)), outputs(model))


@pytest.mark.parametrize("name", ["embeddings.LayerNorm.weight", "encoder.layer.0.output.dense.bias"])
def test_what_a_user_unfroze_where_no_gradient_comes_is_refused_in_training(name, family, tiny_folder):
    model = apply(AutoModelForMaskedLM.from_pretrained(tiny_folder(family, "mlm")), "2: lora")
    parameter = model.get_parameter(f"{family}.{name}").requires_grad_(True)
    model.eval()(**IDS)
    with torch.no_grad():
        model.train()(**IDS)
    with pytest.raises(PlanError, match=f"{name} requires a gradient and gets none: it lies below the frozen depth 2"):
        fitted(model)
    parameter.requires_grad_(False)
    above = model.get_parameter(f"{family}.encoder.layer.2.output.dense.bias").requires_grad_(True)
    before = above.detach().clone()
    assert not torch.equal(
        dict(fitted(model).named_parameters())[f"{family}.encoder.layer.2.output.dense.bias"], before
    )


def test_where_all_trains_nothing_is_refused(tiny_folder):
    model = apply(AutoModelForMaskedLM.from_pretrained(tiny_folder("bert", "mlm")), ": full | embeddings full")
    fitted(model.requires_grad_(True))


def test_what_was_frozen_after_training_is_saved_all_the_same(family, tiny_folder, tmp_path):
    """Many freeze a model before they evaluate it."""
    model = fitted(apply(AutoModelForMaskedLM.from_pretrained(tiny_folder(family, "mlm")), "-1: lora"))
    model.requires_grad_(False)
    model.save_pretrained(tmp_path)
    assert torch.equal(outputs(load(tmp_path)), outputs(model))


def test_a_model_changed_by_hand_comes_back_onto_one(tiny_folder, tmp_path):
    def changed():
        torch.manual_seed(4)
        made = AutoModelForSequenceClassification.from_pretrained(tiny_folder("bert", "mlm"), num_labels=2)
        made.classifier = torch.nn.Sequential(torch.nn.Linear(32, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
        return made

    model = fitted(apply(changed(), "-1: lora"))
    assert {"classifier.0.weight", "classifier.2.bias"} <= model.attached.trained().keys()
    model.save_pretrained(tmp_path)
    assert torch.equal(outputs(load(tmp_path, base=changed())), outputs(model))
    with pytest.raises(ModelError, match="base=MODEL"):
        load(tmp_path)


@pytest.mark.parametrize("plan", ["1: lora + bitfit | head(mlm=dense)", "prompt(tokens=2) | 2: full", "1: prefix"])
def test_a_plan_that_fails_leaves_the_model_as_it_was(family, plan, tiny_folder):
    model = AutoModelForMaskedLM.from_pretrained(tiny_folder(family, "mlm"))
    model.get_input_embeddings().requires_grad_(False)
    cls, before, state = type(model), outputs(model), copy.deepcopy(model.state_dict())
    trains = {name: one.requires_grad for name, one in model.named_parameters()}
    with pytest.raises(StratatuneError, match="also_train"):
        apply(model, plan, also_train=["no.such.parameter"])
    assert type(model) is cls and not isinstance(model, Tuned) and not hasattr(model, "attached")
    assert {name: one.requires_grad for name, one in model.named_parameters()} == trains
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(one, model.state_dict()[name]) for name, one in state.items())
    assert torch.equal(outputs(model), before)
    assert torch.equal(outputs(apply(model, "-1: lora")), before)


def integers(model):
    layer = model.bert.encoder.layer[1].attention.self.query
    layer.weight = torch.nn.Parameter(layer.weight.data.to(torch.int8), requires_grad=False)
    return model


def configured(model):
    model.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    return model


def offloaded(model):
    model.bert.encoder.layer[2].to("meta")
    return model


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (integers, "is quantised: bert.encoder.layer.1.attention.self.query.weight"),
        (configured, r"is quantised \(bitsandbytes\)"),
        (offloaded, "bert.encoder.layer.2.* is not in memory"),
    ],
)
def test_weights_that_are_no_numbers_are_refused_in_one_line(break_it, said):
    with pytest.raises(ModelError, match=said) as error:
        apply(break_it(tiny.tiny_bert()), "lora")
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore")
def test_a_model_quantised_by_torch_is_refused_in_one_line():
    model = torch.ao.quantization.quantize_dynamic(tiny.tiny_bert(), {torch.nn.Linear}, dtype=torch.qint8)
    with pytest.raises(ModelError, match="is quantised") as error:
        apply(model, "lora")
    assert "\n" not in str(error.value)


def test_a_resized_vocabulary_is_refused_until_it_is_saved(family, tiny_folder, tmp_path):
    """Its new rows are in no checkpoint, so no adapter could be loaded again."""
    model = AutoModelForMaskedLM.from_pretrained(tiny_folder(family, "mlm"))
    model.resize_token_embeddings(model.config.vocab_size + 3, mean_resizing=False)
    with pytest.raises(ModelError, match="vocabulary"):
        apply(model, "lora")
    model.save_pretrained(tmp_path / "base")
    tiny.tiny_tokenizer(family).save_pretrained(tmp_path / "base")
    tuned = apply(AutoModelForMaskedLM.from_pretrained(tmp_path / "base"), "lora")
    tuned.save_pretrained(tmp_path / "adapter")
    assert torch.equal(outputs(load(tmp_path / "adapter")), outputs(tuned.eval()))


def test_the_vocabulary_of_a_tuned_model_keeps_its_rows():
    """A saved adapter would be loaded onto a base without the new ones."""
    tuned = apply(tiny.tiny_bert("mlm"), "lora")
    rows = tuned.config.vocab_size
    assert tuned.resize_token_embeddings(rows) is tuned.resize_token_embeddings()
    for asked in ({"new_num_tokens": rows + 3}, {"pad_to_multiple_of": rows - 1}):
        with pytest.raises(ModelError, match=f"has {rows} rows, and the adapter could not be loaded") as error:
            tuned.resize_token_embeddings(**asked, mean_resizing=False)
        assert error.value.hint.startswith("resize it before st.apply")
    assert tuned.get_input_embeddings().weight.shape[0] == rows
    plain = remove(tuned)
    assert plain.resize_token_embeddings(rows + 3, mean_resizing=False).weight.shape[0] == rows + 3


def test_a_cut_that_fails_leaves_all_blocks(monkeypatch):
    monkeypatch.delitem(FORWARDS, "MPNetSelfAttention")  # by which a prefix enters this attention
    model = tiny.tiny_of("mpnet", "classification")
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 8]])}
    before = model.eval()(**inputs).logits
    with pytest.raises(PlanError, match="prefix cannot be put"):
        apply(model, "1: prefix | cut(3)")
    assert torch.equal(model(**inputs).logits, before) and model.config.num_hidden_layers == 4
    apply(model, "3: lora")


def test_a_cut_that_changes_which_weights_blocks_share_is_refused():
    model = tiny.tiny_of("albert", "classification", num_hidden_groups=2, num_hidden_layers=4)
    with pytest.raises(PlanError, match="share 2 sets of weights, and fewer blocks would share them in another way"):
        apply(model, "cut(2)")
    apply(tiny.tiny_of("albert", "classification", num_hidden_layers=4), "cut(2)")


def test_a_base_that_an_adapter_does_not_fit_stays_as_it_was(tmp_path):
    apply(tiny.tiny_bert("mlm"), "3: lora").save_pretrained(tmp_path / "adapter")
    other = tiny.tiny_bert("mlm")
    with torch.no_grad():
        other.cls.predictions.bias += 1
    with pytest.raises(ModelError, match="pretrained head"):
        load(tmp_path / "adapter", base=other)
    apply(other, "2: lora")


def test_a_base_with_other_labels_keeps_its_values(tmp_path):
    """Shapes are compared before anything is copied."""
    model = apply(tiny.tiny_bert("classification"), "2: full")
    with torch.no_grad():
        for one in model.attached.trained().values():
            one += 1
    model.save_pretrained(tmp_path / "adapter")
    other = tiny.tiny_bert("classification", labels=5)
    other.bert.load_state_dict(tiny.tiny_bert("classification").bert.state_dict())
    before = {name: one.clone() for name, one in other.state_dict().items()}
    with pytest.raises(ModelError, match="the model wants"):
        load(tmp_path / "adapter", base=other)
    assert all(torch.equal(one, before[name]) for name, one in other.state_dict().items())


@pytest.mark.parametrize("given", ["bert-base-uncased", None, torch.nn.Linear(2, 2)])
def test_something_that_is_no_model_is_told(given):
    with pytest.raises(ModelError, match="st.apply takes a model that transformers has loaded, not") as error:
        apply(given, "lora")
    assert "from_pretrained" in error.value.hint and "\n" not in str(error.value)
