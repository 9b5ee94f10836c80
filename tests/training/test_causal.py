"""Runs on decoders from table to artefact: LPT's label words, a head on the last token, and free text."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tokenizers import processors

import tiny
from stratatune.data.causal import encode_candidates, encode_completion, suffixes_of
from stratatune.data.read_options import ReadOptions
from stratatune.data.readers import Table
from stratatune.data.templates import Template
from stratatune.errors import ConfigError, DataError
from stratatune.objectives.completion import Completion
from stratatune.objectives.text_to_text import TextToText
from stratatune.training.config import validate
from stratatune.training.predict import Predictor
from stratatune.training.run import train

GOOD = [
    "the film was good",
    "a great movie",
    "she loves this book",
    "the best food",
    "a very happy day",
    "good and great",
]
BAD = [
    "the film was bad",
    "a terrible movie",
    "she hates this book",
    "the worst food",
    "a very sad day",
    "bad and poor",
]
WORDS = "the film was good and she loves this book very much".split()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.save_tiny_decoder(tmp_path_factory.mktemp("llama"), "llama", blocks=3, initializer_range=0.2)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "films.jsonl"
    rows = [{"sentence": text, "label": label} for label, texts in ((1, GOOD), (0, BAD)) for text in texts]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "stories.jsonl"
    rows = [{"text": f"{text} .", "answer": "yes it is ." if text in GOOD else "no ."} for text in GOOD + BAD]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def run(base, data, out, plan="lpt@1", **settings):
    given = {"model": str(base), "plan": plan, "train": str(data), "eval": str(data), "out": str(out), "device": "cpu"}
    return train(
        validate(
            given | {"precision": "fp32"} | {"epochs": 4, "batch_size": 4, "lr": 0.01, "max_length": 40} | settings
        )
    )


def losses(out):
    return [json.loads(line)["train_loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_an_answer_beside_a_guessed_text_is_not_left_out_in_silence(tmp_path):
    path = tmp_path / "asked.csv"
    path.write_text("question,answer\nwho is it ?,she\n")
    with pytest.raises(DataError, match="is 'question' the whole text, or is 'answer' to be written after it"):
        Completion.read(path, ReadOptions())
    assert Completion.read(path, ReadOptions(text="question")).labels is None
    assert Completion.read(path, ReadOptions(text="question", label="answer")).labels == ["she"]
    assert Completion.read(path, ReadOptions(need_labels=False)).texts == (["who is it ?"],)


@pytest.mark.parametrize("loss", ["vocab", "words"])
def test_lpt_on_a_decoder_cached_is_uncached(base, films, tmp_path, loss):
    """The late prompt is generated from the last token before the label word; the run is the same with a cache."""
    settings = {"task": "sst2", "objective": "causal", "template": "lpt", "loss": loss}
    cached = run(base, films, tmp_path / "a", cache="ram", **settings)
    again = run(base, films, tmp_path / "b", cache="off", **settings)
    assert cached.objective == "causal" and cached.frozen_depth == 1 and cached.backprop_blocks == 2
    assert np.allclose(losses(tmp_path / "a"), losses(tmp_path / "b"), atol=1e-5)
    assert losses(tmp_path / "a")[-1] < losses(tmp_path / "a")[0]
    assert cached.best == again.best


def test_a_saved_run_predicts_as_it_was_scored(base, films, tmp_path):
    result = run(base, films, tmp_path, "1: lora(rank=4, on=q,v)", task="sst2", objective="causal", cache="ram")
    predictor = Predictor(tmp_path, device="cpu")
    assert predictor.score(films)["metrics"]["accuracy"] == result.best["accuracy"]
    said = predictor.predict(GOOD)
    assert said.probabilities.shape == (6, 2) and set(said.labels) <= {"negative", "positive"}


@pytest.mark.parametrize("plan", ["spafit-0-0-I", "adapter(depth=3)", "1: lora(on=o)"])
def test_a_classification_head_reads_the_last_token(base, films, tmp_path, plan):
    plan = plan if not plan.startswith("spafit") else "0:1 frozen | 1: lora(rank=4, on=q,k,v)"
    result = run(base, films, tmp_path, plan, task="sst2", objective="classification", cache="ram", epochs=2)
    assert result.objective == "classification"
    assert Predictor(tmp_path, device="cpu").score(films)["metrics"]["accuracy"] == result.best["accuracy"]


def test_auto_means_causal_for_a_prompt_on_a_decoder(base, films, tmp_path):
    result = run(base, films, tmp_path, "lpt", task="sst2", epochs=1)
    assert result.objective == "causal"


def test_a_completion_is_learned_and_said(base, stories, tmp_path):
    plan = "embeddings full | : full | head(mlm=norm)"
    settings = {"objective": "completion", "text": "text", "label": "answer", "epochs": 30, "warmup": 0}
    result = run(base, stories, tmp_path, plan, **settings)
    assert result.best["loss"] < 0.5 and result.best["perplexity"] == pytest.approx(np.exp(result.best["loss"]))
    predictor = Predictor(tmp_path, device="cpu")
    assert predictor.score(stories)["metrics"]["loss"] == pytest.approx(result.best["loss"], abs=1e-5)
    said = predictor.predict([f"{text} ." for text in GOOD + BAD]).labels
    assert said.count("yes it is .") >= 5 and said.count("no .") >= 5


FOUND = ("good", "bad", "good", "poor", "good", "bad")


def test_a_prompt_and_its_completion_need_no_names(base, tmp_path):
    """TRL's columns are taken as they are; a run by their names is the same run."""
    rows = [{"prompt": f"is it {word} ?", "completion": "yes it is ." if word == "good" else "no ."} for word in FOUND]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = [
        run(base, tmp_path / "rows.jsonl", tmp_path / name, "2: lora", objective="completion", epochs=1, **named)
        for name, named in (("own", {}), ("named", {"text": "prompt", "label": "completion"}))
    ]
    assert found[0].best == found[1].best
    assert Predictor(tmp_path / "own", device="cpu").score(tmp_path / "rows.jsonl")["metrics"] == found[0].best


