"""Chat: from conversations to answers, the same by every door."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import yaml

from chats import CHATML, GEMMA, MARKED, NO_STOP, THINKING, chat_tokenizer, said, save_chat_model, write_jsonl
from stratatune.app.cli import run as command
from stratatune.errors import ConfigError, DataError, ModelError
from stratatune.studies.grid.records import read_records
from stratatune.training.config import validate
from stratatune.training.predict import Predictor
from stratatune.training.run import train

ASKED = {"the film": "was good", "a book": "she loves it", "that day": "very bad and long", "the city": "no"}
SYSTEM = ("system", "this movie")


def rows(system=True):
    """Conversations of one and of two turns."""
    pairs = list(ASKED.items())
    found = []
    for at, (asked, answer) in enumerate(pairs):
        messages = said(*[SYSTEM] * system, ("user", asked), ("assistant", answer))
        again, more = pairs[(at + 1) % len(pairs)]
        found += [{"messages": messages}, {"messages": [*messages, *said(("user", again), ("assistant", more))]}]
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_chat_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp("data") / "chat.jsonl", rows())


@pytest.fixture
def chat(base, data, tmp_path):
    """Gives ``chat(**changes)``: a run on the conversations."""

    def make(**changes):
        own = {"model": str(base), "train": str(data), "eval": str(data), "objective": "chat", "device": "cpu"}
        own |= {"out": str(tmp_path / "chat"), "plan": "1: full", "epochs": 2, "batch_size": 4, "lr": 0.01}
        return train(validate({**own, "cache": "ram", "precision": "fp32", **changes}))

    return make


def losses(out):
    return [json.loads(line)["train_loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


LEARNT = {"plan": "embeddings full | : full | head(mlm=norm)", "epochs": 40, "warmup": 0, "cache": "off"}


def test_answers_are_learnt_and_said(chat, data, tmp_path):
    result = chat(**LEARNT)
    assert set(result.best) == {"loss", "perplexity", "token_accuracy"} and result.best["loss"] < 1
    assert result.best["token_accuracy"] > 0.9
    assert result.best["perplexity"] == pytest.approx(np.exp(result.best["loss"]))
    (shown,) = [notice for notice in result.notices if "the loss covers the assistant's turns only" in notice]
    assert "'was good<|im_end|>'" in shown and "comparing prefixes" in shown
    predictor = Predictor(tmp_path / "chat", device="cpu")
    scored = predictor.score(str(data))["metrics"]
    assert scored["loss"] == pytest.approx(result.best["loss"], abs=1e-5) and scored["rougeL"] > 0.7
    asked = [said(SYSTEM, ("user", one)) for one in ASKED]
    answers = predictor.predict(asked).labels
    assert sum(a == b for a, b in zip(answers, ASKED.values(), strict=True)) >= 3
    # A plain text is asked behind the system prompt that all training conversations share.
    assert predictor.predict(list(ASKED)).labels == answers
    assert predictor.predict([one["messages"] for one in rows()[::2]]).labels == answers


def test_cached_is_uncached_and_a_second_run_hits_the_cache(chat, tmp_path):
    first = chat(cache=str(tmp_path / "cache"))
    again = chat(cache=str(tmp_path / "cache"), out=str(tmp_path / "again"))
    chat(cache="off", out=str(tmp_path / "off"))
    assert first.frozen_depth == 1 and again.cache_hit and again.best == first.best
    assert np.allclose(losses(tmp_path / "chat"), losses(tmp_path / "off"), atol=1e-5)
    assert losses(tmp_path / "chat")[-1] < losses(tmp_path / "chat")[0]


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "qwen3", "gemma3_text"])
def test_other_decoders(chat, tmp_path, family):
    folder = save_chat_model(tmp_path / "base", GEMMA, family)
    data = write_jsonl(tmp_path / "x.jsonl", rows(system=False))
    for cache in ("ram", "off"):
        chat(model=str(folder), train=str(data), eval=str(data), out=str(tmp_path / cache), cache=cache)
    assert np.allclose(losses(tmp_path / "ram"), losses(tmp_path / "off"), atol=1e-5)


def test_resumed_is_uninterrupted(chat, tmp_path, monkeypatch):
    from stratatune.training import loop

    whole = chat(epochs=3)
    assert hasattr(loop, "steps")
    with monkeypatch.context() as patch:
        seen = []

        def stop(self, batch, *rest):
            seen.append(batch)
            if len(seen) == 5:
                raise KeyboardInterrupt
            return weight(self, batch)

        from stratatune.objectives.chat import Chat

        weight = Chat.weight
        patch.setattr(Chat, "weight", stop)
        with pytest.raises(KeyboardInterrupt):
            chat(epochs=3, out=str(tmp_path / "halves"), checkpoint_every=1)
    resumed = chat(epochs=3, out=str(tmp_path / "halves"), checkpoint_every=1, resume=True)
    assert resumed.best == pytest.approx(whole.best, abs=1e-6)


def test_what_leaves_answers_as_the_run_does(chat, tmp_path, data):
    """The template and the stop token leave with a merged model: stock transformers says what we say."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    template = tmp_path / "chat.jinja"
    template.write_text(MARKED)
    folder = save_chat_model(tmp_path / "bare", None)
    chat(**{**LEARNT, "plan": "1: lora(rank=8, on=attn,ffn)", "cache": "ram"}, model=str(folder),
         template=str(template))  # fmt: skip
    template.unlink()  # what is saved needs no file
    out = tmp_path / "merged"
    assert command(["export", str(tmp_path / "chat"), "--to", "merged", "--out", str(out)]) == 0
    tokenizer, model = AutoTokenizer.from_pretrained(out), AutoModelForCausalLM.from_pretrained(out)
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.chat_template == MARKED and model.generation_config.eos_token_id == [stop, 2]
    predictor = Predictor(tmp_path / "chat", device="cpu")
    for one in ASKED:
        messages = said(SYSTEM, ("user", one))
        given = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
        with torch.no_grad():
            written = model.generate(**given, max_new_tokens=12, do_sample=False)[0, given["input_ids"].shape[1] :]
        text = tokenizer.decode(written, skip_special_tokens=True).strip()
        predictor.generation = {"max_new_tokens": 12}
        assert predictor.predict([messages]).labels == [text]


