"""``st.cached``: Trainer, Accelerate, Lightning and a plain loop come to the same weights over a cached trunk."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BatchEncoding,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

import stratatune as st
import tiny
from stratatune.errors import ConfigError, DataError, PlanError
from stratatune.model.attach import apply
from stratatune.model.backbone import Backbone
from stratatune.progress import Reporter

TEXTS = ["a good film", "a bad film that she saw", "the best story", "a very sad and slow story of the city", "fine"]
SILENT = {"reporter": Reporter(quiet=True)}
PLANS = ("2: lora", "3: full", "late_prompt(depth=2, tokens=3) | adapter(depth=3)", "head", "adapter(depth=4)")


def rows(tokenizer, count=12, **how):
    """Texts with two classes, tokenized."""
    found = [{**tokenizer(TEXTS[n % 5], **how), "labels": n % 2} for n in range(count)]
    return [{name: row[name] for name in ("input_ids", "attention_mask", "labels")} for row in found]


def model_of(folder, plan, auto=AutoModelForSequenceClassification, **settings):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return apply(auto.from_pretrained(folder, **settings), plan)


def runs_of(model):
    """How often each block computes, from now on: by its first linear, which runs again where a block is run again."""
    runs = [0] * len(model.attached.backbone.blocks)
    for number, block in enumerate(model.attached.backbone.blocks):

        def count(*_, number=number):
            runs[number] += 1

        next(one for one in block.modules() if isinstance(one, torch.nn.Linear)).register_forward_hook(count)
    return runs


def trained(model):
    return {name: one.detach().clone() for name, one in model.attached.trained().items()}


def assert_same(one, other, **bounds):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], **{"atol": 1e-6, "rtol": 1e-4, **bounds})


def by_trainer(model, data, folder, collate=None, **settings):
    """Plain SGD: Adam makes steps of what is rounding alone, such as the gradient of a key's bias."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about a scheduler and pinned memory, of transformers about names
        arguments = TrainingArguments(
            str(folder),
            **{"num_train_epochs": 2, "per_device_train_batch_size": 4, "learning_rate": 0.1, "optim": "sgd"},
            **{"use_cpu": True, "seed": 3, "report_to": [], "save_strategy": "no", "disable_tqdm": True},
            **{"logging_strategy": "no", **settings},
        )
        trainer = Trainer(model, arguments, train_dataset=data, data_collator=collate, eval_dataset=data)
        trainer.train()
    return trainer


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("plan", PLANS)
def test_the_trainer_comes_to_the_same_weights_and_the_trunk_rests(family, plan, tiny_folder, tmp_path):
    folder, tokenizer = tiny_folder(family, "mlm"), tiny.tiny_tokenizer(family)
    data, collate = Dataset.from_list(rows(tokenizer)), DataCollatorWithPadding(tokenizer)
    plain, model = model_of(folder, plan), model_of(folder, plan)
    by_trainer(plain, data, tmp_path / "plain", collate)
    cached, top = st.cached(model, data, cache=tmp_path / "cache", **SILENT)
    assert top is model and "trunk_row" in cached.column_names
    runs = runs_of(model)
    by_trainer(top, cached, tmp_path / "cached", collate)
    depth = model.attached.resolved.frozen_depth
    assert set(runs[:depth]) <= {0} and all(runs[depth:])
    assert_same(trained(plain), trained(model))


def test_a_second_time_the_cache_is_there(tiny_folder, tmp_path, capsys):
    data = rows(tiny.tiny_tokenizer("bert"))
    for number in range(2):
        model = model_of(tiny_folder("bert", "mlm"), "3: lora")
        runs = runs_of(model)
        st.cached(model, data, cache=tmp_path)
        assert any(runs) == (number == 0)
    assert "complete, 12 rows at depth 3" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["embeddings.word_embeddings.weight", "encoder.layer.1.output.dense.weight"])
