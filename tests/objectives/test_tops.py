"""Label columns with tops of their own: one cache, one data pass, one artefact, and the numbers of each group alone."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

import stratatune as st
from stratatune.app.cli import run as command
from stratatune.data.batching import plan_batches
from stratatune.errors import ConfigError, ModelError
from stratatune.model.saving import read_tensors
from stratatune.objectives.tops import groups_in
from stratatune.progress import Reporter
from stratatune.serving.table import TaskTable
from stratatune.training.config import validate
from stratatune.training.predict import Predictor
from stratatune.training.run import train, trial
from stratatune.training.trials.tops import parts_of

COLUMNS = ("topic", "mood", "stars")
GROUPED = "multitask(tops=topic+mood|stars, mood=multilabel(threshold=tuned))"
NAMES = ("1-topic+mood", "2-stars")
ALONE = (("topic,mood", "multitask(mood=multilabel(threshold=tuned))"), ("stars", "multitask"))


def _rows(count: int, seed: int) -> list[dict[str, object]]:
    chance, found = random.Random(seed), []
    for number in range(count):
        topic, moods = chance.choice(("film", "book", "food")), [m for m in ("joy", "anger") if chance.random() < 0.5]
        words = [topic, *({"joy": "great", "anger": "bad"}[mood] for mood in moods), "the", "was"]
        chance.shuffle(words)
        row: dict[str, object] = {"text": f"{' '.join(words)} {chance.choice('abcdef')}", "topic": topic}
        row |= {"mood": ",".join(moods), "stars": 50.0 + 20 * ("joy" in moods) + chance.random()}
        found.append(row | ({"topic": ""} if number % 5 == 0 else {}))
    return found


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    for name, count, seed in (("train", 48, 0), ("dev", 24, 1)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ("text", *COLUMNS))
            writer.writeheader()
            writer.writerows(_rows(count, seed))
    return folder


@pytest.fixture
def given(settings, tables, tmp_path):
    """Gives ``given(out, **changes)``: the settings of a run on three label columns."""

    def make(out: str, **changes):
        own = {"train": str(tables / "train.csv"), "eval": str(tables / "dev.csv"), "text": "text", "plan": "2: full"}
        own |= {"label": ",".join(COLUMNS), "objective": GROUPED, "epochs": 2, "out": str(tmp_path / out)}
        return settings(**{**own, **changes})

    return make


def _trained(config):
    return train(config, reporter=Reporter(quiet=True))


def _close(folder: Path, other: Path) -> None:
    found, wanted = read_tensors(folder / "adapter"), read_tensors(other / "adapter")
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, atol=2e-6, rtol=1e-5)


def test_each_top_has_the_numbers_of_its_group_alone_and_the_trunk_runs_once(given, tables, tmp_path, monkeypatch):
    from stratatune.model.split import Trunk

    seen, plain = [], Trunk.__call__
    monkeypatch.setattr(Trunk, "__call__", lambda self, ids, *rest: (seen.append(len(ids)), plain(self, ids, *rest))[1])
    whole = _trained(given("whole"))
    assert sum(seen) == 48 + 24  # every row once, whatever the number of epochs and tops
    monkeypatch.undo()
    tops = [tmp_path / "whole" / "adapter" / name for name in NAMES]
    alone = [_trained(given(f"alone{n}", label=one[0], objective=one[1])) for n, one in enumerate(ALONE)]
    for top, one in zip(tops, alone, strict=True):
        _close(top, Path(one.out))
    # What the run says of itself is what its parts say.
    assert whole.objective == "multitask" and whole.labels == [*alone[0].labels, *alone[1].labels]
    assert whole.trainable == sum(one.trainable for one in alone)
    assert whole.best["mean"] == pytest.approx((2 * alone[0].best["mean"] + alone[1].best["mean"]) / 3)
    for one in alone:
        assert {name: whole.best[name] for name in one.best if name != "mean"} == pytest.approx(
            {name: value for name, value in one.best.items() if name != "mean"}, abs=1e-6
        )
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2] and {"eval_mean", "eval_stars.mse", "train_loss"} <= set(
        lines[0]
    )
    # Saved and loaded as one: the columns of all, and the trunk runs once for a text.
    predictor, texts = Predictor(tmp_path / "whole", device="cpu"), [str(row["text"]) for row in _rows(7, 5)]
    seen.clear()
    monkeypatch.setattr(Trunk, "__call__", lambda self, ids, *rest: (seen.append(len(ids)), plain(self, ids, *rest))[1])
    found = predictor.predict(texts).columns
    assert sum(seen) == len(set(texts))
    monkeypatch.undo()
    parts = [Predictor(one.out, device="cpu").predict(texts).columns for one in alone]
    assert set(found) == set(parts[0]) | set(parts[1]) and tuple(found)[:3] == COLUMNS
    for name, values in (pair for part in parts for pair in part.items()):
        if name in ("topic", "mood"):
            assert found[name] == values
        else:
            np.testing.assert_allclose(found[name], values, atol=1e-4)
    scored = predictor.score(str(tables / "dev.csv"))["metrics"]
    assert {name: scored[name] for name in whole.best} == pytest.approx(whole.best, abs=1e-5)
    # The frozen weights are in memory once.
    first, second = (dict(one.backbone.model.named_parameters()) for one in predictor.attached)
    below = [name for name in first if "layer.0." in name]
    assert below and all(first[name].data_ptr() == second[name].data_ptr() for name in below)


def test_cached_runs_are_uncached_runs_and_resumed_ones_whole_ones(given, tmp_path):
    slow = {"adam_eps": 1e-3}  # so that no step divides by a gradient near zero
    _trained(given("whole", **slow))
    _trained(given("off", cache="off", **slow))
    running = trial(given("cut", checkpoint_every=1, **slow), {}, Reporter(quiet=True))
    batches = len(plan_batches(np.ones(48), batch_size=given("x").batch_size, seed=0, epoch=0))
    for _ in range(2 * batches + 3):  # into the second epoch of both, the first being one batch ahead
        next(running)
    running.close()
    with pytest.raises(ConfigError, match="holds a run that was stopped"):
        next(trial(given("cut", checkpoint_every=1, **slow), {}, Reporter(quiet=True)))
    resumed = _trained(given("cut", checkpoint_every=1, resume=True, **slow))
    for name in NAMES:
        inside = Path("adapter") / name
        for other in ("off", "cut"):
            for key, tensor in read_tensors(tmp_path / "whole" / inside / "adapter").items():
                found = read_tensors(tmp_path / other / inside / "adapter")[key]
                torch.testing.assert_close(found, tensor, atol=2e-5, rtol=1e-4)
    assert _trained(given("cut", checkpoint_every=1, resume=True, **slow)) == resumed


@pytest.mark.parametrize("changes", [{}, {"cache": "off"}, {"plan": ": full"}], ids=["plain", "uncached", "no-trunk"])
def test_a_streamed_trunk_is_refused_for_the_tops(given, changes, tmp_path):
    """Whatever else would be in its way."""
    with pytest.raises(ConfigError, match="tops=.*share one model, which is in memory"):
        _trained(given("streamed", trunk="streamed", **changes))
    assert not list(tmp_path.rglob("*.safetensors"))


def test_by_the_command_line_and_the_server(given, tables, tmp_path, tiny_folder, capsys):
    out, data = str(tmp_path / "run"), str(tables / "dev.csv")
    asked = ["--model", str(tiny_folder("bert", "mlm")), "--train", str(tables / "train.csv"), "--eval", data]
    asked += ["--text", "text", "--label", ",".join(COLUMNS), "--objective", "multitask(tops=each)", "--device", "cpu"]
    assert command(["train", *asked, "--plan", "2: lora(rank=2)", "--epochs", "1", "--out", out]) == 0
    assert "topic: film" in (tmp_path / "run" / "report.html").read_text()
    capsys.readouterr()
    assert command(["eval", out, "--data", data, "--device", "cpu", "--json"]) == 0
    assert "stars.mse" in json.loads(capsys.readouterr().out)["metrics"]
    assert command(["predict", out, "--text", "the best film", "--device", "cpu", "--json"]) == 0
    capsys.readouterr()
    table = TaskTable(10**6, device="cpu")
    table.add("tickets", out)
    task = table.tasks["tickets"]
    rows = task.read(["the great film was", "the bad book"])
    encoded, trunk = task.predictor.encode(rows), table.trunks[task.trunk]
    trunk.run(task.predictor.forward, [encoded])
    answers = task.answers(rows, encoded, trunk)
    wanted = task.answers(rows, None, None)
    assert [row["topic"] for row in answers] == [row["topic"] for row in wanted] and trunk.computed == 2
    assert [row["stars"] for row in answers] == pytest.approx([row["stars"] for row in wanted], rel=1e-5)
    # One model is wanted: the line says which there are.
    folder = Path(out) / "adapter" / "1-topic"
    assert command(["export", out, "--to", "merged", "--out", str(tmp_path / "merged")]) == 2
    said = capsys.readouterr().err
    assert "has several tops" in said and str(folder) in said and "Traceback" not in said
    assert command(["export", str(folder), "--to", "merged", "--out", str(tmp_path / "merged")]) == 0
    with pytest.raises(ModelError, match="has several tops"):
        st.load(out)
    (Path(out) / "adapter" / "tops.json").write_text('{"format": 1, "tops": ["../elsewhere"]}')
    with pytest.raises(ModelError, match="it names no folders"):
        Predictor(out, device="cpu")


def test_a_plan_is_chosen_for_all_tops(given, tmp_path):
    """By probes of every head and prices, without trials of candidates."""
    from stratatune.studies.suggest.auto import train as chosen

    result = chosen(given("auto", plan="auto", epochs=1), reporter=Reporter(quiet=True))
    assert "plan: auto" not in (tmp_path / "auto" / "config.yaml").read_text()
    plans = [json.loads((tmp_path / "auto" / "adapter" / name / "result.json").read_text())["plan"] for name in NAMES]
    assert plans == [result.plan] * 2


# --- the groups ------------------------------------------------------------------------------------------------------


def test_groups():
    assert groups_in("topic+mood | stars", COLUMNS) == (("topic", "mood"), ("stars",))
    assert groups_in("each", COLUMNS) == (("topic",), ("mood",), ("stars",))


WRONG = {
    "topic+mod|stars": "tops: 'mod' is not a label column",
    "topic+mood": "'stars' is in 0 groups",
    "topic+mood|mood+stars": "'mood' is in 2 groups",
    "topic+mood+stars|": "a group is empty",
}


@pytest.mark.parametrize("tops", WRONG)
def test_groups_that_do_not_hold_each_column_once(tops, given):
    with pytest.raises(ConfigError) as caught:
        _trained(given("wrong", objective=f"multitask(tops={tops})"))
    assert WRONG[tops] in str(caught.value) and "\n" not in str(caught.value)


def test_what_the_run_of_each_top_is_asked():
    given = {"model": "m", "train": "t", "label": "a b,c,d", "plan": "2: full", "out": "run"}
    config = validate(
        {**given, "metric": "c.f1", "objective": "multitask(tops=a b+c|d, d=regression)"}, check_files=False
    )
    first, second = parts_of(config)
    assert (first.label, first.objective, first.metric) == ("a b,c", "multitask", "c.f1")
    assert (second.label, second.objective, second.metric) == ("d", "multitask(d=regression)", None)
    assert [Path(one.out).as_posix() for one in (first, second)] == ["run/adapter/1-a-b+c", "run/adapter/2-d"]
    one = validate({**given, "objective": "multitask(tops=a b+c+d)"}, check_files=False)
    assert parts_of(one) == []  # one top, as without the option
