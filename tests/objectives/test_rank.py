"""Rank: rerankers and reward models, from scores, lists or preferences, and equal under CrossEncoder."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

import tiny
from chats import CHATML, LLAMA3, said, save_chat_model
from stratatune.app.cli import run as command
from stratatune.data.batching import collate_examples
from stratatune.data.read_options import ReadOptions
from stratatune.errors import DataError, UserError
from stratatune.model.saving import read_tensors
from stratatune.objectives.rank import Rank
from stratatune.objectives.ranking_losses import listnet_loss, pairwise_loss, pointwise_loss
from stratatune.objectives.retrieval import groups_of, pair_accuracy, ranking_scores
from stratatune.progress import Reporter
from stratatune.training.config import validate
from stratatune.training.forward import Forward
from stratatune.training.predict import Predictor
from stratatune.training.run import train

GOOD, BAD = ("great", "good", "best", "fine"), ("terrible", "bad", "worst", "poor")
QUERIES = ("what was the film like?", "how was the book?", "was the day good?", "is the food fine?")


def candidates(count: int, seed: int) -> list[dict[str, Any]]:
    """Several candidates for each query, of which those with a good word are right."""
    chance, rows = random.Random(seed), []
    for number in range(count):
        query = f"{QUERIES[number % len(QUERIES)]} {number}"
        for _ in range(4):
            right = chance.random() < 0.4
            rows.append(
                {"score": int(right), "text": f"it was {chance.choice(GOOD if right else BAD)}", "query": query}
            )
    return rows


def preferences(count: int, seed: int, *, prompt: bool = True) -> list[dict[str, Any]]:
    chance, rows = random.Random(seed), []
    for number in range(count):
        row = {"rejected": f"it was {chance.choice(BAD)}", "chosen": f"it was {chance.choice(GOOD)} and long"}
        rows.append({**row, "prompt": QUERIES[number % len(QUERIES)]} if prompt else row)
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranked")
    write(folder / "lists.jsonl", candidates(16, 0))
    write(folder / "lists-dev.jsonl", candidates(8, 1))
    write(folder / "preferences.jsonl", preferences(24, 2))
    write(folder / "alone.jsonl", preferences(24, 3, prompt=False))
    return folder


KINDS = {"bce": "lists", "listnet": "lists", "pairwise": "preferences"}


@pytest.fixture
def fit(run, data, tmp_path):
    """Gives ``fit(by, **changes)``: a run of a loss on the data that it takes."""

    def make(by: str = "bce", **changes: Any) -> Any:
        file = str(data / f"{KINDS[by]}.jsonl")
        own = {"train": file, "eval": file, "text": (), "label": None, "objective": f"rank(loss={by})"}
        return run(**{**own, "plan": "2: full", "out": str(tmp_path / "run"), "max_length": 32, **changes})

    return make


@pytest.mark.parametrize("by", KINDS)
def test_it_trains_is_scored_saved_and_used(by, fit, data, tmp_path):
    first = fit(by, epochs=8, lr=0.01, cache=str(tmp_path / "cache"))
    assert first.best["pair_accuracy"] > 0.9 and first.best["ndcg@10"] > 0.8
    again = fit(by, epochs=8, lr=0.01, cache=str(tmp_path / "cache"), out=str(tmp_path / "again"))
    assert again.cache_hit and again.best == first.best
    predictor = Predictor(tmp_path / "run", device="cpu")
    scored = predictor.score(str(data / f"{KINDS[by]}.jsonl"))["metrics"]
    for name, value in first.best.items():
        assert scored[name] == pytest.approx(value, abs=1e-6)
    said = predictor.predict([("what was the film like?", "it was great"), ("what was the film like?", "it was bad")])
    assert said.columns["score"][0] > said.columns["score"][1]
    assert by != "bce" or all(0 <= value <= 1 for value in said.columns["score"])


@pytest.mark.parametrize(("alike", "metric"), [(3, "ndcg@10"), (9, "average_precision")])
def test_queries_without_an_order_select_no_epoch(fit, tmp_path, alike, metric):
    """One candidate, and equal ones, have an nDCG of 1 under any model: a single query twice let these decide."""
    rows = [
        {"query": f"how was {at}?", "text": f"it was {word}", "score": 1} for at in range(alike) for word in GOOD[:2]
    ]
    rows += [
        {"query": f"is {at} fine?", "text": f"it was {BAD[at]}", "score": score} for at in (0, 1, 2) for score in (0, 1)
    ]
    file = write(tmp_path / "rows.jsonl", rows)
    result = fit(train=str(file), eval=str(file), epochs=1)
    assert result.metric == metric
    said = [one for one in result.notices if f"3 of {alike + 3} queries have candidates with different scores" in one]
    assert bool(said) == (alike == 9)


def test_scores_below_0_are_scaled(fit, tmp_path):
    """As targets of the cross-entropy they would have no least loss."""
    rows = [{**row, "score": 2 * row["score"] - 1} for row in candidates(16, 0)]
    assert min(row["score"] for row in rows) == -1
    file = write(tmp_path / "signed.jsonl", rows)
    result = fit(train=str(file), eval=str(file), epochs=1)
    assert any("scores from -1 to 1 are scaled to 0 to 1" in one for one in result.notices)


def test_a_reward_model_reads_texts_alone(fit, data, tmp_path):
    fit("pairwise", train=str(data / "alone.jsonl"), eval=str(data / "alone.jsonl"), epochs=6, lr=0.01)
    predictor = Predictor(tmp_path / "run", device="cpu")
    # Else the server would take it for a task that reads pairs, and refuse them for all tasks.
    assert predictor.objective.asks(1) and not predictor.objective.asks(2)
    scores = predictor.predict(["it was best and long", "it was poor"]).columns["score"]
    assert scores[0] > scores[1]
    both = predictor.predict(str(data / "alone.jsonl")).columns
    assert (np.array(both["chosen_score"]) > np.array(both["rejected_score"])).mean() > 0.9


@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert", "llama"])
@pytest.mark.parametrize("by", KINDS)
def test_cached_is_uncached_and_resumed_is_not_interrupted(name, by, data, tmp_path, monkeypatch, tiny_of_any):
    file = str(data / f"{KINDS[by]}.jsonl")
    given = {"model": tiny_of_any(name), "train": file, "eval": file, "objective": f"rank(loss={by}, mini_batch=7)"}
    given |= {"plan": "2: lora(rank=4, dropout=0.1)", "epochs": 2, "batch_size": 8, "lr": 0.01, "device": "cpu"}
    given |= {"checkpoint_every": 1, "max_length": 24}

    def go(out: str, **changes: Any) -> None:
        train(validate({**given, "out": str(tmp_path / out), **changes}), reporter=Reporter(quiet=True))

    go("cached", cache="ram")
    go("whole", cache="off")
    seen, plain = [0], Forward.loss

    def loss(self: Forward, batch: Any, feed: Any) -> torch.Tensor:
        seen[0] += 1
        if seen[0] == 3:
            raise KeyboardInterrupt
        return plain(self, batch, feed)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Forward, "loss", loss)
        go("parts", cache="off")
    go("parts", cache="off", resume=True)
    one, other, cached = (read_tensors(tmp_path / out / "adapter") for out in ("whole", "parts", "cached"))
    assert one.keys() == other.keys() == cached.keys() and one
    for key in one:
        assert torch.equal(one[key], other[key]), key
        torch.testing.assert_close(cached[key], one[key], rtol=1e-3, atol=1e-4)  # a text runs in other company there


@pytest.fixture(scope="module")
def tiny_of_any(tmp_path_factory: pytest.TempPathFactory):
    """Gives the folder of a tiny model of a type of encoders or decoders, with a tokenizer."""
    made: dict[str, str] = {}

    def folder(name: str) -> str:
        if name not in made:
            path = tmp_path_factory.mktemp(name)
            if name in tiny.DECODERS:
                tiny.save_tiny_decoder(path, name)
            elif name in ("bert", "roberta"):
                tiny.save_tiny(path, name)
            else:
                tiny.tiny_of(name, vocab_size=len(tiny.roberta_tokenizer())).save_pretrained(path)
                tiny.roberta_tokenizer().save_pretrained(path)
            made[name] = str(path)
        return made[name]

    return folder


@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert"])
@pytest.mark.parametrize("by", KINDS)
def test_what_leaves_is_equal_in_sentence_transformers(name, by, fit, tmp_path, tiny_of_any):
    library = pytest.importorskip("sentence_transformers")
    fit(by, model=tiny_of_any(name), plan="2: lora(rank=4)", lr=0.02, epochs=1)
    out = tmp_path / "out"
    assert command(["export", str(tmp_path / "run"), "--to", "sentence-transformers", "--out", str(out)]) == 0
    assert 'pipeline_tag: "text-ranking"' in (out / "README.md").read_text()
    pairs = [(QUERIES[0], "it was great"), (QUERIES[1], "the book that she likes was bad"), (QUERIES[2], "no")]
    ours = Predictor(tmp_path / "run", device="cpu").predict(pairs).columns["score"]
    theirs = library.CrossEncoder(str(out), device="cpu").predict([list(pair) for pair in pairs])
    np.testing.assert_allclose(theirs, ours, atol=2e-6)


def test_a_decoder_s_pairs_are_no_cross_encoder_s(fit, tmp_path, tiny_of_any, capsys):
    fit("bce", model=tiny_of_any("llama"), plan="2: lora(rank=4)", epochs=1)
    for way, code in (("sentence-transformers", 2), ("merged", 0)):
        assert command(["export", str(tmp_path / "run"), "--to", way, "--out", str(tmp_path / way)]) == code
    assert "no line break between the query and the text" in capsys.readouterr().err


def test_a_reward_model_is_no_cross_encoder(fit, data, tmp_path, tiny_of_any, capsys):
    """A CrossEncoder takes pairs alone; the model of a text alone leaves by another form."""
    fit("pairwise", model=tiny_of_any("bert"), train=str(data / "alone.jsonl"), eval=None, epochs=1)
    to = ["export", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--to"]
    assert command([*to, "sentence-transformers"]) == 2
    assert "a CrossEncoder reads pairs of texts, and this model has learned texts alone" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert command([*to, "merged"]) == 0


def test_the_tokenizer_stays_as_it_was(fit, tmp_path, tiny_of_any):
    import stratatune as st

    fit("bce", model=tiny_of_any("bert"), plan="2: lora(rank=4)", epochs=1, max_length=12)
    used = Predictor(tmp_path / "run", device="cpu")
    before = used.tokenizer.model_max_length
    st.export(used.model, tmp_path / "out", to="sentence-transformers", tokenizer=used.tokenizer)
    assert used.tokenizer.model_max_length == before != 12


# --- losses and scores -----------------------------------------------------------------------------------------------


def test_losses_are_their_formulas():
    """In double precision; sentence-transformers' own cast to single precision, so they are compared to that."""
    torch.manual_seed(0)
    scores, gains = torch.randn(5, 4, dtype=torch.float64), torch.randint(0, 3, (5, 4)).double()
    there = torch.tensor([[True] * k + [False] * (4 - k) for k in (4, 2, 3, 4, 1)])
    chosen = [
        torch.log1p(torch.exp(scores[g, j] - scores[g, i]))
        for g in range(5) for i in range(4) for j in range(4)
        if there[g, i] and there[g, j] and gains[g, i] > gains[g, j]
    ]  # fmt: skip
    torch.testing.assert_close(pairwise_loss(scores, gains, there), torch.stack(chosen).mean())
    lists = []
    for row in range(5):
        s, g = scores[row][there[row]], gains[row][there[row]]
        lists.append(-(g.softmax(0) * s.log_softmax(0)).sum())
    torch.testing.assert_close(listnet_loss(scores, gains, there), torch.stack(lists).mean())
    wanted = gains[there] / 2
    bce = torch.nn.BCEWithLogitsLoss()(scores[there], wanted)
    torch.testing.assert_close(pointwise_loss(scores, gains / 2, there), bce)


