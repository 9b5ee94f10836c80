"""A corpus: documents that are searched, and mined, besides those of the rows."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stratatune.app.cli import run as command
from stratatune.data.read_options import ReadOptions
from stratatune.errors import UserError
from stratatune.objectives.retrieval import RANKINGS, nearest, search_scores
from stratatune.objectives.vectors import Vectors
from stratatune.training.predict import Predictor

ROWS = [
    {"anchor": "who wrote it", "positive": "she wrote the book"},
    {"anchor": "is it good", "positive": "a very good story"},
    {"anchor": "is it bad", "positive": "a terrible film"},
    {"anchor": "who wrote it", "positive": "it was she"},
]
DOCUMENTS = [
    "a good book",
    "a very good story",
    "is it good",
    "one red day",
    "two blue films",
    "a good book",
    "the end",
]
"""Of seven documents one is a positive, one an anchor's own text, and one stands twice."""
ALL = ["she wrote the book", "a very good story", "a terrible film", "it was she", *DOCUMENTS[:1], *DOCUMENTS[2:5]]
ALL += DOCUMENTS[6:]


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


@pytest.fixture
def texts_on_disk(tmp_path: Path) -> dict[str, str]:
    return {
        "pairs": write(tmp_path / "pairs.jsonl", ROWS),
        "corpus": write(tmp_path / "corpus.jsonl", [{"id": n, "text": text} for n, text in enumerate(DOCUMENTS)]),
        "scored": write(tmp_path / "scored.jsonl", [{"sentence1": "a", "sentence2": "b", "score": n} for n in (0, 1)]),
    }


@pytest.fixture
def fit(run, texts_on_disk, tmp_path):
    """Gives ``fit(**changes)``: a run on the pairs, over the corpus."""

    def make(**changes: Any) -> Any:
        own = {
            "train": texts_on_disk["pairs"],
            "eval": texts_on_disk["pairs"],
            "corpus": texts_on_disk["corpus"],
            "text": (),
            "label": None,
        }
        own |= {"objective": "vectors", "plan": "2: full", "out": str(tmp_path / "run"), "max_length": 32}
        return run(**{**own, "epochs": 2, "lr": 0.01, **changes})

    return make


def expected(predictor: Predictor, *, untuned: bool = False) -> dict[str, float]:
    """The scores of the pairs over the corpus, from single vectors."""
    anchors = ["who wrote it", "is it good", "is it bad"]
    right = [frozenset({0, 3}), frozenset({1}), frozenset({2})]
    kind = "untuned" if untuned else "output"

    def vectors(texts: list[str], role: str) -> np.ndarray:
        return getattr(predictor, kind)(predictor.read({role: texts}))

    documents = predictor.predict({"document": ALL}).columns["vector"] if not untuned else vectors(ALL, "document")
    own = [None, ALL.index("is it good"), None]
    return search_scores(vectors(anchors, "query"), np.array(documents, np.float32), right, own)


# --- what is searched ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["vectors", "vectors(query_only=true)", "vectors(document_prompt=doc:)"])
def test_the_corpus_is_searched_in_every_evaluation(objective, fit, texts_on_disk, tmp_path):
    result = fit(objective=objective, test=texts_on_disk["pairs"])
    predictor = Predictor(tmp_path / "run", device="cpu")
    found = expected(predictor)
    again = predictor.score(texts_on_disk["pairs"], corpus=texts_on_disk["corpus"])
    for name in RANKINGS:
        assert result.best[name] == pytest.approx(found[name], abs=1e-5), name
        assert result.test[name] == pytest.approx(found[name], abs=1e-5), name
        assert again["metrics"][name] == pytest.approx(found[name], abs=1e-5), name
    said = "9 documents are searched, 5 of them from the corpus alone"
    assert said in again["notices"] and said in " ".join(result.notices) and again["n"] == len(ROWS)
    history = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    base = expected(predictor, untuned=True)
    assert history[0]["epoch"] == 0 and history[0]["eval_ndcg@10"] == pytest.approx(base["ndcg@10"], abs=1e-5)
    assert all(np.isfinite(line["eval_loss"]) and line["eval_loss"] > 0 for line in history)
    assert "corpus: " in (tmp_path / "run" / "config.yaml").read_text()


