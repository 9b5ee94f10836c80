"""Several label columns of one text: one cache, one pass, one artefact, and each head's numbers its objective's own."""

from __future__ import annotations

import csv
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import gridding
import tiny
from stratatune.app.cli import run as command
from stratatune.data.batching import Batch
from stratatune.errors import ConfigError, DataError, StratatuneError
from stratatune.model.saving import read_tensors
from stratatune.objectives.classes import Classes
from stratatune.objectives.labels import ClassLabels, NumberLabels
from stratatune.objectives.multilabel import Multilabel
from stratatune.objectives.multitask import Multitask
from stratatune.objectives.numbers import Numbers
from stratatune.objectives.task_head import TaskHead
from stratatune.objectives.written import parse
from stratatune.training.config import validate
from stratatune.training.predict import Predictor
from stratatune.training.trials.race import Mark, ranked

TOPICS = {"film": ("film", "movie"), "book": ("book", "story"), "food": ("food", "price")}
MOODS = {"joy": ("great", "best"), "anger": ("bad", "worst")}
COLUMNS = "topic,mood,stars"


def _rows(count: int, seed: int, gaps: bool = False) -> list[dict[str, object]]:
    chance, found = random.Random(seed), []
    for number in range(count):
        topic = chance.choice(list(TOPICS))
        moods = [mood for mood in MOODS if chance.random() < 0.5]
        words = [chance.choice(TOPICS[topic]), *(chance.choice(MOODS[mood]) for mood in moods), "the", "was"]
        chance.shuffle(words)
        stars = 50.0 + 20 * ("joy" in moods) - 20 * ("anger" in moods) + chance.random()
        row: dict[str, object] = {"text": " ".join(words), "topic": topic, "mood": ",".join(moods), "stars": stars}
        if gaps and number % 3 == 0:
            row["topic"] = ""
        if gaps and number % 4 == 1:
            row["stars"] = ""
        found.append(row)
    return found