def test_listnet_is_that_of_sentence_transformers():
    losses = pytest.importorskip("sentence_transformers.cross_encoder.losses")
    sizes, torch_seed = (4, 2, 3), 1
    torch.manual_seed(torch_seed)
    logits, gains = torch.randn(sum(sizes)), torch.randint(0, 2, (sum(sizes),)).float()

    class Model(torch.nn.Module):
        num_labels, device = 1, torch.device("cpu")

        def preprocess(self, pairs: Any, **_: Any) -> dict[str, Any]:
            return {"rows": torch.tensor([int(document) for _, document in pairs])}

        def forward(self, features: dict[str, Any]) -> dict[str, Any]:
            return {"scores": logits[features["rows"]]}

    numbers = torch.arange(sum(sizes)).split(sizes)
    documents = [[str(int(n)) for n in row] for row in numbers]
    loss = losses.ListNetLoss(Model(), mini_batch_size=-1)
    theirs = loss([["q"] * len(sizes), documents], list(gains.split(sizes)))
    padded = torch.nn.utils.rnn.pad_sequence(list(logits.split(sizes)), batch_first=True)
    wanted = torch.nn.utils.rnn.pad_sequence(list(gains.split(sizes)), batch_first=True)
    there = torch.arange(4) < torch.tensor(sizes)[:, None]
    assert listnet_loss(padded, wanted, there).item() == pytest.approx(theirs.item(), rel=1e-6)


