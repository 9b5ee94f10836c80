"""What comes out opens at transformers' doors: pipelines on unmerged models, Auto classes on merged folders."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
import transformers
from transformers import pipeline

import stratatune as st
import tiny
from stratatune.errors import PlanError, UserError
from stratatune.model.attach import apply
from stratatune.plan import ARCHITECTURES
from tuning import shake

TEXT = "a very good film"
AUTO = {
    "AutoModelForMaskedLM": ("bert", "roberta", "deberta-v2", "modernbert", "albert"),
    "AutoModelForSequenceClassification": ("bert", "roberta", "modernbert", "gpt2", "llama", "bart"),
    "AutoModelForTokenClassification": ("bert", "roberta", "modernbert", "gpt2"),
    "AutoModelForQuestionAnswering": ("bert", "roberta", "modernbert"),
    "AutoModelForCausalLM": ("gpt2", "llama", "qwen2", "gemma3_text"),
    "AutoModelForSeq2SeqLM": ("t5", "bart"),
    "AutoModel": ("bert", "roberta", "gpt2", "t5"),
}


def base(auto, family):
    """A tiny model of this class, its new layers the same each time."""
    if family in ("t5", "bart"):
        config = tiny.tiny_encoder_decoder(family, more=0).config
    elif family in tiny.DECODERS:
        config = tiny.tiny_decoder(family).config
    else:
        config = (tiny.tiny_model(family) if family in ("bert", "roberta") else tiny.tiny_of(family)).config
    if auto == "AutoModelForQuestionAnswering":
        config.num_labels = 2  # a beginning and an end
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(transformers, auto).from_config(config, dtype=torch.float32).eval()


def said(model, family):
    ids = torch.randint(5, 60, (2, 7), generator=torch.Generator().manual_seed(0))
    ids[:, -1] = 2
    more = {"decoder_input_ids": ids[:, :3]} if family == "t5" else {}
    with torch.no_grad():
        out = model(input_ids=ids, attention_mask=torch.ones_like(ids), **more)
    return next(iter(out.values()))


@pytest.mark.parametrize(("auto", "family"), [(auto, one) for auto, families in AUTO.items() for one in families])
def test_merged_models_load_by_their_auto_class(auto, family, tmp_path):
    plan = ": lora" if family == "albert" else "2: lora(on=q,v,o)"
    model = shake(apply(base(auto, family), plan).eval())
    wanted = said(model, family)
    st.export(model, tmp_path, to="merged")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        merged = getattr(transformers, auto).from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert type(merged).__name__ == type(model).__name__ and not isinstance(merged, type(model))
    torch.testing.assert_close(said(merged, family), wanted, atol=2e-5, rtol=0)


PIPELINES = {
    "fill-mask": ("AutoModelForMaskedLM", "roberta"),
    "text-classification": ("AutoModelForSequenceClassification", "bert"),
    "zero-shot-classification": ("AutoModelForSequenceClassification", "bert"),
    "token-classification": ("AutoModelForTokenClassification", "bert"),
    "feature-extraction": ("AutoModel", "bert"),
    "text-generation": ("AutoModelForCausalLM", "gpt2"),
}


OTHER_PIPELINES = {
    "table-question-answering",  # for a model of tables (TAPAS), which no plan is for
    "text-to-audio",  # sound comes out
    "question-answering",  # only older releases of transformers 5 may have it; test_span.py asks the class
}


def test_every_pipeline_of_text_is_here():
    from transformers.pipelines import SUPPORTED_TASKS

    found = {name for name, task in SUPPORTED_TASKS.items() if task["type"] == "text"}
    assert found - OTHER_PIPELINES == set(PIPELINES)


@pytest.mark.parametrize("task", PIPELINES)
def test_pipelines_of_the_unmerged_model_say_what_it_says(task):
    auto, family = PIPELINES[task]
    model = shake(apply(base(auto, family), "1: houlsby | late_prompt(depth=2, tokens=2)").eval())
    model.config.label2id |= {"entailment": 2} if task == "zero-shot-classification" else {}
    tokenizer = tiny.decoder_tokenizer() if family == "gpt2" else tiny.tiny_tokenizer(family)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call = pipeline(task, model=model, tokenizer=tokenizer, device="cpu")
    text = f"{TEXT} <mask>" if task == "fill-mask" else TEXT
    inputs = tokenizer(text, return_tensors="pt")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if task == "text-generation":
            options = {"max_new_tokens": 4, "do_sample": False}
            found = call(text, return_full_text=False, **options)[0]["generated_text"]
            written = model.generate(**inputs, **options)[0, inputs["input_ids"].shape[1] :]
            assert found == tokenizer.decode(written, skip_special_tokens=True)
            return
        if task == "zero-shot-classification":
            words = ["film", "book", "story"]
            found = call(text, words, hypothesis_template="it is a {}.")
            pairs = tokenizer([text] * 3, [f"it is a {word}." for word in words], return_tensors="pt")
            chances = model(**pairs).logits[:, 2].softmax(0)  # of the words, by entailment
            assert dict(zip(found["labels"], found["scores"], strict=True)) == pytest.approx(
                dict(zip(words, chances.tolist(), strict=True)), abs=1e-5
            )
            return
        found, out = call(text), model(**inputs)
    if task == "feature-extraction":
        torch.testing.assert_close(torch.tensor(found), out.last_hidden_state, atol=1e-5, rtol=0)
        return
    chances = out.logits.softmax(-1)
    if task == "fill-mask":
        chances = chances[0, inputs["input_ids"][0].tolist().index(tokenizer.mask_token_id)]
        assert found[0]["token"] == int(chances.argmax())
    elif task == "token-classification":
        chances = chances[0, 1]
        assert found[0]["entity"] == model.config.id2label[int(chances.argmax())]
    else:
        assert found[0]["label"] == model.config.id2label[int(chances.argmax())]
    assert found[0]["score"] == pytest.approx(float(chances.max()), abs=1e-5)


FORMS = ("native", "peft", "merged", "onnx")


def classifier(folder, plan="2: lora"):
    """A model that met its plan through ``st.apply``, its new layers shaken."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    return shake(apply(base, plan).eval())


