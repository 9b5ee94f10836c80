"""What the suite asks of the CPU, asked of a GPU: STRATATUNE_TEST_DEVICE=cpu runs the same tests without one."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

import gridding
import stratatune as st
import tiny
from chats import CHATML, said, save_chat_model, write_jsonl
from checkpoints import HALF
from runs import rows, write_csv
from stratatune.app.cli import run as command
from stratatune.cache.feed import Feed, FeedClock
from stratatune.model.saving import read_tensors
from stratatune.progress import Reporter
from stratatune.serving.compute import Piece, answer
from stratatune.serving.table import TaskTable
from stratatune.studies.forgetting import forgetting
from stratatune.studies.machine_rates import measured_rates
from stratatune.training.build import build_cache
from stratatune.training.config import validate
from stratatune.training.predict import Predictor
from stratatune.training.result import Result
from stratatune.training.run import train
from stratatune.training.trials.together import AlikeTrials
from tuning import shake

DEVICE = os.environ.get("STRATATUNE_TEST_DEVICE", "cuda")
GPU = DEVICE == "cuda"
pytestmark = [
    pytest.mark.skipif(GPU and not torch.cuda.is_available(), reason="no GPU here"),
    # Said by the first product of a thread of the backward pass.
    pytest.mark.filterwarnings("ignore:.*no current CUDA context:UserWarning"),
]

QUIET = Reporter(quiet=True)
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
PLANS = {
    "full": "1: full",
    "lora": "2: lora",
    "bitfit": "2: bitfit",
    "spafit": "spafit-0-1-II",
    "bft": "bft-adapter",
    "prompt": "lpt",
    "prefix": "2: prefix(tokens=3) + houlsby + parallel",
    "dora": "2: dora(on=q,v) + ia3(on=k,up)",
    "mid": "mid",
    "cut": "1: lora | cut(3/4)",
}
NEAR = 5e-3
"""How far losses of two epochs in fp32 may be apart: Adam makes steps of what is rounding alone."""


@pytest.fixture
def still(settings, tiny_folder, tmp_path) -> Callable[..., Result]:
    """Gives ``still(name, **changes)``: the result of a run without dropout on the device, in its own folder."""

    def go(name: str, kind: str = "mlm", **changes: Any) -> Result:
        given = {"model": str(tiny_folder("bert", kind, **STILL)), "device": DEVICE, "out": str(tmp_path / name)}
        return train(settings(**{**given, **changes}), reporter=QUIET)

    return go


def on_device(model: Any) -> Any:
    return model.to(DEVICE)


def history(result: Result, name: str = "eval_loss") -> list[float]:
    lines = (Path(result.out) / "metrics.jsonl").read_text().splitlines()
    return [record[name] for record in map(json.loads, lines) if name in record]


def assert_near(one: Result, other: Result, near: float = NEAR) -> None:
    for name in ("train_loss", "eval_loss"):
        assert history(one, name) == pytest.approx(history(other, name), abs=near)


# ---- runs ----


@pytest.mark.parametrize("plan", PLANS)
def test_cached_is_uncached_and_near_the_cpu(still, plan):
    runs = {cache: still(cache, plan=PLANS[plan], cache=cache) for cache in ("ram", "off")}
    assert_near(runs["ram"], runs["off"], 1e-3)
    assert_near(runs["ram"], still("cpu", plan=PLANS[plan], device="cpu"))
    assert runs["ram"].peak_memory_bytes > 0 and np.isfinite(runs["ram"].tokens_per_second)
    assert all(seconds >= 0 for seconds in runs["off"].seconds.values()) and runs["off"].seconds["train"] > 0


@pytest.mark.parametrize("plan", ["full", "lora", "bft", "prompt", "dora"])
def test_bf16(still, plan):
    wide = still("fp32", plan=PLANS[plan], precision="fp32")
    runs = {cache: still(cache, plan=PLANS[plan], precision="bf16", cache=cache) for cache in ("ram", "off")}
    assert_near(runs["ram"], runs["off"], 0.05)
    assert_near(runs["ram"], wide, 0.2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_int8_from_the_device_is_int8_without_a_cache(still, precision):
    """Later epochs read the cache in the device's memory, one batch ahead, and unpack it there."""
    given = {"cache_dtype": "int8", "precision": precision, "epochs": 4, "batch_size": 4}
    runs = {cache: still(cache, cache=cache, **given) for cache in ("ram", "off")}
    assert_near(runs["ram"], runs["off"], 0.01 if precision == "fp32" else 0.1)