def test_pairs_in_order_are_counted():
    random_ = np.random.default_rng(0)
    scores, gains = random_.integers(0, 5, 40).astype(float), random_.integers(0, 3, 40).astype(float)
    groups = [np.arange(0, 15), np.arange(15, 40)]
    right, total = 0.0, 0
    for at in groups:
        for i in at:
            for j in at:
                if gains[i] > gains[j]:
                    total += 1
                    right += 1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0
    assert pair_accuracy(scores, gains, groups) == pytest.approx(right / total)
    assert pair_accuracy(scores, np.ones(40), groups) == 0.0


def test_scores_of_a_perfect_and_of_a_reversed_order(data, tiny_folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder("bert", "mlm"))
    table = Rank.read(str(data / "lists.jsonl"), ReadOptions(text=None, label=None, task=None, split=None))
    assert table.columns == ("query", "text") and table.label_column == "score"  # by name, whatever their order
    for by in ("bce", "listnet"):
        objective = Rank(text=("query", "text"), label="score", metric="ndcg@10", by=by)
        encoded = objective.encode(table, tokenizer)
        gains = encoded.targets["gains"].values
        assert len(gains) == sum(objective.rows(encoded))
        perfect, _ = objective.score(gains.astype(np.float32), encoded, 1e-7)
        assert set(perfect.values()) == {1.0}
        reversed_, _ = objective.score(-gains.astype(np.float32), encoded, 1e-7)
        assert reversed_["pair_accuracy"] == 0.0 and reversed_["ndcg@10"] < 1.0
    batch = collate_examples(encoded, np.array([0, 1]), 0)
    assert batch.groups.shape[0] == 2 and len(batch) == len(set(batch.groups[batch.groups >= 0].tolist()))