@pytest.mark.parametrize("form", ["merged", "onnx"])
def test_an_exported_model_has_the_tokenizer_of_its_base(form, tiny_folder, tmp_path):
    """Without it transformers makes one with an empty vocabulary, and a pipeline answers by that."""
    model = classifier(tiny_folder("bert", "mlm"))
    st.export(model, tmp_path / "out", to=form)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer(TEXT).input_ids == tiny.tiny_tokenizer("bert")(TEXT).input_ids
    if form == "merged":
        found = pipeline("text-classification", str(tmp_path / "out"), device="cpu")(TEXT)
        wanted = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")(TEXT)
        assert found[0]["label"] == wanted[0]["label"] and found[0]["score"] == pytest.approx(wanted[0]["score"])


def read_by_card(folder):
    """The names after the code of a model card was run."""
    code, found = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0], {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(code, found)
    return found


READING = {"objective": "classification", "text": ["text"], "label": "label", "metric": "accuracy"}


@pytest.mark.parametrize("form", ["merged", "onnx"])
def test_other_tools_cut_texts_where_the_run_does(form, tiny_folder, tmp_path):
    folder = tiny_folder("bert", "mlm")
    model, text = classifier(folder), " ".join([TEXT] * 8)
    model.attached.spec = {**READING, "labels": ["bad", "fine", "good"], "max_length": 8}
    st.export(model, tmp_path / "out", to=form, tokenizer=tiny.tiny_tokenizer("bert"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.model_max_length == 8
    if form == "merged":
        call = pipeline("text-classification", str(tmp_path / "out"), device="cpu", truncation=True)
        inputs = tiny.tiny_tokenizer("bert")(text, truncation=True, max_length=8, return_tensors="pt")
        with torch.no_grad():
            wanted = model(**inputs).logits.softmax(-1)[0]
        assert call(text)[0]["score"] == pytest.approx(float(wanted.max()), abs=1e-5)


@pytest.mark.parametrize("pad", [None, 0])
def test_other_tools_find_the_last_token_of_a_decoder_s_padded_texts(pad, tmp_path, monkeypatch):
    """Without a padding token they refuse a batch, and by another one than the tokenizer's they read padding."""
    base = tiny.save_tiny_decoder(tmp_path / "base", "llama", pad_token_id=pad)
    settings = json.loads((base / "tokenizer_config.json").read_text())
    settings.pop("pad_token")
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    data = {"text": ["good", "a bad film was made"] * 2, "label": ["yes", "no"] * 2}
    own = {"device": "cpu", "precision": "fp32", "cache": "off", "epochs": 1}
    st.train(model=str(base), plan="2: lora", objective="classification", train=data, out=str(tmp_path / "run"), **own)
    predictor = st.Predictor(tmp_path / "run", device="cpu")
    chances = predictor.predict(data["text"]).columns["p_yes"]
    monkeypatch.chdir(tmp_path)
    for form in ("merged", "peft"):
        st.export(predictor.model, form, to=form, tokenizer=predictor.tokenizer)
        made = read_by_card(tmp_path / form)
        inputs = made["tokenizer"](data["text"], padding=True, return_tensors="pt")
        with torch.no_grad():
            found = made["model"].eval()(**inputs).logits.softmax(-1)
        assert found[:, 1].tolist() == pytest.approx(chances, abs=1e-5), form


def test_a_model_that_writes_text_keeps_its_length(tmp_path):
    folder = tiny.save_tiny_decoder(tmp_path / "base", "llama")
    model = apply(transformers.AutoModelForCausalLM.from_pretrained(folder), "2: lora")
    model.attached.spec = {
        "objective": "completion",
        "text": ["text"],
        "label": None,
        "metric": "loss",
        "max_length": 8,
    }
    st.export(model, tmp_path / "out", to="merged")
    longest = [transformers.AutoTokenizer.from_pretrained(one).model_max_length for one in (folder, tmp_path / "out")]
    assert longest[0] == longest[1] != 8


def test_the_chat_template_of_training_is_exported(tmp_path):
    folder = tiny.save_tiny_decoder(tmp_path / "base", "llama")
    model = apply(transformers.AutoModelForCausalLM.from_pretrained(folder), "2: lora")
    model.attached.spec = {"chat_template": "{{ messages[0].content }}"}
    st.export(model, tmp_path / "out", to="merged")
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == "{{ messages[0].content }}"


@pytest.mark.parametrize("form", ["merged", "peft"])
def test_a_model_of_conversations_ends_its_turns_wherever_it_is_loaded(form, tmp_path, monkeypatch):
    """An adapter brings no generation config, so the code of its card sets the tokens that end a turn."""
    folder = tiny.save_tiny_decoder(tmp_path / "base", "llama")
    model = apply(transformers.AutoModelForCausalLM.from_pretrained(folder), "2: lora")
    model.attached.spec = {"stop_tokens": [7, 2]}
    monkeypatch.chdir(tmp_path)
    st.export(model, "out", to=form)
    assert read_by_card(tmp_path / "out")["model"].generation_config.eos_token_id == [7, 2]


@pytest.mark.parametrize("form", ["merged", "onnx"])
def test_a_base_without_a_tokenizer_is_told(form, tmp_path, capsys):
    base("AutoModelForSequenceClassification", "bert").save_pretrained(tmp_path / "base")
    st.export(classifier(tmp_path / "base"), tmp_path / "out", to=form)
    assert "no tokenizer is written" in capsys.readouterr().err
    assert not (tmp_path / "out" / "tokenizer.json").exists()


@pytest.mark.parametrize("form", FORMS)
def test_a_folder_that_holds_something_is_refused(form, tiny_folder, tmp_path):
    model = classifier(tiny_folder("bert", "mlm"))
    st.export(model, tmp_path / "out", to=form)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\n") and "# out" in card and "## Plan" in card and "2: lora" in card
    for other in FORMS:
        with pytest.raises(UserError, match="folder: .*out is not empty") as error:
            st.export(model, tmp_path / "out", to=other)
        assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_a_failed_export_leaves_no_folder(tiny_folder, tmp_path, monkeypatch):
    """So the same call, given again, is not refused."""
    model = classifier(tiny_folder("bert", "mlm"))
    with monkeypatch.context() as patch:
        patch.setattr(transformers.PreTrainedTokenizerBase, "save_pretrained", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            st.export(model, tmp_path / "out", to="merged")
    assert not any(tmp_path.iterdir())
    st.export(model, tmp_path / "out", to="merged")


def test_an_estimator_is_told_how_it_leaves(tmp_path):
    with pytest.raises(PlanError, match="a Classifier was given, which is an estimator") as error:
        st.export(st.Classifier(), tmp_path / "out")
    assert "st.load(FOLDER)" in error.value.hint


@pytest.mark.parametrize(
    "name", [row.model_types[0] for row in ARCHITECTURES if row.family == "encoder" and row.mlm_head]
)
def test_an_untied_head_is_merged_with_its_bias(name, tmp_path):
    model = shake(st.apply(tiny.tiny_of(name, "mlm").double().eval(), "head(mlm=decoder,bias, untie)"))
    ids = torch.randint(5, 60, (2, 6), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = model(input_ids=ids).logits
        st.merge(model).save_pretrained(tmp_path)
        again = type(model).from_pretrained(tmp_path, dtype=torch.float64).eval()
        torch.testing.assert_close(again(input_ids=ids).logits, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_the_code_of_the_card_reads_the_folder(form, tiny_folder, tmp_path, monkeypatch):
    """The lines are run as they are in the card, and give the model that was exported, with its three classes."""
    model = classifier(tiny_folder("bert", "mlm"))
    wanted = said(model, "bert")
    monkeypatch.chdir(tmp_path)
    st.export(model, "out", to=form)
    code = (tmp_path / "out" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a base whose output layer is new
        exec(code, found)
    if form == "onnx":
        assert found["session"].get_outputs()[0].name == "logits"
    else:
        torch.testing.assert_close(said(found["model"].eval(), "bert"), wanted)
        assert form == "native" or len(found["tokenizer"]) > 0


def test_the_code_of_a_peft_card_names_the_classes(tiny_folder, tmp_path, monkeypatch):
    model = classifier(tiny_folder("bert", "mlm"))
    model.attached.spec["labels"] = ["no", 'a "maybe"', "yes"]
    monkeypatch.chdir(tmp_path)
    st.export(model, "out", to="peft")
    assert read_by_card(tmp_path / "out")["model"].config.id2label == {0: "no", 1: 'a "maybe"', 2: "yes"}


def test_the_code_of_a_peft_card_runs_for_a_run_that_was_loaded(tiny_folder, tmp_path, monkeypatch):
    """Without a tokenizer in the call, too: the folder has the base's."""
    data = {"text": ["a good film", "a bad film"] * 4, "label": ["yes", "no"] * 4}
    base, own = str(tiny_folder("bert")), {"epochs": 1, "cache": "off", "out": str(tmp_path / "run")}
    st.train(model=base, plan="1: lora", objective="classification", train=data, **own)
    monkeypatch.chdir(tmp_path)
    st.export(st.load("run"), "out", to="peft")
    found = read_by_card(tmp_path / "out")
    assert sorted(found["model"].config.id2label.values()) == ["no", "yes"]
    assert found["tokenizer"]("a film")["input_ids"] == st.Predictor("run").tokenizer("a film")["input_ids"]


def test_the_card_of_a_decoder_names_its_class(tmp_path):
    folder = tiny.save_tiny_decoder(tmp_path / "base", "llama")
    model = apply(transformers.AutoModelForCausalLM.from_pretrained(folder), "2: lora")
    st.export(model, tmp_path / "out", to="merged")
    card = (tmp_path / "out" / "README.md").read_text()
    assert 'model = AutoModelForCausalLM.from_pretrained("out")' in card