@pytest.mark.parametrize("plan", ["lpt@1", "2: lora(on=q,v)"])
def test_plain_text_is_learned_whole(base, stories, tmp_path, plan):
    result = run(base, stories, tmp_path, plan, objective="completion", text="text", cache="ram", epochs=2)
    assert losses(tmp_path)[1] < losses(tmp_path)[0] and set(result.best) == {"loss", "perplexity"}
    assert len(Predictor(tmp_path, device="cpu").generate(["the film"], max_new_tokens=3)) == 1


def test_plain_text_loss_is_the_models_own(base, stories, tmp_path):
    from transformers import AutoModelForCausalLM

    run(base, stories, tmp_path, "2: lora(on=q)", objective="completion", text="text", epochs=1, lr=1e-12)
    tokenizer, model = tiny.decoder_tokenizer(), AutoModelForCausalLM.from_pretrained(base)
    total = count = 0
    for text in GOOD + BAD:
        ids = torch.tensor([[*tokenizer(f"{text} .")["input_ids"], tokenizer.eos_token_id]])
        with torch.no_grad():
            total += model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert Predictor(tmp_path, device="cpu").score(stories)["metrics"]["loss"] == pytest.approx(total / count, abs=1e-4)


# ---- the data -----------------------------------------------------------------------------------------------------


def test_a_row_holds_the_text_and_the_candidates_tokens():
    tokenizer = tiny.decoder_tokenizer()
    template = Template.parse("{a} . It was <mask> .")
    suffixes = suffixes_of(tokenizer, template, ("terrible", "great fun"))
    assert [tokenizer.decode(list(s)) for s in suffixes] == [" terrible .", " great fun ."]
    data = encode_candidates(Table((["a good film"],)), template, tokenizer, 40, suffixes)
    assert tokenizer.decode(data.ids[: data.read[0] + 1].tolist()) == "<s>a good film . It was"
    assert data.ids[data.read[0] + 1 :].tolist() == [*suffixes[0][:-1], *suffixes[1][:-1]]


def test_a_long_text_is_cut_and_the_template_is_not():
    tokenizer = tiny.decoder_tokenizer()
    template = Template.parse("{a} It was <mask> .")
    suffixes = suffixes_of(tokenizer, template, ("terrible", "great"))
    data = encode_candidates(Table(([" good" * 50],)), template, tokenizer, 12, suffixes)
    assert data.read[0] + 1 + 2 == 12 and "cut" in data.notices[0]
    assert tokenizer.decode(data.ids[: data.read[0] + 1].tolist()).endswith("good It was")