def test_data_of_the_other_kind_are_compared_in_the_model_s_own_way(data, tiny_folder):
    """Scored rows under ``pairwise`` query by query; a chosen text under ``bce`` has the best score of the scale."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder("bert", "mlm"))
    asked = ReadOptions(text=None, label=None, task=None, split=None)

    def loss(objective, name):
        encoded = objective.encode(Rank.read(str(data / name), asked), tokenizer)
        batch = collate_examples(encoded, np.arange(encoded.examples), 0)
        scores = torch.randn(len(batch), 1, generator=torch.Generator().manual_seed(0))
        return encoded, scores, objective.loss(scores, batch, training=False).item(), objective.weight(batch)

    pairwise = Rank(text=("query", "text"), label=None, metric="ndcg@10", by="pairwise")
    encoded, scores, found, pairs = loss(pairwise, "lists.jsonl")
    terms = []
    for start, size in zip(encoded.groups.starts, encoded.groups.sizes, strict=True):
        at = slice(start, start + size)
        own, gains = scores[encoded.groups.values[at], 0], encoded.targets["gains"].values[at]
        terms += [
            torch.nn.functional.softplus(own[j] - own[i]).item()
            for i in range(size)
            for j in range(size)
            if gains[i] > gains[j]
        ]
    assert encoded.examples == 16 and pairs == len(terms) > 16
    assert found == pytest.approx(np.mean(terms), rel=1e-6)
    bce = Rank(text=("prompt", "chosen", "rejected"), label=None, metric="ndcg@10", by="bce", low=0.0, high=5.0)
    encoded, scores, found, _ = loss(bce, "preferences.jsonl")
    chosen, rejected = scores[encoded.groups.values.reshape(-1, 2), 0].T
    wanted = torch.nn.functional.softplus(torch.cat([-chosen, rejected])).mean().item()
    assert found == pytest.approx(wanted, rel=1e-6)


def test_equal_scores_have_no_order(data, tiny_folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder("bert", "mlm"))
    table = Rank.read(str(data / "lists.jsonl"), ReadOptions(text=None, label=None, task=None, split=None))
    objective = Rank(text=("query", "text"), label="score", metric="ndcg@10")
    encoded = objective.encode(replace(table, labels=[1.0] * len(table)), tokenizer)
    found, said = objective.score(np.random.default_rng(0).normal(size=len(table)), encoded, 1e-7)
    assert set(found.values()) == {0.0} and "are 0: every score is 1, so there is no order to be found" in said[-1]


def test_equal_scores_stand_in_no_order():
    """The mean over all orders, so that it does not help to write the right text first; of nDCG as scikit-learn's."""
    from sklearn.metrics import ndcg_score

    random_ = np.random.default_rng(0)
    for size in (2, 4, 6, 6):
        scores = np.append(random_.integers(0, 3, size - 2), [0, 0]).astype(np.float32)
        gains = np.append(random_.integers(0, 3, size - 1), [1]).astype(float)
        found = ranking_scores([(groups_of(scores, gains), gains.tolist())])
        assert found["ndcg@10"] == pytest.approx(ndcg_score([gains], [scores], k=10))
        orders = []
        for shuffled in map(list, itertools.permutations(range(size))):
            order = [shuffled[at] for at in np.argsort(-scores[shuffled], kind="stable")]
            orders.append(ranking_scores([([[gains[at]] for at in order], gains.tolist())]))
        for name, value in found.items():
            assert value == pytest.approx(np.mean([one[name] for one in orders])), name
    long = np.arange(12.0) == 0  # a group that goes on behind the tenth place
    found = ranking_scores([(groups_of(np.zeros(12), long.astype(float)), [1.0] + [0.0] * 11)])
    assert found["mrr@10"] == pytest.approx(sum(1 / place for place in range(1, 11)) / 12)
    assert found["recall@10"] == pytest.approx(10 / 12)