def test_weights_that_were_written_since_have_a_cache_of_their_own(place, tiny_folder, tmp_path):
    """The key's hash is taken when the plan is attached; a state may be loaded after that."""
    data = rows(tiny.tiny_tokenizer("bert"))
    given = {"cache": str(tmp_path), **SILENT}
    st.cached(model_of(tiny_folder("bert"), "2: lora"), data, **given)
    model = model_of(tiny_folder("bert"), "2: lora").eval()
    state = {name: one.detach().clone() for name, one in model.state_dict().items()}
    state[f"bert.{place}"] += torch.randn_like(state[f"bert.{place}"])
    model.load_state_dict(state)
    own, top = st.cached(model, data, **given)
    batch = DataCollatorWithPadding(tiny.tiny_tokenizer("bert"))([own[number] for number in range(4)])
    plain = {name: one for name, one in batch.items() if name != "trunk_row"}
    assert_same({"": top(**batch).logits}, {"": model(**plain).logits}, atol=1e-5, rtol=1e-4)
    assert len([*tmp_path.glob("*/key.json")]) == 2


def test_the_same_weights_loaded_again_and_a_copy_stay_right(tiny_folder, tmp_path):
    data = rows(tiny.tiny_tokenizer("bert"))
    model = model_of(tiny_folder("bert"), "2: lora")
    st.cached(copy.deepcopy(model), data, cache=str(tmp_path), **SILENT)
    st.cached(model, data, cache=str(tmp_path), **SILENT)
    assert len([*tmp_path.glob("*/key.json")]) == 1


@pytest.mark.parametrize("how", ["the weights", "autocast"])
def test_each_precision_has_a_cache_of_its_own(tiny_folder, tmp_path, capsys, how):
    data, half = rows(tiny.tiny_tokenizer("bert")), torch.bfloat16
    for dtype in (half, torch.float32):
        stored = dtype if how == "the weights" else torch.float32
        model = model_of(tiny_folder("bert", "mlm"), "3: lora", dtype=stored)
        with torch.autocast("cpu", dtype=half, enabled=how == "autocast" and dtype == half):
            st.cached(model, data, cache=tmp_path)
    assert "complete" not in capsys.readouterr().err


def test_padded_rows_and_several_data_sets(tiny_folder, tmp_path):
    """Fixed lengths need no collator; rows may be shuffled, selected, and be of another data set, cached or not."""
    tokenizer = tiny.tiny_tokenizer("bert")
    model = model_of(tiny_folder("bert", "mlm"), "2: lora").eval()
    padded = Dataset.from_list(rows(tokenizer, padding="max_length", max_length=16)).with_format("torch")
    both, _ = st.cached(model, DatasetDict(train=padded, test=padded.select(range(5))), cache="ram", **SILENT)
    assert isinstance(both, DatasetDict) and both["train"].format["type"] == "torch"
    assert [int(row["trunk_row"]) for row in both["test"]] == list(range(12, 17))
    mixed = [both["train"][7], both["test"][3], both["train"].shuffle(seed=1)[0]]
    batch = {name: torch.stack([row[name] for row in mixed]) for name in mixed[0]}
    plain = {name: one for name, one in batch.items() if name != "trunk_row"}
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).logits, model(**plain).logits)
        torch.testing.assert_close(model(**batch).loss, model(**plain).loss)