def test_the_loss_is_the_models_own_on_the_assistants_tokens(chat, base, data, tmp_path):
    """The reference: transformers' own mask, by the marks of an equal template."""
    from transformers import AutoModelForCausalLM

    template = tmp_path / "chat.jinja"
    template.write_text(MARKED)
    chat(plan="2: lora(on=q)", epochs=1, lr=1e-12, template=str(template))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), chat_tokenizer(MARKED)
    total = count = 0.0
    for row in rows():
        out = tokenizer.apply_chat_template(
            row["messages"], return_dict=True, return_assistant_tokens_mask=True, tokenize=True
        )
        ids, mask = torch.tensor([out["input_ids"]]), torch.tensor([out["assistant_masks"]])
        labels = ids.masked_fill(mask == 0, -100)
        with torch.no_grad():
            total += model(input_ids=ids, labels=labels).loss.item() * int(mask.sum())
        count += int(mask.sum())
    assert Predictor(tmp_path / "chat", device="cpu").score(data)["metrics"]["loss"] == pytest.approx(
        total / count, abs=1e-4
    )


def test_the_command_line(base, data, tmp_path, capsys):
    out = str(tmp_path / "run")
    where = ["--model", str(base), "--objective", "chat", "--device", "cpu"]
    settings = ["--train", str(data), "--eval", str(data), "--plan", "2: lora", "--epochs", "1", "--out", out]
    assert command(["train", *where, *settings]) == 0
    capsys.readouterr()
    assert command(["eval", out, "--data", str(data), "--device", "cpu", "--json"]) == 0
    assert {"loss", "perplexity", "token_accuracy", "rouge1"} <= json.loads(capsys.readouterr().out)["metrics"].keys()
    for suffix in ("csv", "jsonl", "parquet"):
        asked = ["--data", str(data), "--out", str(tmp_path / f"said.{suffix}"), "--max-new-tokens", "4"]
        assert command(["predict", out, *asked, "--device", "cpu"]) == 0
    row = json.loads((tmp_path / "said.jsonl").read_text().splitlines()[0])
    assert row["messages"] == rows()[0]["messages"] and isinstance(row["generated"], str)
    capsys.readouterr()
    assert command(["predict", out, "--text", "the film", "--max-new-tokens", "4", "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 1
    sizes = ["--model", str(base), "--objective", "chat", "--lengths", str(data)]
    assert command(["plan", "1: lora", *sizes, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["objective"] == "chat"
    assert command(["suggest", "--train", str(data), *where]) == 2
    assert "free text" in capsys.readouterr().err


def test_a_grid_shares_one_cache(base, data, tmp_path, capsys, monkeypatch, inline_grids):
    monkeypatch.setenv("STRATATUNE_CACHE", str(tmp_path / "caches"))
    settings = {"train": str(data), "eval": str(data), "objective": "chat", "epochs": 1, "batch_size": 8}
    grid = {"title": "chat", "models": [str(base)], "plans": ["2: lora", "2: full"], "seeds": [0, 1]}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**grid, "base": {**settings, "device": "cpu"}}))
    assert command(["grid", str(recipe), "--out", str(tmp_path / "grid"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["ran"], answer["failed"], answer["caches"]) == (4, [], 1)  # it evaluates on its training data
    _, records = read_records(tmp_path / "grid")
    assert all(one.result["cache_hit"] and one.result["best"]["token_accuracy"] >= 0 for one in records)


def test_turns_last_learns_the_last_answer(chat, tmp_path, data):
    every, last = chat(), chat(objective="chat(turns=last)", out=str(tmp_path / "last"))
    assert every.best["loss"] != last.best["loss"]
    assert Predictor(tmp_path / "last", device="cpu").score(data)["metrics"]["loss"] == pytest.approx(last.best["loss"])


def test_the_named_template_needs_no_tokens_of_its_own(chat, tmp_path, data):
    folder = save_chat_model(tmp_path / "bare", None)
    result = chat(model=str(folder), template="plain")
    assert "'was good</s>" in next(notice for notice in result.notices if notice.startswith("the loss covers"))


@pytest.mark.parametrize("named", [True, False])
def test_a_run_that_starts_from_another_has_its_template(chat, tmp_path, data, named):
    """A base without a template, whose first run was given a name or a file, which is gone by then."""
    folder, file = str(save_chat_model(tmp_path / "bare", None)), tmp_path / "template.jinja"
    file.write_text(CHATML)
    first = chat(model=folder, template="plain" if named else str(file))
    file.unlink()
    more = {"start_from": first.out, "objective": "chat", "train": str(data), "epochs": 1, "device": "cpu"}
    result = train(validate({**more, "out": str(tmp_path / "second")}))
    templates = [Predictor(out, device="cpu").objective.chat_template for out in (first.out, result.out)]
    assert templates[0] == templates[1]
    shutil.rmtree(first.out)
    assert train(validate({**more, "out": str(tmp_path / "second"), "resume": True})) == result
    own = chat(out=str(tmp_path / "own"))  # by the tokenizer's own template: nothing to hand on
    assert validate({**more, "start_from": own.out, "out": str(tmp_path / "third")}).template is None


def test_a_template_without_a_stop_token_is_said(chat, tmp_path):
    folder = save_chat_model(tmp_path / "bare", NO_STOP)
    assert any("does not learn where to stop" in notice for notice in chat(model=str(folder)).notices)


def test_evaluation_data_that_are_cut_are_said(chat, data, tmp_path):
    short = write_jsonl(tmp_path / "short.jsonl", [{"messages": said(SYSTEM, ("user", "a"), ("assistant", "no"))}] * 4)
    result = chat(train=str(short), max_length=40)
    assert any(f"8 conversations of {data} are cut to 40 tokens" in notice for notice in result.notices)


def test_a_prompt_that_loses_its_beginning_is_said(chat, tmp_path):
    chat(max_length=40)
    found = Predictor(tmp_path / "chat", device="cpu").predict(["the film " * 60])
    assert "1 of 1 prompts are longer than 40 tokens" in found.table.notices[-1] and len(found.labels) == 1


def test_rows_that_are_left_out_have_no_answer(chat, tmp_path):
    chat(epochs=1)
    path = write_jsonl(tmp_path / "x.jsonl", [*rows()[:1], {"messages": None}])
    out = tmp_path / "said.jsonl"
    asked = ["--data", str(path), "--bad-rows", "skip", "--out", str(out), "--device", "cpu", "--max-new-tokens", "3"]
    assert command(["predict", str(tmp_path / "chat"), *asked]) == 0
    first, second = map(json.loads, out.read_text().splitlines())
    assert isinstance(first["generated"], str) and second["generated"] is None


@pytest.mark.parametrize(
    ("changes", "error", "what"),
    [
        ({"objective": "chat(turns=first)"}, ConfigError, "chat has no turns 'first'"),
        ({"template": "no-such.jinja"}, ConfigError, "no file 'no-such.jinja'"),
        ({"template": "{% for m in messages %}"}, ConfigError, "mend its Jinja"),
        ({"template": GEMMA}, DataError, "row 1: the chat template refuses it: System role not supported"),
        ({"template": THINKING.replace("loop.index < ns.last", "true")}, None, ""),
        ({"metric": "accuracy"}, ConfigError, "'accuracy' is not a metric for chat"),
        ({"max_length": 3}, DataError, "no conversation has an answer"),
    ],
)
def test_settings_that_cannot_serve(chat, changes, error, what):
    if error is None:
        assert chat(**changes, epochs=1)
        return
    with pytest.raises(error) as caught:
        chat(**changes)
    assert what in str(caught.value) and "\n" not in str(caught.value)


def test_no_template(chat, tmp_path):
    folder = save_chat_model(tmp_path / "bare", None)
    with pytest.raises(ModelError, match="has no chat template.*template=.plain.*template=.FILE"):
        chat(model=str(folder))


def test_an_encoder_is_refused(chat, tiny_folder):
    with pytest.raises(ModelError, match="objective chat needs a decoder"):
        chat(model=str(tiny_folder("bert", "mlm")))


def test_what_the_adapter_says_of_itself(chat, tmp_path):
    chat(epochs=1)
    reading = json.loads((tmp_path / "chat" / "adapter" / "adapter.json").read_text())["reading"]
    assert reading["chat_template"] == CHATML and reading["system"] == SYSTEM[1] and len(reading["stop_tokens"]) == 2