# --- doors -----------------------------------------------------------------------------------------------------------


def test_the_command_line(fit, data, tmp_path, tiny_folder, capsys):
    fit("listnet", epochs=1)
    run, dev = str(tmp_path / "run"), str(data / "lists-dev.jsonl")
    capsys.readouterr()
    for suffix in ("csv", "jsonl", "parquet"):
        out = str(tmp_path / f"said.{suffix}")
        assert command(["predict", run, "--data", dev, "--device", "cpu", "--out", out]) == 0
    row = json.loads((tmp_path / "said.jsonl").read_text().splitlines()[0])
    assert isinstance(row["score"], float) and row["given_score"] in (0, 1) and row["query"]
    assert command(["predict", run, "--text", QUERIES[0], "--text", "it was bad", "--device", "cpu"]) == 0
    capsys.readouterr()
    assert command(["eval", run, "--data", dev, "--device", "cpu", "--json"]) == 0
    assert "ndcg@10" in json.loads(capsys.readouterr().out)["metrics"]
    model = str(tiny_folder("bert", "mlm"))
    assert command(["plan", "2: full", "--model", model, "--objective", "rank", "--labels", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["objective"] == "rank"
    for file in ("lists", "preferences"):
        asked = ["--train", str(data / f"{file}.jsonl"), "--model", model, "--objective", "rank", "--device", "cpu"]
        assert command(["suggest", *asked, "--family", "spafit", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["views"]


BAD_ROWS = {
    "an empty side": ([{"prompt": "a", "chosen": "b", "rejected": ""}], {}, "'rejected' is empty in 1 of 1 rows"),
    "no choice": ([{"prompt": "a", "chosen": "b", "rejected": "b"}], {}, "the rejected text is the chosen one"),
    "no roles": ([{"a": "x", "b": "y"}], {}, "cannot tell the roles of the columns"),
    "no score": ([{"query": "x", "text": "y"}], {}, "cannot tell the roles of the columns"),
    "any two columns": ([{"a": "x", "b": "y"}], {"text": "a,b"}, "what are 'a' and 'b' for?"),
    "two texts": ([{"query": "x", "text": "y", "passage": "z", "score": 1}], {}, "both names for the text"),
    "roles out of order": ([{"query": "x", "text": "y", "score": 1}], {"text": "text,query"}, "'query' is the query"),
    "messages with a score": (
        [{"prompt": said(("user", "a")), "response": said(("assistant", "b")), "score": 1}],
        {},
        "'prompt' holds lists of messages, and texts are read",
    ),
    "an answer without a prompt": (
        [{"chosen": said(("assistant", "b")), "rejected": said(("assistant", "c"))}],
        {"template": "plain"},
        "row 1: there is no message of a user before the assistant's",
    ),
    "messages without a template": (
        [{"prompt": said(("user", "a")), "chosen": said(("assistant", "b")), "rejected": said(("assistant", "c"))}],
        {},
        "has no chat template",
    ),
    "a word for a score": ([{"query": "x", "text": "y", "score": "good"}], {}, "'good' is not a number"),
    "another loss": ([{"prompt": "a", "chosen": "b", "rejected": "c"}], {"objective": "rank(loss=bce)"}, "loss 'bce'"),
    "no such loss": ([{"query": "x", "text": "y", "score": 1}], {"objective": "rank(loss=hinge)"}, "no loss 'hinge'"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows_get_one_line(case, fit, tmp_path):
    rows, settings, said = BAD_ROWS[case]
    path = write(tmp_path / "bad.jsonl", rows)
    with pytest.raises(UserError) as caught:
        fit(train=str(path), eval=None, **{"objective": "rank", **settings})
    assert said in caught.value.message and "\n" not in caught.value.message, caught.value.message


# --- preferences as conversations -------------------------------------------------------------------------------------


def _talks(count: int, seed: int, form: str) -> list[dict[str, Any]]:
    """The same preferences in each form of TRL's."""
    rows = []
    for row in preferences(count, seed):
        prompt, answers = said(("user", row["prompt"])), {key: row[key] for key in ("chosen", "rejected")}
        messages = {key: said(("assistant", text)) for key, text in answers.items()}
        if form == "explicit":
            rows.append({"prompt": prompt, **messages})
        elif form == "implicit":
            rows.append({key: [*prompt, *answer] for key, answer in messages.items()})
        elif form == "both":  # as in UltraFeedback: the prompt is also a text of its own
            rows.append({"prompt": row["prompt"], **{key: [*prompt, *answer] for key, answer in messages.items()}})
        elif form == "text and messages":
            rows.append({"prompt": row["prompt"], **messages})
        else:
            talks = {key: [*prompt, *answer] for key, answer in messages.items()}
            rows.append({key: json.dumps(one) if form == "json" else _chatml(one) for key, one in talks.items()})
    return rows


def _chatml(messages: list[dict[str, str]]) -> str:
    return "".join(f"<|im_start|>{one['role']}\n{one['content']}<|im_end|>\n" for one in messages)


FORMS = ("explicit", "implicit", "both", "text and messages", "json", "written")


def test_every_form_of_conversations_is_the_same_text(run, tmp_path):
    model, found = save_chat_model(tmp_path / "model", CHATML), {}
    for form in FORMS:
        file = str(write(tmp_path / f"{form}.jsonl", _talks(16, 0, form)))
        given = {"model": str(model), "train": file, "eval": file, "text": (), "label": None, "objective": "rank"}
        run(**given, plan="2: full", out=str(tmp_path / form), max_length=64, epochs=3, lr=0.01, cache="ram")
        found[form] = read_tensors(tmp_path / form / "adapter")
    for form in FORMS:
        assert all(torch.equal(found[form][name], tensor) for name, tensor in found["written"].items()), form
    wanted = Predictor(tmp_path / "written", device="cpu").predict(str(tmp_path / "written.jsonl")).columns
    for learnt in ("explicit", "implicit", "both"):
        predictor = Predictor(tmp_path / learnt, device="cpu")
        for form in FORMS:
            scored = predictor.score(str(tmp_path / f"{form}.jsonl"))["metrics"]
            assert scored["pair_accuracy"] > 0.9, (learnt, form)
            assert predictor.predict(str(tmp_path / f"{form}.jsonl")).columns == wanted, (learnt, form)
        talks = [{"messages": one["chosen"]} for one in _talks(16, 0, "implicit")]
        single = predictor.predict(str(write(tmp_path / "single.jsonl", talks)))
        assert single.columns["score"] == pytest.approx(wanted["chosen_score"], abs=1e-6)
        assert not any("read as they are" in notice for notice in single.table.notices)
        assert any("read as they are" in notice for notice in predictor.predict(["a text"]).table.notices)
    with pytest.raises(UserError, match="holds lists of messages, and the model was trained on texts"):
        Predictor(tmp_path / "written", device="cpu").score(str(tmp_path / "explicit.jsonl"))


def test_a_conversation_is_opened_once(run, tmp_path):
    model = save_chat_model(tmp_path / "model", LLAMA3)
    file = str(write(tmp_path / "x.jsonl", _talks(8, 0, "explicit")))
    given = {"model": str(model), "train": file, "eval": None, "text": (), "label": None, "objective": "rank"}
    run(**given, plan="2: full", out=str(tmp_path / "run"), max_length=64, epochs=1)
    predictor = Predictor(tmp_path / "run", device="cpu")
    ids, offsets = (data := predictor.encode(predictor.read(file))).ids, data.offsets
    opening = predictor.tokenizer.bos_token_id
    for start, end in itertools.pairwise(offsets.tolist()):
        assert ids[start] == opening and (ids[start + 1 : end] != opening).all()
        assert predictor.tokenizer.convert_ids_to_tokens(int(ids[end - 1])) == "<|eot_id|>"


def test_an_encoder_reads_conversations_by_a_template_that_is_given(fit, tmp_path):
    file = str(write(tmp_path / "x.jsonl", _talks(16, 0, "explicit")))
    fit("pairwise", train=file, eval=file, template="plain", epochs=4, lr=0.01, max_length=64)
    predictor = Predictor(tmp_path / "run", device="cpu")
    assert predictor.objective.chat_template.startswith("{{ bos_token }}") and not predictor.objective.paired
    assert predictor.score(file)["metrics"]["pair_accuracy"] > 0.9


def test_bad_conversations_are_left_out(fit, tmp_path):
    rows = _talks(12, 0, "implicit")
    rows[3]["rejected"] = said(("user", "what?"))
    path = str(write(tmp_path / "x.jsonl", rows))
    with pytest.raises(UserError, match="row 4: there is no message of an assistant"):
        fit("pairwise", train=path, eval=None, template="plain")
    result = fit("pairwise", train=path, eval=None, template="plain", bad_rows="skip", epochs=1)
    assert any("1 of 12 rows are left out (row 4" in notice for notice in result.notices)


@pytest.mark.parametrize("prompt", [True, False])
def test_preferences_that_do_not_differ_once_they_are_cut_are_left_out(prompt, tmp_path, tiny_folder):
    """A pair that is cut before it differs teaches nothing, and neither order of it is right."""
    from transformers import AutoTokenizer

    rows = preferences(4, 0, prompt=prompt)
    same = "the film was long " * 20
    rows[2] |= {"chosen": f"{same} and great", "rejected": f"{same} and bad"}
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder("bert", "mlm"))
    table = Rank.read(str(write(tmp_path / "pairs.jsonl", rows)), ReadOptions(text=None, label=None))
    columns = tuple(table.columns)
    made = Rank(text=columns, label=None, metric="pair_accuracy", by="pairwise", paired=prompt, max_length=24)
    encoded = made.encode(table, tokenizer)
    assert encoded.examples == 3 and len(encoded.targets["gains"].values) == 6
    assert encoded.notices[-1] == (
        f"{table.source}: 1 of 4 rows are left out: their texts do not differ within 24 tokens (--max-length)"
    )
    found, _ = made.score(np.array([1.0, 0.0] * 3, np.float32), encoded, 1e-7)
    assert found["pair_accuracy"] == 1.0
    alone = Rank.read(str(write(tmp_path / "one.jsonl", [rows[2]])), ReadOptions(text=None, label=None))
    with pytest.raises(UserError, match="within 24 tokens no row has texts that differ"):
        made.encode(alone, tokenizer)


def test_preferences_are_compared_within_their_row(tmp_path, tiny_folder):
    """A ranking A > B > C written as pairs: B is chosen in one row and rejected in another."""
    from transformers import AutoTokenizer

    order = ["it was great", "it was fine", "it was bad"]
    pairs = [(0, 1), (1, 2), (0, 2)]
    rows = [{"prompt": query, "chosen": order[a], "rejected": order[b]} for query in QUERIES for a, b in pairs]
    table = Rank.read(str(write(tmp_path / "pairs.jsonl", rows)), ReadOptions(text=None, label=None))
    made = Rank(text=("prompt", "chosen", "rejected"), label=None, metric="pair_accuracy", by="pairwise")
    encoded = made.encode(table, AutoTokenizer.from_pretrained(tiny_folder("bert", "mlm")))
    scores = np.array([-float(number) for _ in QUERIES for pair in pairs for number in pair], np.float32)
    found, _ = made.score(scores, encoded, 1e-7)
    assert (found["pair_accuracy"], found["ndcg@10"], found["mrr@10"]) == (1.0, 1.0, 1.0)
    wrong, _ = made.score(-scores, encoded, 1e-7)
    assert wrong["pair_accuracy"] == 0.0


@pytest.mark.parametrize(("texts", "scores"), [("candidates", "labels"), ("documents", "scores")])
def test_lists_of_candidates_are_read_as_rows_and_compared(texts, scores, tmp_path, tiny_folder):
    """The layout of sentence-transformers' listwise losses."""
    from stratatune.training.prepare import Outline, read_tables, settle

    flat = candidates(6, 0)
    by_query: dict[str, list[dict[str, Any]]] = {}
    for row in flat:
        by_query.setdefault(row["query"], []).append(row)
    nested = [
        {"query": query, texts: [row["text"] for row in rows], scores: [row["score"] for row in rows]}
        for query, rows in by_query.items()
    ]
    made = {}
    for name, rows, kind in (("flat", flat, "rank(loss=listnet)"), ("nested", nested, "rank")):
        given = {
            "model": str(tiny_folder("bert")),
            "plan": "lora",
            "train": str(write(tmp_path / f"{name}.jsonl", rows)),
        }
        outline = Outline(validate({**given, "objective": kind}))
        made[name] = settle(outline, read_tables(outline.config, {}, outline.kind))
    one, other = made["flat"], made["nested"]
    assert other.objective.by == "listnet" and one.objective == other.objective
    assert one.train.examples == other.train.examples == len(by_query)
    assert one.train.ids.tolist() == other.train.ids.tolist()
    assert one.train.targets["gains"].values.tolist() == other.train.targets["gains"].values.tolist()
    asked = [{name: value for name, value in row.items() if name != scores} for row in nested]
    read = type(other.objective).read(asked, ReadOptions(text=other.objective.text, need_labels=False))
    assert sorted(read.texts[1]) == sorted(row["text"] for row in flat)
    with pytest.raises(DataError, match="row 1: 1 in .*, and 2 values in"):
        type(other.objective).read([{"query": "a", texts: ["b"], scores: [1, 0]}], ReadOptions())
    with pytest.raises(DataError, match="there is no list of their scores"):
        type(other.objective).read(asked, ReadOptions())


def test_lists_of_candidates_keep_what_is_named():
    read = Rank.read
    row = {"query": "a", "docs": ["b", "c"], "labels": [0, 1], "grades": [1, 0]}
    assert read([row], ReadOptions(label="grades")).labels == [1.0, 0.0]
    assert read([row], ReadOptions(label="score")).labels == [0.0, 1.0]  # what a trained model calls its scores
    for taken in ("text", "score"):
        with pytest.raises(DataError, match=f"a column '{taken}' beside the lists in 'docs'"):
            read([{**row, taken: "x"}], ReadOptions())
    said = {"query": [{"role": "user", "content": "a"}], "docs": ["b", "c"]}
    data = datasets.Dataset.from_list([said, said])
    assert len(read(data, ReadOptions(need_labels=False))) == 4