def test_without_the_corpus_eval_says_so(fit, texts_on_disk, tmp_path):
    fit()
    predictor = Predictor(tmp_path / "run", device="cpu")
    plain = predictor.score(texts_on_disk["pairs"])
    (said,) = (one for one in plain["notices"] if "corpus" in one)
    assert said == 'the run searched the corpus corpus.jsonl too, and this score is without it: give corpus="FILE"'
    in_memory = predictor.score(ROWS, corpus=DOCUMENTS)["metrics"]
    from_file = predictor.score(texts_on_disk["pairs"], corpus=texts_on_disk["corpus"])["metrics"]
    assert in_memory == pytest.approx(from_file, abs=1e-6)
    assert plain["metrics"]["recall@1"] >= from_file["recall@1"]


def test_a_corpus_of_positives_changes_nothing(fit, tmp_path, texts_on_disk):
    same = write(tmp_path / "same.jsonl", [{"document": row["positive"]} for row in ROWS])
    one = fit(corpus=same, out=str(tmp_path / "one"))
    two = fit(corpus=None, out=str(tmp_path / "two"))
    assert one.best == two.best and not any("from the corpus" in said for said in one.notices)


def test_the_loss_of_an_evaluation_takes_documents_for_negatives():
    from stratatune.objectives.contrast import ranking_loss, with_lone

    random = torch.Generator().manual_seed(0)
    vectors = torch.randn(7, 4, generator=random)
    groups = torch.tensor([[0, 1, -1], [5, -1, -1], [2, 3, 4], [6, -1, -1]])
    names = torch.where(groups < 0, -100, groups + 50)
    found = ranking_loss(vectors, *with_lone(groups, names), 20.0)
    wanted = torch.tensor([[0, 1, 5, 6], [2, 3, 4, -1]])
    assert found == ranking_loss(vectors, wanted, torch.where(wanted < 0, -100, wanted + 50), 20.0)
    for alone in (groups[[1, 3]], groups[[1, 3], :1]):
        assert not len(with_lone(alone, alone)[0])


# --- what is mined ---------------------------------------------------------------------------------------------------


