"""Vectors: from pairs to a model for search, the same by every door, and equal under sentence-transformers."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from stratatune.app.cli import run as command
from stratatune.data.batching import collate_examples
from stratatune.data.read_options import ReadOptions
from stratatune.errors import ConfigError
from stratatune.model.attach import apply
from stratatune.model.base import load_base
from stratatune.model.saving import read_tensors
from stratatune.model.split import Trunk
from stratatune.objectives.asked import Asked
from stratatune.objectives.sentence_folder import of_base
from stratatune.objectives.vector_options import settled_pooling
from stratatune.objectives.vectors import Vectors
from stratatune.plan import Plan
from stratatune.progress import Reporter
from stratatune.training.config import validate
from stratatune.training.forward import Forward
from stratatune.training.predict import Predictor
from stratatune.training.run import train

KINDS = {
    "good": ("great", "good", "best", "fine"),
    "bad": ("terrible", "bad", "worst", "poor"),
    "colour": ("red", "blue", "green"),
    "count": ("one", "two", "three", "four"),
}


def pairs(count: int, seed: int, *, negatives: int = 0) -> list[dict[str, Any]]:
    """An anchor and a text with another word of its kind, and texts with words of other kinds."""
    chance, rows = random.Random(seed), []
    for _ in range(count):
        kind = chance.choice(list(KINDS))
        first, second = chance.sample(KINDS[kind], 2)
        others = [word for other, words in KINDS.items() if other != kind for word in words]
        row = {"positive": f"a {second} story", "anchor": f"the film that she saw was {first}"}
        for number, word in enumerate(chance.sample(others, negatives), start=1):
            row[f"negative_{number}"] = f"a {word} story"
        rows.append(row)
    return rows


def scored(count: int, seed: int) -> list[dict[str, Any]]:
    chance, rows = random.Random(seed), []
    for _ in range(count):
        one, two = chance.choices(list(KINDS), k=2)
        first, second = chance.choice(KINDS[one]), chance.choice(KINDS[two])
        score = 5.0 if first == second else 3.0 if one == two else 0.5
        rows.append({"sentence1": f"a {first} day", "sentence2": f"the {second} book", "score": score})
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    write(folder / "train.jsonl", pairs(40, 0))
    write(folder / "dev.jsonl", pairs(16, 1))
    write(folder / "triplets.jsonl", pairs(24, 2, negatives=2))
    write(folder / "scored.jsonl", scored(40, 3))
    return folder


@pytest.fixture
def fit(run, data, tmp_path):
    """Gives ``fit(**changes)``: a run on the pairs."""

    def make(**changes: Any) -> Any:
        own = {"train": str(data / "train.jsonl"), "eval": str(data / "dev.jsonl"), "text": (), "label": None}
        own |= {"objective": "vectors", "plan": "2: full", "out": str(tmp_path / "run"), "max_length": 32}
        return run(**{**own, **changes})

    return make


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder / "adapter")


# --- a run --------------------------------------------------------------------------------------------------------


def test_it_trains_is_scored_saved_and_used(fit, data, tmp_path):
    cache = str(tmp_path / "cache")
    first = fit(epochs=6, lr=0.01, cache=cache)
    history = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in history] == list(range(7)) and "train_loss" not in history[0]
    assert first.best["ndcg@10"] > history[0]["eval_ndcg@10"] + 0.1
    again = fit(epochs=6, lr=0.01, cache=cache, out=str(tmp_path / "again"))
    assert again.cache_hit and again.best == first.best
    off = fit(epochs=6, lr=0.01, cache="off", out=str(tmp_path / "off"))
    for name, tensor in tensors(tmp_path / "off").items():
        assert torch.equal(tensor, tensors(tmp_path / "run")[name]), name
    assert off.best == first.best
    key = json.loads(next(Path(cache).glob("*/key.json")).read_text())
    distinct = {text for row in pairs(40, 0) for text in row.values()}
    assert key["examples"] in (len(distinct), len({t for row in pairs(16, 1) for t in row.values()}))
    predictor = Predictor(tmp_path / "run", device="cpu")
    scored_again = predictor.score(str(data / "dev.jsonl"))["metrics"]
    assert scored_again["ndcg@10"] == pytest.approx(first.best["ndcg@10"], abs=1e-6)
    vectors = np.array(predictor.predict(["a good story", "a bad story", "a good story"]).columns["vector"])
    assert vectors.shape == (3, 32) and np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-6)
    assert (vectors[0] == vectors[2]).all()
    both = predictor.predict([("the film that she saw was great", "a good story")])
    assert both.columns["similarity"][0] == pytest.approx(float(both.values[0]))


@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert", "llama", "qwen3"])
@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_cached_is_uncached_and_resumed_is_not_interrupted(name, pooling, data, tmp_path, monkeypatch, tiny_of_any):
    given = {"model": tiny_of_any(name), "train": str(data / "triplets.jsonl"), "eval": str(data / "dev.jsonl")}
    given |= {"objective": f"vectors(pooling={pooling}, mini_batch=7)", "plan": "2: lora(rank=4, dropout=0.1)"}
    given |= {"epochs": 2, "batch_size": 8, "lr": 0.01, "device": "cpu", "checkpoint_every": 1, "max_length": 24}

    def go(out: str, **changes: Any) -> None:
        train(validate({**given, "out": str(tmp_path / out), **changes}), reporter=Reporter(quiet=True))

    go("cached", cache="ram")
    go("whole", cache="off")
    seen, plain = [0], Forward.loss

    def loss(self: Forward, batch: Any, feed: Any) -> torch.Tensor:
        seen[0] += 1
        if seen[0] == 5:
            raise KeyboardInterrupt
        return plain(self, batch, feed)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Forward, "loss", loss)
        go("parts", cache="off")
    with pytest.raises(ConfigError, match="batch_size: was 8, and vectors compares the rows of a whole batch"):
        go("parts", cache="off", resume=True, batch_size=4, accumulate=2)
    go("parts", cache="off", resume=True)
    one, other, cached = (tensors(tmp_path / out) for out in ("whole", "parts", "cached"))
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


# --- losses and gradients ------------------------------------------------------------------------------------------


def objective_of(folder: str, table: Any, options: dict[str, Any], tokenizer: Any, family: str = "encoder") -> Vectors:
    asked = Asked(
        plan=Plan.parse("lora"), family=family, longest=64, table=table, tokenizer=tokenizer, options=options, hidden=32
    )
    return Vectors.settle(asked)[0]


def read(path: Path) -> Any:
    return Vectors.read(str(path), ReadOptions(text=None, label=None, task=None, split=None))


class Uncached:
    """The trunk in double precision, which no cache keeps."""

    def __init__(self, attached: Any) -> None:
        self.trunk = Trunk(attached)

    def hidden(self, batch: Any) -> torch.Tensor:
        return self.trunk(batch.input_ids, batch.mask, batch.token_types)


@pytest.mark.parametrize("file", ["train", "triplets", "scored"])
@pytest.mark.parametrize("query_only", [False, True])
def test_gradient_caching_gives_the_gradient_of_the_whole_batch(file, query_only, data, tiny_folder):
    """In double precision, over a batch with equal texts, from the cut of a model at 1/2."""
    folder = str(tiny_folder("bert", "mlm"))
    base = load_base(folder, "none", dtype="float64")
    model = apply(base.model, "2: full").train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    table = read(data / f"{file}.jsonl")
    found = []
    for piece in (0, 5):
        objective = objective_of(folder, table, {"mini_batch": piece, "query_only": query_only}, base.tokenizer)
        encoded = objective.encode(table, base.tokenizer)
        if query_only:
            known = np.random.default_rng(0).normal(size=(len(encoded), 32)).astype(np.float32)
            encoded = objective.looked(encoded, known, training=True)[0]
        forward = Forward.of(model.attached, objective, 0, torch.device("cpu"), None)
        batch = forward.batch(encoded, np.arange(20))
        model.zero_grad()
        loss = forward.loss(batch, Uncached(model.attached))
        loss.backward()
        trained = model.attached.trained()
        found.append((loss.item(), {name: one.grad.clone() for name, one in trained.items() if one.grad is not None}))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12) and found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, rtol=1e-9, atol=1e-12)


class Embeddings(torch.nn.Module):
    """In the place of a SentenceTransformer: its texts are rows of a matrix."""

    def __init__(self, vectors: torch.Tensor) -> None:
        super().__init__()
        self.vectors = vectors

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {"sentence_embedding": self.vectors[features["rows"]]}

    def get_embedding_dimension(self) -> int:
        return self.vectors.shape[1]

    get_sentence_embedding_dimension = get_embedding_dimension


@pytest.mark.parametrize("widths", [(), (16, 8, 4)])
@pytest.mark.parametrize("name", ["mnrl", "cosent", "cosine"])
def test_losses_are_those_of_sentence_transformers(name, widths):
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    if name == "cosine" and not _has_mixed_mse():
        pytest.skip("sentence-transformers turns labels into fp32, which this torch does not compare with fp64")
    torch.manual_seed(0)
    vectors = torch.randn(3 * 9, 16, dtype=torch.float64)
    columns = 3 if name == "mnrl" else 2
    groups = torch.randperm(27)[: 9 * columns].view(9, columns)
    labels = torch.rand(9, dtype=torch.float64).float()
    theirs = {"mnrl": "MultipleNegativesRankingLoss", "cosent": "CoSENTLoss", "cosine": "CosineSimilarityLoss"}[name]
    found = {}
    for side in ("ours", "theirs"):
        given = vectors.clone().requires_grad_()
        if side == "theirs":
            model: Any = Embeddings(given)
            loss = getattr(losses, theirs)(model)
            loss = losses.MatryoshkaLoss(model, loss, list(widths)) if widths else loss
            value = loss([{"rows": groups[:, at]} for at in range(columns)], labels)
        else:
            settings = {"text": ("a", "b"), "label": None, "metric": "ndcg@10", "widths": widths}
            own = Vectors(**settings, loss_of_scores=name if name != "mnrl" else "cosent")
            targets = {"names": groups} if name == "mnrl" else {"label": labels, "names": groups}
            value = own.loss(given, _batch(groups, targets))
        (gradient,) = torch.autograd.grad(value, given)
        found[side] = (value.item(), gradient)
    assert found["ours"][0] == pytest.approx(found["theirs"][0], rel=1e-9)
    torch.testing.assert_close(found["ours"][1], found["theirs"][1], rtol=1e-7, atol=1e-12)


def _has_mixed_mse() -> bool:
    """Whether the squared error of fp64 values against fp32 ones has a gradient; torch 2.11's has none."""
    value = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    try:
        torch.nn.functional.mse_loss(value, torch.ones(1)).backward()
    except RuntimeError:
        return False
    return True