@pytest.mark.parametrize("name", ["deberta-v2", "modernbert", "albert", "mpnet", "electra", "distilbert"])
def test_every_encoder_begins_at_its_depth(name):
    model = apply(tiny.tiny_of(name, "classification"), "adapter(depth=2)").eval()
    data = [{"input_ids": [5, 9, 12, 7][: 2 + n], "attention_mask": [1] * (2 + n)} for n in range(3)]
    numbered, _ = st.cached(model, data, cache="ram", **SILENT)
    for row in numbered:
        batch = {key: torch.tensor([value]) for key, value in row.items()}
        plain = {key: one for key, one in batch.items() if key != "trunk_row"}
        with torch.no_grad():
            torch.testing.assert_close(model(**batch).logits, model(**plain).logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: tiny.tiny_decoder("gpt2"),
        lambda: tiny.tiny_decoder("llama"),
        lambda: tiny.tiny_encoder_decoder("t5"),
        lambda: tiny.tiny_encoder_decoder("bart"),
    ],
)
def test_language_models_learn_over_it(make):
    """Of two stacks the encoder rests; the decoder's frozen blocks run."""
    model = apply(make(), "-1: lora" if len(Backbone(make()).row.stacks) < 2 else "dec -1: lora")
    data = [{"input_ids": list(range(5, 9 + n)), "labels": list(range(5, 9 + n))} for n in range(4)]
    numbered, _ = st.cached(model, data, cache="ram", **SILENT)
    for row in numbered:
        batch = {key: torch.tensor([value]) for key, value in row.items()}
        plain = {key: one for key, one in batch.items() if key != "trunk_row"}
        model.zero_grad()
        wanted = model(**plain).loss
        wanted.backward()
        gradients = {name: one.grad.clone() for name, one in model.attached.trained().items()}
        model.zero_grad()
        found = model(**batch).loss
        found.backward()
        torch.testing.assert_close(found, wanted)
        assert_same(gradients, {name: one.grad for name, one in model.attached.trained().items()}, atol=1e-5)


def test_a_plain_loop_and_accelerate(tiny_folder):
    from accelerate import Accelerator

    tokenizer, found = tiny.tiny_tokenizer("bert"), []
    for cached in (False, True):
        model = model_of(tiny_folder("bert", "mlm"), "3: lora")
        data = rows(tokenizer)
        data = st.cached(model, data, cache="ram", **SILENT)[0] if cached else data
        loader = torch.utils.data.DataLoader(data, batch_size=4, collate_fn=DataCollatorWithPadding(tokenizer))
        optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        accelerator = Accelerator(cpu=True)
        prepared, optimiser, loader = accelerator.prepare(model, optimiser, loader)
        for batch in loader:
            accelerator.backward(prepared(**batch).loss)
            optimiser.step()
            optimiser.zero_grad()
        found.append(trained(model))
    assert_same(*found)


def test_lightning_trains_it(tiny_folder, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lightning = pytest.importorskip("lightning", reason="lightning is not installed")

    class Module(lightning.LightningModule):
        def __init__(self, top):
            super().__init__()
            self.top = top

        def training_step(self, batch, number):
            return self.top(**batch).loss

        def configure_optimizers(self):
            return torch.optim.SGD([p for p in self.top.parameters() if p.requires_grad], lr=0.1)

    tokenizer, found = tiny.tiny_tokenizer("bert"), []
    for cached in (False, True):
        model = model_of(tiny_folder("bert", "mlm"), "3: lora")
        data = rows(tokenizer)
        data = st.cached(model, data, cache="ram", **SILENT)[0] if cached else data
        loader = torch.utils.data.DataLoader(data, batch_size=4, collate_fn=DataCollatorWithPadding(tokenizer))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lightning.Trainer(
                max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path,
                enable_progress_bar=False, enable_model_summary=False,
            ).fit(Module(model), loader)  # fmt: skip
        found.append(trained(model))
    assert_same(*found)


def test_compute_metrics_best_model_and_label_names(tiny_folder, tmp_path):
    """What Trainer asks a model's signature for is there: the columns it keeps, and where the labels are."""
    tokenizer = tiny.tiny_tokenizer("bert")
    words = {"a": 0, "good": 1, "bad": 2}
    data = []
    for text in TEXTS * 2:
        encoded = tokenizer(text)
        tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
        data.append({**encoded, "labels": [words.get(token, -100) for token in tokens], "text": text})
    model = model_of(tiny_folder("bert", "mlm"), "2: lora", AutoModelForTokenClassification, num_labels=3)
    numbered, top = st.cached(model, Dataset.from_list(data), cache="ram", **SILENT)
    seen = []

    def metrics(predicted):
        real = predicted.label_ids != -100
        seen.append(predicted.predictions.shape)
        return {"accuracy": float((predicted.predictions.argmax(-1) == predicted.label_ids)[real].mean())}

    arguments = TrainingArguments(
        str(tmp_path), num_train_epochs=6, learning_rate=0.02, use_cpu=True, report_to=[], disable_tqdm=True,
        eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True, metric_for_best_model="accuracy",
        logging_strategy="no", per_device_train_batch_size=5,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            top, arguments, train_dataset=numbered, eval_dataset=numbered, compute_metrics=metrics,
            data_collator=DataCollatorForTokenClassification(tokenizer),
        )  # fmt: skip
        trainer.train()
    assert trainer.label_names == ["labels"] and len(seen) == 6
    assert trainer.evaluate()["eval_accuracy"] == max(one.get("eval_accuracy", 0) for one in trainer.state.log_history)
    again = st.load(trainer.state.best_model_checkpoint)
    inputs = tokenizer(TEXTS[:1], return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs).logits, top.eval()(**inputs).logits)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("cached", [True, False])