def test_completions_start_where_the_prompt_ends():
    tokenizer = tiny.decoder_tokenizer()
    for prompt, told in (("is it good ?", " yes .</s>"), ("is it good ? ", "yes .</s>")):
        data = encode_completion(Table(([prompt],), ["yes ."]), tokenizer, 40)
        assert tokenizer.decode(data.ids[: data.read[0] + 1].tolist()) == f"<s>{prompt}"
        assert tokenizer.decode(data.ids[data.read[0] + 1 :].tolist()) == told
    short = encode_completion(Table(([" ".join(["is it good ?"] * 9)],), ["yes ."]), tokenizer, 10)
    assert short.lengths[0] == 10 and tokenizer.decode(short.ids[short.read[0] + 1 :].tolist()) == " yes .</s>"


@pytest.mark.parametrize("opens", [True, False])
@pytest.mark.parametrize("words", [1, 8, 9, 10, 30, 57])
def test_long_plain_text_is_told_in_blocks_every_token_once(words, opens):
    tokenizer = tiny.decoder_tokenizer() if opens else tiny.roberta_tokenizer()
    if not opens:
        tokenizer.backend_tokenizer.post_processor = processors.Sequence([])
    text = " ".join(WORDS[number % len(WORDS)] for number in range(words))
    whole = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    data = encode_completion(Table(([text, "a film"],)), tokenizer, 10)
    told = []
    for number in range(len(data)):
        row = data.ids[data.offsets[number] : data.offsets[number + 1]].tolist()
        told.append(row[data.read[number] + 1 :])
        assert len(row) <= 10 and (not opens or row[0] == tokenizer.bos_token_id)
    assert [token for row in told[:-1] for token in row] == whole[1:] and all(told)
    assert bool(data.notices) == (len(whole) > 10)


def test_what_makes_no_sense_is_refused(base, films, stories, tmp_path):
    with pytest.raises(DataError, match="text after the label word"):
        run(base, films, tmp_path / "a", task="sst2", objective="causal", template="<mask> : {a}")
    with pytest.raises(DataError, match="same tokens"):
        words = {"negative": "bad", "positive": "bad"}
        run(base, films, tmp_path / "b", task="sst2", objective="causal", label_words=words)
    with pytest.raises(ConfigError, match="not a metric for text"):
        run(base, stories, tmp_path / "c", objective="completion", text="text", metric="accuracy")


# ---- a real model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", ["lpt@3", "0:2 frozen | 2:3 lora(rank=2) | 3: lora(rank=4, on=q,k,v,o)"])
def test_stories260k_trains_generates_and_comes_back(shared, stories, tmp_path, plan):
    """A real Llama: SPAFIT's shape (its middle group has no biases to train here) and a late prompt."""
    folder = shared / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip("no stories260K in the shared folder")
    result = run(folder, stories, tmp_path, plan, objective="completion", text="text", label="answer", cache="ram")
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]
    predictor = Predictor(tmp_path, device="cpu")
    assert predictor.score(stories)["metrics"]["loss"] == pytest.approx(result.best["loss"], abs=1e-4)
    assert all(predictor.predict(["the film was good ."]).labels)


def test_stories260k_reads_label_words_of_several_tokens(shared, films, tmp_path):
    folder = shared / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip("no stories260K in the shared folder")
    settings = {"task": "sst2", "objective": "causal", "cache": "ram", "epochs": 20}
    result = run(folder, films, tmp_path, "lpt@3", **settings)
    assert losses(tmp_path)[-1] < 0.8 * losses(tmp_path)[0] and result.best["accuracy"] > 0.5


def test_an_encoder_decoders_pair_needs_no_names():
    found = TextToText.read([{"source": "a film", "target": "ein Film"}], ReadOptions())
    assert (found.columns, found.label_column, found.labels) == (("source",), "target", ["ein Film"])
    assert TextToText.read([{"source": "a film"}], ReadOptions(text="source", need_labels=False)).labels is None