def _batch(groups: torch.Tensor, targets: dict[str, torch.Tensor]) -> Any:
    class Batch:
        pass

    made: Any = Batch()
    made.groups, made.targets, made.labels = groups, targets, targets.get("label")
    return made


def test_equal_texts_of_a_batch_are_no_negatives():
    """Rows 0 and 1 have one anchor, rows 1 and 2 one positive, and row 3's negative is row 0's anchor."""
    from stratatune.objectives.contrast import ranking_loss

    torch.manual_seed(1)
    vectors = torch.randn(8, 5, dtype=torch.float64)
    groups = torch.tensor([[0, 1, -1], [0, 2, -1], [3, 2, -1], [4, 5, 6]])
    names = torch.tensor([[10, 11, -100], [10, 12, -100], [13, 12, -100], [14, 15, 10]])
    cosines = 20 * torch.nn.functional.cosine_similarity(vectors[:, None], vectors[None, :], dim=2)
    candidates = {0: [1, 5], 1: [2, 5], 2: [2, 1, 5, 6], 3: [5, 1, 2, 6]}  # the positive first
    wanted = [
        torch.logsumexp(cosines[anchor, candidates[row]], 0) - cosines[anchor, candidates[row][0]]
        for row, anchor in enumerate([0, 0, 3, 4])
    ]
    torch.testing.assert_close(ranking_loss(vectors, groups, names, 20.0), torch.stack(wanted).mean())