def test_gradient_checkpointing_stops_at_the_frozen_depth(reentrant, cached, tiny_folder, tmp_path):
    tokenizer = tiny.tiny_tokenizer("bert")
    data = Dataset.from_list(rows(tokenizer))
    plain, model = (model_of(tiny_folder("bert", "mlm"), "2: lora") for _ in range(2))
    by_trainer(plain, data, tmp_path / "plain", DataCollatorWithPadding(tokenizer), max_steps=2)
    if cached:
        data, model = st.cached(model, data, cache="ram", **SILENT)
    runs = runs_of(model)
    by_trainer(
        model, data, tmp_path / "kept", DataCollatorWithPadding(tokenizer), max_steps=2, gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": reentrant},
    )  # fmt: skip
    assert runs == [0, 0, 4, 4] if cached else runs == [2, 2, 4, 4]
    assert_same(trained(plain), trained(model))


def test_copies_exports_and_merges_are_whole(tiny_folder, tmp_path):
    model = model_of(tiny_folder("bert", "mlm"), "3: lora").eval()
    data, _ = st.cached(model, rows(tiny.tiny_tokenizer("bert")), cache=tmp_path / "cache", **SILENT)
    batch = {name: torch.tensor([value]) for name, value in data[3].items()}
    twin = copy.deepcopy(model)
    with torch.no_grad():
        assert torch.equal(twin(**batch).logits, model(**batch).logits)
        for parameter in twin.attached.trained().values():
            parameter.add_(1.0)
        assert not torch.equal(twin(**batch).logits, model(**batch).logits)
    st.export(model, tmp_path / "merged", to="merged")
    plain = {name: one for name, one in batch.items() if name != "trunk_row"}
    with torch.no_grad():
        wanted = model(**plain).logits
        merged = st.merge(model)
        torch.testing.assert_close(merged(**plain).logits, wanted)
    assert "forward" not in vars(merged)


def test_texts_that_changed_are_seen(tiny_folder):
    tokenizer = tiny.tiny_tokenizer("bert")
    model = model_of(tiny_folder("bert", "mlm"), "3: lora")
    data, _ = st.cached(model, rows(tokenizer), cache="ram", **SILENT)
    for changes, message in (
        ({"trunk_row": 4}, "trunk_row 4 has other tokens"),
        ({"trunk_row": 12}, "12, and 12 rows were cached"),
        (
            {"input_ids": [0, *data[3]["input_ids"]], "attention_mask": [0, *data[3]["attention_mask"]]},
            "padding in front",
        ),
    ):
        with pytest.raises(DataError, match=message):
            model(**{name: torch.tensor([value]) for name, value in {**data[3], **changes}.items()})


def test_what_was_unfrozen_below_the_depth_is_refused(tiny_folder):
    model = model_of(tiny_folder("bert"), "2: lora")
    model.bert.encoder.layer[1].output.dense.bias.requires_grad_(True)
    with pytest.raises(PlanError, match="layer.1.output.dense.bias requires a gradient and gets none"):
        st.cached(model, rows(tiny.tiny_tokenizer("bert")), **SILENT)