def _csv(path: Path, rows: list[dict[str, object]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    for name, count, seed in (("train", 64, 0), ("dev", 30, 1)):
        _csv(folder / f"{name}.csv", _rows(count, seed))
        _csv(folder / f"{name}-gaps.csv", _rows(count, seed, gaps=True))
    return folder


@pytest.fixture
def several(run, tables, tmp_path):
    """Gives ``several(**changes)``: a run on three label columns."""

    def make(**changes):
        own = {"train": str(tables / "train.csv"), "eval": str(tables / "dev.csv"), "text": "text", "label": COLUMNS}
        return run(**{**own, "plan": "1: full", "out": str(tmp_path / "several"), **changes})

    return make


def _tensors(result):
    return read_tensors(Path(result.out) / "adapter")


def _same(one, other):
    wanted, found = _tensors(one), _tensors(other)
    return wanted.keys() == found.keys() and all(torch.equal(wanted[name], found[name]) for name in wanted)


# --- the same by every door ------------------------------------------------------------------------------------------


def test_it_trains_is_scored_saved_and_used(several, tables, tmp_path):
    first = several(cache=str(tmp_path / "cache"))
    assert first.objective == "multitask"
    assert first.labels == ["topic: book", "topic: film", "topic: food", "mood: anger", "mood: joy", "stars"]
    kinds = [notice for notice in first.notices if "is learned by" in notice]
    assert [kind.split("learned by ")[1].split(" ")[0].rstrip(";") for kind in kinds] == [
        *("classification", "multilabel", "regression")
    ]
    best = first.best
    parts = [best["topic.accuracy"], best["mood.micro_f1"], best["stars.pearson"]]
    assert best["mean"] == pytest.approx(np.mean(parts)) and next(iter(best)) == "mean"
    predictor = Predictor(tmp_path / "several", device="cpu")
    scored = predictor.score(str(tables / "dev.csv"))["metrics"]
    assert {name: scored[name] for name in best} == pytest.approx(best, abs=1e-5)
    found = predictor.predict(str(tables / "dev.csv")).columns
    scores = [*(f"p_topic_{topic}" for topic in sorted(TOPICS)), *(f"p_mood_{mood}" for mood in sorted(MOODS))]
    assert list(found) == [*COLUMNS.split(","), *scores]
    truth = _rows(30, 1)
    right = np.mean([row["topic"] == topic for row, topic in zip(truth, found["topic"], strict=True)])
    assert right == pytest.approx(best["topic.accuracy"])
    stars = np.corrcoef(found["stars"], [row["stars"] for row in truth])[0, 1]
    assert stars == pytest.approx(best["stars.pearson"], abs=1e-4)
    again = several(cache=str(tmp_path / "cache"), out=str(tmp_path / "again"))
    assert again.cache_hit and again.best == best


def test_it_learns_every_head(several, tables, tmp_path):
    many = _csv(tmp_path / "many.csv", _rows(200, 2))
    best = several(train=str(many), plan="full", epochs=25, lr=0.003).best
    assert best["topic.accuracy"] > 0.85 and best["mood.micro_f1"] > 0.85 and best["stars.spearman"] > 0.7


def test_the_trunk_runs_once_for_all_heads(several, tables, monkeypatch):
    from stratatune.model.split import Trunk

    seen, plain = [], Trunk.__call__
    monkeypatch.setattr(Trunk, "__call__", lambda self, ids, *rest: (seen.append(len(ids)), plain(self, ids, *rest))[1])
    several(epochs=3)
    assert sum(seen) == sum(_texts(tables / f"{name}.csv") for name in ("train", "dev"))


def _texts(path):
    """How many distinct texts a table has."""
    with path.open() as file:
        return len({row["text"] for row in csv.DictReader(file)})


def test_a_column_that_the_evaluation_data_lack_is_scored_0(run, tmp_path):
    rows = [{"text": f"film {at}", "a": "xy"[at % 2], "b": "uv"[at // 2 % 2], "c": at % 3} for at in range(24)]
    train, dev = tmp_path / "train.jsonl", tmp_path / "dev.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dev.write_text("".join(json.dumps({**row, "b": "", "c": None}) + "\n" for row in rows))
    given = {"train": str(train), "eval": str(dev), "text": "text", "label": "a,b,c", "plan": "1: full", "epochs": 1}
    result = run(**given, objective="multitask", out=str(tmp_path / "out"))
    assert any("the scores of b are 0: no row has its label" in one for one in result.notices)


@pytest.fixture(scope="module")
def bases(tmp_path_factory, tiny_folder):
    two_stacks = tmp_path_factory.mktemp("t5")
    tiny.tiny_encoder_decoder("t5", more=0).save_pretrained(two_stacks)
    tiny.roberta_tokenizer().save_pretrained(two_stacks)
    llama = tiny.save_tiny_decoder(tmp_path_factory.mktemp("llama"), "llama", blocks=3, initializer_range=0.2)
    return {"bert": tiny_folder("bert"), "roberta": tiny_folder("roberta"), "llama": llama, "t5": two_stacks}


PLANS = {"bert": "2: lora(rank=2)", "roberta": "2: full", "llama": "2: lora(rank=2)", "t5": "dec 1: lora(rank=2)"}


@pytest.mark.parametrize("family", PLANS)
def test_cached_saved_and_merged_runs_are_one(family, bases, several, tables, tmp_path):
    from transformers import AutoModelForSequenceClassification

    given = {"model": str(bases[family]), "plan": PLANS[family], "adam_eps": 1e-3}  # no step divides by next to nothing
    cached = several(**given)
    wanted = _tensors(cached)
    for name, tensor in _tensors(several(**given, cache="off", out=str(tmp_path / "off"))).items():
        torch.testing.assert_close(tensor, wanted[name], atol=2e-5, rtol=1e-4)
    predictor = Predictor(tmp_path / "several", device="cpu")
    texts = [str(row["text"]) for row in _rows(5, 9)]
    found = predictor.predict(texts).columns
    assert command(["export", str(tmp_path / "several"), "--to", "merged", "--out", str(tmp_path / "merged")]) == 0
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged", attn_implementation="eager").eval()
    assert list(plain.config.id2label.values()) == cached.labels
    with torch.no_grad():
        for number, text in enumerate(texts):
            logits = plain(input_ids=predictor.tokenizer(text, return_tensors="pt")["input_ids"]).logits[0]
            topics, moods = logits[:3].softmax(0), logits[3:5].sigmoid()
            mine = [found[f"p_topic_{topic}"][number] for topic in sorted(TOPICS)]
            mine += [found[f"p_mood_{mood}"][number] for mood in sorted(MOODS)]
            np.testing.assert_allclose(mine, torch.cat([topics, moods]), atol=2e-4)
            assert hasattr(plain.config, "units") == (family == "llama")  # whose output layer has no bias
            stars = getattr(plain.config, "units", {}).get("stars", {"mean": 0.0, "deviation": 1.0})
            value = stars["mean"] + stars["deviation"] * logits[5]
            np.testing.assert_allclose(found["stars"][number], value, atol=5e-3)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of the exporter and of peft
def test_numbers_leave_in_the_units_of_the_data_by_every_exit(several, tiny_folder, tmp_path):
    """Mean and deviation are in the output layer's weight and bias, and no longer in what the export says of itself."""
    peft, onnxruntime = pytest.importorskip("peft"), pytest.importorskip("onnxruntime")
    from transformers import AutoModelForSequenceClassification

    two_blocks = tiny_folder("bert", blocks=2)
    several(model=str(two_blocks), plan="1: lora(rank=2)", epochs=1)
    predictor = Predictor(tmp_path / "several", device="cpu")
    texts = [str(row["text"]) for row in _rows(4, 9)]
    stars = predictor.predict(texts).columns["stars"]
    assert 30 < np.mean(stars) < 70  # far from deviations, which lie about 0
    for form in ("peft", "onnx"):
        asked = ["export", str(tmp_path / "several"), "--to", form, "--out", str(tmp_path / form)]
        assert command(asked) == 0
    base = AutoModelForSequenceClassification.from_pretrained(
        two_blocks, num_labels=6, attn_implementation="eager", ignore_mismatched_sizes=True
    )
    model = peft.PeftModel.from_pretrained(base, str(tmp_path / "peft")).eval()
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "model.onnx"))
    for text, wanted in zip(texts, stars, strict=True):
        given = predictor.tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            assert model(**given).logits[0, 5].item() == pytest.approx(wanted, abs=1e-3)
        names = {one.name for one in session.get_inputs()}
        found = session.run(None, {name: given[name].numpy() for name in names})[0]
        assert found[0, 5] == pytest.approx(wanted, abs=1e-3)
    exported = Predictor(tmp_path / "onnx")
    assert (exported.objective.heads[2].mean, exported.objective.heads[2].deviation) == (0.0, 1.0)
    assert exported.predict(texts).columns["stars"] == pytest.approx(stars, abs=1e-3)


def test_a_resumed_run_is_an_uninterrupted_one(settings, tables, tmp_path):
    from stratatune.progress import Reporter
    from stratatune.training.run import train, trial

    def given(out: str, **changes):
        own = {"train": str(tables / "train-gaps.csv"), "eval": str(tables / "dev-gaps.csv"), "text": "text"}
        own |= {"objective": "multitask(mood=multilabel(threshold=tuned))", "label": COLUMNS, "plan": "1: full"}
        return settings(**own, epochs=3, out=str(tmp_path / out), **changes)

    quiet = Reporter(quiet=True)
    whole = train(given("whole"), reporter=quiet)
    running = trial(given("cut", checkpoint_every=1), {}, quiet)
    for _ in range(19):
        next(running)
    running.close()
    resumed = train(given("cut", checkpoint_every=1, resume=True), reporter=quiet)
    assert resumed.best == whole.best and _same(resumed, whole)


def test_trials_that_learn_together_are_trials_alone(several, tables, tmp_path, monkeypatch):
    import stratatune as st
    from stratatune.progress import Reporter

    one = several(epochs=1, adam_eps=1e-3)  # so that no step divides by a gradient near zero
    config = validate({"model": "m", "train": "t"}, check_files=False)
    kept = {name: value for name, value in json_settings(one.out).items() if name in type(config).model_fields}
    for name in ("plan", "out", "lr", "seed"):
        kept.pop(name)
    given = {**kept, "out": str(tmp_path / "many"), "rates": [0.003, 0.001], "together": "always"}
    results = st.train_many(plans=["1: full"], **given, reporter=Reporter(quiet=True))
    assert not any("take turns" in notice for result in results for notice in result.notices)
    wanted, found = _tensors(one), _tensors(results[0])
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, atol=2e-5, rtol=1e-4)


def json_settings(out: str) -> dict[str, object]:
    import yaml

    return yaml.safe_load((Path(out) / "config.yaml").read_text())


# --- the loss --------------------------------------------------------------------------------------------------------


def _made(*weights: float) -> Multitask:
    given = {"text": ("text",), "label": "l", "metric": "accuracy"}
    heads = (
        Classes(**given, label_kind=ClassLabels(("a", "b", "c"))),
        Multilabel(**given, names=("x", "y"), thresholds=(0.5, 0.5)),
        Numbers(**given, label_kind=NumberLabels(0.0, 1.0)),
    )
    columns = zip("cms", heads, weights, strict=True)
    return Multitask(text=("text",), label="c,m,s", metric="mean", heads=tuple(TaskHead(*column) for column in columns))


def _batch(rows: slice = slice(None), gaps: bool = False) -> Batch:
    torch.manual_seed(0)
    targets = {"c": torch.randint(3, (8,)), "m": torch.rand(8, 2) < 0.5, "s": torch.rand(8).double()}
    if gaps:
        targets["c"][[1, 4]], targets["s"][[0, 1, 2, 3]] = -100, torch.nan
    ids = torch.zeros(8, 1).long()[rows]
    number = torch.arange(8)[rows]
    return Batch(number, ids, ids.bool(), None, number * 0, {name: one[rows] for name, one in targets.items()})


def test_the_loss_is_the_mean_of_transformers_own():
    from torch.nn import functional

    logits, batch, made = torch.randn(8, 6).double(), _batch(), _made(2.0, 3.0, 0.5)
    parts = [
        2.0 * functional.cross_entropy(logits[:, :3].float(), batch.targets["c"]),
        3.0 * functional.binary_cross_entropy_with_logits(logits[:, 3:5], batch.targets["m"].double()),
        0.5 * functional.mse_loss(logits[:, 5].float(), batch.targets["s"].float()),
    ]
    torch.testing.assert_close(made.loss(logits, batch), sum(parts) / 3, atol=1e-7, rtol=1e-6)


def test_missing_labels_teach_nothing_and_small_batches_add_up():
    made = _made(1.0, 1.0, 1.0)
    logits = torch.randn(8, 6, dtype=torch.float64, requires_grad=True)
    whole = made.loss(logits, _batch(gaps=True))
    (gradient,) = torch.autograd.grad(whole, logits)
    assert (gradient[[1, 4], :3] == 0).all() and (gradient[:4, 5] == 0).all() and (gradient[:, 3:5] != 0).all()
    halves = [made.loss(logits[rows], _batch(rows, gaps=True)) * 4 for rows in (slice(0, 4), slice(4, 8))]
    torch.testing.assert_close(sum(halves) / 8, whole, atol=1e-6, rtol=1e-6)


def test_rows_without_a_label_are_counted_and_left_out(several, tables, tmp_path):
    gaps = str(tables / "train-gaps.csv"), str(tables / "dev-gaps.csv")
    result = several(train=gaps[0], eval=gaps[1])
    assert any("topic: 22 of 64 rows have no label" in notice for notice in result.notices)
    predictor = Predictor(tmp_path / "several", device="cpu")
    found = predictor.predict(gaps[1]).columns["topic"]
    truth = [row["topic"] for row in _rows(30, 1, gaps=True)]
    right = [one == other for one, other in zip(truth, found, strict=True) if one]
    assert result.best["topic.accuracy"] == pytest.approx(np.mean(right))


def test_heads_weigh_the_same_whatever_their_scale(several, tables, tmp_path):
    rows = [{**row, "stars": f"{1000 * float(str(row['stars'])):.3f}"} for row in _rows(64, 0)]
    large = _csv(tmp_path / "large.csv", rows)
    several(epochs=1)
    several(epochs=1, train=str(large), eval=None, out=str(tmp_path / "large"))
    weights = [Predictor(tmp_path / out, device="cpu").objective.heads[2].weight for out in ("several", "large")]
    assert weights[0] == pytest.approx(1e6 * weights[1], rel=1e-3)


# --- the doors -------------------------------------------------------------------------------------------------------


def test_the_command_line(tables, tmp_path, tiny_folder, capsys):
    model, out = str(tiny_folder("bert", "mlm")), str(tmp_path / "run")
    given = ["--model", model, "--train", str(tables / "train.csv"), "--text", "text", "--device", "cpu"]
    given += ["--label", "topic", "--label", "mood", "--label", "stars"]
    evaluated = ["--eval", str(tables / "dev.csv"), "--plan", "1: full", "--epochs", "1"]
    assert command(["train", *given, *evaluated, "--metric", "topic.f1", "--out", out]) == 0
    report = (tmp_path / "run" / "report.html").read_text()
    assert "topic: film" in report and "topic.F1, %" in report
    capsys.readouterr()
    assert command(["eval", out, "--data", str(tables / "dev.csv"), "--device", "cpu"]) == 0
    assert "stars.mse" in capsys.readouterr().out
    for suffix in ("csv", "jsonl", "parquet"):
        where = str(tmp_path / f"said.{suffix}")
        assert command(["predict", out, "--data", str(tables / "dev.csv"), "--out", where, "--device", "cpu"]) == 0
    row = json.loads((tmp_path / "said.jsonl").read_text().splitlines()[0])
    assert row["given_topic"] in TOPICS and row["topic"] in TOPICS and isinstance(row["mood"], list)
    assert command(["predict", out, "--text", "the best film", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("topic: ") and "; mood: " in said and "; stars: " in said
    assert command(["suggest", *given, "--family", "bft", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["views"]


def test_a_grid_of_heads_and_of_sets(tables, tmp_path, capsys, monkeypatch, inline_grids):
    monkeypatch.setenv("STRATATUNE_CACHE", str(tmp_path / "caches"))
    asked = [
        {"name": "heads", "objective": "multitask", "label": ["topic", "mood"], "metric": "topic.f1"},
        {"name": "sets", "objective": "multilabel(threshold=tuned)", "label": "mood", "metric": "map"},
    ]
    base = {"train": str(tables / "train.csv"), "eval": str(tables / "dev.csv")}
    recipe = gridding.write_recipe(
        tmp_path, plans=["2: full"], seeds=[0], settings={"question": asked}, report={"rows": "question"}, base=base
    )
    out = tmp_path / "grid"
    assert command(["grid", str(recipe), "--out", str(out), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["ran"], answer["failed"]) == (2, [])
    report = (out / "report.html").read_text()
    assert "heads" in report and "sets" in report


def test_columns_are_named_in_every_way():
    def label(value):
        return validate({"model": "m", "train": "t", "label": value}, check_files=False).label

    assert label(["a", "b"]) == label("a,b") == "a,b"
    assert label(["a, b", "c"]) == '"a, b",c' and label(["a"]) == "a" and label(["a,b"]) == "a,b"


def test_two_text_columns_may_be_given_one_by_one(files, tmp_path, tiny_folder):
    given = ["--model", str(tiny_folder("bert", "mlm")), "--train", str(files / "train.csv"), "--device", "cpu"]
    given += ["--objective", "classification", "--label", "label", "--text", "text", "--text", "score", "--epochs", "1"]
    assert command(["train", *given, "--out", str(tmp_path / "run")]) == 0
    assert Predictor(tmp_path / "run", device="cpu").objective.text == ("text", "score")


def test_an_objective_may_stand_inside_another():
    legal = {"multitask": {"a": str, "b": str}}
    name, options = parse("multitask(a=multilabel(threshold=tuned, separator=pipe), b=regression)", legal)
    assert name == "multitask"
    assert options == {"a": "multilabel(threshold=tuned, separator=pipe)", "b": "regression"}


WRONG = {
    "a column that is not there": ({"label": "topic,mod"}, "no column 'mod' (did you mean 'mood'?"),
    "no columns": ({"label": None, "objective": "multitask"}, "which columns hold the labels?"),
    "text and label": ({"label": "topic,text"}, "column 'text' is text and label at once"),
    "an option for another column": ({"objective": "multitask(tone=regression)"}, "'tone' is not a label column"),
    "no such objective": ({"objective": "multitask(mood=tags)"}, "objective: 'tags'"),
    "classes as numbers": ({"objective": "multitask(topic=regression)"}, "is not a number"),
    "a head's option": ({"objective": "multitask(mood=multilabel(threshold=2))"}, "threshold '2'"),
    "a metric": ({"metric": "accuracy"}, "not a metric for the heads topic, mood, stars"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_one_line(case, several):
    changes, problem = WRONG[case]
    with pytest.raises(StratatuneError) as caught:
        several(**changes)
    assert problem in str(caught.value) and "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_a_class_may_be_called_like_a_list(several, tmp_path):
    rows = [{**row, "topic": f"[{row['topic']}]" if row["topic"] != "food" else "[none] yet"} for row in _rows(30, 0)]
    several(train=str(_csv(tmp_path / "train.csv", rows)), eval=None, label="topic,mood", epochs=1)
    predictor = Predictor(tmp_path / "several", device="cpu")
    assert predictor.objective.heads[0].objective.labels == ("[book]", "[film]", "[none] yet")
    assert set(predictor.predict([str(rows[0]["text"])]).columns["topic"]) <= {"[book]", "[film]", "[none] yet"}
    for wrong in ("[film, book]", "['film']", '["film"'):  # a list that is written wrong is no name
        path = _csv(tmp_path / "wrong.csv", [{**rows[0], "topic": wrong}, *rows[1:]])
        with pytest.raises(DataError, match="row 1: column 'topic' is not a JSON list") as caught:
            several(train=str(path), eval=None, label="topic,mood", out=str(tmp_path / "wrong"))
        assert 'a name with brackets and commas in it: ["[a, b]"]' in caught.value.hint


def test_one_class_or_no_label(several, tmp_path):
    rows = [{**row, "topic": "film", "stars": ""} for row in _rows(20, 0)]
    path = _csv(tmp_path / "one.csv", rows)
    with pytest.raises(DataError, match="column 'topic': every label is 'film'"):
        several(train=str(path), eval=None, label="topic,mood")
    with pytest.raises(DataError, match="label column 'stars' is empty"):
        several(train=str(path), eval=None, label="mood,stars")


def test_tuned_heads_need_evaluation_data(several):
    with pytest.raises(ConfigError, match="tuned on evaluation data"):
        several(objective="multitask(mood=multilabel(threshold=tuned))", eval=None)


def test_many_flags_get_a_hint(several, tmp_path):
    rows = [
        {"text": row["text"], **{name: n >> at & 1 for at, name in enumerate("abc")}}
        for n, row in enumerate(_rows(24, 0))
    ]
    result = several(train=str(_csv(tmp_path / "flags.csv", rows)), eval=None, label="a,b,c", epochs=1)
    assert any("--objective multilabel learns them as one set" in notice for notice in result.notices)


def test_smaller_is_better_where_the_metric_of_its_head_says_so():
    made = _made(1.0, 1.0, 1.0)
    assert [replace(made, metric=name).smaller for name in ("s.mse", "s.pearson", "c.accuracy", "mean")] == [
        *(True, False, False, False)
    ]
    assert replace(made, metric="s.mse").better(1.0, 2.0) and not replace(made, metric="c.accuracy").better(0.1, 0.2)


@pytest.mark.parametrize("metric", ["stars.mse", "topic.accuracy"])
def test_a_race_keeps_the_better_half_by_the_metric_of_a_head(metric):
    column, _, name = metric.partition(".")
    heads = {"stars": Numbers, "topic": Classes}
    kinds = {"stars": NumberLabels(0.0, 1.0), "topic": ClassLabels(("a", "b"))}
    given = {"text": ("text",), "label": "l", "metric": "accuracy"}
    head = TaskHead(column, heads[column](**given, label_kind=kinds[column]), 1.0)
    made = Multitask(text=("text",), label=column, metric=metric, heads=(head,))
    marks = [Mark(16, 0.4, 0.4, 99), Mark(16, 0.9, 0.9, 99)]
    assert ranked(marks, smaller=made.smaller)[0] == (0 if name == "mse" else 1)


def test_scores_of_two_heads_never_share_a_column(several, tmp_path):
    words = {"bad_x": "worst", "ok": "great", "x": "film", "y": "book"}
    rows = [
        {"text": f"the {words[a]} {words[b]}", "mood": a, "mood_bad": b} for a in ("bad_x", "ok") for b in ("x", "y")
    ] * 8
    path = _csv(tmp_path / "named.csv", rows)
    several(train=str(path), eval=str(path), label="mood,mood_bad")
    found = Predictor(tmp_path / "several", device="cpu").predict(["the worst film", "the great book"])
    scores = [name for name in found.columns if name.startswith("p_")]
    assert len(scores) == 4 and "p_mood=bad_x" in scores and "p_mood_bad=x" in scores
    np.testing.assert_allclose(np.add(found.columns["p_mood=bad_x"], found.columns["p_mood=ok"]), 1, atol=1e-5)


def test_a_label_that_every_text_has_weighs_nothing():
    """The loss of the best blind answer to it is 0, and 1 over that outweighed every other head."""
    from stratatune.objectives.task_head import _weight

    assert _weight(np.ones((10, 1), bool), 10) == 1.0
    mixed = np.array([[True, True], [True, False]] * 5)
    assert _weight(mixed, 10) == pytest.approx(2 / np.log(2))


@pytest.mark.parametrize("times", [1, 20])
def test_the_example_of_the_docs_is_learned_as_their_table_says(times, tmp_path, tiny_folder):
    """As printed, and in as many rows as let three numbers look like classes."""
    from stratatune.training.prepare import Outline, read_tables, settle

    page = (Path(__file__).parents[2] / "docs" / "multitask.md").read_text()
    header, *rows = page.split("```text\n")[1].split("```")[0].splitlines()
    path = tmp_path / "train.csv"
    path.write_text("\n".join([header, *rows * times]) + "\n")
    outline = Outline(
        validate({"model": str(tiny_folder("bert")), "train": str(path), "label": "topic,mood,urgency", "plan": "lora"})
    )
    objective = settle(outline, read_tables(outline.config, {}, outline.kind)).objective
    assert {head.column: type(head.objective) for head in objective.heads} == {
        "topic": Classes,
        "mood": Multilabel,
        "urgency": Numbers,
    }
    assert set(objective.heads[1].objective.labels) == {"relief", "joy", "anger"}


def test_numbers_that_the_training_data_have_once_each_are_no_classes(several, tmp_path):
    """Those of all data together recur, which made them classes that the training data could not teach."""
    rows = [{**row, "stars": number} for number, row in enumerate(_rows(24, 5))]
    path = _csv(tmp_path / "rows.csv", rows)
    result = several(train=str(path), eval=str(path), epochs=1)
    assert any("'stars' is learned by regression" in notice for notice in result.notices)


def test_ratings_that_are_classes_are_said(run, tmp_path):
    rows = [{"text": f"film {at}", "label": ("0.5", "1.0", "1.5")[at % 3]} for at in range(12)]
    result = run(
        train=str(_csv(tmp_path / "x.csv", rows)),
        eval=None,
        epochs=1,
        text="text",
        label="label",
        objective="classification",
    )
    assert any("read as 3 classes; --objective regression" in notice for notice in result.notices)