def test_a_cache_on_disk_is_found_again(still, tmp_path):
    first, again = (still(name, cache=str(tmp_path / "cache")) for name in ("first", "again"))
    assert again.cache_hit and not first.cache_hit
    assert_near(first, again, 1e-4)


@pytest.mark.parametrize("by", [{"accumulate": 3}, {"token_budget": 400, "batch_size": None}, {"head_start": "fitted"}])
def test_other_steps(still, by):
    given = {"kind": "classification", "objective": "classification", "plan": "2: lora"}
    assert_near(still("own", **given, **by), still("cpu", **given, **by, device="cpu"), 0.02)


class Stop(KeyboardInterrupt):
    """A user's Ctrl-C."""


@pytest.mark.parametrize("cache", ["ram", "off"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stopped_and_resumed_is_uninterrupted(run, tmp_path, monkeypatch, cache, precision):
    """With dropout: the GPU's random state is part of the checkpoint."""
    given = {"device": DEVICE, "plan": "bft+ffd", "epochs": 3, "checkpoint_every": 2, "cache": cache}
    given |= {"precision": precision}
    whole = run(**given, out=str(tmp_path / "whole"))
    plain, seen = Feed.hidden, [0]

    def hidden(self: Feed, batch: Any) -> torch.Tensor:
        if batch.labels is not None and len(batch) == 8:  # evaluation takes larger batches
            seen[0] += 1
            if seen[0] == 10:
                raise Stop
        return plain(self, batch)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(Feed, "hidden", hidden)
        run(**given)
    again = run(**given, resume=True)
    assert_near(again, whole, 1e-3 if precision == "fp32" else 0.02)
    tensors, wanted = (read_tensors(Path(one.out) / "adapter") for one in (again, whole))
    atol, rtol = (1e-3, 1e-2) if precision == "fp32" else (2e-2, 0.1)
    torch.testing.assert_close(tensors, wanted, atol=atol, rtol=rtol)


@pytest.mark.parametrize("plan", PLANS)
def test_saved_is_loaded(still, files, plan):
    result = still("run", plan=PLANS[plan], precision="fp32")
    here, there = (Predictor(result.out, device=device) for device in (DEVICE, "cpu"))
    assert here.device.type == DEVICE
    assert here.score(str(files / "dev.csv"))["metrics"]["loss"] == pytest.approx(
        history(result)[result.best_epoch - 1], abs=1e-4
    )
    texts = [row["text"] for row in rows(9, 5)]
    mine, theirs = here.predict(texts), there.predict(texts)
    assert mine.labels is not None and mine.probabilities is not None and theirs.probabilities is not None
    np.testing.assert_allclose(mine.probabilities, theirs.probabilities, atol=1e-3)


def test_a_model_of_the_user_s_own_on_the_device(still):
    """Attached there, loaded and moved there, merged there."""
    torch.manual_seed(0)
    own: Any = st.apply(on_device(tiny.tiny_bert("classification")), "2: lora + prefix(tokens=2)")
    torch.manual_seed(0)
    other: Any = st.apply(tiny.tiny_bert("classification"), "2: lora + prefix(tokens=2)")
    wanted = other.attached.trained()
    for name, tensor in own.attached.trained().items():
        assert tensor.device.type == DEVICE
        assert torch.equal(tensor.cpu(), wanted[name])
    result = still("run", "classification", objective="classification", plan="2: lora")
    loaded: Any = on_device(st.load(Path(result.out) / "adapter"))
    ids = torch.arange(5, 35, device=DEVICE).reshape(3, 10)
    before, merged = loaded(input_ids=ids).logits, on_device(st.merge(loaded))
    torch.testing.assert_close(merged(input_ids=ids).logits, before, atol=1e-4, rtol=1e-4)


def test_cached_in_the_user_s_own_loop(tmp_path):
    torch.manual_seed(0)
    folder = tiny.save_tiny(tmp_path / "base", "bert", "classification", **STILL)
    model = on_device(st.apply(AutoModelForSequenceClassification.from_pretrained(folder), "2: lora"))
    tokenizer = tiny.bert_tokenizer()
    texts = [{**tokenizer(row["text"]), "labels": 0} for row in rows(6, 1)]
    data = [{name: row[name] for name in ("input_ids", "attention_mask", "labels")} for row in texts]
    plain = [model(input_ids=torch.tensor([row["input_ids"]], device=DEVICE)).logits for row in data]
    cached, _ = st.cached(model, data, cache="ram", reporter=QUIET)
    for number in range(len(cached)):
        row = cached[number]
        given = {name: torch.tensor([value], device=DEVICE) for name, value in row.items()}
        torch.testing.assert_close(model(**given).logits, plain[number], atol=1e-4, rtol=1e-4)


# ---- a trunk that is streamed, a top that is packed ----


@pytest.fixture
def decoder(tmp_path) -> Path:
    model = tiny.tiny_decoder("llama")
    torch.nn.Module.to(model, HALF)
    model.save_pretrained(tmp_path / "base", max_shard_size="60KB")
    tiny.decoder_tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_streamed_is_resident(settings, decoder, files, tmp_path, precision):
    def run_of(name: str, **changes: Any) -> Any:
        data = {"model": str(decoder), "plan": "2: lora", "objective": "classification", "out": str(tmp_path / name)}
        data |= {"device": DEVICE, "precision": precision, "trunk": name, "cache": str(tmp_path / f"cache-{name}")}
        return settings(**{**data, **changes})

    for trunk in ("resident", "streamed"):
        build_cache(run_of(trunk), QUIET)
    found = [
        {path.name: path.read_bytes() for path in sorted((tmp_path / f"cache-{trunk}").rglob("shard-*.bin"))}
        for trunk in ("resident", "streamed")
    ]
    assert found[0] == found[1] and found[0]
    runs = [train(run_of(trunk), reporter=QUIET) for trunk in ("resident", "streamed")]
    assert_near(*runs, near=1e-3 if precision == "fp32" else 0.05)
    loaded = [Predictor(runs[1].out, device=DEVICE, trunk=trunk) for trunk in ("resident", "streamed")]
    scores = [one.score(str(files / "dev.csv"))["metrics"]["loss"] for one in loaded]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_packed_top(settings, decoder, files, tmp_path, kind):
    pytest.importorskip("bitsandbytes")
    given = {"model": str(decoder), "plan": "2: lora(on=attn)", "objective": "classification", "pack": kind}
    result = train(settings(**given, device=DEVICE, out=str(tmp_path / "run"), precision="fp32"), reporter=QUIET)
    here, there = (Predictor(result.out, device=device) for device in (DEVICE, "cpu"))
    loss = here.score(str(files / "dev.csv"))["metrics"]["loss"]
    assert loss == pytest.approx(history(result)[result.best_epoch - 1], abs=1e-2)
    assert there.score(str(files / "dev.csv"))["metrics"]["loss"] == pytest.approx(loss, abs=1e-2)


# ---- several runs ----


@pytest.fixture
def many(settings, tiny_folder, tmp_path) -> Callable[..., list[Result]]:
    """Gives ``many(name, **changes)``: trials without dropout on the device."""

    def go(name: str, **changes: Any) -> list[Result]:
        plain = settings(kind="classification").model_dump(exclude_defaults=True)
        own = {"model": str(tiny_folder("bert", "classification", **STILL)), "device": DEVICE, "reporter": QUIET}
        own |= {"plan": "2: lora", "objective": "classification", "out": str(tmp_path / name)}
        return st.train_many(**{**plain, **own, **changes})

    return go


@pytest.mark.parametrize("plan", ["2: lora", "bft-adapter@2", "2: full", "1: houlsby"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_trials_at_once_are_those_in_turns_and_alone(many, still, monkeypatch, plan, precision):
    rates, learnt, plain = [0.001, 0.003, 0.01], [], AlikeTrials.learn

    def learn(self: AlikeTrials, *given: Any) -> Any:
        found = plain(self, *given)
        learnt.append(len(given[0]))
        return found

    monkeypatch.setattr(AlikeTrials, "learn", learn)
    given = {"plan": plan, "precision": precision}
    together = many("together", **given, rates=rates, together="auto" if GPU else "always")
    assert set(learnt) == {3} and not [line for one in together for line in one.notices if "take turns" in line]
    near = 5e-3 if precision == "fp32" else 0.1
    for one, other in zip(together, many("turns", **given, rates=rates, together="never"), strict=True):
        assert_near(one, other, near)
    alone = still("alone", "classification", objective="classification", **given, lr=rates[1])
    assert_near(together[1], alone, near)


def test_trials_of_two_seeds_begin_as_they_do_alone(many, still):
    for seed, one in enumerate(many("many", seeds=[0, 1], together="never")):
        alone = still(f"alone-{seed}", "classification", objective="classification", plan="2: lora", seed=seed)
        assert_near(one, alone, 1e-3)


def test_a_grid_of_two_runs(tmp_path):
    """By its own workers: processes that each take the GPU."""
    recipe = gridding.write_recipe(tmp_path, plans=["bft-adapter@2", "2: lora"], seeds=[0], base={"device": DEVICE})
    assert command(["grid", str(recipe), "--out", str(tmp_path / "grid"), "--quiet"]) == 0
    assert len(list((tmp_path / "grid").rglob("result.json"))) == 2


# ---- objectives ----


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> Path:
    """Data of each objective."""
    folder, chance = tmp_path_factory.mktemp("objectives"), random.Random(0)
    texts = rows(24, 0)
    write_csv(folder / "several.csv", [{**row, "mood": chance.choice(["joy", "joy,anger", "anger"])} for row in texts])
    write_jsonl(folder / "sets.jsonl", [{"text": row["text"], "labels": [row["label"]]} for row in texts])
    words = [
        "\n".join(f"{word}\t{'B-it' if word in ('film', 'book') else 'O'}" for word in row["text"].split())
        for row in texts
    ]
    (folder / "tags.conll").write_text("\n\n".join(words) + "\n")
    asked = []
    for number, row in enumerate(texts):
        word = row["text"].split()[-1]
        answers = {"question": "what was it", "id": f"{number}"}
        answers |= {"answers": [{"text": word, "answer_start": len(row["text"]) - len(word)}]}
        asked.append({"context": row["text"], "qas": [answers]})
    (folder / "span.json").write_text(json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": asked}]}))
    nouns = ("film", "book", "city", "food", "day", "night", "movie", "story", "price", "man", "woman", "child")
    pairs = [
        {"anchor": f"the {noun} was {way}", "positive": f"a {way} {noun}"} for noun in nouns for way in ("good", "bad")
    ]
    write_jsonl(folder / "vectors.jsonl", pairs)
    ranked = [
        {"query": f"how was the {noun}", "text": f"it was {way}", "score": int(way == "good")}
        for noun in nouns
        for way in ("good", "bad", "fine")
    ]
    write_jsonl(folder / "rank.jsonl", ranked)
    chats = [
        {"messages": said(("user", f"the {noun}"), ("assistant", f"was {way} and long"))}
        for noun in nouns[:6]
        for way in ("good", "bad")
    ]
    write_jsonl(folder / "chat.jsonl", chats)
    dpo = [{"prompt": f"the {noun}", "chosen": "was good", "rejected": "very bad and long"} for noun in nouns]
    write_jsonl(folder / "dpo.jsonl", dpo)
    told = [
        {"text": f"the {noun} is {way}", "summary": f"{way} {noun}"} for noun in nouns[:8] for way in ("good", "bad")
    ]
    write_jsonl(folder / "told.jsonl", told)
    return folder


OBJECTIVES: dict[str, dict[str, Any]] = {
    "classification": {"objective": "classification", "kind": "classification"},
    "ordinal": {"objective": "classification(ordinal=true)", "kind": "classification"},
    "regression": {"objective": "regression", "label": "score"},
    "multitask": {"data": "several.csv", "text": "text", "label": "label,mood,score"},
    "multilabel": {"objective": "multilabel(threshold=tuned)", "data": "sets.jsonl"},
    "tags": {"objective": "tags", "data": "tags.conll"},
    "span": {"objective": "span", "data": "span.json"},
    "vectors": {"objective": "vectors", "data": "vectors.jsonl", "plan": "2: full"},
    "vectors in pieces": {
        "objective": "vectors(mini_batch=4)",
        "data": "vectors.jsonl",
        "plan": "2: lora(dropout=0.2)",
    },
    "rank": {"objective": "rank(loss=listnet)", "data": "rank.jsonl"},
    "rank by pairs": {"objective": "rank(loss=bce)", "data": "rank.jsonl"},
    "chat": {"objective": "chat", "data": "chat.jsonl", "model": "chat"},
    "dpo": {"objective": "dpo", "data": "dpo.jsonl", "model": "chat"},
    "completion": {
        "objective": "completion",
        "data": "told.jsonl",
        "model": "chat",
        "text": "text",
        "label": "summary",
    },
    "seq2seq": {"objective": "seq2seq", "data": "told.jsonl", "model": "t5", "text": "text", "label": "summary"},
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, str]:
    """A decoder with a chat template, and an encoder-decoder."""
    folder = tmp_path_factory.mktemp("bases")
    save_chat_model(folder / "chat", CHATML)
    tiny.tiny_encoder_decoder("t5", more=0, dropout_rate=0.0).save_pretrained(folder / "t5")
    tiny.roberta_tokenizer().save_pretrained(folder / "t5")
    return {name: str(folder / name) for name in ("chat", "t5")}


@pytest.fixture
def objective(still, tables, bases) -> Callable[..., Result]:
    """Gives ``objective(name, out, **changes)``: a run by this objective, cached."""

    def go(name: str, out: str, **changes: Any) -> Result:
        given = {"plan": "2: lora", "text": (), "label": None, **OBJECTIVES[name]}
        if "data" in given:
            given["train"] = given["eval"] = str(tables / given.pop("data"))
        else:
            given |= {"text": "text", "label": given["label"] or "label"}
        if "model" in given:
            given["model"] = bases[given["model"]]
            given["plan"] = "enc 1: lora | dec 1: lora" if name == "seq2seq" else given["plan"]
        return still(out, **{**given, **changes})

    return go


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective(objective, name):
    own = objective(name, "own")
    if "dropout" not in OBJECTIVES[name].get("plan", ""):
        assert_near(own, objective(name, "cpu", device="cpu"), 0.02)
    assert_near(own, objective(name, "off", cache="off"), 5e-3)


@pytest.mark.parametrize("name", ["vectors in pieces", "tags", "rank", "chat", "dpo", "seq2seq", "ordinal"])
def test_every_objective_in_bf16(objective, name):
    wide, low = (objective(name, precision, precision=precision) for precision in ("fp32", "bf16"))
    assert_near(low, wide, 0.2)


@pytest.mark.parametrize("name", ["chat", "completion", "seq2seq"])
def test_what_is_generated(objective, name):
    result = objective(name, "run")
    asked: Any = [said(("user", "the film"))] * 2 if name == "chat" else ["the film is good", "the city is bad"]
    here, there = (Predictor(result.out, device=device) for device in (DEVICE, "cpu"))
    assert here.predict(asked, max_new_tokens=6).labels == there.predict(asked, max_new_tokens=6).labels
    drawn = [here.predict(asked, max_new_tokens=6, do_sample=True, seed=3).labels for _ in range(2)]
    assert drawn[0] == drawn[1]


# ---- what uses them ----


def test_a_server_s_tasks(still, many):
    """Two tasks over one trunk, whose hidden states are remembered."""
    runs = {"words": still("words", plan="bft-adapter@2"), "lora": still("lora", plan="2: lora")}
    texts = [row["text"] for row in rows(11, 7)]
    found = {}
    for device in (DEVICE, "cpu"):
        table = TaskTable(1 << 20, device=device)
        tasks = [table.add(name, run.out) for name, run in runs.items()]
        pieces = [Piece(texts, tasks)]
        for _ in range(2):
            answer(pieces, table.trunks_of(tasks))
            assert pieces[0].error is None
        values = [list(row.values()) for task in tasks for row in pieces[0].rows[task.name]]
        found[device] = [[one for one in row if isinstance(one, float)] for row in values]
    np.testing.assert_allclose(found[DEVICE], found["cpu"], atol=1e-3)


def test_several_adapters_in_one_batch(tmp_path):
    """Saved on the CPU, loaded into a model on the device: each row has its adapter's numbers."""
    ids = torch.arange(5, 45).reshape(4, 10)
    names = {"lora": "2: lora", "prompt": "late_prompt(depth=2, tokens=3) | 3: lora"}
    found, alone = st.Adapters(on_device(tiny.tiny_bert("classification"))), {}
    for name, plan in names.items():
        model = shake(st.apply(tiny.tiny_bert("classification"), plan).eval())
        model.save_pretrained(tmp_path / name)
        alone[name] = model(input_ids=ids).logits
        found.load(tmp_path / name)
    given = {"input_ids": ids.to(DEVICE), "attention_mask": torch.ones_like(ids).to(DEVICE)}
    alone[None] = tiny.tiny_bert("classification")(input_ids=ids).logits
    asked = ["lora", "prompt", None, "lora"]
    with torch.no_grad():
        mixed = found(**given, adapters=asked).logits
    for row, name in enumerate(asked):
        torch.testing.assert_close(mixed[row].cpu(), alone[name][row], atol=1e-4, rtol=1e-4)


def test_a_classifier_of_sklearn_s_kind(tiny_folder):
    data = rows(40, 0)
    texts, labels = [row["text"] for row in data], [row["label"] for row in data]
    own = st.Classifier("2: full", model=str(tiny_folder("bert", **STILL)), device=DEVICE, epochs=15, lr=0.01)
    assert own.fit(texts, labels).score(texts, labels) > 0.6


def test_what_was_forgotten(still, tmp_path):
    result = still("run", plan="2: lora", precision="fp32")
    texts = ["the film was good and the book was great .", "she likes this city", "a very slow day ."] * 7
    here, there = (forgetting(result.out, texts, device=device) for device in (DEVICE, "cpu"))
    assert here["tuned"] == pytest.approx(there["tuned"], abs=1e-3) and here["base"] == pytest.approx(
        there["base"], abs=1e-3
    )


def test_suggest(files, tiny_folder):
    found = st.suggest(
        model=tiny_folder("bert", **STILL), train=str(files / "train.csv"), device=DEVICE, epochs=2, reporter=QUIET,
        text="text", label="label", budget_seconds=1e6, precision="fp32",
    )  # fmt: skip
    assert found.plan


def test_auto(tiny_folder, tmp_path):
    from stratatune.studies.suggest.auto import train as choose

    data = write_csv(tmp_path / "train.csv", rows(400, 0))
    given = {"model": str(tiny_folder("bert", **STILL)), "train": str(data), "text": "text", "label": "label"}
    given |= {
        "plan": "auto",
        "device": DEVICE,
        "out": str(tmp_path / "run"),
        "epochs": 2,
        "objective": "classification",
    }
    result = choose(validate({**given, "precision": "fp32"}), reporter=QUIET)
    assert result.plan and result.epochs == 2


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_bench_and_doctor(tiny_folder, tmp_path, capsys):
    pytest.importorskip("peft")
    small = ("--rounds", "1", "--batches", "2", "--batch-size", "8", "--out", str(tmp_path / "bench"), "--json")
    given = ("--model", str(tiny_folder("bert")), "--plans", "2: lora")
    assert command(["bench", *given, *small, "--device", DEVICE]) == 0
    ways = json.loads(capsys.readouterr().out)["ways"]
    assert all(way["seconds"] > 0 and way["predicted"] > 0 for way in ways)
    assert command(["doctor", "--json"]) == 0
    assert DEVICE in capsys.readouterr().out


def test_measured_rates():
    assert measured_rates(low=True).flops > 1e9


def test_the_clock_of_the_trunk_counts_the_gpu_s_time():
    clock, device = FeedClock(), torch.device(DEVICE)
    one = torch.randn(256, 256, device=device)
    for _ in range(40):
        with clock.in_trunk(device):
            torch.mm(one, one)
    first = clock.trunk_seconds
    assert first > 0 and clock.trunk_seconds == first  # reading it counts nothing twice
    with clock.in_trunk(device):
        torch.mm(one, one)
    assert clock.trunk_seconds > first