def test_what_cannot_be_cached_is_refused(tiny_folder):
    data = rows(tiny.tiny_tokenizer("bert"))
    base = AutoModelForMaskedLM.from_pretrained(tiny_folder("bert", "mlm"))
    with pytest.raises(PlanError, match="has no plan"):
        st.cached(base, data)
    with pytest.raises(PlanError, match="nothing that could be remembered stays the same"):
        st.cached(apply(base, ": lora"), data)
    with pytest.raises(PlanError, match="nothing that could be remembered stays the same"):
        st.cached(apply(tiny.tiny_encoder_decoder("t5"), "2: lora"), data)
    model = model_of(tiny_folder("bert", "mlm"), "3: lora")
    for wrong, message in (
        ([], "no rows with input_ids"),
        ([{"text": "a"}], "no rows with input_ids"),
        (["a"], "not rows of named columns"),
        ([{"input_ids": [5, 6], "attention_mask": [0, 0]}], "row 0: 2 input_ids and 0 real tokens"),
    ):
        with pytest.raises(DataError, match=message):
            st.cached(model, wrong, cache="ram")
    with pytest.raises(DataError, match="legal: fp32, bf16, fp16"):
        st.cached(model, data, dtype="int8")


class Steady(torch.utils.data.IterableDataset):
    """Rows in one order, without numbers."""

    def __iter__(self):
        yield {"input_ids": [5, 6]}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda data: Dataset.from_list(data).to_iterable_dataset(), "IterableDataset, whose rows cannot be read by"),
        (lambda data: Steady(), "Steady, whose rows cannot be read by"),
        (torch.utils.data.DataLoader, "DataLoader, whose rows cannot be read by"),
        (lambda data: (row for row in data), "the data are a generator, whose rows"),
        (lambda data: None, "the data are None, whose rows"),
        (lambda data: "train.csv", "the data are 'train.csv', whose rows"),
        (lambda data: {"train": None}, "the data are None, whose rows"),
        (lambda data: BatchEncoding({"input_ids": [[5, 6]]}), "one mapping of columns, not rows"),
        (lambda data: [data[0], {"input_ids": [5, 6]}], "row 1 has no attention_mask, and other rows have it"),
        (lambda data: [{"input_ids": [5, 6]}, data[0]], "row 0 has no attention_mask, and other rows have it"),
        (lambda data: [data[0], {"attention_mask": [1, 1]}], "row 1 has no input_ids"),
        (lambda data: [data[0], "a"], "not rows of named columns"),
        (lambda data: [{"input_ids": [5, 6], "attention_mask": [2, 2]}], "row 0: attention_mask holds 2"),
        (lambda data: [{"input_ids": [5, 6], "token_type_ids": [0]}], "row 0: 2 input_ids and 1 token_type_ids"),
        (lambda data: [{"input_ids": ["a"]}], "a row of tokens is .'a'., and not a list of whole numbers"),
        (lambda data: [{"input_ids": 5}], "a row of tokens is 5, and not a list of whole numbers"),
    ],
)
def test_data_without_numbered_rows_are_refused_in_a_line(tiny_folder, wrong, message):
    data = rows(tiny.tiny_tokenizer("bert"))
    model = model_of(tiny_folder("bert"), "3: lora")
    with pytest.raises(DataError, match=message) as error:
        st.cached(model, wrong(data), cache="ram", **SILENT)
    assert "\n" not in str(error.value)
    assert "trunk_row" in st.cached(model, data, cache="ram", **SILENT)[0][0]  # the model is as it was


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "8"])
def test_a_batch_of_no_size_is_refused(tiny_folder, size):
    with pytest.raises(ConfigError, match=r"batch_size: .*legal: a whole number, 1 or more"):
        st.cached(model_of(tiny_folder("bert"), "3: lora"), [{"input_ids": [5]}], cache="ram", batch_size=size)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_is_near(dtype, tiny_folder, tmp_path):
    model = model_of(tiny_folder("bert", "mlm"), "3: lora").eval()
    data, _ = st.cached(model, rows(tiny.tiny_tokenizer("bert")), cache=tmp_path, dtype=dtype, **SILENT)
    batch = {name: torch.tensor([value]) for name, value in data[1].items()}
    plain = {name: one for name, one in batch.items() if name != "trunk_row"}
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).logits, model(**plain).logits, atol=0.05, rtol=0)