def test_texts_are_stored_once(data, tiny_folder):
    from transformers import AutoTokenizer

    folder = str(tiny_folder("bert", "mlm"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    table = read(data / "triplets.jsonl")
    assert table.columns == ("anchor", "positive", "negative_1", "negative_2")  # by name, whatever their order
    encoded = objective_of(folder, table, {}, tokenizer).encode(table, tokenizer)
    texts = [text for row in zip(*table.texts, strict=True) for text in row]
    assert len(encoded) == len(set(texts)) and encoded.examples == 24
    prompted = objective_of(folder, table, {"query_prompt": "question:"}, tokenizer)
    assert prompted.query_prompt == "question: "
    with_prompt = prompted.encode(table, tokenizer)
    one = collate_examples(with_prompt, np.array([0]), 0)
    anchor = one.input_ids[one.groups[0, 0]][one.mask[one.groups[0, 0]]].tolist()
    assert anchor == tokenizer("question: " + table.texts[0][0])["input_ids"]
    again = replace(table, texts=(table.texts[0], table.texts[0]), columns=("anchor", "positive"), further={})
    apart = objective_of(folder, again, {"query_only": True}, tokenizer).encode(again, tokenizer)
    assert len(apart) == 2 * len(set(table.texts[0]))  # the tuned and the base's vector of one text


# --- documents that stay, and negatives that are mined --------------------------------------------------------------


def base_vectors(folder: str, texts: list[str]) -> np.ndarray:
    """By transformers alone: the mean over the tokens, of length 1."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    found = []
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            state = model(**inputs).last_hidden_state[0].mean(0)
        found.append(torch.nn.functional.normalize(state, dim=0).numpy())
    return np.stack(found)


@pytest.mark.parametrize("plan", ["2: full", "late_prompt(depth=2, tokens=2)"])
def test_query_only_leaves_the_documents_alone(plan, fit, data, tmp_path, tiny_folder):
    result = fit(objective="vectors(query_only=true)", plan=plan, epochs=3, lr=0.01, test=str(data / "dev.jsonl"))
    assert result.test["ndcg@10"] == pytest.approx(result.best["ndcg@10"], abs=1e-6)
    predictor = Predictor(tmp_path / "run", device="cpu")
    assert predictor.score(str(data / "dev.jsonl"))["metrics"]["ndcg@10"] == pytest.approx(result.best["ndcg@10"])
    texts = ["a good story", "a red story"]
    documents = write(tmp_path / "documents.jsonl", [{"document": text} for text in texts])
    queries = write(tmp_path / "queries.jsonl", [{"query": text} for text in texts])
    base = base_vectors(str(tiny_folder("bert", "mlm")), texts)
    np.testing.assert_allclose(predictor.predict(str(documents)).columns["vector"], base, atol=1e-5)
    moved = np.abs(np.array(predictor.predict(str(queries)).columns["vector"]) - base).max()
    assert moved > 1e-3 or result.best_epoch == 0


def test_mined_negatives_are_near_and_not_right(data, tiny_folder):
    from transformers import AutoTokenizer

    folder = str(tiny_folder("bert", "mlm"))
    tokenizer, table = AutoTokenizer.from_pretrained(folder), read(data / "train.jsonl")
    objective = objective_of(folder, table, {"mine": 3, "margin": 0.1}, tokenizer)
    encoded = objective.encode(table, tokenizer)
    vectors = np.random.default_rng(0).normal(size=(len(encoded), 4)).astype(np.float32)
    mined, said = objective.looked(encoded, vectors, training=True)
    full, count = int((mined.groups.sizes == 5).sum()), len(mined.groups.sizes)
    where = "each row" if full == count else f"{full} of {count} rows, fewer for the others"
    assert said[0].startswith("3 hard negatives mined from ") and said[0].endswith(f" documents for {where}")
    assert mined.groups.sizes.max() <= 5
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    right: dict[str, set[str]] = {}
    for anchor, positive in zip(*table.texts, strict=True):
        right.setdefault(anchor, set()).add(positive)
    text_of = dict(
        zip(encoded.groups.values.tolist(), [t for row in zip(*table.texts, strict=True) for t in row], strict=True)
    )
    documents = sorted({one for row in range(40) for one in encoded.groups.subset(np.array([row])).values[1:].tolist()})
    for row in range(40):
        anchor, positive, *negatives = mined.groups.subset(np.array([row])).values.tolist()
        limit = 0.9 * unit[anchor] @ unit[positive]
        legal = [
            one for one in documents
            if text_of[one] not in right[text_of[anchor]] and unit[anchor] @ unit[one] <= limit
        ]  # fmt: skip
        wanted = sorted(legal, key=lambda one: -unit[anchor] @ unit[one])[:3]
        assert negatives == wanted
    assert len(mined) == len(encoded)  # no text more: the trunk cache holds them all


def test_a_run_that_does_not_help_says_so(fit, tmp_path):
    result = fit(epochs=1, lr=10.0, clip=0.0)
    assert result.best_epoch == 0 and any("tuning did not help: the untuned base" in said for said in result.notices)
    for name, tensor in tensors(tmp_path / "run").items():
        base = load_base(json.loads((tmp_path / "run/adapter/adapter.json").read_text())["base"]["name"], "none").model
        assert torch.equal(tensor, dict(base.named_parameters())[name])
        break


@pytest.mark.parametrize(("plan", "starred"), [("2: full", True), ("late_prompt(depth=2, tokens=2)", False)])
def test_the_untuned_base_is_starred_only_where_it_can_be_kept(plan, starred, settings, data, tmp_path, capsys):
    given = {"train": str(data / "train.jsonl"), "eval": str(data / "dev.jsonl"), "text": (), "label": None}
    train(settings(**given, objective="vectors", plan=plan, epochs=1, out=str(tmp_path / "run")), reporter=Reporter())
    said = capsys.readouterr().err
    (base,) = (line for line in said.splitlines() if "untuned base  " in line)
    assert base.rstrip().endswith("*") == starred, said


# --- scores ----------------------------------------------------------------------------------------------------------


def test_equally_near_documents_stand_in_no_order():
    """A model whose vectors are all the same has the scores of chance, wherever the right document is in the file."""
    import itertools

    from stratatune.objectives.retrieval import search_scores

    for count, place in itertools.product((5, 10, 37), (0, 3, -1)):
        right = [frozenset({range(count)[place]})]
        found = search_scores(np.ones((1, 7), np.float32), np.ones((count, 7), np.float32), right)
        seen = range(1, 1 + min(count, 10))
        assert found["mrr@10"] == pytest.approx(sum(1 / at for at in seen) / count), (count, place)
        assert found["ndcg@10"] == pytest.approx(sum(1 / np.log2(at + 1) for at in seen) / count)
        assert found["recall@1"] == pytest.approx(1 / count) and found["recall@10"] == pytest.approx(len(seen) / count)
    random_ = np.random.default_rng(0)
    documents = np.repeat(random_.normal(size=(5, 3)), [1, 3, 1, 6, 4], axis=0).astype(np.float32)
    queries, orders = random_.normal(size=(4, 3)).astype(np.float32), [random_.permutation(15) for _ in range(200)]
    right, own = [frozenset({2}), frozenset({4, 5}), frozenset({14, 0, 1}), frozenset({9})], [None, 4, 3, None]
    found = search_scores(queries, documents, right, own)
    cosines = queries @ (documents / np.linalg.norm(documents, axis=1, keepdims=True)).T
    reciprocals = []
    for order in orders:  # any order in the file gives one score, which is the mean over the orders
        moved = np.argsort(order)
        again = search_scores(
            queries,
            documents[order],
            [frozenset(moved[[*one]].tolist()) for one in right],
            [one if one is None else int(moved[one]) for one in own],
        )
        assert again == pytest.approx(found, abs=1e-9)
        for row, wanted, alike in zip(cosines, right, own, strict=True):
            ranked = [one for one in sorted(order, key=lambda one: -row[one]) if one != alike or one in wanted]
            reciprocals.append(next((1 / at for at, one in enumerate(ranked[:10], start=1) if one in wanted), 0.0))
    assert found["mrr@10"] == pytest.approx(np.mean(reciprocals), abs=0.05)


def test_search_scores_are_those_of_sentence_transformers():
    evaluation = pytest.importorskip("sentence_transformers.sentence_transformer.evaluation")
    from stratatune.objectives.retrieval import search_scores

    random_ = np.random.default_rng(0)
    queries, documents = random_.normal(size=(12, 6)), random_.normal(size=(40, 6))
    right = [frozenset(random_.choice(40, size=size, replace=False).tolist()) for size in random_.integers(1, 4, 12)]

    class Model:
        similarity_fn_name = "cosine"

    evaluator = evaluation.InformationRetrievalEvaluator(
        {str(n): str(n) for n in range(12)},
        {str(n): str(n) for n in range(40)},
        {str(n): {str(one) for one in row} for n, row in enumerate(right)},
        **{"ndcg_at_k": [10], "mrr_at_k": [10], "precision_recall_at_k": [1, 10], "accuracy_at_k": [1]},
    )
    found = search_scores(queries, documents, right)
    cosines = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ (
        documents / np.linalg.norm(documents, axis=1, keepdims=True)
    ).T
    ranked = [[{"corpus_id": str(n), "score": float(row[n])} for n in np.argsort(-row)[:10]] for row in cosines]
    theirs = evaluator.compute_metrics(ranked)
    assert found["ndcg@10"] == pytest.approx(theirs["ndcg@k"][10])
    assert found["mrr@10"] == pytest.approx(theirs["mrr@k"][10])
    for k in (1, 10):
        assert found[f"recall@{k}"] == pytest.approx(theirs["recall@k"][k])


def test_an_anchor_s_own_text_is_no_wrong_answer(tiny_folder, tmp_path):
    """Of duplicate questions each is an anchor and a document; the loss takes it for none either."""
    from transformers import AutoTokenizer

    pairs = [("great", "good"), ("good", "great"), ("bad", "poor"), ("poor", "bad")]
    file = write(tmp_path / "pairs.jsonl", [{"anchor": one, "positive": two} for one, two in pairs])
    table = Vectors.read(str(file), ReadOptions())
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder("bert"))
    made = objective_of(str(tiny_folder("bert")), table, {}, tokenizer)
    data = made.encode(table, tokenizer)
    plane = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]], np.float32)  # of the texts, each stored once
    output = plane[data.groups.values]
    assert set(made.score(output, data, 1e-6)[0].values()) == {1.0}


def test_scored_pairs_are_learnt(fit, data, tmp_path):
    for loss in ("auto", "cosine"):
        out = tmp_path / loss
        given = {"train": str(data / "scored.jsonl"), "eval": str(data / "scored.jsonl"), "lr": 0.01, "epochs": 10}
        result = fit(**given, objective=f"vectors(loss={loss})", out=str(out))
        untuned = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])["eval_spearman"]
        assert result.best["spearman"] > untuned + 0.2 and set(result.best) == {"pearson", "spearman"}


# --- where it goes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "modernbert", "llama"])
@pytest.mark.parametrize(
    "options", ["pooling=mean", "pooling=first, normalise=false", "pooling=last", "query_prompt=ask:"]
)
def test_what_leaves_is_equal_in_sentence_transformers(name, options, fit, tmp_path, tiny_of_any):
    library = pytest.importorskip("sentence_transformers")
    fit(model=tiny_of_any(name), objective=f"vectors({options})", plan="2: lora(rank=4)", lr=0.02, epochs=1)
    out = tmp_path / "out"
    assert command(["export", str(tmp_path / "run"), "--to", "sentence-transformers", "--out", str(out)]) == 0
    card = (out / "README.md").read_text()
    assert 'library_name: "sentence-transformers"' in card and 'pipeline_tag: "sentence-similarity"' in card
    texts = ["a very good story", "bad", "the film that she saw was great and the day was long"]
    model = library.SentenceTransformer(str(out), device="cpu")
    predictor = Predictor(tmp_path / "run", device="cpu")
    ours = np.array(predictor.predict(texts).columns["vector"])
    np.testing.assert_allclose(model.encode(texts), ours, atol=2e-6)
    queries = write(tmp_path / "queries.jsonl", [{"query": text} for text in texts])
    ours = np.array(predictor.predict(str(queries)).columns["vector"])
    np.testing.assert_allclose(model.encode_query(texts), ours, atol=2e-6)
    assert model.max_seq_length == 32 and model.similarity_fn_name == "cosine"


@pytest.mark.parametrize("options", ["", ", query_prompt=ask:, pooling=first"])
def test_documents_that_stay_leave_with_the_base(options, fit, tmp_path, tiny_of_any):
    library = pytest.importorskip("sentence_transformers")
    fit(model=tiny_of_any("roberta"), objective=f"vectors(query_only=true{options})", eval=None, lr=0.01, epochs=3)
    out = tmp_path / "out"
    assert command(["export", str(tmp_path / "run"), "--to", "sentence-transformers", "--out", str(out)]) == 0
    texts = ["a very good story", "bad", "the film that she saw was great and the day was long"]
    model, predictor = library.SentenceTransformer(str(out), device="cpu"), Predictor(tmp_path / "run", device="cpu")
    sides = {"query": model.encode_query(texts), "document": model.encode_document(texts)}
    for side, theirs in sides.items():
        path = write(tmp_path / f"{side}.jsonl", [{side: text} for text in texts])
        np.testing.assert_allclose(theirs, np.array(predictor.predict(str(path)).columns["vector"]), atol=2e-6)
    assert np.abs(sides["query"] - sides["document"]).max() > 1e-3


PROMPTS = "query_prompt=ask:, document_prompt=told:"


@pytest.mark.parametrize(
    ("learnt", "names", "stays"),
    [("scored", "usual", "false"), ("scored", "own", "true"), ("ranked", "own", "false"), ("ranked", "usual", "true")],
)
def test_a_text_in_one_role_has_one_prompt_by_every_door(learnt, names, stays, fit, tmp_path, tiny_of_any):
    library = pytest.importorskip("sentence_transformers")
    import pandas as pd

    from stratatune.serving.task import Task
    from stratatune.serving.weights import SharedWeights

    usual = ("sentence1", "sentence2") if learnt == "scored" else ("anchor", "positive")
    own = usual if names == "usual" else ("ask", "reply")
    rows = [
        {own[0]: f"a {one} day", own[1]: f"the {two} book", **({"points": at / 9} if learnt == "scored" else {})}
        for at, (one, two) in enumerate(
            zip(("good", "bad", "red") * 3, ("one", "two", "blue", "fine") * 3, strict=False)
        )
    ]
    path = write(tmp_path / "pairs.jsonl", rows)
    fit(
        train=str(path),
        eval=None,
        model=tiny_of_any("bert"),
        objective=f"vectors({PROMPTS}, query_only={stays})",
        epochs=1,
        lr=0.05,
        text=own,
        label="points" if learnt == "scored" else None,
    )
    predictor = Predictor(tmp_path / "run", device="cpu")
    pairs = [(row[own[0]], row[own[1]]) for row in rows]
    frame = pd.DataFrame({name: [row[name] for row in rows] for name in own})
    as_file = write(tmp_path / "texts.jsonl", [{name: row[name] for name in own} for row in rows])
    expected = predictor.predict(frame)
    vectors = [np.array(expected.columns[f"{name}_vector"]) for name in own]
    served = Task.load("one", str(tmp_path / "run"), SharedWeights(), device="cpu")
    assert predictor.predict(str(as_file)).columns == expected.columns
    assert list(predictor.predict(pairs).columns.values()) == list(expected.columns.values())
    assert served.read(pairs).further == predictor.read(frame).further
    for at, name in enumerate(own):  # each column alone, beside one that is nothing
        alone = pd.DataFrame({"id": range(len(rows)), name: frame[name]})
        if learnt == "scored" and stays == "true" and at:
            continue  # of two sentences in one role only the second of a pair keeps the base model's vector
        np.testing.assert_allclose(predictor.predict(alone).columns["vector"], vectors[at], atol=1e-6)
    out = tmp_path / "out"
    assert command(["export", str(tmp_path / "run"), "--to", "sentence-transformers", "--out", str(out)]) == 0
    model, texts = library.SentenceTransformer(str(out), device="cpu"), [one for one, _ in pairs]
    np.testing.assert_allclose(model.encode_query(texts), vectors[0], atol=2e-6)
    np.testing.assert_allclose(model.encode(texts), np.array(predictor.predict(texts).columns["vector"]), atol=2e-6)
    replies = [two for _, two in pairs]
    if learnt == "ranked":
        np.testing.assert_allclose(model.encode_document(replies), vectors[1], atol=2e-6)
    else:  # every text of scored pairs is a query
        np.testing.assert_allclose(np.array(predictor.predict(texts).columns["vector"]), vectors[0], atol=1e-6)


def test_a_base_that_pools_is_read_as_it_does(fit, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    fit(objective="vectors(pooling=first, normalise=false)", epochs=1)
    out = tmp_path / "out"
    assert command(["export", str(tmp_path / "run"), "--to", "sentence-transformers", "--out", str(out)]) == 0
    result = fit(model=str(out), epochs=1, out=str(tmp_path / "again"), lr=1e-9)
    assert any("pooled by first, as the base model does" in said for said in result.notices)
    texts = ["a good story", "a bad day in the city"]
    ours = Predictor(tmp_path / "again", device="cpu").predict(texts).columns["vector"]
    np.testing.assert_allclose(library.SentenceTransformer(str(out), device="cpu").encode(texts), ours, atol=2e-6)


def test_another_objective_does_not_leave_so(run, tmp_path, capsys):
    run(objective="classification", plan="2: lora", epochs=1, out=str(tmp_path / "run"))
    capsys.readouterr()
    assert (
        command(["export", str(tmp_path / "run"), "--to", "sentence-transformers", "--out", str(tmp_path / "o")]) == 2
    )
    assert "no class in sentence-transformers" in capsys.readouterr().err


# --- doors -----------------------------------------------------------------------------------------------------------


def test_the_command_line(fit, data, tmp_path, tiny_folder, capsys):
    fit(epochs=1)
    run = str(tmp_path / "run")
    capsys.readouterr()
    texts = write(tmp_path / "texts.jsonl", [{"id": 7, "text": "a good story"}, {"id": 8, "text": "a day"}])
    for suffix in ("csv", "jsonl", "parquet", "npy"):
        out = tmp_path / f"said.{suffix}"
        assert command(["predict", run, "--data", str(texts), "--device", "cpu", "--out", str(out)]) == 0
    row = json.loads((tmp_path / "said.jsonl").read_text().splitlines()[0])
    assert row["id"] == 7 and len(row["vector"]) == 32
    np.testing.assert_allclose(np.load(tmp_path / "said.npy")[0], row["vector"], atol=1e-6)
    assert command(["predict", run, "--text", "a good story", "--device", "cpu"]) == 0
    assert command(["predict", run, "--text", "a story", "--text", "a day", "--device", "cpu", "--json"]) == 0
    capsys.readouterr()
    assert command(["eval", run, "--data", str(data / "dev.jsonl"), "--device", "cpu", "--json"]) == 0
    assert "ndcg@10" in json.loads(capsys.readouterr().out)["metrics"]
    model = str(tiny_folder("bert", "mlm"))
    assert command(["plan", "2: full", "--model", model, "--objective", "vectors", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["objective"] == "vectors"
    asked = ["--train", str(data / "train.jsonl"), "--model", model, "--objective", "vectors", "--device", "cpu"]
    assert command(["suggest", *asked, "--family", "spafit", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["views"]


BAD = {
    "a triplet with an empty side": (
        [{"anchor": "a", "positive": "b", "negative": ""}],
        {},
        "'negative' is empty in 1",
    ),
    "a negative that is the positive": ([{"anchor": "a", "positive": "b", "negative": "b"}], {}, "the negative is the"),
    "negatives in a list": (
        [{"anchor": "a", "positive": "b", "Hard_Negatives": ["c", "d"]}],
        {},
        "column 'Hard_Negatives' is not read",
    ),
    "no roles": ([{"a": "x", "b": "y"}], {}, "cannot tell the roles of the columns"),
    "two layouts": (
        [{"anchor": "a", "positive": "b", "sentence1": "a", "sentence2": "b", "score": 1}],
        {},
        "more than one layout fits",
    ),
    "a score beside ranked texts": ([{"anchor": "a", "positive": "b", "score": 1}], {}, "take no score"),
    "two anchors": ([{"anchor": "a", "query": "a", "positive": "b"}], {}, "both names for the anchor"),
    "roles out of order": ([{"anchor": "a", "positive": "b"}], {"text": "positive,anchor"}, "'anchor' is the anchor"),
    "a score in doubt": ([{"a": "x", "b": "y", "label": 1}], {"text": "a,b"}, 'if so, add label="label"'),
    "sentences without a score": ([{"sentence1": "a", "sentence2": "b"}], {}, "cannot tell the roles of the columns"),
    "a word for a score": ([{"sentence1": "a", "sentence2": "b", "score": "high"}], {}, "'high' is not a number"),
    "one column": ([{"a": "x"}], {"text": "a"}, "other columns are needed"),
    "a column twice": ([{"a": "x"}], {"text": "a,a"}, "other columns are needed"),
    "three columns, and a name that contradicts": (
        [{"ask": "x", "anchor": "y", "wrong": "z"}],
        {"text": "ask,anchor,wrong"},
        "by its name 'anchor' is the anchor",
    ),
    "one anchor": (
        [{"anchor": "a", "positive": one} for one in "bcde"],
        {"eval_split": 0.3},
        "all of 4 rows have one anchor",
    ),
    "a column that is not there": (
        [{"anchor": "a", "positive": "b"}],
        {"text": "anchor,answers"},
        "no column 'answers'",
    ),
    "equal scores": ([{"sentence1": "a", "sentence2": "b", "score": 2}] * 3, {}, "every score is 2"),
}
OPTIONS = {
    "pooling=max": "no pooling 'max'",
    "loss=triplet": "no loss 'triplet'",
    "loss=cosine": "the data are pairs without scores",
    "matryoshka=64 9000": "matryoshka '64 9000'",
    "scale=0": "scale 0",
    "margin=1": "margin 1",
    "scale=inf": "scale inf",
    "scale=1e30": "scale 1e+30",
    "query_only=yes": "query_only takes true or false",
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_get_one_line(case, fit, tmp_path):
    from stratatune.errors import UserError

    rows, settings, said = BAD[case]
    path = write(tmp_path / "bad.jsonl", rows)
    with pytest.raises(UserError) as caught:
        fit(train=str(path), eval=None, **settings)
    assert said in caught.value.message and "\n" not in caught.value.message, caught.value.message


@pytest.mark.parametrize("options", OPTIONS)
def test_bad_options_get_one_line(options, fit):
    from stratatune.errors import UserError

    with pytest.raises(UserError) as caught:
        fit(objective=f"vectors({options})")
    assert OPTIONS[options] in caught.value.message, caught.value.message


def test_from_python_with_a_report_and_several_trials(data, tmp_path, tiny_folder):
    import stratatune as st

    given = {"model": str(tiny_folder("bert", "mlm")), "train": str(data / "train.jsonl"), "objective": "vectors"}
    given |= {"eval": str(data / "dev.jsonl"), "device": "cpu", "epochs": 2, "batch_size": 8, "max_length": 24}
    given |= {"cache": "ram", "reporter": Reporter(quiet=True)}
    st.train(**given, plan="2: lora(rank=4)", lr=0.01, out=str(tmp_path / "one"))
    page = (tmp_path / "one" / "report.html").read_text()
    assert "ndcg@10" in page.lower()
    found = {}
    for together in ("always", "never"):
        settings = {**given, "out": str(tmp_path / together), "together": together}
        results = st.train_many(**settings, plans=["2: lora(rank=4)"], rates=[0.01, 0.003])
        assert not any("take turns" in said for one in results for said in one.notices)
        found[together] = [one.best["ndcg@10"] for one in results]
    assert found["always"] == pytest.approx(found["never"], abs=0.05)


@pytest.mark.parametrize("objective", ["vectors(mine=2)", "vectors(query_only=true)"])
def test_the_trunk_runs_once_over_each_text_in_one_epoch_too(objective, fit, data, monkeypatch, tmp_path):
    """Mining and the vectors that stay read the texts before the first epoch does: ``auto`` counts that."""
    from stratatune.cache.policy import Choice
    from stratatune.model.split import Trunk
    from stratatune.training import caching

    monkeypatch.setenv("STRATATUNE_CACHE", str(tmp_path / "caches"))
    # Whether a cache is worth its reading is a matter of this machine's speed, and not of this test.
    worth = lambda need, room: Choice("ram" if need.passes > 1 else "none", need.dtypes[0], "")  # noqa: E731
    monkeypatch.setattr(caching, "choose", worth)
    monkeypatch.setattr(caching.Caching, "_timed", lambda *_: 1.0)
    seen, own = [], Trunk.__call__

    def counted(self, input_ids, *rest):
        seen.append(len(input_ids))
        return own(self, input_ids, *rest)

    monkeypatch.setattr(Trunk, "__call__", counted)
    fit(objective=objective, cache="auto", epochs=1, eval=None)
    texts = {text for line in (data / "train.jsonl").read_text().splitlines() for text in json.loads(line).values()}
    assert sum(seen) == len(texts)


def test_prompts_of_the_base_s_folder_are_named(tmp_path):
    modules = [{"type": "sentence_transformers.models.Transformer", "path": ""}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    config = {"prompts": {"query": "query: ", "passage": "passage: ", "corpus": "", "sts": "same? "}}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(config))
    assert of_base(str(tmp_path)).prompts == {"query": "query: ", "document": "passage: "}

    def said(**options):
        asked = SimpleNamespace(tokens=SimpleNamespace(name_or_path=tmp_path), family="encoder", options=options)
        return " ".join(settled_pooling(asked, "mean", None)[2])

    assert "writes 'query: ' before each query, 'passage: ' before each document" in said()
    assert "'passage: ' before each document, and this run does not, unless document_prompt" in said(query_prompt="")
    assert not said(query_prompt="query:", document_prompt="passage:")
    (tmp_path / "config_sentence_transformers.json").write_text('{"prompts": ["query: "]}')
    assert of_base(str(tmp_path)).prompts == {} and not said()


@pytest.mark.parametrize(
    ("family", "sees_ahead", "wanted"),
    [("encoder", False, "mean"), ("decoder", False, "last"), ("decoder", True, "mean")],
)
def test_the_usual_pooling_is_of_tokens_that_know_the_text(family, sees_ahead, wanted):
    tokens: Any = SimpleNamespace(name_or_path="")
    asked = Asked(Plan.parse("lora"), family, 64, "vectors", tokenizer=tokens, sees_ahead=sees_ahead)
    assert settled_pooling(asked, None, None)[0] == wanted
