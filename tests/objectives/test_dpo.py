"""Preferences: the loss and the rewards as others compute them, and the same run by every door."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, AutoTokenizer

from chats import CHATML, GEMMA, MARKED, chat_tokenizer, said, save_chat_model, write_jsonl
from stratatune.app.cli import run as command
from stratatune.data.preference_tokens import common_beginning
from stratatune.data.read_options import ReadOptions
from stratatune.errors import ConfigError, DataError
from stratatune.objectives.dpo import PreferenceOptimisation
from stratatune.training.config import validate
from stratatune.training.predict import Predictor
from stratatune.training.run import train

PROMPTS = ("the film", "a book", "that day", "the city", "it was a night", "she saw")
GOOD, BAD = ("was good", "she loves it", "great and long"), ("bad", "very bad and long", "no")
ROWS = [
    {"prompt": one, "chosen": GOOD[at % 3], "rejected": BAD[(at + at // 3) % 3]} for at, one in enumerate(PROMPTS * 2)
]
SYSTEM = ("system", "this movie")
ASKED, ANSWER = said(("user", "a book")), said(("assistant", "she loves it"))


def spoken(row, *, whole=False, system=True):
    """A row of texts as messages: the prompt by itself, or in front of both answers."""
    prompt = said(*[SYSTEM] * system, ("user", row["prompt"]))
    answers = {name: said(("assistant", row[name])) for name in ("chosen", "rejected")}
    if whole:
        return {name: [*prompt, *messages] for name, messages in answers.items()}
    return {"prompt": prompt, **answers}


def test_answers_are_not_learnt_without_a_prompt_of_another_name():
    row = {"chosen": "was good", "rejected": "bad"}
    for name, prompt in (("instruction", "the film"), ("conversations", said(("user", "the film")))):
        with pytest.raises(DataError, match=f"is {name!r} the prompt of 'chosen' and 'rejected'"):
            PreferenceOptimisation.read([{name: prompt, **row}], ReadOptions())
    options = ReadOptions(text=("instruction", "chosen", "rejected"))
    assert PreferenceOptimisation.read([{"instruction": "the film", **row}], options).columns == options.text
    (note,) = PreferenceOptimisation.read([{"prompt": "the film", "system": "she", **row}], ReadOptions()).notices
    assert note.startswith("column 'system' is not read")
    whole = {**spoken(ROWS[0], whole=True), "messages": said(("user", "the film"))}
    assert len(PreferenceOptimisation.read([whole], ReadOptions())) == 1


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_chat_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp("data") / "pairs.jsonl", ROWS)


@pytest.fixture
def dpo(base, data, tmp_path):
    """Gives ``dpo(**changes)``: a run on the preferences."""

    def make(**changes):
        own = {"model": str(base), "train": str(data), "eval": str(data), "objective": "dpo", "device": "cpu"}
        own |= {"out": str(tmp_path / "run"), "plan": "1: full", "epochs": 2, "batch_size": 4, "lr": 0.01}
        return train(validate({**own, "cache": "ram", "precision": "fp32", **changes}))

    return make


def metrics(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def log_probability(model, ids, start):
    """What stock transformers gives to the tokens from ``start`` on, in fp64."""
    with torch.no_grad():
        spread = model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    return float(spread[torch.arange(len(ids) - 1), torch.tensor(ids[1:])][start - 1 :].sum())


def tokens(tokenizer, row, name):
    prompt = tokenizer(row["prompt"])["input_ids"]
    whole = tokenizer(f"{row['prompt']} {row[name]}")["input_ids"]
    assert whole[: len(prompt)] == prompt
    return [*whole, tokenizer.eos_token_id], len(prompt)


# --- as others compute it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", ["1: full", "2: lora", "2: prefix(tokens=3)", "embeddings full | 0: full"])
def test_rewards_are_those_of_stock_transformers(dpo, base, data, tmp_path, plan):
    """A plan of prompts is not its own base, and one that trains the embeddings shares nothing with it."""
    result = dpo(plan=plan, epochs=1, objective="dpo(beta=0.3)")
    tuned = Predictor(tmp_path / "run", device="cpu")
    model = tuned.model.double().eval()
    stock, tokenizer = AutoModelForCausalLM.from_pretrained(base).double().eval(), AutoTokenizer.from_pretrained(base)
    grown = {}
    for name in ("chosen", "rejected"):
        own = [tokens(tokenizer, row, name) for row in ROWS]
        grown[name] = np.array([0.3 * (log_probability(model, *one) - log_probability(stock, *one)) for one in own])
    lead = grown["chosen"] - grown["rejected"]
    wanted = {"reward_accuracy": (lead > 0).mean(), "reward_margin": lead.mean()}
    wanted |= {f"{name}_reward": values.mean() for name, values in grown.items()}
    assert result.best == pytest.approx(wanted, abs=2e-4)
    loss = float(-logsigmoid(torch.tensor(lead)).mean())
    assert metrics(tmp_path / "run")[-1]["eval_loss"] == pytest.approx(loss, abs=2e-4)
    scored = Predictor(tmp_path / "run", device="cpu").score(str(data))
    assert {name: scored["metrics"][name] for name in wanted} == pytest.approx(wanted, abs=2e-4)
    assert scored["metrics"]["loss"] == pytest.approx(loss, abs=2e-4)


@pytest.fixture
def encoded(base, data):
    """Gives ``encoded(rows, **options)``: the objective and its data, with rewards drawn for the untuned model."""
    from stratatune.data.read_options import ReadOptions

    def make(path=data, **fields):
        tokenizer = AutoTokenizer.from_pretrained(base)
        table = PreferenceOptimisation.read(str(path), ReadOptions())
        made = PreferenceOptimisation(
            **{"text": ("prompt",), "label": None, "metric": "reward_accuracy", "family": "decoder", **fields}
        )
        found = made.encode(table, tokenizer)
        return made, made.looked(found, -10 * np.random.default_rng(0).random((len(found), 2)), training=True)[0]

    return make


FORMS = {
    "sigmoid": ({}, lambda lead, *_: -logsigmoid(0.1 * lead)),
    "smoothed": ({"smoothing": 0.2}, lambda lead, *_: -0.8 * logsigmoid(0.1 * lead) - 0.2 * logsigmoid(-0.1 * lead)),
    "hinge": ({"by": "hinge", "beta": 0.5}, lambda lead, *_: (1 - 0.5 * lead).clamp(min=0)),
    "ipo": ({"by": "ipo"}, lambda _, mean, __: (mean - 5) ** 2),
    "sft": ({"sft": 0.7}, lambda lead, _, own: -logsigmoid(0.1 * lead) + 0.7 * own),
}


@pytest.mark.parametrize("form", FORMS)
def test_losses_are_those_of_the_papers(encoded, form):
    from stratatune.data.batching import collate_examples

    fields, formula = FORMS[form]
    made, found = encoded(**fields)
    batch = collate_examples(found, np.arange(found.examples), 0)
    rows = torch.stack([-10 * torch.rand(len(batch), dtype=torch.float64), torch.randint(1, 5, (len(batch),))], 1)
    reference = torch.tensor(found.targets["reference"].values.reshape(-1, 2), dtype=torch.float64)
    of_pairs = rows[batch.groups]
    grown = of_pairs[..., 0] - reference
    lead, mean = (one[:, 0] - one[:, 1] for one in (grown, grown / of_pairs[..., 1]))
    wanted = formula(lead, mean, -of_pairs[:, 0, 0] / of_pairs[:, 0, 1]).mean()
    assert made.loss(rows, batch).item() == pytest.approx(wanted.item(), rel=1e-6)
    assert made.weight(batch) == len(ROWS)


@pytest.mark.filterwarnings("ignore")  # trl's own, about settings of transformers
@pytest.mark.parametrize("kind", ["sigmoid", "ipo", "hinge"])
def test_the_loss_is_that_of_trl(base, data, tmp_path, kind):
    """Its trainer, on its own tokens, before and after a change of the weights."""
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    from stratatune.data.read_options import ReadOptions
    from stratatune.model.attach import apply
    from stratatune.training.forward import Forward

    tokenizer = AutoTokenizer.from_pretrained(base)
    own = {"text": ("prompt",), "label": None, "metric": "reward_accuracy", "family": "decoder", "by": kind}
    made = PreferenceOptimisation(**own)
    found = made.encode(PreferenceOptimisation.read(str(data), ReadOptions()), tokenizer)
    arguments = trl.DPOConfig(
        output_dir=str(tmp_path), loss_type=[kind], per_device_train_batch_size=len(ROWS), use_cpu=True, report_to=[],
        bf16=False, disable_dropout=True, precompute_ref_log_probs=False,
    )  # fmt: skip
    rows = [{**row, "chosen": f" {row['chosen']}", "rejected": f" {row['rejected']}"} for row in ROWS]
    trainer = trl.DPOTrainer(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        ref_model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    model = apply(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), "1: full")
    forward = Forward.of(model.attached, made, tokenizer.pad_token_id or 0, torch.device("cpu"), None)
    from stratatune.training.untuned import represented

    found, _ = made.looked(found, represented(forward, found, forward.feed()), training=True)
    inputs = next(iter(trainer.get_train_dataloader()))
    for _ in range(2):
        batch = forward.batch(found, np.arange(found.examples))
        mine = made.loss(forward(batch, forward.feed(), training=False), batch)
        theirs = trainer.compute_loss(trainer.model, inputs)
        assert mine.item() == pytest.approx(theirs.item(), rel=1e-5)
        with torch.no_grad():
            changed = dict(trainer.model.named_parameters())
            for name, one in model.named_parameters():
                if one.requires_grad:
                    noise = 0.05 * torch.randn(one.shape, generator=torch.Generator().manual_seed(len(name)))
                    one += noise
                    changed[name] += noise


# --- the same by every door ----------------------------------------------------------------------------------------


def test_it_learns_and_every_door_says_the_same(dpo, data, tmp_path, capsys):
    result = dpo(epochs=8, test=str(data), cache=str(tmp_path / "cache"))
    assert result.best["reward_accuracy"] == 1.0 and result.best["reward_margin"] > 0
    assert result.test == pytest.approx(result.best, abs=1e-5)
    again = dpo(epochs=8, cache=str(tmp_path / "cache"), out=str(tmp_path / "again"))
    assert again.cache_hit and again.best == result.best
    dpo(epochs=8, cache="off", out=str(tmp_path / "off"))
    for one, other in zip(metrics(tmp_path / "run"), metrics(tmp_path / "off"), strict=True):
        assert one["eval_reward_margin"] == pytest.approx(other["eval_reward_margin"], abs=1e-5)
        assert one["train_loss"] == pytest.approx(other["train_loss"], abs=1e-5)
    predictor = Predictor(tmp_path / "run", device="cpu")
    written = predictor.predict(list(PROMPTS)).labels
    assert predictor.predict(str(data)).labels == written * 2  # its answers are not read
    assert command(["eval", str(tmp_path / "run"), "--data", str(data), "--json"]) == 0
    said_there = json.loads(capsys.readouterr().out)
    assert said_there["metrics"]["reward_margin"] == pytest.approx(result.best["reward_margin"], abs=1e-5)
    out = tmp_path / "said.jsonl"
    assert command(["predict", str(tmp_path / "run"), "--data", str(data), "--out", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in ROWS]


def test_a_merged_model_is_stock_and_says_the_same(dpo, tmp_path):
    dpo()
    assert command(["export", str(tmp_path / "run"), "--to", "merged", "--out", str(tmp_path / "merged")]) == 0
    model, tokenizer = (one.from_pretrained(tmp_path / "merged") for one in (AutoModelForCausalLM, AutoTokenizer))
    given = tokenizer(PROMPTS[0], return_tensors="pt")
    with torch.no_grad():
        ids = model.generate(**given, max_new_tokens=64, do_sample=False)[0, given["input_ids"].shape[1] :]
    said_there = tokenizer.decode(ids, skip_special_tokens=True)
    assert Predictor(tmp_path / "run", device="cpu").predict([PROMPTS[0]]).labels == [said_there.strip()]


def test_resumed_is_uninterrupted(dpo, tmp_path, monkeypatch):
    whole = dpo(epochs=3)
    with monkeypatch.context() as patch:
        seen, weight = [], PreferenceOptimisation.weight

        def stop(self, batch):
            seen.append(batch)
            if len(seen) == 9:
                raise KeyboardInterrupt
            return weight(self, batch)

        patch.setattr(PreferenceOptimisation, "weight", stop)
        with pytest.raises(KeyboardInterrupt):
            dpo(epochs=3, out=str(tmp_path / "halves"), checkpoint_every=1)
    resumed = dpo(epochs=3, out=str(tmp_path / "halves"), checkpoint_every=1, resume=True)
    assert resumed.best == pytest.approx(whole.best, abs=1e-6)


def test_pieces_give_the_gradient_of_the_whole(dpo, tmp_path):
    whole, pieces = dpo(batch_size=6), dpo(batch_size=6, objective="dpo(mini_batch=3)", out=str(tmp_path / "pieces"))
    assert pieces.best == pytest.approx(whole.best, abs=1e-5)


def test_every_rejected_answer_is_a_pair(encoded, tmp_path):
    from stratatune.data.batching import collate_examples

    several = [
        {"prompt": row["prompt"], "chosen": row["chosen"], "rejected": "no", "rejected_2": "bad"} for row in ROWS
    ]
    made, found = encoded(write_jsonl(tmp_path / "several.jsonl", several))
    assert found.groups.sizes.tolist() == [3] * len(ROWS)
    batch = collate_examples(found, np.arange(found.examples), 0)
    assert made.weight(batch) == 2 * len(ROWS)
    rows = torch.stack([-torch.rand(len(batch)), torch.ones(len(batch))], 1)
    lead = rows[batch.groups][..., 0] - torch.tensor(found.targets["reference"].values.reshape(-1, 3))
    wanted = -logsigmoid(0.1 * (lead[:, :1] - lead[:, 1:])).mean()
    assert made.loss(rows, batch).item() == pytest.approx(wanted.item(), rel=1e-5)
    output = made.predict(rows, batch)
    right = made.score(output, found, 1e-7)[0]
    assert right["reward_accuracy"] == pytest.approx((lead[:, :1] > lead[:, 1:]).float().mean().item())


def test_equal_rewards_are_half_right(encoded):
    made, found = encoded()
    output = np.stack([found.targets["reference"].values, np.ones(2 * len(ROWS))], 1)
    assert made.score(output, found, 1e-7)[0] == {"reward_accuracy": 0.5, "reward_margin": 0.0} | dict.fromkeys(
        ("chosen_reward", "rejected_reward"), 0.0
    )


def test_a_streamed_trunk_gives_the_same(dpo, data, tmp_path):
    first, streamed = (
        dpo(plan="2: lora"),
        dpo(plan="2: lora", trunk="streamed", cache="auto", out=str(tmp_path / "streamed")),
    )
    assert streamed.best == pytest.approx(first.best, abs=1e-6)
    for trunk in ("resident", "streamed"):
        scored = Predictor(tmp_path / "streamed", device="cpu", trunk=trunk).score(str(data))["metrics"]
        assert scored["reward_margin"] == pytest.approx(first.best["reward_margin"], abs=1e-5)
    with pytest.raises(ConfigError, match="asks the base model again for the test data"):
        dpo(plan="2: lora", trunk="streamed", cache="auto", test=str(data), out=str(tmp_path / "no"))
    with pytest.raises(ConfigError, match="which the plan changes from the start"):
        dpo(plan="late_prompt(depth=2)", trunk="streamed", cache="auto", out=str(tmp_path / "neither"))


# --- conversations -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [CHATML, MARKED, GEMMA], ids=["chatml", "marked", "gemma"])
@pytest.mark.parametrize("whole", [False, True])
def test_only_what_differs_is_learnt(template, whole, tmp_path):
    from stratatune.data.read_options import ReadOptions

    earlier = said(("user", "a book"), ("assistant", "she loves it"))
    rows = [spoken(row, whole=whole, system=False) for row in ROWS]
    for row in rows:
        for name in ("chosen", "rejected") if whole else ("prompt",):
            row[name] = [*earlier, *row[name]]
    table = PreferenceOptimisation.read(str(write_jsonl(tmp_path / "rows.jsonl", rows)), ReadOptions())
    tokenizer = chat_tokenizer(template)
    own = {"text": ("prompt",), "label": None, "metric": "reward_accuracy", "family": "decoder"}
    found = PreferenceOptimisation(**own, chat_template=template).encode(table, tokenizer)
    learnt = [
        tokenizer.decode(found.ids[found.offsets[at] : found.offsets[at + 1]][places.values + 1])
        for at in range(len(found))
        if (places := found.places.subset(np.array([at]))) is not None
    ]
    of_rows = [[learnt[at] for at in found.groups.subset(np.array([row])).values] for row in range(len(ROWS))]
    for row, (chosen, rejected) in zip(ROWS, of_rows, strict=True):
        assert chosen.startswith(row["chosen"]) and rejected.startswith(row["rejected"])
        assert "loves" not in chosen or "loves" in row["chosen"]


def test_conversations_are_learnt_and_answered(dpo, tmp_path):
    data = write_jsonl(tmp_path / "spoken.jsonl", [spoken(row) for row in ROWS])
    whole = write_jsonl(tmp_path / "whole.jsonl", [spoken(row, whole=True) for row in ROWS])
    first = dpo(train=str(data), eval=str(data), epochs=6)
    second = dpo(train=str(whole), eval=str(data), epochs=6, out=str(tmp_path / "whole"))
    assert first.best["reward_accuracy"] == 1.0 and second.best == pytest.approx(first.best, abs=1e-6)
    predictor = Predictor(tmp_path / "run", device="cpu")
    asked = [spoken(row)["prompt"] for row in ROWS[:3]]
    answers = predictor.predict(asked).labels
    assert predictor.predict([row["prompt"] for row in ROWS[:3]]).labels == answers
    assert predictor.predict(str(data)).labels[:3] == answers
    with pytest.raises(ConfigError, match="holds texts, and the model is trained on lists of messages"):
        predictor.score(str(write_jsonl(tmp_path / "texts.jsonl", ROWS)))


def test_rows_that_are_cut_are_left_out(encoded, tmp_path):
    rows = [*ROWS[:2], {"prompt": "the film", "chosen": "good " * 8 + "no", "rejected": "good " * 8 + "bad"}]
    made, found = encoded(write_jsonl(tmp_path / "long.jsonl", rows), max_length=8)
    assert found.examples == 2
    assert any("1 of 3 rows are left out: their answers do not differ within 8 tokens" in one for one in found.notices)
    with pytest.raises(DataError, match="no row has answers that differ"):
        encoded(write_jsonl(tmp_path / "only.jsonl", rows[2:]), max_length=8)


def test_without_a_prompt_the_common_beginning_is_one(encoded, tmp_path):
    assert common_beginning(["the film was good", "the film was great"]) == "the film was"
    assert common_beginning(["the film", "the film was great"]) == "the film"
    assert common_beginning(["good", "great"]) == ""
    rows = [{name: f"{row['prompt']} {row[name]}" for name in ("chosen", "rejected")} for row in ROWS]
    _, alone = encoded(write_jsonl(tmp_path / "alone.jsonl", rows))
    _, prompted = encoded()
    assert np.array_equal(alone.ids, prompted.ids) and np.array_equal(alone.places.values, prompted.places.values)


# --- what is wrong -------------------------------------------------------------------------------------------------

WRONG = {
    "equal answers": ([{**ROWS[0], "rejected": ROWS[0]["chosen"]}], {}, "row 1: the rejected answer is the chosen one"),
    "equal messages": (
        [spoken({**ROWS[0], "rejected": ROWS[0]["chosen"]})],
        {},
        "row 1: the rejected answer is the chosen one: 'was good'.*bad_rows=.skip. leaves such rows out",
    ),
    "one goes on": (
        [{"chosen": [*ASKED, *ANSWER], "rejected": [*ASKED, *ANSWER, *ASKED, *ANSWER]}],
        {},
        "row 1: after the messages that are the same no answer follows",
    ),
    "none differs": (
        [{**ROWS[0], "rejected": ROWS[0]["chosen"]}] * 2,
        {"bad_rows": "skip"},
        "every row is left out; row 1: the rejected answer is the chosen one",
    ),
    "no rejected": ([{"prompt": "a", "chosen": "b"}], {}, "columns: prompt, chosen"),
    "a blank answer": ([{**ROWS[0], "rejected": " "}], {}, "row 1"),
    "beta": (ROWS, {"objective": "dpo(beta=0)"}, "dpo: beta 0.0 .legal: above 0"),
    "a large beta": (ROWS, {"objective": "dpo(beta=1e30)"}, "dpo: beta 1e.30 .legal: above 0, up to 1e"),
    "a large sft": (ROWS, {"objective": "dpo(sft=1e39)"}, "dpo: sft 1e.39 .legal: from 0 to 1e"),
    "smoothing": (ROWS, {"objective": "dpo(smoothing=0.5)"}, "dpo: smoothing 0.5 .legal: from 0 to below 0.5"),
    "smoothing of another": (ROWS, {"objective": "dpo(smoothing=0.1, loss=ipo)"}, "it goes with loss=sigmoid"),
    "a loss": (ROWS, {"objective": "dpo(loss=kto)"}, "dpo has no loss 'kto'"),
    "a metric": (ROWS, {"metric": "accuracy"}, "reward_accuracy"),
    "a template": (ROWS, {"template": "plain"}, "holds texts, which no chat template is applied to"),
    "mini_batch": (ROWS, {"objective": "dpo(mini_batch=-1)"}, "mini_batch -1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(dpo, tmp_path, name):
    rows, changes, message = WRONG[name]
    with pytest.raises((DataError, ConfigError), match=message):
        dpo(train=str(write_jsonl(tmp_path / "rows.jsonl", rows)), eval=None, **changes)


@pytest.mark.parametrize("objective", ["chat", "auto"])
def test_other_objectives_name_it(dpo, data, objective):
    with pytest.raises(DataError, match="these look like preferences: objective=.dpo. learns to answer"):
        dpo(objective=objective)


def test_other_names_lead_to_it():
    with pytest.raises(ConfigError, match=re.escape("dpo predicts a preferred answer to a prompt")):
        from stratatune.objectives.registry import written

        written("preference")


@pytest.mark.parametrize("objective", ["dpo", "completion", "chat"])
def test_an_evaluation_makes_few_logits_at_once(dpo, monkeypatch, tmp_path, objective):
    """Of a large vocabulary those of a whole batch would take gigabytes; pieces of a batch give the same scores."""
    from stratatune.model.heads.lm import Lm
    from stratatune.training import evaluate

    rows = [{**spoken(row), "completion": row["chosen"]} if objective == "chat" else row for row in ROWS]
    data = str(write_jsonl(tmp_path / "rows.jsonl", rows))
    more = {
        "completion": {"text": ("prompt",), "label": "chosen"},
        "chat": {"text": ("prompt",), "label": "completion"},
    }
    given = {
        "objective": objective,
        "train": data,
        "eval": data,
        "epochs": 1,
        "batch_size": 2,
        **more.get(objective, {}),
    }
    whole = dpo(**given)
    seen, logits = [], Lm.logits

    def watch(self, hidden, mask, question):
        found = logits(self, hidden, mask, question)
        if not torch.is_grad_enabled():
            seen.append(found.numel())
        return found

    vocabulary = 1279
    monkeypatch.setattr(evaluate, "_MOST_LOGITS", 16 * vocabulary)
    monkeypatch.setattr(Lm, "logits", watch)
    pieces = dpo(**given, out=str(tmp_path / "pieces"))
    assert seen and max(seen) <= 16 * vocabulary
    assert pieces.best == pytest.approx(whole.best, abs=1e-5)
    for one, other in zip(metrics(tmp_path / "run"), metrics(tmp_path / "pieces"), strict=True):
        assert one["eval_loss"] == pytest.approx(other["eval_loss"], abs=1e-5)


def test_its_rates_are_small(base, data, tmp_path):
    """At the rates of classification a model soon writes nothing sensible, while its rewards look well."""
    from stratatune.studies.suggest.auto import train as train_by

    own = {"model": str(base), "train": str(data), "eval": str(data), "objective": "dpo", "device": "cpu"}
    own |= {"epochs": 1, "batch_size": 4, "cache": "ram"}
    found = train(validate({**own, "plan": "2: lora", "out": str(tmp_path / "one")}))
    assert "lr: 0.001, the default; for dpo about 5e-05 is usual (--lr)" in found.notices
    given = train(validate({**own, "plan": "2: lora", "lr": 1e-3, "out": str(tmp_path / "two")}))
    assert not any("is usual" in one for one in given.notices)
    chosen = train_by(validate({**own, "out": str(tmp_path / "three")}))
    assert not any("is usual" in one for one in chosen.notices)
    settings = (tmp_path / "three" / "config.yaml").read_text()
    assert float(re.search(r"^lr: (.*)$", settings, re.MULTILINE)[1]) <= 1e-4


@pytest.mark.parametrize("form", ["texts", "messages"])
def test_bad_rows_are_skipped(dpo, tmp_path, form):
    rows = [*ROWS, {**ROWS[0], "rejected": ROWS[0]["chosen"]}, {**ROWS[1], "rejected": " "}]
    rows = [spoken(row) for row in rows] if form == "messages" else rows
    result = dpo(train=str(write_jsonl(tmp_path / "rows.jsonl", rows)), eval=None, epochs=1, bad_rows="skip")
    assert any("1 row left out (row 13: the rejected answer is the chosen one" in one for one in result.notices)
    assert len([one for one in result.notices if "left out" in one]) == 2


def test_what_the_template_leaves_out_is_named(dpo, tmp_path):
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    rows = [{**spoken(row), "tools": tools} for row in ROWS]
    result = dpo(train=str(write_jsonl(tmp_path / "rows.jsonl", rows)), eval=None, epochs=1)
    assert any("writes nothing of the tools in 12 of 12 conversations" in one for one in result.notices)
    assert any("the loss covers the assistant's turns only" in one and "'was good" in one for one in result.notices)


def test_no_blank_is_written_where_there_is_no_text(base):
    from stratatune.data.causal import prompt_and_completion

    tokenizer = AutoTokenizer.from_pretrained(base)
    given, answer, count = prompt_and_completion(tokenizer, "the film", "", 64)
    assert answer == [tokenizer.eos_token_id] and count == len(given) + 1
    _, answer, _ = prompt_and_completion(tokenizer, "", "was good", 64)
    assert tokenizer.decode(answer[:-1]) == "was good"


def test_the_longest_is_counted_before_it_is_cut(encoded, tmp_path):
    rows = [*ROWS, {"prompt": "the film " * 20, "chosen": "good", "rejected": "bad"}]
    _, found = encoded(write_jsonl(tmp_path / "long.jsonl", rows), max_length=16)
    (said_there,) = [one for one in found.notices if "are cut" in one]
    assert "1 of 13 rows have texts of more than 16 tokens" in said_there
    assert int(re.search(r"the longest has (\d+) tokens", said_there)[1]) > 40


@pytest.mark.parametrize("form", ["texts", "messages"])
def test_columns_of_other_names_are_remembered(dpo, base, tmp_path, form):
    names = {"prompt": "ask", "chosen": "good", "rejected": "bad"}
    rows = [spoken(row) if form == "messages" else row for row in ROWS]
    named = write_jsonl(
        tmp_path / "named.jsonl", [{**{names[key]: row[key] for key in names}, "score": 1} for row in rows]
    )
    result = dpo(train=str(named), eval=str(named), text="ask,good,bad", epochs=1)
    predictor = Predictor(tmp_path / "run", device="cpu")
    for source in (named, write_jsonl(tmp_path / "usual.jsonl", rows)):
        scores = predictor.score(str(source))["metrics"]
        assert scores["reward_margin"] == pytest.approx(result.best["reward_margin"], abs=1e-4)
    assert predictor.objective.asks(1) and not predictor.objective.asks(3) and predictor.objective.asked_at_once == 1
    asked = write_jsonl(tmp_path / "asked.jsonl", [{"ask": rows[0]["prompt"]}])
    assert len(predictor.predict(str(asked)).columns["generated"]) == 1


def test_a_run_that_starts_from_another_says_what_the_reference_is(dpo, tmp_path):
    first = dpo(epochs=1)
    assert not any("compares with the base model" in notice for notice in first.notices)
    second = dpo(epochs=1, start_from=first.out, out=str(tmp_path / "second"))
    assert any(f"dpo compares with the base model, not with {first.out}" in notice for notice in second.notices)