def test_negatives_are_mined_from_the_corpus_too(texts_on_disk, tiny_folder):
    from dataclasses import replace

    from transformers import AutoTokenizer

    from stratatune.data.corpus import read_corpus
    from stratatune.objectives.asked import Asked
    from stratatune.plan import Plan

    folder = str(tiny_folder("bert", "mlm"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    table = replace(
        Vectors.read(texts_on_disk["pairs"], ReadOptions()), corpus=read_corpus(texts_on_disk["corpus"], "text")
    )
    own = {"table": table, "tokenizer": tokenizer, "options": {"mine": 20, "margin": 0.0}, "objective": "vectors"}
    asked = Asked(plan=Plan.parse("2: full"), family="encoder", longest=64, hidden=32, **own)
    objective, _ = Vectors.settle(asked)
    data = objective.encode(table, tokenizer)
    assert data.groups is not None
    assert data.groups.sizes.tolist() == [2] * 4 + [1] * 5
    vectors = np.random.default_rng(0).normal(size=(len(data), 4)).astype(np.float32)
    mined, said = objective.looked(data, vectors, training=True)
    assert mined.groups is not None
    assert "from 9 documents" in said[0] and mined.examples == 4 and len(mined) == len(data)
    names = data.targets["names"].values
    name_of = dict(zip(data.groups.values.tolist(), names.tolist(), strict=True))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    taken = set()
    for row in range(4):
        anchor, positive, *negatives = mined.groups.subset(np.array([row])).values.tolist()
        assert not {name_of[one] for one in negatives} & {name_of[anchor], name_of[positive]}
        assert all(unit[anchor] @ unit[one] <= unit[anchor] @ unit[positive] + 1e-6 for one in negatives)
        taken |= set(negatives)
    assert taken & set(data.groups.values[8:].tolist())
    first, last = (mined.groups.subset(np.array([row])).values.tolist() for row in (0, 3))
    assert last[1] not in first and first[1] not in last  # each is the other's answer


def test_a_run_mines_from_its_corpus(fit, tmp_path):
    result = fit(objective="vectors(mine=2)")
    assert any("hard negatives mined from 9 documents" in said for said in result.notices)
    alone = fit(objective="vectors(mine=2)", eval=None, out=str(tmp_path / "alone"))
    assert any("hard negatives mined from 9 documents" in said for said in alone.notices)


def test_the_nearest_are_those_of_a_whole_sort():
    random = np.random.default_rng(0)
    queries = random.normal(size=(20, 3)).astype(np.float32)
    documents = np.repeat(random.normal(size=(30, 3)), random.integers(1, 4, 30), axis=0).astype(np.float32)
    cosines = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ (
        documents / np.linalg.norm(documents, axis=1, keepdims=True)
    ).T
    for count in (1, 7, 500):
        numbers, found = nearest(queries, documents, count)
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        assert (numbers == order).all() and np.allclose(found, np.take_along_axis(cosines, order, axis=1))


# --- how often anything runs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["disk", "ram", "int8"])
@pytest.mark.parametrize("objective", ["vectors", "vectors(mine=2)", "vectors(mine=2, query_only=true)"])
def test_the_trunk_runs_once_for_each_text(objective, cache, fit, texts_on_disk, monkeypatch, tmp_path):
    from stratatune.model.split import Trunk

    seen, own = [], Trunk.__call__

    def counted(self, input_ids, *rest):
        seen.append(len(input_ids))
        return own(self, input_ids, *rest)

    monkeypatch.setattr(Trunk, "__call__", counted)
    place = {"cache": "ram"} if cache == "ram" else {"cache": str(tmp_path / "caches")}
    other = [{"anchor": "what is new", "positive": "the news"}]
    given = {
        "train": texts_on_disk["pairs"],
        "eval": write(tmp_path / "dev.jsonl", other),
        "test": texts_on_disk["pairs"],
    }
    fit(**given, **place, objective=objective, cache_dtype="int8" if cache == "int8" else "fp32")
    texts = {text for row in (*ROWS, *other) for text in row.values()} | set(DOCUMENTS)
    sampled = 0 if cache != "int8" else len({text for row in ROWS for text in row.values()})  # for the scales
    if sampled and "mine" in objective:
        sampled += len(set(DOCUMENTS) - {text for row in ROWS for text in row.values()})
    assert sum(seen) - sampled == len(texts)


def test_documents_that_stay_run_through_the_top_once(fit, monkeypatch, tmp_path):
    from stratatune.training.forward import Forward

    seen, own = [], Forward.above

    def counted(self, hidden, batch, *, training):
        seen.append(len(batch))
        return own(self, hidden, batch, training=training)

    monkeypatch.setattr(Forward, "above", counted)
    counts = []
    for epochs in (1, 3):
        seen.clear()
        fit(objective="vectors(query_only=true)", epochs=epochs, out=str(tmp_path / f"{epochs}"))
        counts.append(sum(seen))
    # Two epochs more: the three anchors of four rows, learnt from and scored, and no document.
    assert counts[1] - counts[0] <= 2 * (4 + 4)


# --- how it is read --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["txt", "csv", "tsv.gz", "parquet", "jsonl.gz"])
def test_forms_of_a_corpus(form, tmp_path):
    import pandas as pd

    from stratatune.data.corpus import read_corpus

    frame, path = pd.DataFrame({"passage": DOCUMENTS}), tmp_path / f"corpus.{form}"
    if form == "txt":
        path.write_text("\n".join(DOCUMENTS) + "\n")
    elif form == "parquet":
        frame.to_parquet(path)
    elif form == "csv":
        frame.assign(id=1).to_csv(path, index=False)
    elif form == "tsv.gz":
        frame.to_csv(path, index=False, sep="\t")
    else:
        with gzip.open(path, "wt") as file:
            file.write("".join(f"{json.dumps({'_id': 'd', 'title': 't', 'text': one})}\n" for one in DOCUMENTS))
    assert read_corpus(str(path), "text" if form == "jsonl.gz" else None).texts == (DOCUMENTS,)


@pytest.mark.parametrize("saved", [False, True])
def test_of_several_splits_one_is_given(saved, tmp_path):
    from datasets import Dataset, DatasetDict

    from stratatune.data.corpus import read_corpus
    from stratatune.spelling import read_by

    part = Dataset.from_dict({"text": DOCUMENTS})
    data = DatasetDict({"train": part, "test": part})
    data.save_to_disk(tmp_path / "saved")
    source = str(tmp_path / "saved") if saved else data
    with pytest.raises(UserError, match="has several splits") as caught:
        read_corpus(source)
    assert caught.value.hint == "give one split: corpus=data['train'], or a file or folder of its own"
    with read_by("command"), pytest.raises(UserError, match="has several splits") as caught:
        read_corpus(source)
    assert caught.value.hint == "give one split, train or test, as a file or folder of its own: --corpus FILE"
    part.save_to_disk(tmp_path / "part")
    for one in (data["train"], str(tmp_path / "part"), str(tmp_path / "saved" / "train")):
        assert read_corpus(one).texts[0] == DOCUMENTS


def test_an_empty_corpus_is_refused():
    from stratatune.data.corpus import read_corpus

    with pytest.raises(UserError, match="^the list of texts: there are no rows"):
        read_corpus([])


def test_of_a_folder_of_files_one_is_given(texts_on_disk, tmp_path):
    from stratatune.data.corpus import read_corpus

    with pytest.raises(UserError, match="is a folder") as caught:
        read_corpus(str(tmp_path))
    assert caught.value.hint == 'give one file in it: corpus="FILE"'


BAD = {
    "a file that is missing": ({"corpus": "corpsu.jsonl"}, "corpus: 'corpsu.jsonl'; no such file"),
    "an empty file": ({"corpus": ""}, "is empty"),
    "a header alone": ({"corpus": "text\n"}, "there are no rows"),
    "no text column": ({"corpus": "a,b\n1,2\n"}, "which column holds the documents? columns: a, b"),
    "two text columns": ({"corpus": "title,text\n1,2\n"}, "which column holds the documents? columns: title, text"),
    "another column": ({"corpus": "text\nx\n", "corpus_column": "txt"}, "has no column 'txt'"),
    "a blank document": ({"corpus": "text,n\n ,1\nx,2\n"}, "text column 'text' is empty in 1 of 2 rows"),
    "a column and no corpus": ({"corpus": None, "corpus_column": "text"}, "corpus_column: 'text'; there is no corpus"),
    "another objective": (
        {"objective": "classification", "plan": "2: full"},
        "corpus: the objective classification does not read it; leave it out, or use vectors",
    ),
    "pairs with scores": ({"train": "scored", "eval": "scored"}, "pairs with scores search no documents"),
    "no evaluation": ({"eval": None}, "it is searched in evaluation, and there are no evaluation data"),
}


@pytest.mark.parametrize("case", BAD)
def test_mistakes_get_one_line(case, fit, texts_on_disk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given, said = BAD[case]
    given = {name: texts_on_disk.get(str(value), value) for name, value in given.items()}
    if isinstance(text := given.get("corpus"), str) and not text.endswith(".jsonl"):
        Path("bad.csv").write_text(text)
        given["corpus"] = "bad.csv"
    with pytest.raises(UserError) as caught:
        fit(**given)
    assert said in str(caught.value.message) and "\n" not in caught.value.message, caught.value.message


def test_the_command_line(fit, texts_on_disk, tmp_path, capsys, tiny_folder):
    given = [
        "--model",
        str(tiny_folder("bert", "mlm")),
        "--train",
        texts_on_disk["pairs"],
        "--eval",
        texts_on_disk["pairs"],
    ]
    given += ["--objective", "vectors", "--plan", "2: full", "--epochs", "1", "--device", "cpu", "--quiet"]
    given += ["--corpus", texts_on_disk["corpus"], "--corpus-column", "text", "--out", str(tmp_path / "run")]
    assert command(["train", *given]) == 0
    run, data = str(tmp_path / "run"), ["--data", texts_on_disk["pairs"]]
    capsys.readouterr()
    assert command(["eval", run, *data, "--corpus", texts_on_disk["corpus"], "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert any("9 documents are searched" in one for one in said["notices"])
    assert "documents are searched" in (tmp_path / "run" / "report.html").read_text()
    for wrong, line in (
        ([*data, "--corpus", str(tmp_path / "none.jsonl")], "corpus: "),
        ([*data, "--corpus-column", "text"], "there is no corpus"),
        (
            ["--corpus", texts_on_disk["corpus"], "--forgetting", texts_on_disk["corpus"]],
            "corpus: there are no data to search it with",
        ),
    ):
        assert command(["eval", run, *wrong]) == 2
        assert line in capsys.readouterr().err


def said_without(folder: Path) -> list[str]:
    """The notice of a score that is without the run's corpus, up to the name of that."""
    notices = Predictor(folder, device="cpu").score(ROWS)["notices"]
    return [one.split(" too, ")[0] for one in notices if "corpus" in one]


def test_from_python(texts_on_disk, tiny_folder, tmp_path):
    import pandas as pd

    import stratatune as st
    from stratatune.progress import Reporter

    result = st.train(
        model=str(tiny_folder("bert", "mlm")),
        train=ROWS,
        eval=ROWS,
        corpus=pd.DataFrame({"passage": DOCUMENTS}),
        objective="vectors",
        plan="2: full",
        epochs=1,
        device="cpu",
        out=str(tmp_path / "run"),
        reporter=Reporter(quiet=True),
    )
    assert any("9 documents are searched" in said for said in result.notices)
    assert said_without(tmp_path / "run") == ["the run searched a corpus given in memory"]


def test_a_list_of_files_is_one_corpus_at_every_door(fit, texts_on_disk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = [write(tmp_path / f"c{at}.jsonl", [{"text": one} for one in DOCUMENTS[at::2]]) for at in (0, 1)]
    result = fit(corpus=parts)
    predictor, pairs = Predictor(tmp_path / "run", device="cpu"), texts_on_disk["pairs"]
    for corpus in (parts, list(map(Path, parts)), tuple(parts), ["c0.jsonl", "c1.jsonl"]):
        found = predictor.score(pairs, corpus=corpus)
        assert "9 documents are searched, 5 of them from the corpus alone" in found["notices"]
        assert found["metrics"]["ndcg@10"] == pytest.approx(result.best["ndcg@10"], abs=1e-6)
    with pytest.raises(UserError, match=r"no file .*typo\.jsonl"):
        predictor.score(pairs, corpus=[parts[0], "typo.jsonl"])


def test_the_corpus_of_a_run_is_remembered_by_its_names(fit, texts_on_disk, tmp_path):
    parts = [write(tmp_path / f"c{at}.jsonl", [{"text": one} for one in DOCUMENTS[at::2]]) for at in (0, 1)]
    fit(corpus=parts, epochs=1)
    assert said_without(tmp_path / "run") == ["the run searched the corpus c0.jsonl, c1.jsonl"]
    fit(corpus=str(tmp_path / "c?.jsonl"), epochs=1, out=str(tmp_path / "pattern"))
    assert said_without(tmp_path / "pattern") == ["the run searched the corpus c?.jsonl"]
    comma = write(tmp_path / "a,b.jsonl", [{"text": one} for one in DOCUMENTS])
    fit(corpus=comma, epochs=1, out=str(tmp_path / "comma"))
    assert said_without(tmp_path / "comma") == ["the run searched the corpus a,b.jsonl"]


def test_a_corpus_that_nothing_searched_is_not_remembered(run, texts_on_disk, tmp_path):
    """Under `auto` a corpus may be given to an objective that does not read it."""
    result = run(plan="2: full", objective="auto", corpus=texts_on_disk["corpus"], out=str(tmp_path / "run"))
    assert any("corpus: the objective classification does not read it" in said for said in result.notices)
    assert "corpus" not in json.loads((tmp_path / "run" / "adapter" / "adapter.json").read_text())["reading"]


def test_another_model_has_no_corpus(run, texts_on_disk, tmp_path):
    run(plan="2: full", objective="classification", out=str(tmp_path / "run"))
    with pytest.raises(UserError, match="learnt classification, which searches no documents"):
        Predictor(tmp_path / "run", device="cpu").score(texts_on_disk["pairs"], corpus=DOCUMENTS)


def test_a_streamed_trunk_gives_the_same(fit, texts_on_disk, tmp_path):
    given = {"objective": "vectors(mine=2)", "plan": "2: lora(rank=2)", "cache": str(tmp_path / "caches")}
    streamed = fit(**given, trunk="streamed", out=str(tmp_path / "streamed"))
    given["cache"] = "ram"
    resident = fit(**given, trunk="resident", out=str(tmp_path / "resident"))
    assert streamed.best["ndcg@10"] == pytest.approx(resident.best["ndcg@10"], abs=1e-6)


def test_several_trials_search_one_corpus(texts_on_disk, tiny_folder, tmp_path):
    import stratatune as st
    from stratatune.progress import Reporter

    given = {"model": str(tiny_folder("bert", "mlm")), "train": ROWS, "eval": ROWS, "corpus": DOCUMENTS}
    given |= {"objective": "vectors(mine=2)", "epochs": 1, "device": "cpu", "cache": "ram", "max_length": 32}
    given |= {"reporter": Reporter(quiet=True)}
    several = st.train_many(**given, plans=["2: full"], rates=[0.01, 0.001], out=str(tmp_path / "several"))
    alone = st.train(**given, plan="2: full", lr=0.001, out=str(tmp_path / "alone"))
    assert several[1].best == pytest.approx(alone.best)


@pytest.mark.parametrize("batch", [{"batch_size": 32}, {"token_budget": 64}])
def test_auto_counts_no_document_as_a_row(batch, tiny_folder, tmp_path):
    from stratatune.progress import Reporter
    from stratatune.studies.suggest.auto import choose
    from stratatune.training.config import IN_MEMORY, validate

    given = {"model": str(tiny_folder("bert", "mlm")), "train": IN_MEMORY, "objective": "vectors(mine=1)", **batch}
    given |= {"device": "cpu", "out": str(tmp_path / "run")}
    texts = {"train": ROWS, "corpus": [f"a {'good ' * 20} film {number}" for number in range(3000)]}
    quiet = Reporter(quiet=True)
    alone = choose(validate(given), tables={"train": ROWS}, reporter=quiet)
    found = choose(validate({**given, "corpus": IN_MEMORY}), tables=texts, reporter=quiet)
    assert found.config.epochs == alone.config.epochs == 10
    assert found.config.plan == alone.config.plan
    assert found.why == alone.why
    assert [one["operations"] for one in found.record["plans"]] == [one["operations"] for one in alone.record["plans"]]


def test_a_plan_is_suggested_without_it(texts_on_disk, tiny_folder):
    import stratatune as st
    from stratatune.progress import Reporter

    given = {"train": ROWS * 8, "corpus": DOCUMENTS, "objective": "vectors(mine=2)", "device": "cpu"}
    found = st.suggest(model=str(tiny_folder("bert", "mlm")), **given, reporter=Reporter(quiet=True))
    assert found.plan
